//! Merges tokens: the first token passes at once, then at most one event for each window, with the same text in total.
//!
//! ```
//! use serde_json::json;
//! use streamll::processors::CoalesceConfig;
//! use streamll_actors::{event::{Event, Step}, testkit};
//!
//! let coalesce: CoalesceConfig = serde_json::from_value(json!({ "window": "50ms" })).unwrap();
//! let step = Step::new("Chat");
//! let tokens = (0..).zip(["for", "ty", " ", "two"]).map(|(i, text)| Event::token(&step, "answer", text, i));
//! let left = testkit::drive(coalesce.build().unwrap(), tokens);
//! assert_eq!(left[0].as_token().unwrap().text, "for");
//! assert_eq!(left[1].as_token().unwrap().text, "ty two");
//! assert_eq!(left[1].merged(), 3);
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streamll_actors::event::{Event, Kind, Text};
use streamll_actors::process::{Output, Processor};
use tokio::time::Instant;

use crate::units::{Period, Size};

/// The most streams of tokens that are looked after at a time; beyond that the one that waits longest is let go.
const STREAMS: usize = 1024;
/// The largest `max_bytes`: whatever a text is escaped to, the event stays well below the largest one.
const LARGEST: u64 = 128 * 1024;

/// The settings under `coalesce:` in YAML. The tokens of one step and field are merged. All other events pass
/// unchanged.
///
/// The text of a merged event is exactly the text of its tokens, byte for byte. The merged event is the first of these
/// tokens, with its id, its time and its `token_index`. The key `merged` says how many tokens it holds. Before any
/// other event of a step passes, all tokens of that step pass.
///
/// Some tokens are not merged: a token whose sender waits for a confirmation, a token that was merged before, and a
/// token that came in with additional keys. Such a token passes unchanged, after the tokens that waited before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoalesceConfig {
    /// How long the next tokens wait for each other after one event of a step and field. They may wait up to half as
    /// long again. Default: `50ms`.
    pub window: Period,
    /// The most bytes of text that wait; at most `128KiB`. A single larger token passes alone. Default: `4KiB`.
    pub max_bytes: Size,
}

impl Default for CoalesceConfig {
    fn default() -> CoalesceConfig {
        CoalesceConfig { window: Period::millis(50), max_bytes: Size(4096) }
    }
}

impl CoalesceConfig {
    /// Makes the processor.
    ///
    /// # Errors
    ///
    /// If a value is out of its range. The text begins with the key, for example `window: …`.
    pub fn build(&self) -> Result<Coalesce, String> {
        if self.window.0.is_zero() {
            return Err(
                "window: must be longer than nothing; leave `coalesce` out to merge nothing".to_owned()
            );
        }
        if self.max_bytes.0 == 0 || self.max_bytes.0 > LARGEST {
            return Err(format!("max_bytes: must be from 1B to {}; write `4KiB`", Size(LARGEST)));
        }
        let max_bytes = usize::try_from(self.max_bytes.0).unwrap_or(usize::MAX);
        Ok(Coalesce { window: self.window.0, max_bytes, streams: HashMap::new(), count: 0, turn: 0 })
    }
}

/// Merges tokens. See [`CoalesceConfig`].
#[derive(Debug)]
pub struct Coalesce {
    window: Duration,
    max_bytes: usize,
    /// Streams that passed an event on within the last window, by the `span_id` of their step.
    streams: HashMap<Arc<str>, Vec<Stream>>,
    /// How many those are.
    count: usize,
    /// Numbers events in the order in which they came.
    turn: u64,
}

/// The tokens of one step and field.
#[derive(Debug)]
struct Stream {
    field: Text,
    /// When it passed an event on.
    passed: Instant,
    /// Its place in the order of all streams.
    turn: u64,
    waiting: Option<Waiting>,
}

/// Tokens that wait for more.
#[derive(Debug)]
struct Waiting {
    first: Event,
    text: String,
    tokens: u32,
}

