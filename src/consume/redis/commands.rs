//! The commands that a consumer sends.

use std::time::Duration;

use redis::{Cmd, Pipeline};
use streamll_actors::event::EventId;

use crate::consume::dead_letter::Letter;
use crate::consume::source::{Payload, Ticket};

/// What is read from, and as whom.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) group: Option<String>,
    /// This consumer's name in the group.
    pub(super) name: String,
    /// Whether it was made up for this run.
    pub(super) is_fresh: bool,
}

/// Whether the login is good, the number of the connection, and whether it is a node of a cluster.
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

pub(super) fn text(ticket: Ticket) -> String {
    ticket.to_string()
}

impl Place {
    pub(super) fn new(key: &str, group: Option<&str>, name: Option<&str>) -> Place {
        // The node's name tells people who it is, the rest makes it the only one.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let fresh = || {
            let host = if host.trim().is_empty() { "consumer" } else { host.trim() };
            // Its end is random.
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

    /// With `stream` also the stream, where that is missing.
    pub(super) fn make_group(&self, from: &str, stream: bool) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XGROUP").arg("CREATE").arg(&self.key).arg(self.group()).arg(from);
        if stream {
            ask.arg("MKSTREAM");
        }
        ask
    }

    /// How things stand.
    pub(super) fn look(&self) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XINFO").arg("STREAM").arg(&self.key);
        if self.group.is_some() {
            ask.cmd("XINFO").arg("GROUPS").arg(&self.key);
        }
        ask
    }

    /// How often what this consumer has in hand was delivered, from an entry on.
    fn counts(&self, from: Ticket, most: usize) -> Cmd {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(&self.key).arg(self.group()).arg(text(from)).arg("+").arg(most).arg(&self.name);
        ask
    }

    /// How often each entry was delivered that this consumer has in hand.
    pub(super) fn in_hand(&self, from: Ticket, most: usize) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.add_command(self.counts(from, most));
        ask
    }

    /// What this consumer has in hand behind an entry, and how often each was delivered.
    pub(super) fn read_pending(&self, behind: Ticket, most: usize) -> Pipeline {
        let mut ask = self.in_hand(behind, most + 1);
        ask.cmd("XREADGROUP").arg("GROUP").arg(self.group()).arg(&self.name).arg("COUNT").arg(most);
        ask.arg("STREAMS").arg(&self.key).arg(text(behind));
        ask
    }

    /// What nobody has read yet; without `block` after a look at how things stand just before.
    pub(super) fn read_new(&self, behind: Ticket, most: usize, block: Option<Duration>) -> Pipeline {
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
            None => ask.arg(text(behind)),
        };
        ask
    }

    pub(super) fn acknowledge(&self, done: &[Ticket]) -> Pipeline {
        let mut ask = redis::cmd("XACK");
        ask.arg(&self.key).arg(self.group());
        for ticket in done {
            ask.arg(text(*ticket));
        }
        let mut commands = Pipeline::new();
        commands.add_command(ask);
        commands
    }

    /// Shows that what is in hand is not forgotten: nobody takes it over. `times` makes it count as delivered so often.
    pub(super) fn keep(&self, in_hand: &[Ticket], times: Option<u64>) -> Pipeline {
        let mut ask = redis::cmd("XCLAIM");
        ask.arg(&self.key).arg(self.group()).arg(&self.name).arg(0);
        for ticket in in_hand {
            ask.arg(text(*ticket));
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
        ask.arg(idle.as_millis().to_string()).arg(text(from)).arg("COUNT").arg(most);
        ask
    }

    /// Takes this consumer's name out of the group.
    pub(super) fn leave(&self) -> Pipeline {
        let mut ask = Pipeline::new();
        ask.cmd("XGROUP").arg("DELCONSUMER").arg(&self.key).arg(self.group()).arg(&self.name);
        ask
    }

    /// The entry as it came, with what is known of why it died.
    pub(super) fn bury(&self, dead: &str, letter: &Letter) -> Pipeline {
        let mut ask = redis::cmd("XADD");
        ask.arg(dead).arg("*");
        if let Payload::Fields(fields) = &letter.entry.payload {
            for (field, value) in fields {
                ask.arg(field).arg(value);
            }
        }
        ask.arg("reason").arg(&letter.reason).arg("attempts").arg(letter.attempts);
        ask.arg("stream").arg(&self.key).arg("id").arg(text(letter.entry.ticket));
        if let Some(group) = &self.group {
            ask.arg("group").arg(group);
        }
        ask.arg("died_at").arg(letter.at.to_string());
        let mut commands = Pipeline::new();
        commands.add_command(ask);
        commands
    }
}
