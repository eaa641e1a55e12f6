//! Where events go that can never arrive: another sink, or a file of NDJSON.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::buffer::Buffer;
use super::letter_file::LetterFile;
use crate::event::{Confirmation, Delivery, Event, Receipt, Timestamp};

/// How long the log says nothing of dead letters after it did.
const QUIET: Duration = Duration::from_secs(10);

/// An event that can never arrive, and all that is known of why.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The event itself.
    pub event: Event,
    /// The sink, or the processor, that could not take it.
    pub sink: Arc<str>,
    /// `poison`: it can never arrive; `panic`: it crashed its sink again and again; `processor`: one panicked on it, before
    /// the sink had seen it.
    pub class: &'static str,
    /// Why, without secrets.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first tried.
    pub first_attempt: Timestamp,
    /// When it was last tried.
    pub last_attempt: Timestamp,
}

impl DeadLetter {
    /// One JSON object on one line, with the event verbatim.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'a> {
            sink: &'a str,
            class: &'a str,
            reason: &'a str,
            attempts: u32,
            first_attempt: String,
            last_attempt: String,
            event: Option<&'a RawValue>,
        }
        let event = serde_json::from_slice(self.event.json()).ok();
        let line = Line {
            sink: &self.sink,
            class: self.class,
            reason: &self.reason,
            attempts: self.attempts,
            first_attempt: self.first_attempt.to_string(),
            last_attempt: self.last_attempt.to_string(),
            event,
        };
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        // Data that came in over several lines; in JSON a raw line break is only layout.
        json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        json
    }

    /// The letter as an event of its own, for a sink.
    fn event(&self) -> Event {
        let json = self.json();
        let mut event = Event::system_json("dead_letter", std::str::from_utf8(&json).unwrap_or("{}"));
        event.set_class(crate::event::Class::Audit);
        event
    }
}

/// Takes dead letters; an event counts as dead-lettered once it was taken. Clones share one target.
#[derive(Debug, Clone)]
pub struct DeadLetters(Arc<Letters>);

#[derive(Debug)]
struct Letters {
    /// The buffer of the sink that takes them.
    target: ArcSwapOption<Buffer>,
    /// Made when first needed, for its owner only; also when the target is given up or gone.
    file: LetterFile,
    logged: Mutex<Logged>,
}

/// What stands in the log.
#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    /// How many letters came since, and why the latest did.
    others: u64,
    reason: String,
}

impl DeadLetters {
    /// Into a file of NDJSON.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> DeadLetters {
        let (target, file) = (ArcSwapOption::default(), LetterFile::new(path));
        DeadLetters(Arc::new(Letters { target, file, logged: Mutex::default() }))
    }

    /// From now on into the buffer of another sink.
    pub(crate) fn set_target(&self, target: Option<Arc<Buffer>>) {
        self.0.target.store(target);
    }

    /// Takes one letter, or says why it could not: then it must be offered again. Given to another sink it is taken once
    /// that holds it, which is what is returned.
    pub(crate) fn accept(
        &self,
        letter: &DeadLetter,
        now: Instant,
    ) -> Result<Option<oneshot::Receiver<Confirmation>>, String> {
        let target = self.0.target.load_full();
        if let Some(buffer) = target.filter(|buffer| !buffer.is_failed() && !buffer.is_retired()) {
            let (receipt, held) = Receipt::new();
            let mut event = letter.event();
            event.set_receipt(receipt.clone());
            if buffer.offer(Delivery::by_topic(event), now) {
                receipt.routed(1);
                return Ok(Some(held));
            }
            // Where the target drops what finds it full, nobody waits for it: the file takes the letter.
            if !buffer.drops_when_full() {
                return Err(format!("the buffer of dead-letter sink `{}` is full", buffer.name()));
            }
        }
        let file = &self.0.file;
        let name = file.path().file_stem().unwrap_or_default().to_string_lossy();
        let when_full =
            format!("look at it with `streamll dead list`, then `dead replay {name}` or `dead purge {name}`");
        file.append(&letter.json(), &when_full)
            .map(|()| None)
            .map_err(|e| format!("dead-letter file {}: {e}", file.path().display()))
    }

    /// Says in the log that a letter was taken. Of many only the first: the others are counted.
    pub(crate) fn log(&self, letter: &DeadLetter, now: Instant) {
        let mut logged = self.logged();
        if logged.last.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            logged.others += 1;
            logged.reason.clone_from(&letter.reason);
            return;
        }
        logged.last = Some(now);
        warn!(sink = %letter.sink, event = %letter.event.id(), reason = letter.reason, "dead-lettered");
    }

    /// Says in the log how many others there were, where it is time for that.
    pub(crate) fn log_others_in_time(&self, sink: &str, now: Instant) {
        let is_time = self.logged().last.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        if is_time {
            self.log_others(sink, now);
        }
    }

    /// Says in the log how many others there were, if any.
    pub(crate) fn log_others(&self, sink: &str, now: Instant) {
        let mut logged = self.logged();
        if logged.others == 0 {
            return;
        }
        let Logged { others: count, reason, .. } = std::mem::take(&mut *logged);
        logged.last = Some(now);
        warn!(%sink, count, reason, "further events were dead-lettered");
    }

    fn logged(&self) -> MutexGuard<'_, Logged> {
        self.0.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::event::Step;

    fn letter() -> DeadLetter {
        DeadLetter {
            event: Event::new(&Step::new("M"), "start").with("a", 1.5),
            sink: "live".into(),
            class: "poison",
            reason: "too large".to_owned(),
            attempts: 2,
            first_attempt: Timestamp::from_micros(0),
            last_attempt: Timestamp::from_micros(1_000_000),
        }
    }

    #[test]
    fn a_letter_holds_the_event_verbatim_and_why_it_died() {
        let letter = letter();
        let text = String::from_utf8(letter.json()).unwrap();
        assert!(text.contains(std::str::from_utf8(letter.event.json()).unwrap()), "{text}");
        assert!(
            text.contains(r#""sink":"live","class":"poison","reason":"too large","attempts":2"#),
            "{text}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_made_when_needed_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("streamll-dead-{}", fastrand::u64(..)));
        let path = folder.join("dead/live.ndjson");
        let letters = DeadLetters::file(&path);
        assert!(!folder.exists());
        letters.accept(&letter(), Instant::now()).unwrap();
        letters.accept(&letter(), Instant::now()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir_all(folder).unwrap();
    }
}
