//! Which node of a Redis Cluster has which keys.

use std::fmt::Write as _;

use redis::{Pipeline, Value};

use super::address::Address;
use super::connect::Link;
use super::error::{self, Failure, Scene, Stage, Topic, explain};

/// How many slots the keys are spread over.
const SLOTS: u16 = 16_384;

/// The masters of a cluster, and what each has.
#[derive(Debug, Default)]
pub(crate) struct Map {
    masters: Vec<Address>,
    /// All nodes, to ask when some are gone.
    pub(crate) nodes: Vec<Address>,
    /// First and last slot of a range, and the place of its master.
    ranges: Vec<(u16, u16, usize)>,
}

/// Where a key is that is not at the node that was asked.
#[derive(Debug)]
pub(crate) enum Redirect {
    /// There.
    Moved(Address),
    /// This time there: its slot is being moved.
    Ask(Address),
    /// Some of it here, some of it there.
    Split,
}

/// The slot of a key: of what stands in its first braces, where something does.
pub(crate) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

impl Map {
    /// Asks a node how its cluster stands.
    pub(crate) async fn ask(link: &mut Link, node: &Address, topic: Topic<'_>) -> Result<Map, Failure> {
        let mut ask = Pipeline::new();
        ask.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
        let answers = link.ask(&ask).await.map_err(|error| {
            let last_words = link.wire().last_words();
            explain(&error, &Scene { stage: Stage::Connecting, last_words: &last_words, topic })
        })?;
        for answer in &answers {
            match answer {
                Value::ServerError(error) if error.code() == "NOPERM" => {
                    return Err(error::no_cluster_info());
                }
                Value::ServerError(error) => {
                    return Err(error::reply(error.code(), error.details().unwrap_or_default(), topic));
                }
                _ => {}
            }
        }
        let info = answers.get(1).and_then(text).unwrap_or_default();
        let map = answers.first().and_then(|slots| Map::read(slots, node));
        let map = map.ok_or_else(|| Failure::unavailable("its answer to CLUSTER SLOTS makes no sense"))?;
        if info.lines().any(|line| line.trim() == "cluster_state:fail") {
            return Err(error::cluster_down(map.missing()));
        }
        Ok(map)
    }

    /// Reads the answer of `node` to `CLUSTER SLOTS`.
    fn read(slots: &Value, node: &Address) -> Option<Map> {
        let mut map = Map::default();
        let Value::Array(ranges) = slots else { return None };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = &range[..] else { return None };
            let mut nodes = nodes.iter().map(|found| place(found, node));
            let master = nodes.next()??;
            let at = map.masters.iter().position(|known| known.is(&master)).unwrap_or_else(|| {
                map.masters.push(master.clone());
                map.masters.len() - 1
            });
            map.ranges.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, at));
            for found in [master].into_iter().chain(nodes.flatten()) {
                if !map.nodes.iter().any(|known| known.is(&found)) {
                    map.nodes.push(found);
                }
            }
        }
        Some(map)
    }

    /// The master that has this slot.
    pub(crate) fn master_of(&self, slot: u16) -> Option<&Address> {
        let range = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot))?;
        self.masters.get(range.2)
    }

    pub(crate) fn masters(&self) -> &[Address] {
        &self.masters
    }

    /// How many slots no node has.
    fn missing(&self) -> u16 {
        SLOTS.saturating_sub(self.ranges.iter().map(|(first, last, _)| last - first + 1).sum())
    }
}

