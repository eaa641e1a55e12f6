//! The channels of one connection, counted: the client never gives a number back that the broker has closed, so that a
//! connection must be replaced before they end.

use std::time::Duration;

use lapin::{Channel, Connection, ErrorKind};
use tokio::time::{Instant, sleep_until};

/// Most channels of one connection, however many the broker allows.
const MOST: u16 = 512;
/// Between two channels: whatever a broker refuses, it is not asked more often.
const PACE: Duration = Duration::from_millis(10);

/// How many channels a connection has left.
#[derive(Debug)]
pub(super) struct Channels {
    left: u16,
    last: Option<Instant>,
}

impl Channels {
    /// The channels of a connection that may have `allowed` of them.
    pub(super) fn new(allowed: u16) -> Channels {
        Channels { left: (allowed / 2).clamp(1, MOST), last: None }
    }

    /// Whether the next one needs another connection.
    pub(super) fn are_used_up(&self) -> bool {
        self.left == 0
    }

    /// Opens one, not too soon behind the one before.
    pub(super) async fn open(&mut self, connection: &Connection) -> lapin::Result<Channel> {
        if self.are_used_up() {
            return Err(ErrorKind::ChannelsLimitReached.into());
        }
        if let Some(last) = self.last {
            sleep_until(last + PACE).await;
        }
        self.last = Some(Instant::now());
        self.left -= 1;
        connection.create_channel().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_given_up_well_before_its_channels_end() {
        for (allowed, used) in [(1, 1), (2, 1), (3, 1), (10, 5), (2047, 512), (u16::MAX, 512)] {
            assert_eq!(Channels::new(allowed).left, used, "{allowed}");
        }
    }
}
