//! Runs that continue in other processes: the header `traceparent` of W3C Trace Context, in and out.

use std::str::FromStr;
use std::sync::Arc;

use streamll_actors::event::{Step, is_span_id, is_trace_id};

/// A step of a run, wherever that is: the run's id, and the step's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) execution_id: Arc<str>,
    pub(super) span_id: Arc<str>,
    /// Whether traces of it are recorded elsewhere, too: events are emitted all the same.
    pub(super) is_sampled: bool,
}

impl Position {
    pub(super) fn of(step: &Step, is_sampled: bool) -> Position {
        let parts = step.parts();
        Position { execution_id: parts.execution_id.clone(), span_id: parts.span_id.clone(), is_sampled }
    }
}

/// It is no `traceparent`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// To the letter of the specification: of version 00 nothing but its four fields; of later ones these and whatever follows.
impl FromStr for Position {
    type Err = Malformed;

    fn from_str(header: &str) -> Result<Position, Malformed> {
        let mut fields = header.splitn(5, '-');
        let mut next =
            |is_right: fn(&str) -> bool| fields.next().filter(|field| is_right(field)).ok_or(Malformed);
        let (version, trace_id) = (next(is_byte)?, next(is_trace_id)?);
        let (parent_id, flags) = (next(is_span_id)?, next(is_byte)?);
        let has_more = fields.next().is_some();
        if version == "ff" || (version == "00" && has_more) {
            return Err(Malformed);
        }
        let flags = u8::from_str_radix(flags, 16).map_err(|_| Malformed)?;
        // Of the flags only the first has a meaning in all versions.
        Ok(Position { execution_id: trace_id.into(), span_id: parent_id.into(), is_sampled: flags & 1 == 1 })
    }
}

/// The header of a step, of a trace that is sampled or not; `None` where its ids cannot be those of a trace.
pub(super) fn header(step: &Step, is_sampled: bool) -> Option<String> {
    let sampled = step.traceparent()?;
    Some(match sampled.strip_suffix("01").filter(|_| !is_sampled) {
        Some(ids) => format!("{ids}00"),
        None => sampled.to_owned(),
    })
}

fn is_byte(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_header_is_read_to_the_letter_of_the_specification() {
        let read = |header: &str| header.parse::<Position>().ok();
        let expected =
            |is_sampled| Some(Position { execution_id: TRACE.into(), span_id: SPAN.into(), is_sampled });
        for (header, position) in [
            (format!("00-{TRACE}-{SPAN}-01"), expected(true)),
            (format!("00-{TRACE}-{SPAN}-00"), expected(false)),
            (format!("00-{TRACE}-{SPAN}-fe"), expected(false)),
            (format!("00-{TRACE}-{SPAN}-ff"), expected(true)),
            (format!("01-{TRACE}-{SPAN}-01"), expected(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"), expected(true)),
            (format!("cc-{TRACE}-{SPAN}-01-"), expected(true)),
            (format!("cc-{TRACE}-{SPAN}-01.what"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (format!("0x-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{}-01", SPAN.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}-0A"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", &TRACE[1..]), None),
            (format!("00-{TRACE}0-{SPAN}-01"), None),
            (format!("00-{TRACE}-{}-01", &SPAN[1..]), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-01 "), None),
            (format!("00_{TRACE}_{SPAN}_01"), None),
            (format!("00-{TRACE}-{SPAN}-é"), None),
            (format!("00-{}-{SPAN}-01", "é".repeat(16)), None),
            ("-".repeat(55), None),
            (String::new(), None),
        ] {
            assert_eq!(read(&header), position, "{header}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let step = Step::new("M");
        for is_sampled in [true, false] {
            let header = header(&step, is_sampled).expect("its ids are those of a trace");
            assert_eq!(header.parse(), Ok(Position::of(&step, is_sampled)));
        }
    }
}
