//! The time of an event: microseconds since the Unix epoch, written as RFC 3339 in UTC.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::{SignedDuration, fmt::temporal::Pieces};

/// What a time looks like, for those who wrote another one.
pub(super) const EXAMPLE: &str = "2026-11-21T03:20:15Z: RFC 3339 with an offset";
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The years that RFC 3339 can write, 0000 to 9999, in microseconds since the Unix epoch.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// The time of an event, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Returns the current time of the wall clock.
    #[must_use]
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Makes a time from microseconds since the Unix epoch.
    #[must_use]
    pub fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Returns the microseconds since the Unix epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns how long this is after `earlier`, or zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the time for people, as seen at `now`: `03:12 UTC` on the same day, or else `2026-11-21 03:12 UTC`.
    #[must_use]
    pub fn for_people(self, now: Timestamp) -> String {
        let (at, now) = (self.to_string(), now.to_string());
        let (day, time) = (at.get(..10).unwrap_or_default(), at.get(11..16).unwrap_or_default());
        if now.starts_with(day) { format!("{time} UTC") } else { format!("{day} {time} UTC") }
    }

    /// Reads RFC 3339 of the years 0000 to 9999. A space may replace the `T`, as Python writes it. A time without an
    /// offset is refused, because it could be in any time zone.
    ///
    /// # Errors
    ///
    /// If the text is not a date and time with an offset from UTC.
    pub fn parse(text: &str) -> Result<Timestamp, String> {
        // Without the text: an event may hold anything there.
        let parsed = text
            .parse::<jiff::Timestamp>()
            .map_or_else(|_| at_the_ends(text), |at| Some(at.as_microsecond()));
        let in_range = parsed.filter(|micros| YEARS.contains(micros));
        in_range.map(Timestamp).ok_or_else(|| format!("no time; write it like {EXAMPLE}"))
    }

    /// Appends `2026-11-21T03:20:15.842142Z`. The part up to the second is formatted once a second and thread.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        thread_local! { static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) } }
        let at = self.0.clamp(*YEARS.start(), *YEARS.end());
        let (second, micros) = (at.div_euclid(1_000_000), at.rem_euclid(1_000_000));
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
    let at = EPOCH.checked_add(SignedDuration::from_secs(second)).unwrap_or(EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A time of the first or last days that can be written, in microseconds: jiff's own timestamps leave them to the offsets.
fn at_the_ends(text: &str) -> Option<i64> {
    let pieces = Pieces::parse(text).ok()?;
    let since = pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH);
    let offset = i128::from(pieces.to_numeric_offset()?.seconds()) * 1_000_000;
    i64::try_from(since.as_micros() - offset).ok()
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
    fn the_first_and_the_last_moment_that_can_be_written_are_read() {
        for (text, read) in [
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59+01:00", "9999-12-31T22:59:59.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
            ("0000-01-01 00:00:00-00:30", "0000-01-01T00:30:00.000000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).map(|at| at.to_string()), Ok(read.to_owned()), "{text}");
        }
        for text in [
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+00:01",
            "-000001-01-01T00:00:00Z",
            "9999-12-31T23:59:59",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_micros(i64::MIN).to_string(), "0000-01-01T00:00:00.000000Z");
    }

    #[test]
    fn people_read_the_day_where_it_is_another_one() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let since = at("2026-11-21T23:50:15Z");
        assert_eq!(since.for_people(at("2026-11-21T23:59:59Z")), "23:50 UTC");
        assert_eq!(since.for_people(at("2026-11-22T00:10:00Z")), "2026-11-21 23:50 UTC");
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
