//! Token events from any stream. The stream passes through unchanged.

use std::fmt;
use std::mem;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use streamll_actors::event::{Fields, Step, Text};
use streamll_actors::ingress::Emitter;
use tokio::time::Instant;
use tokio_stream::Stream;

use super::ambient::Ambient;
use super::early::Early;
use super::reader::{Reader, WithErrors, WithUsage};
use super::run::Open;
use super::scope::Scope;
use super::usage::Usage;
use super::{completed, installed};
use crate::fault::AsFault;

/// The longest text on a closing event, in bytes.
const LONGEST: usize = 64 << 10;

/// Adds [`tokens`](TokenStream::tokens) to every stream.
pub trait TokenStream: Stream + Sized {
    /// Emits a `token` event for every item in which `text` finds a text. The stream becomes a step of its own: `start`
    /// is emitted when the stream is first polled, `end` when it ends. The items pass through unchanged.
    ///
    /// The closing event carries the whole text under the name of the field, the number of `tokens`,
    /// `time_to_first_token` and `duration` in seconds, and `tokens_per_second` after the first token. The text has at
    /// most 64 KiB. If it is cut, the key `truncated` lists the field.
    ///
    /// A stream that is dropped before its end closes with `error` of the type `Cancelled`. A stream that panics closes
    /// with `error` of the type `Panic`. Both carry the text so far. Items that are [`errors`](Tokens::errors) can make
    /// the step fail, too.
    ///
    /// The parent of the step, its context and its emitter are those of the place where `tokens` is called: the step is
    /// a child of the current [scope](crate::trace), or the root of a run if there is none. This matters because a web
    /// framework polls the body long after the handler has returned. Events that the stream itself emits while it is
    /// polled belong below this step.
    ///
    /// Only `None` says that a stream has ended. If you stop reading before it (at a `[DONE]`, or after the last item
    /// that matters) and drop the stream, the step ends as cancelled. So read on until the `None`.
    ///
    /// ```
    /// use streamll::TokenStream as _;
    ///
    /// let answer = tokio_stream::iter([Ok("forty"), Ok(" two"), Err("cut")]);
    /// let answer = answer
    ///     .tokens("answer", |item: &Result<&'static str, &str>| item.ok())
    ///     .errors(|item| item.as_ref().err())
    ///     .operation("llm_call");
    /// # let _ = answer;
    /// ```
    fn tokens<F>(self, field: impl Into<Arc<str>>, text: F) -> Tokens<Self, F>
    where
        F: for<'a> FnMut(&'a Self::Item) -> Option<&'a str>,
    {
        let field = field.into();
        let mut ambient = Ambient::current();
        ambient.emitter = ambient.emitter.or_else(installed);
        let step = ambient.step(&field).operation(field.clone());
        let state = State::Waiting { step, ambient, begun: false };
        let tap = Tap { state, said: Some(Said::new(&field)), usage: None };
        Tokens { flow: Flow { stream: Some(Early::new(self)), tap }, reader: text }
    }
}

impl<S: Stream> TokenStream for S {}

pin_project! {
    /// The stream that [`TokenStream::tokens`] returns.
    #[must_use = "streams do nothing unless they are polled"]
    pub struct Tokens<S, R> {
        #[pin]
        flow: Flow<S>,
        reader: R,
    }
}

pin_project! {
    /// A stream, and its step.
    struct Flow<S> {
        #[pin]
        stream: Option<Early<S>>,
        tap: Tap,
    }

    impl<S> PinnedDrop for Flow<S> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // Before the tap: what goes with it ends before the step does, and inside of it.
            this.tap.let_go(|| this.stream.set(None));
        }
    }
}

impl<S, R> Tokens<S, R> {
    /// Names the operation of the step. Default: the name of the field.
    pub fn operation(mut self, operation: impl Into<Arc<str>>) -> Tokens<S, R> {
        if let State::Waiting { step, .. } = &mut self.flow.tap.state {
            *step = step.clone().operation(operation);
        }
        self
    }

    /// Uses a step of yours, whose `start` you have emitted. The stream emits the closing event, also if it is dropped
    /// without having been polled. So no other stream can share the step. `duration` runs from your `start`,
    /// `time_to_first_token` from this call.
    pub fn of(mut self, yours: &Step) -> Tokens<S, R> {
        if let State::Waiting { step, ambient, begun } = &mut self.flow.tap.state {
            *step = completed(yours, &ambient.context).unwrap_or_else(|| yours.clone());
            *begun = true;
        }
        self
    }

