//! A batch as one transaction: the commands that it is made of, and what the replies to them say.

use std::borrow::Cow;

use redis::{Cmd, Pipeline, Value};
use streamll_actors::event::{Delivery, Event, Step};
use streamll_actors::route::Template;

use crate::brokers::redis::error::is_of_key;

/// How an event becomes an entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) keys: Keys,
    pub(super) field: String,
    pub(super) max_len: Option<String>,
    /// In milliseconds.
    pub(super) expire: Option<String>,
}

/// Which stream an event goes to.
#[derive(Debug)]
pub(super) enum Keys {
    One(String),
    Each(Template),
}

impl Keys {
    pub(super) fn new(template: Template) -> Keys {
        if template.fields().next().is_some() {
            return Keys::Each(template);
        }
        Keys::One(template.render(&Event::new(&Step::new(""), "")))
    }

    /// The one key, where all events go to one stream.
    pub(super) fn one(&self) -> Option<&str> {
        if let Keys::One(key) = self { Some(key) } else { None }
    }

    pub(super) fn of(&self, delivery: &Delivery) -> Cow<'_, str> {
        match self {
            Keys::One(key) => Cow::Borrowed(key),
            Keys::Each(template) => Cow::Owned(template.render(&delivery.event)),
        }
    }
}

impl Entry {
    /// `MULTI`, an `XADD` for each event, `EXEC`; of one event its `XADD` alone.
    pub(super) fn pack<'d>(
        &self,
        commands: &mut Pipeline,
        deliveries: impl ExactSizeIterator<Item = &'d Delivery>,
    ) {
        let Entry { keys, field, max_len, .. } = self;
        let one = deliveries.len() == 1;
        if !one {
            commands.cmd("MULTI");
        }
        for delivery in deliveries {
            let (key, json) = (keys.of(delivery), delivery.event.json());
            let mut add = Cmd::with_capacity(9, key.len() + field.len() + json.len() + 48);
            add.arg("XADD").arg(&*key);
            if let Some(max_len) = max_len {
                add.arg("MAXLEN").arg("~").arg(max_len);
            }
            add.arg("*").arg(field).arg(&**json);
            if delivery.attempt >= 2 {
                add.arg("attempt").arg(delivery.attempt);
            }
            commands.add_command(add);
        }
        if !one {
            commands.cmd("EXEC");
        }
    }

    /// A `PEXPIRE` for each of these streams. It follows the transaction. Inside, it would also set the expiry of a key
    /// of another type, for which `XADD` is refused.
    pub(super) fn set_expiry(&self, streams: &[String], asking: Asking) -> Pipeline {
        let mut commands = Pipeline::with_capacity(streams.len());
        for (key, expire) in streams.iter().zip(self.expire.iter().cycle()) {
            asking.pack(&mut commands);
            commands.cmd("PEXPIRE").arg(key).arg(expire);
        }
        commands
    }
}

/// Whether a command is for a slot that is on its way to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    No,
    /// `ASKING` comes first.
    First,
}

impl Asking {
    /// How many commands come first.
    pub(super) fn commands(self) -> usize {
        usize::from(self == Asking::First)
    }

    pub(super) fn pack(self, commands: &mut Pipeline) {
        if self == Asking::First {
            commands.cmd("ASKING");
        }
    }
}

