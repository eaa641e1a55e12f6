//! Runs that continue in other processes: the header `traceparent` of W3C Trace Context, in and out.

use std::str::FromStr;
use std::sync::Arc;

use streamll_actors::event::Step;

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

    /// As a header; `None` where its ids cannot be those of a trace.
    pub(super) fn header(&self) -> Option<String> {
        // A UUID has the size of a trace id, and other marks.
        let trace_id: String =
            self.execution_id.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        let is_of_trace = is_id(&trace_id, 32) && is_id(&self.span_id, 16);
        is_of_trace.then(|| format!("00-{trace_id}-{}-{:02x}", self.span_id, u8::from(self.is_sampled)))
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
        let mut next = |digits| fields.next().filter(|field| is_hex(field, digits)).ok_or(Malformed);
        let (version, trace_id, parent_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let has_more = fields.next().is_some();
        if version == "ff" || (version == "00" && has_more) || !is_id(trace_id, 32) || !is_id(parent_id, 16) {
            return Err(Malformed);
        }
        let flags = u8::from_str_radix(flags, 16).map_err(|_| Malformed)?;
        // Of the flags only the first has a meaning in all versions.
        Ok(Position { execution_id: trace_id.into(), span_id: parent_id.into(), is_sampled: flags & 1 == 1 })
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An id that names something: zeros alone name nothing.
pub(super) fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|byte| byte != b'0')
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
    fn what_is_written_is_read_again_and_ids_of_another_kind_are_not_written() {
        let of = |execution_id: &str, span_id: &str| Position {
            execution_id: execution_id.into(),
            span_id: span_id.into(),
            is_sampled: true,
        };
        let position = of(TRACE, SPAN);
        assert_eq!(position.header().unwrap().parse(), Ok(position));
        let uuid = of("4BF92F35-77b3-4da6-a3ce-929d0e0e4736", SPAN).header().unwrap();
        assert_eq!(uuid, format!("00-{TRACE}-{SPAN}-01"));
        for (execution_id, span_id) in
            [("run", SPAN), (TRACE, "s"), (&*"0".repeat(32), SPAN), (TRACE, "é0f067aa0ba902b")]
        {
            assert_eq!(of(execution_id, span_id).header(), None, "{execution_id} {span_id}");
        }
    }
}
