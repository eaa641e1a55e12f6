//! The replies of Redis: entries, refusals, and how a stream and its group stand.

use std::collections::HashMap;

use redis::Value;

use crate::consume::entry::{Entry, Payload, Ticket};

/// `1718000000000-0`, or the first half alone.
pub(super) fn id(text: &[u8]) -> Option<Ticket> {
    let text = std::str::from_utf8(text).ok()?;
    let (first, second) = text.split_once('-').unwrap_or((text, "0"));
    Some(Ticket::entry(first.parse().ok()?, second.parse().ok()?))
}

/// The entries of a read of one stream: `[[key, [[id, [field, value, …]], …]]]`, or nil.
pub(super) fn entries(reply: Value) -> Vec<Entry> {
    let stream = match reply {
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut stream)) => stream.pop(),
            _ => None,
        },
        Value::Map(mut streams) => streams.pop().map(|(_, stream)| stream),
        _ => None,
    };
    stream.map(listed).unwrap_or_default()
}

/// `[[id, [field, value, …]], …]`; the fields of an entry that is gone are nil.
fn listed(list: Value) -> Vec<Entry> {
    let Value::Array(list) = list else { return Vec::new() };
    list.into_iter().filter_map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(pair) = value else { return None };
    let mut pair = pair.into_iter();
    let (Some(Value::BulkString(name)), fields) = (pair.next(), pair.next()) else { return None };
    let payload = match fields {
        Some(Value::Array(fields)) => {
            let mut fields = fields.into_iter();
            let mut pairs = Vec::with_capacity(fields.len() / 2);
            while let (Some(Value::BulkString(field)), Some(Value::BulkString(value))) =
                (fields.next(), fields.next())
            {
                pairs.push((field, value));
            }
            Payload::Fields(pairs)
        }
        _ => Payload::Gone,
    };
    Some(Entry::new(id(&name)?, payload))
}

/// Whether a reply says that the stream is missing.
pub(super) fn is_missing(reply: Option<&Value>) -> bool {
    matches!(reply, Some(Value::ServerError(error))
        if error.details().is_some_and(|said| said.contains("no such key")))
}

/// Whether a reply says that the user may not do this.
pub(super) fn is_no_permission(reply: Option<&Value>) -> bool {
    matches!(reply, Some(Value::ServerError(error)) if error.code() == "NOPERM")
}

/// What was taken over from other consumers.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Where to continue; the start of the stream at the end.
    pub(super) next: Ticket,
    pub(super) entries: Vec<Entry>,
    /// Entries that are gone; known since Redis 7.
    pub(super) gone: Vec<Ticket>,
}

impl Claimed {
    /// `[next, [[id, [field, value, …]], …], [id, …]]`
    pub(super) fn of(reply: Value) -> Option<Claimed> {
        let Value::Array(reply) = reply else { return None };
        let mut reply = reply.into_iter();
        let next = match reply.next() {
            Some(Value::BulkString(next)) => id(&next).unwrap_or(Ticket::START),
            _ => Ticket::START,
        };
        let entries = reply.next().map(listed).unwrap_or_default();
        let gone = match reply.next() {
            Some(Value::Array(gone)) => gone.iter().filter_map(ticket).collect(),
            _ => Vec::new(),
        };
        Some(Claimed { next, entries, gone })
    }
}

fn ticket(name: &Value) -> Option<Ticket> {
    if let Value::BulkString(name) = name { id(name) } else { None }
}

/// How often each entry was delivered: `[[id, consumer, idle, times], …]`.
pub(super) fn deliveries(reply: Option<&Value>) -> HashMap<Ticket, u64> {
    let Some(Value::Array(list)) = reply else { return HashMap::new() };
    let count = |item: &Value| match item {
        Value::Array(item) => match item.as_slice() {
            [Value::BulkString(name), _, _, Value::Int(times)] => {
                Some((id(name)?, u64::try_from(*times).ok()?))
            }
            _ => None,
        },
        _ => None,
    };
    list.iter().filter_map(count).collect()
}

/// How a stream and a group stand. What the server does not tell is unknown.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The last entry that the stream ever had.
    pub(super) last: Option<Ticket>,
    /// The first entry that the stream still has.
    first: Option<Ticket>,
    /// The last entry of those that were deleted one by one.
    last_deleted: Option<Ticket>,
    /// The last entry that the group was given.
    pub(super) delivered: Option<Ticket>,
    /// How many entries wait for the group.
    pub(super) lag: Option<u64>,
    length: Option<u64>,
    added: Option<u64>,
    /// How many of the entries that the stream ever had the group was given.
    pub(super) read: Option<u64>,
}

impl Standing {
    /// From the answers to `XINFO STREAM` and `XINFO GROUPS`.
    pub(super) fn of(replies: &[Value], group: Option<&str>) -> Standing {
        let stream = replies.first();
        let ticket = |name| text(stream?, name).and_then(id);
        let mut standing = Standing {
            last: ticket("last-generated-id"),
            first: ticket("recorded-first-entry-id"),
            last_deleted: ticket("max-deleted-entry-id"),
            length: stream.and_then(|stream| number(stream, "length")),
            added: stream.and_then(|stream| number(stream, "entries-added")),
            ..Standing::default()
        };
        if let (Some(Value::Array(groups)), Some(name)) = (replies.get(1), group)
            && let Some(group) = groups.iter().find(|group| text(group, "name") == Some(name.as_bytes()))
        {
            standing.delivered = text(group, "last-delivered-id").and_then(id);
            standing.lag = number(group, "lag");
            standing.read = number(group, "entries-read");
        }
        standing
    }

