//! What happens to this side: the process killed at any moment, a disk that is full, twenty times more than
//! fits; and brokers that come and go meanwhile.

mod command;
mod end;
mod full_disk;
mod kill;
mod overload;
mod panics;
mod restarts;

use support::{brokers, outage, proxy, servers};