impl Processor for Coalesce {
    fn process(&mut self, event: Event, out: &mut Output) {
        let Some(field) = mergeable(&event) else {
            // Nobody overtakes the tokens of its step.
            self.release_step(&event, out);
            return out.push(event);
        };
        let now = Instant::now();
        self.turn += 1;
        let Some(stream) = find(&mut self.streams, &event, &field) else {
            self.open(&event, field, now, out);
            return out.push(event);
        };
        let text = event.as_token().map_or("", |token| &*token.text);
        let fits = |waiting: &Waiting| {
            waiting.text.len() + text.len() <= self.max_bytes
                && waiting.tokens < u32::MAX
                && of_one_step(&waiting.first, &event)
        };
        if stream.waiting.as_ref().is_some_and(|waiting| !fits(waiting)) {
            stream.release(now, self.turn, out);
        }
        let is_due = now.duration_since(stream.passed) >= self.window;
        match &mut stream.waiting {
            None if is_due || text.len() >= self.max_bytes => {
                (stream.passed, stream.turn) = (now, self.turn);
                out.push(event);
            }
            None => {
                stream.turn = self.turn;
                stream.waiting = Some(Waiting { text: text.to_owned(), tokens: 1, first: event });
                out.hold();
            }
            Some(waiting) => {
                waiting.text.push_str(text);
                waiting.tokens += 1;
                out.hold();
            }
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some((self.window / 2).max(Duration::from_millis(1)))
    }

    fn tick(&mut self, out: &mut Output) {
        let (now, window) = (Instant::now(), self.window);
        self.release_all(out, |stream| now.duration_since(stream.passed) >= window);
        // One that waits for nothing and may pass is as good as one that is not there.
        self.forget(|stream| now.duration_since(stream.passed) >= window);
    }

    fn finish(&mut self, out: &mut Output) {
        self.release_all(out, |_| true);
        self.forget(|_| true);
    }
}

impl Coalesce {
    /// Looks after one more stream, which passes an event on now.
    fn open(&mut self, event: &Event, field: Text, now: Instant, out: &mut Output) {
        if self.count >= STREAMS {
            let oldest = self.streams.values().flatten().map(|stream| stream.turn).min().unwrap_or(0);
            self.release_all(out, |stream| stream.turn == oldest);
            self.forget(|stream| stream.turn == oldest);
        }
        let stream = Stream { field, passed: now, turn: self.turn, waiting: None };
        self.streams.entry(event.step().parts().span_id.clone()).or_default().push(stream);
        self.count += 1;
    }

    /// Lets go of all that waits of the step of an event; of a step that ends nothing is kept.
    fn release_step(&mut self, event: &Event, out: &mut Output) {
        let span_id = &event.step().parts().span_id;
        let Some(streams) = self.streams.get_mut(span_id) else { return };
        self.turn += 1;
        let now = Instant::now();
        streams.sort_unstable_by_key(|stream| stream.turn);
        streams.iter_mut().for_each(|stream| stream.release(now, self.turn, out));
        if event.kind().closes() {
            self.count -= streams.len();
            self.streams.remove(span_id);
        }
    }

    /// Lets go of what waits in some streams, in the order in which it came.
    fn release_all(&mut self, out: &mut Output, which: impl Fn(&Stream) -> bool) {
        let now = Instant::now();
        let all = self.streams.values_mut().flatten();
        let mut some: Vec<_> = all.filter(|stream| stream.waiting.is_some() && which(stream)).collect();
        some.sort_unstable_by_key(|stream| stream.turn);
        some.into_iter().for_each(|stream| stream.release(now, stream.turn, out));
    }

    /// Forgets some of the streams in which nothing waits.
    fn forget(&mut self, which: impl Fn(&Stream) -> bool) {
        self.streams.retain(|_, streams| {
            streams.retain(|stream| stream.waiting.is_some() || !which(stream));
            !streams.is_empty()
        });
        self.count = self.streams.values().map(Vec::len).sum();
    }
}

impl Stream {
    /// Lets go of what waits, as one event.
    fn release(&mut self, now: Instant, turn: u64, out: &mut Output) {
        let Some(Waiting { mut first, text, tokens }) = self.waiting.take() else { return };
        if tokens > 1 {
            first.set_merged(tokens, text);
        }
        (self.passed, self.turn) = (now, turn);
        out.release(first);
    }
}

/// The field of a token that may wait, and become a part of another one.
fn mergeable(event: &Event) -> Option<Text> {
    let is_plain =
        *event.kind() == Kind::Token && event.merged() == 1 && !event.is_awaited() && event.extra().is_none();
    event.as_token().filter(|_| is_plain).map(|token| token.field.clone())
}

fn find<'a>(
    streams: &'a mut HashMap<Arc<str>, Vec<Stream>>,
    event: &Event,
    field: &Text,
) -> Option<&'a mut Stream> {
    let streams = streams.get_mut(&event.step().parts().span_id)?;
    streams.iter_mut().find(|stream| stream.field == *field)
}

/// Whether all that events share by their steps is the same: names, ids, context.
fn of_one_step(one: &Event, other: &Event) -> bool {
    one.step().same(other.step()) || one.step().parts() == other.step().parts()
}