    /// How many entries the stream ever had.
    pub(super) fn added(&self) -> Option<u64> {
        self.added
    }

    /// How many entries stood before the first one that the stream still has.
    pub(super) fn in_front(&self) -> Option<u64> {
        self.added?.checked_sub(self.length?)
    }

    /// Whether the first entry that the stream still has comes after this position.
    pub(super) fn begins_after(&self, position: Ticket) -> bool {
        self.begins().is_some_and(|first| first > position)
    }

    /// The first entry that the stream still has. For an empty stream, the last one that it had.
    fn begins(&self) -> Option<Ticket> {
        if self.length? == 0 { self.last } else { self.first }
    }

    /// Which entries are gone that a reader at `position` has not read. `read` is how many entries it has read, if that is
    /// known.
    pub(super) fn gone(&self, position: Ticket, read: Option<u64>) -> Option<Gone> {
        // A reader that has read nothing takes what there is; a reader that has read everything misses nothing.
        if position == Ticket::START || self.last? <= position {
            return None;
        }
        if self.in_front() == Some(0) {
            return None;
        }
        let missed = self.in_front().zip(read).map(|(in_front, read)| in_front.saturating_sub(read));
        let trimmed = self.begins().filter(|first| *first > position && missed != Some(0));
        let deleted = self.last_deleted.filter(|deleted| *deleted > position);
        trimmed.max(deleted).map(|upto| Gone { upto, missed: missed.unwrap_or(1).max(1) })
    }
}

/// Entries that are gone before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// All of them are before this entry.
    pub(super) upto: Ticket,
    /// How many are known to be gone, at least one.
    pub(super) missed: u64,
}

/// One value of `[name, value, name, value, …]`, or of a map.
fn value<'a>(info: &'a Value, name: &str) -> Option<&'a Value> {
    let is_it = |key: &Value| match key {
        Value::BulkString(key) => key == name.as_bytes(),
        Value::SimpleString(key) => key == name,
        _ => false,
    };
    match info {
        Value::Array(pairs) => {
            pairs.chunks(2).find(|pair| pair.first().is_some_and(is_it)).and_then(|pair| pair.get(1))
        }
        Value::Map(pairs) => pairs.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value),
        _ => None,
    }
}

fn text<'a>(info: &'a Value, name: &str) -> Option<&'a [u8]> {
    match value(info, name)? {
        Value::BulkString(text) => Some(text),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(info: &Value, name: &str) -> Option<u64> {
    match value(info, name)? {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(resp: &str) -> Value {
        redis::parse_redis_value(resp.replace(' ', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn entries_are_read_and_those_that_are_gone_are_known() {
        let read = entries(reply("*1 *2 $1 k *2 *2 $3 1-2 *2 $1 f $1 v *2 $3 1-3 *-1 "));
        assert_eq!(
            read.iter().map(|entry| entry.ticket).collect::<Vec<_>>(),
            [Ticket::entry(1, 2), Ticket::entry(1, 3)]
        );
        assert!(
            matches!(&read[0].payload, Payload::Fields(fields) if *fields == [(b"f".to_vec(), b"v".to_vec())])
        );
        assert!(matches!(read[1].payload, Payload::Gone));
        assert!(entries(reply("*-1 ")).is_empty());
        assert!(entries(Value::Int(1)).is_empty());
    }

    #[test]
    fn an_id_is_two_numbers_or_one() {
        assert_eq!(id(b"17-3"), Some(Ticket::entry(17, 3)));
        assert_eq!(id(b"17"), Some(Ticket::entry(17, 0)));
        for wrong in ["", "-", "a-1", "1-", "1-2-3", "$"] {
            assert_eq!(id(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_trimmed_unread_is_counted() {
        let stream = reply(
            "*8 $6 length :5 $17 last-generated-id $3 9-0 $23 recorded-first-entry-id $3 5-0 $13 entries-added :12 ",
        );
        let groups = reply("*1 *8 $4 name $1 g $17 last-delivered-id $3 2-0 $12 entries-read :3 $3 lag :5 ");
        let standing = Standing::of(&[stream, groups], Some("g"));
        assert_eq!(
            (standing.delivered, standing.read, standing.lag),
            (Some(Ticket::entry(2, 0)), Some(3), Some(5))
        );
        // Seven of the twelve are gone, three of them were read.
        let at = |position, read| standing.gone(Ticket::entry(position, 0), read);
        let gone = |missed| Some(Gone { upto: Ticket::entry(5, 0), missed });
        assert_eq!(at(2, Some(3)), gone(4));
        assert_eq!(at(2, None), gone(1), "at least one");
        assert_eq!(at(4, Some(7)), None, "trimmed up to what was read");
        assert_eq!(at(6, Some(9)), None, "trimmed after the reader's place");
        assert_eq!(at(9, None), None, "everything was read");
        assert_eq!(at(0, None), None, "a reader at the beginning takes what there is");
        let whole = reply(
            "*8 $6 length :5 $17 last-generated-id $3 9-0 $23 recorded-first-entry-id $3 5-0 $13 entries-added :5 ",
        );
        assert_eq!(
            Standing::of(&[whole], None).gone(Ticket::entry(2, 0), None),
            None,
            "nothing was ever in front"
        );
        assert_eq!(Standing::of(&[], Some("g")).gone(Ticket::entry(1, 0), None), None);
    }

    #[test]
    fn how_often_entries_were_delivered_is_known_by_entry() {
        let counts = deliveries(Some(&reply("*1 *4 $3 1-2 $1 c :5 :3 ")));
        assert_eq!(counts, HashMap::from([(Ticket::entry(1, 2), 3)]));
    }
}