    /// Sets where to emit, also for the events that the stream itself emits. Default: the emitter of the current scope,
    /// or else the process-wide default.
    pub fn to(mut self, emitter: &Emitter) -> Tokens<S, R> {
        if let State::Waiting { ambient, .. } = &mut self.flow.tap.state {
            ambient.emitter = Some(emitter.clone());
        }
        self
    }

    /// Sets whether the closing event carries the whole text. Default: `true`.
    pub fn outputs(mut self, outputs: bool) -> Tokens<S, R> {
        if let Some(said) = &mut self.flow.tap.said {
            said.text = outputs.then(String::new);
        }
        self
    }

    /// Names the model, on the first and on the closing event of the step.
    pub fn model(self, name: impl Into<String>) -> Tokens<S, R> {
        self.told(Usage::default().model(name))
    }

    /// Names the company or service that runs the model, on the first and on the closing event of the step.
    pub fn provider(self, name: impl Into<String>) -> Tokens<S, R> {
        self.told(Usage::default().provider(name))
    }

    /// Sets how many tokens the model read, if that is known before it answers. The closing event carries the number.
    pub fn input(self, tokens: u64) -> Tokens<S, R> {
        self.told(Usage::default().input(tokens))
    }

    /// Sets how many tokens the model wrote, if that is known before it answers. The closing event carries the number.
    /// The key `tokens` is another number: how many pieces of text came.
    pub fn output(self, tokens: u64) -> Tokens<S, R> {
        self.told(Usage::default().output(tokens))
    }

    fn told(mut self, usage: Usage) -> Tokens<S, R> {
        let tap = &mut self.flow.tap;
        match &tap.state {
            State::Open(open) => open.scope().usage(usage),
            _ => tap.usage = Some(tap.usage.take().unwrap_or_default().merged(usage)),
        }
        self
    }

    /// Finds items that report usage. The closing event carries the usage, also if it is an `error`.
    ///
    /// If several items report usage, the [last value of each key wins](Usage::merged), because providers report the
    /// usage of all items so far.
    ///
    /// ```
    /// use serde_json::Value;
    /// use streamll::{TokenStream as _, Usage};
    ///
    /// # let chunks = tokio_stream::iter(Vec::<Value>::new());
    /// let answer = chunks
    ///     .tokens("answer", |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str())
    ///     .usage(|chunk| Usage::read(&chunk["usage"]))
    ///     .provider("openai")
    ///     .model("gpt-test");
    /// # let _ = answer;
    /// ```
    pub fn usage<G>(self, usage: G) -> Tokens<S, WithUsage<R, G>>
    where
        S: Stream,
        G: FnMut(&S::Item) -> Option<Usage>,
    {
        Tokens { flow: self.flow, reader: WithUsage::new(self.reader, usage) }
    }

    /// Finds items that are errors. After one, the step closes with `error`. The event has the type and the message of
    /// the first error, with its causes.
    ///
    /// For a stream of results, use `|item| item.as_ref().err()`. If an item holds its error in a variant, return that
    /// error.
    pub fn errors<E, G, How>(self, error: G) -> Tokens<S, WithErrors<R, G, E, How>>
    where
        S: Stream,
        E: AsFault<How> + ?Sized,
        G: for<'a> FnMut(&'a S::Item) -> Option<&'a E>,
    {
        Tokens { flow: self.flow, reader: WithErrors::new(self.reader, error) }
    }

    /// Makes a scope that has begun end with the stream. If `field` is given, the stream's tokens are those of that
    /// field.
    pub(crate) fn until(open: Open, field: Option<&str>, stream: S, reader: R) -> Tokens<S, R> {
        let tap = Tap { state: State::Open(open), said: field.map(Said::new), usage: None };
        Tokens { flow: Flow { stream: Some(Early::new(stream)), tap }, reader }
    }
}

impl<S: Stream, R: Reader<S::Item>> Stream for Tokens<S, R> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let (flow, reader) = (this.flow.project(), this.reader);
        let (stream, tap) = (flow.stream.as_pin_mut().expect("it goes with this"), flow.tap);
        tap.begin();
        let Tap { state: State::Open(open), said, usage: _ } = &mut *tap else { return stream.poll_next(cx) };
        let polled = open.try_enter(|scope| {
            let polled = stream.poll_next(cx);
            if let Poll::Ready(Some(item)) = &polled {
                if let Some(fault) = reader.error(item)
                    && !scope.has_failed()
                {
                    scope.fail_by(fault);
                }
                scope.usage(reader.usage(item));
                if let Some(said) = said
                    && let Some(text) = reader.text(item)
                {
                    said.token(scope, text);
                }
            }
            polled
        });
        let polled = polled.unwrap_or_else(|panic| {
            tap.close(|scope| scope.panicked(&*panic));
            resume_unwind(panic)
        });
        if let Poll::Ready(None) = &polled {
            tap.close(Scope::end);
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.flow.stream.as_ref().map_or((0, None), Stream::size_hint)
    }
}

