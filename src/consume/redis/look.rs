//! What looks at the stream have found: how it stands, which entries are gone, and whether it is there at all.

use redis::Value;

use super::reading::Cursor;
use super::replies::{Standing, is_missing};
use crate::consume::entry::Ticket;
use crate::consume::status::Shared;

/// The last look, and what was said of it.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) standing: Standing,
    /// Entries up to this one that are gone were counted already.
    counted: Ticket,
    /// Whether the status says that there is no stream.
    pub(super) says_missing: bool,
}

impl Look {
    pub(super) fn new() -> Look {
        Look { standing: Standing::default(), counted: Ticket::START, says_missing: false }
    }

    /// Takes note of a look at the stream and its group. If the group is gone, its last place stays known.
    pub(super) fn note(&mut self, replies: &[Value], group: Option<&str>) {
        let before = self.standing.delivered;
        self.standing = Standing::of(replies, group);
        self.standing.delivered = self.standing.delivered.or(before);
    }

    /// The group was given this entry. The look that came with the read was from before it.
    pub(super) fn note_delivered(&mut self, last: Ticket) {
        self.standing.delivered = self.standing.delivered.max(Some(last));
    }

    /// Counts entries that are gone and that nobody has read, each once.
    pub(super) fn count_gone(
        &mut self,
        key: &str,
        group: Option<&str>,
        cursor: &mut Cursor,
        shared: &Shared,
    ) {
        let (position, read) = match group {
            Some(_) => (self.standing.delivered, self.standing.read),
            None => (cursor.at, cursor.read),
        };
        let Some(position) = position else { return };
        let gone = self.standing.gone(position, read).filter(|gone| gone.upto > self.counted);
        let Some(gone) = gone else { return };
        self.counted = gone.upto;
        if self.standing.begins_after(position) {
            // The place to continue is counted from there.
            cursor.read = self.standing.in_front();
        }
        shared.gap(gone.missed, &format!("the stream `{key}` was trimmed before all of it was read"));
    }

    /// Says that there is no stream yet, because its name may be wrong; or no longer says so.
    pub(super) fn note_missing(&mut self, reply: Option<&Value>, key: &str, shared: &Shared) {
        let is_missing = is_missing(reply);
        if is_missing == self.says_missing {
            return;
        }
        self.says_missing = is_missing;
        let why = is_missing.then(|| format!("there is no stream `{key}` yet: is that its name?"));
        shared.change(|status| status.reason = why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The look of a read is from before that read, and may be taken in after a newer look.
    #[test]
    fn a_group_that_is_destroyed_right_after_a_read_is_made_again_after_what_it_was_given() {
        let name = |text: &str| Value::BulkString(text.into());
        let group = [name("name"), name("g"), name("last-delivered-id"), name("0-0")];
        let before = Value::Array(vec![Value::Array(group.to_vec())]);
        let mut look = Look::new();
        look.note(&[Value::Nil, before], Some("g"));
        look.note_delivered(Ticket::entry(4, 0));
        look.note(&[Value::Nil, Value::Array(Vec::new())], Some("g"));
        assert_eq!(look.standing.delivered, Some(Ticket::entry(4, 0)));
    }
}
