//! Dead letters: entries that are no event, or that a handler could not handle, each with the reason.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use streamll_actors::event::{Timestamp, strict_json};
use streamll_actors::sink::LetterFile;

use super::entry::{Entry, Payload, PublishKey};

/// Where dead letters go.
///
/// Without a choice they go beside what is read: to the Redis stream `<target>.dead`, or to the RabbitMQ queue
/// `<group>.dead`. A consumer without a group only watches. It counts and logs what it cannot handle, and keeps nothing
/// unless a place is chosen here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetters {
    /// A Redis stream. An entry has the fields as they came, and `reason`, `attempts`, `stream`, `id`, `group`, `died_at`.
    Stream(String),
    /// A RabbitMQ exchange. A message has the body as it came, and its own routing key. The headers that it had are replaced
    /// by `reason`, `attempts`, `queue`, `died_at` and `key`. A queue must be bound to the exchange.
    Exchange(String),
    /// A file of NDJSON. A line has `target`, `id`, `key`, `reason`, `attempts`, `died_at`, and either the `event` or, where the
    /// entry is no JSON, its `payload`. Only the owner of the file may read it, because it holds what the events hold.
    /// Several consumers may share one file, even from several processes. The file takes 256 MiB. When it is full, letters
    /// wait, and their entries are not acknowledged.
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
            "id": ticket.to_string(),
            "key": key.as_ref().map(PublishKey::as_str),
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
        // The text stays as it is; in JSON a raw line break is only layout.
        let payload = payload.replace(['\n', '\r'], " ");
        let line = line.to_string();
        format!("{},\"{name}\":{payload}}}", line.strip_suffix('}').unwrap_or(&line))
    }

    /// Appends the letter to a file and waits until it is on the disk, because its entry is acknowledged next.
    pub(super) async fn append(&self, file: &Arc<LetterFile>, target: &str) -> Result<(), String> {
        let (file, line) = (file.clone(), self.line(target));
        let shown = file.path().display().to_string();
        let append = move || file.append(line.as_bytes(), "move it away, and look at what is in it");
        let written = tokio::task::spawn_blocking(append).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("dead-letter file {shown}: {error}")),
            Err(_) => Err(format!("dead-letter file {shown}: the runtime ends")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::entry::Ticket;

    #[tokio::test]
    async fn a_line_holds_the_entry_as_it_came_and_why_it_died() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead/letters.ndjson");
        let file = Arc::new(LetterFile::new(&path));
        let letter = |payload| {
            let entry = Entry::new(Ticket::entry(17, 3), payload);
            Letter::new(entry, "the handler panicked: no".to_owned(), 3)
        };
        let field = |value: &str| Payload::Fields(vec![(b"event".to_vec(), value.as_bytes().to_vec())]);
        for payload in [field(r#"{"event_type":"x"}"#), field("not JSON"), Payload::Body(b"\xff".to_vec())] {
            letter(payload).append(&file, "ai_events").await.unwrap();
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

    #[tokio::test]
    async fn a_full_file_and_half_a_line_lose_no_letter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.ndjson");
        std::fs::write(&path, "{\"half\"").unwrap();
        let letter = || {
            let entry = Entry::new(Ticket::entry(1, 0), Payload::Body(b"no event".to_vec()));
            Letter::new(entry, "x".to_owned(), 1)
        };
        letter().append(&Arc::new(LetterFile::new(&path)), "ai_events").await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap();
        let full = Arc::new(LetterFile::new(&path).max_size(text.len() as u64));
        let refused = letter().append(&full, "ai_events").await.unwrap_err();
        assert!(refused.contains("it is full; move it away"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
