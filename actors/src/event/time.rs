//! The time of an event: microseconds since the Unix epoch, written as RFC 3339 in UTC.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, SystemTime};

/// When something happened, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock's now.
    #[must_use]
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// From microseconds since the Unix epoch.
    #[must_use]
    pub fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339; a blank may stand for the `T`, as Python writes it.
    ///
    /// # Errors
    /// When the text is no date and time with an offset from UTC.
    pub fn parse(text: &str) -> Result<Timestamp, String> {
        // Without the text: an event may hold anything there.
        let parsed: jiff::Timestamp = text.parse().map_err(|_| {
            "no time; RFC 3339 with an offset is needed, for example 2026-11-21T03:20:15Z".to_owned()
        })?;
        Ok(Timestamp(parsed.as_microsecond()))
    }

    /// Appends `2026-11-21T03:20:15.842142Z`. The part up to the second is formatted once a second and thread.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        thread_local! { static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) } }
        let (second, micros) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        SECOND.with_borrow_mut(|(cached, text)| {
            if *cached != second {
                *text = whole_second(second);
                *cached = second;
            }
            out.extend_from_slice(text.as_bytes());
        });
        let mut digits = *b".000000Z";
        let mut rest = micros;
        for digit in digits.iter_mut().skip(1).take(6).rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

fn whole_second(second: i64) -> String {
    let at = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(27);
        self.write(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_one_moment_reads_the_same() {
        for text in [
            "2026-11-21T03:20:15.842142Z",
            "2026-11-21 03:20:15.842142+00:00",
            "2026-11-21T04:20:15.842142+01:00",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), "2026-11-21T03:20:15.842142Z");
        }
    }

    #[test]
    fn a_time_without_an_offset_is_refused() {
        assert!(Timestamp::parse("2026-11-21T03:20:15").unwrap_err().contains("with an offset"));
        assert!(Timestamp::parse("yesterday").is_err());
    }

    #[test]
    fn times_before_the_epoch_keep_their_microseconds() {
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }
}
