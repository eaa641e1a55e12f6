//! Dead letters on their way to where they are kept, one at a time. A letter that cannot be kept waits and is tried again.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streamll_actors::sink::LetterFile;
use tokio::time::Instant;

use super::dead_letter::{DeadLetters, Letter};
use super::source::Source;

/// How long letters wait after one that could not be kept.
const RETRY: Duration = Duration::from_secs(1);

/// Where dead letters are kept.
#[derive(Debug)]
pub(super) enum Keeper {
    /// Nowhere: they are counted.
    Nobody,
    /// At the broker.
    Source,
    File {
        file: Arc<LetterFile>,
        /// What the consumer reads from.
        target: String,
    },
}

impl Keeper {
    /// Without a choice, a consumer without a group keeps no letters.
    pub(super) fn new(choice: Option<DeadLetters>, target: &str, group: Option<&str>) -> Keeper {
        match choice {
            Some(DeadLetters::File(path)) => {
                Keeper::File { file: Arc::new(LetterFile::new(path)), target: target.to_owned() }
            }
            None if group.is_none() => Keeper::Nobody,
            _ => Keeper::Source,
        }
    }
}

/// A letter that is being kept.
struct UnderWay {
    letter: Arc<Letter>,
    kept: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
}

/// The letter that was under way, and why it could not be kept, if so.
pub(super) struct Sent {
    pub(super) letter: Arc<Letter>,
    pub(super) kept: Result<(), String>,
}

/// The dead letters that are not kept yet.
pub(super) struct Outbox {
    keeper: Keeper,
    waiting: VecDeque<Arc<Letter>>,
    retry_at: Instant,
    under_way: Option<UnderWay>,
}

impl Outbox {
    pub(super) fn new(keeper: Keeper) -> Outbox {
        Outbox { keeper, waiting: VecDeque::new(), retry_at: Instant::now(), under_way: None }
    }

    /// Whether letters are kept at all.
    pub(super) fn keeps(&self) -> bool {
        !matches!(self.keeper, Keeper::Nobody)
    }

    /// How many letters there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.under_way.is_some())
    }

    pub(super) fn push(&mut self, letter: Arc<Letter>) {
        self.waiting.push_back(letter);
    }

    /// Puts back a letter that could not be kept, after the others.
    pub(super) fn push_again(&mut self, letter: Arc<Letter>) {
        self.push(letter);
        self.retry_at = Instant::now() + RETRY;
    }

    /// When the next letter may be sent, if one waits and none is under way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (!self.waiting.is_empty() && self.under_way.is_none()).then_some(self.retry_at)
    }

    /// The next letter, if it is time to send one.
    pub(super) fn pop_due(&mut self) -> Option<Arc<Letter>> {
        let is_due = self.next_at().is_some_and(|at| at <= Instant::now());
        if is_due { self.waiting.pop_front() } else { None }
    }

    /// Begins to have a letter kept.
    pub(super) fn send(&mut self, letter: Arc<Letter>, source: &impl Source) {
        let kept: Pin<Box<dyn Future<Output = _> + Send>> = match &self.keeper {
            Keeper::Nobody => Box::pin(async { Ok(()) }),
            Keeper::File { file, target } => {
                let (letter, file, target) = (letter.clone(), file.clone(), target.clone());
                Box::pin(async move { letter.append(&file, &target).await })
            }
            Keeper::Source => {
                let kept = source.dead_letter(letter.clone());
                Box::pin(async move { kept.await.map_err(|error| error.to_string()) })
            }
        };
        self.under_way = Some(UnderWay { letter, kept });
    }

    /// Waits until the letter under way is kept or refused. Nothing is lost when the future is dropped.
    pub(super) async fn sent(&mut self) -> Sent {
        let Some(under_way) = &mut self.under_way else { return pending().await };
        let kept = under_way.kept.as_mut().await;
        let letter = under_way.letter.clone();
        self.under_way = None;
        Sent { letter, kept }
    }

    /// Gives up the letter under way.
    pub(super) fn cancel(&mut self) {
        self.under_way = None;
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("keeper", &self.keeper).field("letters", &self.len()).finish()
    }
}
