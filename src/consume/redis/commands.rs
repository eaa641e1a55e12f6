//! The commands that a consumer sends.

use std::time::Duration;

use redis::{Cmd, Pipeline};
use streamll_actors::event::EventId;

use crate::consume::dead_letter::Letter;
use crate::consume::entry::{Payload, Ticket};
use crate::consume::settings::IfMissing;

/// What is read from, and as whom.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) group: Option<String>,
    /// This consumer's name in the group.
    pub(super) name: String,
    /// Whether the name was made up for this run.
    pub(super) is_fresh: bool,
}

/// Asks whether the login is good, for the number of the connection, and whether the server is a node of a cluster.
pub(super) fn greeting() -> Pipeline {
    let mut ask = Pipeline::new();
    ask.cmd("PING").cmd("CLIENT").arg("ID").cmd("CLUSTER").arg("INFO");
    ask
}

/// Ends a read that blocks.
pub(super) fn unblock(client: i64) -> Pipeline {
    let mut ask = Pipeline::new();
    ask.cmd("CLIENT").arg("UNBLOCK").arg(client);
    ask
}

impl Place {
    pub(super) fn new(key: &str, group: Option<&str>, name: Option<&str>) -> Place {
        // The name of the host is for people; the rest makes the name unique.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let fresh = || {
            let host = if host.trim().is_empty() { "consumer" } else { host.trim() };
            // The end of an id is random.
            let id = EventId::generate(0).to_string();
            format!("{host}-{}-{}", std::process::id(), id.rsplit('-').next().unwrap_or_default())
        };
        Place {
            key: key.to_owned(),
            group: group.map(str::to_owned),
            name: name.map_or_else(fresh, str::to_owned),
            is_fresh: name.is_none(),
        }
    }

    fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_default()
    }

    pub(super) fn make_group(&self, from: &str, missing_stream: IfMissing) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XGROUP").arg("CREATE").arg(&self.key).arg(self.group()).arg(from);
        if missing_stream == IfMissing::Make {
            ask.arg("MKSTREAM");
        }
        ask
    }

    /// Asks how the stream and its group stand.
    pub(super) fn look(&self) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XINFO").arg("STREAM").arg(&self.key);
        if self.group.is_some() {
            ask.cmd("XINFO").arg("GROUPS").arg(&self.key);
        }
        ask
    }

    /// How often the entries were delivered that this consumer has in hand, from an entry on.
    fn counts(&self, from: Ticket, most: usize) -> Cmd {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(&self.key).arg(self.group()).arg(from.to_string()).arg("+").arg(most).arg(&self.name);
        ask
    }

    /// How often each entry was delivered that this consumer has in hand, from an entry on.
    pub(super) fn in_hand(&self, from: Ticket, most: usize) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.add_command(self.counts(from, most));
        ask
    }

    /// Reads what this consumer has in hand after an entry, and how often each entry was delivered.
    pub(super) fn read_pending(&self, after: Ticket, most: usize) -> Pipeline {
        let mut ask = self.in_hand(after, most + 1);
        ask.cmd("XREADGROUP").arg("GROUP").arg(self.group()).arg(&self.name).arg("COUNT").arg(most);
        ask.arg("STREAMS").arg(&self.key).arg(after.to_string());
        ask
    }

    /// Reads what nobody has read yet. Without `block`, a look at the stream comes first.
    pub(super) fn read_new(&self, after: Ticket, most: usize, block: Option<Duration>) -> Pipeline {
        let mut ask = if block.is_none() { self.look() } else { Pipeline::new() };
        match &self.group {
            Some(group) => ask.cmd("XREADGROUP").arg("GROUP").arg(group).arg(&self.name),
            None => ask.cmd("XREAD"),
        };
        ask.arg("COUNT").arg(most);
        if let Some(block) = block {
            ask.arg("BLOCK").arg(block.as_millis().to_string());
        }
        ask.arg("STREAMS").arg(&self.key);
        match &self.group {
            Some(_) => ask.arg(">"),
            None => ask.arg(after.to_string()),
        };
        ask
    }

    pub(super) fn acknowledge(&self, done: &[Ticket]) -> Pipeline {
        let mut ask = redis::cmd("XACK");
        ask.arg(&self.key).arg(self.group());
        for ticket in done {
            ask.arg(ticket.to_string());
        }
        let mut commands = Pipeline::new();
        commands.add_command(ask);
        commands
    }

    /// Shows that entries in hand are not forgotten, so that nobody takes them over. With `times`, they count as delivered so
    /// often.
    pub(super) fn keep(&self, in_hand: &[Ticket], times: Option<u64>) -> Pipeline {
        let mut ask = redis::cmd("XCLAIM");
        ask.arg(&self.key).arg(self.group()).arg(&self.name).arg(0);
        for ticket in in_hand {
            ask.arg(ticket.to_string());
        }
        if let Some(times) = times {
            ask.arg("RETRYCOUNT").arg(times);
        }
        ask.arg("JUSTID");
        let mut commands = Pipeline::new();
        commands.add_command(ask);
        commands
    }

    pub(super) fn claim(&self, idle: Duration, from: Ticket, most: usize) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XAUTOCLAIM").arg(&self.key).arg(self.group()).arg(&self.name);
        ask.arg(idle.as_millis().to_string()).arg(from.to_string()).arg("COUNT").arg(most);
        ask
    }

    /// Takes this consumer's name out of the group.
    pub(super) fn leave(&self) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XGROUP").arg("DELCONSUMER").arg(&self.key).arg(self.group()).arg(&self.name);
        ask
    }

    /// Adds a dead letter to the stream `key`: the entry as it came, and why it was given up.
    pub(super) fn dead_letter(&self, key: &str, letter: &Letter) -> Pipeline {
        let mut ask = redis::cmd("XADD");
        ask.arg(key).arg("*");
        if let Payload::Fields(fields) = &letter.entry.payload {
            for (field, value) in fields {
                ask.arg(field).arg(value);
            }
        }
        ask.arg("reason").arg(&letter.reason).arg("attempts").arg(letter.attempts);
        ask.arg("stream").arg(&self.key).arg("id").arg(letter.entry.ticket.to_string());
        if let Some(group) = &self.group {
            ask.arg("group").arg(group);
        }
        ask.arg("died_at").arg(letter.at.to_string());
        let mut commands = Pipeline::new();
        commands.add_command(ask);
        commands
    }
}
