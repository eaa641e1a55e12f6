//! The signals that ask a command for its end, and the end that they ask for.

use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::task::Poll;
use std::time::Duration;

use rustix::process::Signal as Name;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::report;
use crate::runtime::Dispositions;
use crate::{Drained, Handle, pipes};

/// How often a status is renewed.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// How often it says at the end who is still delivering.
const PROGRESS: Duration = Duration::from_secs(5);

/// All that end a process by default, and that others send it to end it. The guide to signals goes through the rest.
const ENDS: [Name; 10] = [
    Name::HUP,
    Name::INT,
    Name::QUIT,
    Name::TERM,
    Name::ALARM,
    Name::USR1,
    Name::USR2,
    Name::VTALARM,
    Name::PROF,
    Name::XCPU,
];
#[cfg(target_os = "linux")]
const MORE: [Name; 3] = [Name::IO, Name::POWER, Name::STKFLT];
#[cfg(not(target_os = "linux"))]
const MORE: [Name; 0] = [];
/// Those without a name.
#[cfg(target_os = "linux")]
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;
#[cfg(not(target_os = "linux"))]
const REALTIME: std::ops::Range<i32> = 0..0;

/// Those that ask for an end; without those that were ignored when the process started (`nohup`, `&` of a script).
pub(super) struct Signals {
    signals: Vec<(u8, Signal)>,
    /// One has asked for the end.
    asked: bool,
}

impl Signals {
    /// From now on they are heard. To be called before anything is started that could be lost.
    pub(super) fn new(runtime: &Runtime) -> io::Result<Signals> {
        let _inside = runtime.enter();
        let dispositions = Dispositions::now();
        let named = ENDS.into_iter().chain(MORE).map(Name::as_raw);
        let wanted = named.chain(REALTIME).filter(|number| !dispositions.is_ignored(*number));
        let listen = |number| {
            Ok((128 + u8::try_from(number).unwrap_or_default(), signal(SignalKind::from_raw(number))?))
        };
        let signals = wanted.map(listen).collect::<io::Result<Vec<_>>>()?;
        // Heard and forgotten, so that a write beyond the limit of a file fails instead.
        if !dispositions.is_ignored(Name::XFSZ.as_raw()) {
            let _ = signal(SignalKind::from_raw(Name::XFSZ.as_raw()))?;
        }
        Ok(Signals { signals, asked: false })
    }

    /// Waits for the next one; returns the exit code of a process that it ends.
    pub(super) fn next(&mut self) -> impl Future<Output = u8> + '_ {
        poll_fn(|cx| {
            let heard = |(code, signal): &mut (u8, Signal)| signal.poll_recv(cx).is_ready().then_some(*code);
            let heard = self.signals.iter_mut().find_map(heard);
            self.asked |= heard.is_some();
            heard.map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// Drains a topology, within its `shutdown.timeout`; where a second signal cuts that off, with the exit code for it. The
    /// first may come after the end of the input: a pipeline that is stopped gets it as a whole.
    pub(super) async fn drain(&mut self, handle: &Handle, mut every: impl FnMut()) -> (Drained, Option<u8>) {
        let shutdown = handle.shutdown(handle.shutdown_timeout());
        tokio::pin!(shutdown);
        let (mut status, mut progress) = (tokio::time::interval(EVERY), tokio::time::interval(PROGRESS));
        progress.reset();
        loop {
            let asked = self.asked;
            tokio::select! {
                drained = &mut shutdown => return (drained, None),
                code = self.next() => {
                    if asked {
                        return (Drained { status: handle.status(), complete: false }, Some(code));
                    }
                    let _ = writeln!(pipes::stderr(), "streamll: still delivering; another signal ends it at once");
                }
                _ = status.tick() => every(),
                _ = progress.tick() => {
                    let _ = pipes::stderr().write_all(report::progress(&handle.status()).as_bytes());
                }
            }
        }
    }
}