impl<S, R> fmt::Debug for Tokens<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.flow.tap.said.as_ref();
        f.debug_struct("Tokens")
            .field("field", &said.map(|said| &said.field))
            .field("tokens", &said.map(|said| said.count))
            .finish_non_exhaustive()
    }
}

/// The step of one stream, and what it has reported.
struct Tap {
    state: State,
    said: Option<Said>,
    /// The usage that is known before the stream begins.
    usage: Option<Usage>,
}

enum State {
    /// The stream was not polled yet. `begun`: its `start` was emitted elsewhere, so that the step must be closed in
    /// any case.
    Waiting { step: Step, ambient: Ambient, begun: bool },
    /// The scope stays open after its step has ended, because the stream may still emit events.
    Open(Open),
    /// The moment between the two.
    Beginning,
}

impl Tap {
    /// Begins the step at the first poll.
    fn begin(&mut self) {
        if let State::Waiting { .. } = &self.state
            && let State::Waiting { step, ambient, begun } = mem::replace(&mut self.state, State::Beginning)
        {
            let (mut inputs, usage) = (Fields::default(), self.usage.take());
            usage.iter().for_each(|usage| usage.names(|key, name| inputs.set(key, name)));
            let scope = Scope::with_inputs(step, ambient.emitter, inputs);
            let scope = scope.sampled_as(ambient.scope.as_ref());
            scope.usage(usage);
            if begun {
                scope.resume()
            } else {
                scope.start()
            }
            self.state = State::Open(Open::new(scope));
        }
    }

    fn close(&mut self, how: impl FnOnce(&Scope)) {
        if let State::Open(open) = &self.state {
            if let Some(mut said) = self.said.take() {
                said.report(open.scope());
            }
            how(open.scope());
        }
    }

    /// Drops the stream inside its scope.
    fn let_go(&mut self, go: impl FnOnce()) {
        match &mut self.state {
            State::Waiting { ambient, .. } => ambient.enter(go),
            State::Open(open) => open.let_go(go),
            State::Beginning => go(),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let State::Waiting { begun: true, .. } = self.state {
            self.begin();
        }
        self.close(Scope::abandon);
    }
}

/// What a stream has sent so far.
struct Said {
    field: Text,
    /// The whole text up to a limit, if it is wanted.
    text: Option<String>,
    cut: bool,
    count: u64,
    made: Instant,
    /// The times of the first and the last token.
    times: Option<(Instant, Instant)>,
}

impl Said {
    fn new(field: &str) -> Said {
        let text = Some(String::new());
        Said { field: field.into(), text, cut: false, count: 0, made: Instant::now(), times: None }
    }

    fn token(&mut self, scope: &Scope, token: &str) {
        let now = Instant::now();
        scope.token(self.field.clone(), token, self.count);
        self.count += 1;
        self.times = Some((self.times.map_or(now, |(first, _)| first), now));
        if let Some(text) = self.text.as_mut().filter(|_| !self.cut) {
            let fits = token.floor_char_boundary(LONGEST - text.len());
            self.cut = fits < token.len();
            text.push_str(&token[..fits]);
        }
    }

    /// Adds the numbers and the text to the outputs of the step.
    fn report(&mut self, scope: &Scope) {
        if let Some(text) = self.text.take() {
            scope.output(self.field.to_string(), text);
        }
        if self.cut {
            scope.output("truncated", vec![&*self.field]);
        }
        scope.output("tokens", self.count);
        let Some((first, last)) = self.times else { return };
        let began = scope.began().unwrap_or(self.made);
        scope.output("time_to_first_token", first.duration_since(began).as_secs_f64());
        let seconds = last.duration_since(first).as_secs_f64();
        if self.count > 1 && seconds > 0.0 {
            // As many as anybody has seen in a second fit a float exactly.
            scope.output("tokens_per_second", (self.count - 1) as f64 / seconds);
        }
    }
}