/// What became of a transaction.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    /// All of it was carried out.
    Done,
    /// Nothing was.
    Refused(Refusal<'a>),
    /// All but these commands, at least one.
    Partly(Vec<Refusal<'a>>),
    /// Nothing was, because of the keys of these commands; the others had been accepted.
    Barred(Vec<Refusal<'a>>),
    /// There was no transaction, and these events went by themselves, at least one.
    Loose(Vec<usize>, Refusal<'a>),
}

/// A command that the server refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Refusal<'a> {
    /// Counts the events of the transaction.
    pub(super) at: usize,
    pub(super) code: &'a str,
    pub(super) detail: &'a str,
}

impl<'a> Refusal<'a> {
    /// Whether the refusal concerns the key that the command names.
    pub(super) fn is_of_key(&self) -> bool {
        is_of_key(self.code, self.detail)
    }

    fn of(at: usize, reply: &'a Value) -> Option<Refusal<'a>> {
        match reply {
            Value::ServerError(error) => {
                Some(Refusal { at, code: error.code(), detail: error.details().unwrap_or_default() })
            }
            _ => None,
        }
    }
}

/// What `read` makes of the first error, wherever it stands, that it makes something of.
pub(super) fn redirection<T>(replies: &[Value], read: impl Fn(&str, &str) -> Option<T>) -> Option<T> {
    replies.iter().find_map(|reply| Refusal::of(0, reply).and_then(|error| read(error.code, error.detail)))
}

/// Reads the replies to `MULTI`, to each command, and to `EXEC`; or the one to a command alone.
pub(super) fn read(replies: &[Value]) -> Verdict<'_> {
    if let [reply] = replies {
        return match Refusal::of(0, reply) {
            None => Verdict::Done,
            Some(refusal) if refusal.is_of_key() => Verdict::Partly(vec![refusal]),
            Some(refusal) => Verdict::Refused(refusal),
        };
    }
    if let Some(Value::Array(results)) = replies.last() {
        let refused = results.iter().enumerate().filter_map(|(at, result)| Refusal::of(at, result));
        let refused: Vec<_> = refused.collect();
        return if refused.is_empty() { Verdict::Done } else { Verdict::Partly(refused) };
    }
    // Without `MULTI` there is nothing to be queued: what comes behind is carried out at once.
    if let Some(refusal) = replies.first().and_then(|multi| Refusal::of(0, multi)) {
        let is_done = |(_, reply): &(usize, &Value)| matches!(reply, Value::BulkString(_));
        let done: Vec<_> = replies.iter().skip(1).enumerate().filter(is_done).map(|(at, _)| at).collect();
        if !done.is_empty() {
            return Verdict::Loose(done, refusal);
        }
    }
    let commands = replies.get(1..replies.len().saturating_sub(1)).unwrap_or_default();
    let refused: Vec<_> =
        commands.iter().enumerate().filter_map(|(at, reply)| Refusal::of(at, reply)).collect();
    if !refused.is_empty() && refused.iter().all(Refusal::is_of_key) {
        return Verdict::Barred(refused);
    }
    // `EXEC` only says that a command before it was wrong: the first such command says what.
    let mut refused =
        replies.iter().enumerate().filter_map(|(i, reply)| Refusal::of(i.saturating_sub(1), reply));
    let unsaid = Refusal { at: 0, code: "EXECABORT", detail: "the transaction has no result" };
    Verdict::Refused(refused.next().unwrap_or(unsaid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(resp: &str) -> Vec<Value> {
        let parse = |reply: &str| redis::parse_redis_value(reply.replace(' ', "\r\n").as_bytes()).unwrap();
        resp.split(" | ").map(|reply| parse(&format!("{} ", reply.replace('_', "\u{a0}")))).collect()
    }

    #[test]
    fn a_transaction_is_done_refused_or_done_in_part() {
        let at = |at, code| Refusal { at, code, detail: "" };
        for (resp, verdict) in [
            ("+OK | +QUEUED | +QUEUED | *2 $3 1-0 $3 1-1", Verdict::Done),
            ("+OK | +QUEUED | -OOM | -EXECABORT", Verdict::Refused(at(1, "OOM"))),
            ("-NOPERM | +QUEUED | -ERR", Verdict::Refused(at(0, "NOPERM"))),
            ("-NOPERM | $3 1-0 | -ERR | -ERR", Verdict::Loose(vec![0], at(0, "NOPERM"))),
            ("+OK | +QUEUED | -EXECABORT", Verdict::Refused(at(1, "EXECABORT"))),
            ("+OK | +QUEUED | -WRONGTYPE | +QUEUED | -EXECABORT", Verdict::Barred(vec![at(1, "WRONGTYPE")])),
            ("+OK | -WRONGTYPE | -OOM | -EXECABORT", Verdict::Refused(at(0, "WRONGTYPE"))),
            ("+OK | +QUEUED | +QUEUED | *2 -WRONGTYPE $3 1-1", Verdict::Partly(vec![at(0, "WRONGTYPE")])),
        ] {
            assert_eq!(read(&replies(resp)), verdict, "{resp}");
        }
        assert!(matches!(read(&[Value::Okay, Value::Nil]), Verdict::Refused(_)));
    }
}
