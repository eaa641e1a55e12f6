//! Dead letters: entries that are no event, or that a handler could not take, with the reason.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::borrow::Cow;

use serde_json::{Value, json};
use streamll_actors::event::{Timestamp, strict_json};

use super::source::{Entry, Payload};

/// Where dead letters go.
///
/// Without a choice they go beside what is read: the stream `<target>.dead` of Redis, the queue `<group>.dead` of
/// RabbitMQ. A consumer without a group only watches: it counts and logs what it cannot take, and keeps nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetters {
    /// A Redis stream: the fields as they came, and `reason`, `attempts`, `stream`, `id`, `group`, `died_at`.
    Stream(String),
    /// A RabbitMQ exchange: the body as it came, by its own key, with headers `reason`, `attempts`, `queue`, `died_at`
    /// in place of those that it had. A queue must be bound to it.
    Exchange(String),
    /// A file of NDJSON: `target`, `id`, `reason`, `attempts`, `died_at` and `payload`, or the `event` that it is. Made
    /// for its owner only, as it holds what the events hold.
    File(PathBuf),
}

/// One dead letter.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) entry: Entry,
    pub(super) reason: String,
    pub(super) attempts: u32,
    pub(super) at: Timestamp,
}

impl Letter {
    pub(super) fn new(entry: Entry, reason: String, attempts: u32) -> Letter {
        Letter { entry, reason, attempts, at: Timestamp::now() }
    }

    /// A line of NDJSON.
    fn line(&self, target: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Entry { ticket, key, .. } = &self.entry;
        let line = json!({
            "target": target,
            "id": format!("{}-{}", ticket.0, ticket.1),
            "key": key.as_deref(),
            "reason": self.reason,
            "attempts": self.attempts,
            "died_at": self.at.to_string(),
        });
        let (json, other) = match &self.entry.payload {
            Payload::Body(body) => (strict_json(body).ok(), text(body).into()),
            Payload::Fields(fields) => (
                fields
                    .iter()
                    .find(|(field, _)| field == b"event")
                    .and_then(|(_, json)| strict_json(json).ok()),
                fields.iter().map(|(field, value)| (text(field), Value::from(text(value)))).collect(),
            ),
            Payload::Gone => (None, Value::Null),
        };
        let (name, payload) =
            json.map_or_else(|| ("payload", Cow::Owned(other.to_string())), |json| ("event", json));
        // To the letter; in JSON a raw line break is only layout.
        let payload = payload.replace(['\n', '\r'], " ");
        let line = line.to_string();
        format!("{},\"{name}\":{payload}}}\n", line.strip_suffix('}').unwrap_or(&line))
    }

    /// Appends it to a file, in one write, which is on the disk then: its entry is acknowledged next.
    pub(super) async fn append(&self, path: &Path, target: &str) -> Result<(), String> {
        let (path, line) = (Arc::<Path>::from(path), self.line(target));
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || append(&path, line.as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("dead-letter file {shown}: {error}")),
            Err(_) => Err(format!("dead-letter file {shown}: the runtime ends")),
        }
    }
}

fn append(path: &Path, line: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    let mut folders = std::fs::DirBuilder::new();
    folders.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        options.mode(0o600);
        folders.mode(0o700);
    }
    if let Some(folder) = path.parent() {
        folders.create(folder)?;
    }
    let mut file = options.open(path)?;
    file.write_all(line)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::source::Ticket;

    #[tokio::test]
    async fn a_line_holds_the_entry_as_it_came_and_why_it_died() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead/letters.ndjson");
        let letter = |payload| {
            let entry = Entry { ticket: Ticket(17, 3), key: None, is_routed: false, payload, deliveries: 0 };
            Letter::new(entry, "the handler panicked: no".to_owned(), 3)
        };
        let field = |value: &str| Payload::Fields(vec![(b"event".to_vec(), value.as_bytes().to_vec())]);
        for payload in [field(r#"{"event_type":"x"}"#), field("not JSON"), Payload::Body(b"\xff".to_vec())] {
            letter(payload).append(&path, "ai_events").await.unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["id"], &lines[0]["target"]), (&json!("17-3"), &json!("ai_events")));
        assert_eq!((&lines[0]["event"]["event_type"], &lines[0]["attempts"]), (&json!("x"), &json!(3)));
        assert_eq!(lines[1]["payload"]["event"], "not JSON");
        assert_eq!(lines[2]["payload"], "\u{fffd}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
