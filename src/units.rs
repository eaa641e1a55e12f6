//! Durations, sizes and paths as people write them: `10s`, `250ms`, `64MiB`, `/var/log/events.ndjson`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
/// Longest duration that means anything here: 30 days, in milliseconds.
const LONGEST: u64 = 30 * 86_400_000;
/// Largest size that means anything here: 1 TiB.
const LARGEST: u64 = 1 << 40;

/// A duration with its unit, such as `10s`, `250ms`, `5m`, `1h` or `0s`; at most 30 days.
///
/// For the configuration of sinks and processors of your own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// A size in bytes with its unit, such as `512KiB`, `64MiB` or `10MB`; at most 1 TiB.
///
/// For the configuration of sinks and processors of your own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Period {
    pub(crate) const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    pub(crate) const fn secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // days are left out: `24h` is clearer than `1d` next to `36h`
        let (unit, one) = DURATIONS[..4]
            .iter()
            .rev()
            .find(|(_, one)| ms > 0 && ms.is_multiple_of(*one))
            .unwrap_or(&("s", 1_000));
        write!(f, "{}{unit}", ms / one)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, one) =
            SIZES[..4].iter().rev().find(|(_, one)| self.0.is_multiple_of(*one)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / one)
    }
}

/// The number of base units in `text`, or what is wrong and what would mend it.
fn parse(text: &str, what: &str, units: &[(&str, u64)], example: &str, most: u64) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if text.starts_with('-') {
        return Err(format!("must not be negative; write it like `{example}`"));
    }
    if number.is_empty() {
        return Err(format!("`{text}` is not {what}; write it like `{example}`"));
    }
    if unit.is_empty() {
        let (first, second) = suggestion(what);
        return Err(format!("{what} needs a unit; write `{number}{first}` or `{number}{second}`"));
    }
    let Some((_, one)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        return Err(format!("the unit of {what} is one of {}; write it like `{example}`", names.join(", ")));
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*one))
        .filter(|value| *value <= most)
    {
        Some(value) => Ok(value),
        None if what == A_SIZE => Err(format!("must be at most {}; write it like `{example}`", Size(most))),
        None => Err(format!("must be at most {}; write it like `{example}`", Period::millis(most))),
    }
}

const A_DURATION: &str = "a duration";
const A_SIZE: &str = "a size";

fn suggestion(what: &str) -> (&'static str, &'static str) {
    if what == A_SIZE { ("MiB", "KiB") } else { ("s", "ms") }
}

struct Text(&'static str);

impl de::Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} such as {}", self.0, if self.0 == A_SIZE { "`64MiB`" } else { "`10s`" })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Text(A_DURATION))?;
        parse(&text, A_DURATION, &DURATIONS, "10s", LONGEST).map(Self::millis).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Text(A_SIZE))?;
        parse(&text, A_SIZE, &SIZES, "64MiB", LARGEST).map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Says what is wrong with the path of a file or folder. Only a shell knows whose home `~` is; taken as it is, it makes a
/// folder of that name.
pub(crate) fn check_path(path: &Path) -> Result<(), String> {
    match path.to_str() {
        Some("") => {
            Err("an empty path names nothing; write it in full, such as `/var/lib/streamll/events`"
                .to_owned())
        }
        Some(text) if text.trim().is_empty() => {
            Err("a path of blanks names nothing; write it in full, such as `/var/lib/streamll/events`"
                .to_owned())
        }
        Some(text) if text.starts_with('$') => {
            Err("`$` is not filled in here; write `${HOME}/…`, or `./$…` where a name begins with it"
                .to_owned())
        }
        Some(text) if text.starts_with('~') => {
            Err("`~` is no home folder here; write `${HOME}/…`, or `./~…` where a name begins with it"
                .to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_neither_empty_nor_begins_with_a_tilde() {
        for path in ["", "~", "~/x", "~user/x", " ", "$HOME/x"] {
            assert!(check_path(Path::new(path)).is_err(), "{path}");
        }
        for path in ["x", "./~x", "/a/~b", ".", "./$x", "/a/$b"] {
            assert!(check_path(Path::new(path)).is_ok(), "{path}");
        }
    }

    #[test]
    fn durations_are_read_and_written_with_their_unit() {
        for (text, ms, shown) in [
            ("10s", 10_000, "10s"),
            ("250ms", 250, "250ms"),
            ("90s", 90_000, "90s"),
            ("60 m", 3_600_000, "1h"),
            ("0s", 0, "0s"),
        ] {
            let read: Period = serde_json::from_value(text.into()).expect(text);
            assert_eq!((read, read.to_string().as_str()), (Period::millis(ms), shown));
        }
    }

    #[test]
    fn sizes_are_read_and_written_with_their_unit() {
        for (text, bytes, shown) in
            [("64MiB", 64 << 20, "64MiB"), ("10MB", 10_000_000, "10000000B"), ("1024KiB", 1 << 20, "1MiB")]
        {
            let read: Size = serde_json::from_value(text.into()).expect(text);
            assert_eq!((read, read.to_string().as_str()), (Size(bytes), shown));
        }
    }

    #[test]
    fn a_bare_number_is_asked_for_its_unit() {
        let read = |value: serde_json::Value| {
            serde_json::from_value::<Period>(value).expect_err("no unit").to_string()
        };
        assert_eq!(read(10.into()), "a duration needs a unit; write `10s` or `10ms`");
        assert_eq!(read("10".into()), "a duration needs a unit; write `10s` or `10ms`");
        assert_eq!(read((-1).into()), "must not be negative; write it like `10s`");
        assert_eq!(read("9999d".into()), "must be at most 720h; write it like `10s`");
        let size = serde_json::from_value::<Size>(64.into()).expect_err("no unit").to_string();
        assert_eq!(size, "a size needs a unit; write `64MiB` or `64KiB`");
    }
}