/// `[host, port, id, [name, value, …]]`. A node that is to be called by a name and has none is called `?`, and its `ip` is
/// among the rest.
fn place(node: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(node) = node else { return None };
    let rest = match node.get(3) {
        Some(Value::Array(rest)) => &rest[..],
        _ => &[],
    };
    let ip = rest.chunks_exact(2).find(|pair| text(&pair[0]) == Some("ip")).and_then(|pair| text(&pair[1]));
    let host = match node.first().and_then(text) {
        Some("?") => ip.unwrap_or_default(),
        host => host.unwrap_or_default(),
    };
    let Some(Value::Int(port)) = node.get(1) else { return None };
    Some(asked.node(host, u16::try_from(*port).ok()?))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

impl Redirect {
    /// Reads an error reply of `node`, where that is a redirection: `MOVED 3999 127.0.0.1:6381`.
    pub(crate) fn read(code: &str, detail: &str, node: &Address) -> Option<Redirect> {
        let there = || {
            let (host, port) = detail.split_once(' ')?.1.trim().rsplit_once(':')?;
            Some(node.node(host.trim_matches(['[', ']']), port.parse().ok()?))
        };
        match code {
            // A node without a name: the map knows its address.
            "MOVED" | "ASK" if detail.contains(" ?:") => Some(Redirect::Split),
            "MOVED" => there().map(Redirect::Moved),
            "ASK" => there().map(Redirect::Ask),
            "TRYAGAIN" => Some(Redirect::Split),
            _ => None,
        }
    }
}

/// Several nodes as people read them.
pub(crate) fn several(nodes: &[Address]) -> String {
    let mut shown = nodes.first().map(ToString::to_string).unwrap_or_default();
    if nodes.len() > 1 {
        let _ = write!(shown, " (and {} more)", nodes.len() - 1);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slots that a server answers to `CLUSTER KEYSLOT`.
    #[test]
    fn the_slot_of_a_key_is_that_of_what_stands_in_its_braces() {
        for (key, expected) in [
            ("foo", 12_182),
            ("bar", 5061),
            ("ai_events", slot("x{ai_events}y")),
            ("{user1000}.following", slot("user1000")),
            ("{user1000}{other}", slot("user1000")),
            ("foo{{bar}}zap", slot("{bar")),
            ("", 0),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        assert_ne!(slot("foo{}{bar}"), slot("bar"), "empty braces are none");
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn a_map_names_masters_and_a_node_that_knows_no_name_is_the_one_that_was_asked() {
        let asked = Address::parse("redis://u:p@h:7000").unwrap();
        let unnamed = "*1\r\n*3\r\n:0\r\n:1\r\n*4\r\n$1\r\n?\r\n:7001\r\n$1\r\ni\r\n*2\r\n$2\r\nip\r\n$7\r\n1.2.3.4\r\n";
        let map = Map::read(&redis::parse_redis_value(unnamed.as_bytes()).unwrap(), &asked).unwrap();
        assert_eq!(map.masters()[0].to_string(), "redis://1.2.3.4:7001");
        let resp = "*2\r\n*4\r\n:0\r\n:100\r\n*2\r\n$1\r\na\r\n:7001\r\n*2\r\n$1\r\nb\r\n:7002\r\n\
            *3\r\n:101\r\n:16382\r\n*2\r\n$0\r\n\r\n:7003\r\n";
        let map = Map::read(&redis::parse_redis_value(resp.as_bytes()).unwrap(), &asked).unwrap();
        let master = |slot| map.master_of(slot).map(ToString::to_string);
        assert_eq!(master(100).as_deref(), Some("redis://a:7001"));
        assert_eq!(master(101).as_deref(), Some("redis://h:7003"));
        assert_eq!((master(16_383), map.missing(), map.nodes.len()), (None, 1, 3));
        assert_eq!(map.masters()[0].login.username(), Some("u"));
    }

    #[test]
    fn a_redirection_names_a_place() {
        let node = Address::parse("redis://h:7000").unwrap();
        let read = |code, detail| match Redirect::read(code, detail, &node) {
            Some(Redirect::Moved(to)) => format!("moved {to}"),
            Some(Redirect::Ask(to)) => format!("ask {to}"),
            other => format!("{other:?}"),
        };
        assert_eq!(read("MOVED", "3999 127.0.0.1:6381"), "moved redis://127.0.0.1:6381");
        assert_eq!(read("ASK", "1 ::1:6381"), "ask redis://[::1]:6381");
        assert_eq!(read("MOVED", "1 :6381"), "moved redis://h:6381");
        assert_eq!(read("TRYAGAIN", "Multiple keys request"), "Some(Split)");
        assert_eq!(read("OOM", "command not allowed"), "None");
        assert_eq!(read("MOVED", "1 ?:6381"), "Some(Split)");
    }
}
