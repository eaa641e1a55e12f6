//! Makes events from spans of LLM libraries: a layer for `tracing-subscriber`.

mod entered;
mod fields;
mod filter;
mod ids;
mod map;
mod open;

pub(super) use entered::inside;
pub use filter::SpanFilter;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use streamll_actors::ingress::Emitter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Filtered;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use super::ambient::Ambient;
use ids::Ids;
use open::Open;

/// The variable by which OpenTelemetry is told that messages may be recorded.
const CAPTURE_CONTENT: &str = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT";

/// Makes a layer that turns spans of LLM libraries into events: of rig, of genai (with its feature `otel`), and of
/// every other library that follows the GenAI conventions of OpenTelemetry.
///
/// ```
/// use tracing_subscriber::prelude::*;
///
/// let subscriber = tracing_subscriber::registry().with(streamll::layer());
/// tracing::subscriber::with_default(subscriber, || {
///     let chat = tracing::info_span!(
///         "chat",
///         gen_ai.operation.name = "chat",
///         gen_ai.request.model = "gpt-test",
///         gen_ai.usage.output_tokens = tracing::field::Empty,
///     ); // llm_start
///     chat.record("gen_ai.usage.output_tokens", 18);
/// }); // llm_end, with its duration
/// ```
///
/// | `gen_ai.operation.name` | events |
/// |---|---|
/// | `chat`, `generate_content`, `text_completion` | `llm_start`, `llm_end` |
/// | `execute_tool` | `tool_start`, `tool_end` |
/// | `embeddings`, `retrieval` | `embeddings_start`, `embeddings_end`, … |
/// | `invoke_agent`, `invoke_workflow`, any other | `start`, `end` |
///
/// If a span has `error.type` or an error status, the second event is `error`. If a scope or a token stream drops the
/// code of a span before it is done, the second event is `error`, too, with the type `Cancelled`. Some libraries (rig)
/// do not report an error in the span of a call. If such a span has nothing of an answer either, the data of `llm_end`
/// has `answered: false`.
///
/// The module is the `gen_ai.agent.name` of the span or of the nearest span around it, or else the provider, or else
/// `llm`. The data has `provider`, `model`, `input_tokens`, `output_tokens`, `total_tokens`, `finish_reasons` and
/// similar keys, whatever name a library uses for them. The first event waits until the library has said what it calls,
/// at the latest until something happens inside the span. The event has the time at which the span was opened.
///
/// If a span has no span or scope around it and is made with the field `traceparent`, it continues the run of that
/// header. If a span is made with `trace_id` and `span_id` (32 and 16 hexadecimal digits, as in OpenTelemetry), it has
/// these ids.
///
/// Spans are steps, just as scopes are. A span inside a [scope](crate::trace) is a child of that scope, and a scope
/// inside a span is a child of that span. No library puts tokens into spans: [`tokens`](crate::TokenStream::tokens)
/// emits them.
///
/// Messages, instructions, and arguments and results of tools are left out. To keep them, call
/// [`capture_content`](LayerExt::capture_content), or set the variable
/// `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true`. All other spans and events cost nothing. Events that come
/// before a topology is installed are shed and counted, without a warning.
#[must_use = "a layer does nothing before it is added to a subscriber"]
pub fn layer<S>() -> SpanLayer<S> {
    static LAYERS: AtomicUsize = AtomicUsize::new(0);
    let spans = Spans {
        id: LAYERS.fetch_add(1, Ordering::Relaxed),
        content: std::env::var(CAPTURE_CONTENT).is_ok_and(|value| asks_for_content(&value)),
        emitter: None,
    };
    Filtered::new(spans, SpanFilter::default())
}

fn asks_for_content(value: &str) -> bool {
    ["true", "1", "span_only", "span_and_event"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes))
}

/// The type of [`layer()`]. The layer sees only the spans that it makes events of.
pub type SpanLayer<S> = Filtered<Spans, SpanFilter, S>;

/// Settings of a [`layer()`].
///
/// ```
/// use streamll::LayerExt as _;
/// use tracing_subscriber::prelude::*;
///
/// let layer = streamll::layer().targets(["my_app::rag"]).capture_content(true);
/// let subscriber = tracing_subscriber::registry().with(layer);
/// # let _ = subscriber;
/// ```
pub trait LayerExt: Sized {
    /// Sets whether messages, instructions, and arguments and results of tools are kept. They are personal data.
    /// Default: `false`, unless the environment says otherwise.
    #[must_use]
    fn capture_content(self, content: bool) -> Self;

    /// Also makes events of all spans of these targets and of targets below them, such as functions with
    /// `#[tracing::instrument]` in those modules.
    ///
    /// The events are `start` and `end` with the fields of the span. With `#[instrument(err)]`, an `Err` makes an
    /// `error`. The last part of the target names the module.
    #[must_use]
    fn targets<T: Into<String>>(self, targets: impl IntoIterator<Item = T>) -> Self;

    /// Sets where to emit, also for the code inside the spans. Default: the emitter of the scope around the span, or
    /// else the process-wide default.
    #[must_use]
    fn to(self, emitter: &Emitter) -> Self;
}

impl<S> LayerExt for SpanLayer<S> {
    fn capture_content(mut self, content: bool) -> Self {
        self.inner_mut().content = content;
        self
    }

    fn targets<T: Into<String>>(mut self, targets: impl IntoIterator<Item = T>) -> Self {
        self.filter_mut().add(targets.into_iter().map(Into::into));
        self
    }

    fn to(mut self, emitter: &Emitter) -> Self {
        self.inner_mut().emitter = Some(emitter.clone());
        self
    }
}

/// The inside of a [`SpanLayer`]. It makes events of all spans that it is shown.
pub struct Spans {
    /// Several layers may see one span.
    id: usize,
    content: bool,
    emitter: Option<Emitter>,
}

/// What the layers keep with a span, each by its number.
struct Kept(Vec<(usize, Arc<Open>)>);

impl Spans {
    fn open<'a, S: LookupSpan<'a>>(&self, span: &SpanRef<'a, S>) -> Option<Arc<Open>> {
        let extensions = span.extensions();
        let kept = extensions.get::<Kept>()?;
        kept.0.iter().find(|(layer, _)| *layer == self.id).map(|(_, open)| open.clone())
    }
}

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        let outer = span.scope().skip(1).find_map(|around| self.open(&around));
        let around = Ambient::unresolved();
        let emitter = self.emitter.clone().or_else(|| around.emitter.clone());
        let of_span = outer.as_ref().map(|outer| outer.begin().step());
        let of_scope = around.scope.as_ref().map(super::Scope::step);
        // Whichever is inside of the other is the nearer one.
        let span_is_nearer =
            attributes.parent().is_some() || entered::innermost(around.scope.as_ref()).is_some();
        let enclosing = if span_is_nearer { of_span.or(of_scope) } else { of_scope.or(of_span) };
        // With a parent of its own choice it may be opened inside of another run, whose ids are not for it.
        let run = |step: &streamll_actors::event::Step| step.parts().execution_id.clone();
        let is_foreign = attributes.parent().is_some()
            && enclosing.is_some()
            && enclosing.as_ref().map(run) != around.scope.as_ref().map(|scope| run(&scope.step()));
        let none = streamll_actors::event::Context::empty();
        let context = if is_foreign { &none } else { &around.context };
        let ids = Ids::of(attributes);
        let open = Open::new(attributes.metadata(), enclosing, context, outer, emitter, self.content, ids);
        open.record(|said| attributes.record(said));
        let open = (self.id, Arc::new(open));
        let mut extensions = span.extensions_mut();
        match extensions.get_mut::<Kept>() {
            Some(kept) => kept.0.push(open),
            None => extensions.insert(Kept(vec![open])),
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        if let Some(open) = cx.span(id).and_then(|span| self.open(&span)) {
            open.record(|said| values.record(said));
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        // The filter lets through nothing but what `#[instrument(err)]` says of its span.
        if let Some(open) = cx.event_span(event).and_then(|span| self.open(&span)) {
            open.record_error(|said| event.record(said));
        }
    }

    fn on_enter(&self, id: &Id, cx: Context<'_, S>) {
        if let Some(open) = cx.span(id).and_then(|span| self.open(&span)) {
            entered::enter(open, Ambient::unresolved().scope);
        }
    }

    fn on_exit(&self, id: &Id, cx: Context<'_, S>) {
        if let Some(open) = cx.span(id).and_then(|span| self.open(&span)) {
            entered::exit(&open);
            open.paused();
        }
    }

    /// May run on any thread, also on one that goes down: nothing here waits, logs, or looks at what is around.
    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        if let Some(open) = cx.span(&id).and_then(|span| self.open(&span)) {
            open.close();
        }
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("content", &self.content).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_asked_for_by_a_clear_yes_alone() {
        for (value, asked) in [
            ("true", true),
            ("TRUE", true),
            ("1", true),
            ("SPAN_ONLY", true),
            ("span_and_event", true),
            ("event_only", false),
            ("no_content", false),
            ("false", false),
            ("", false),
        ] {
            assert_eq!(asks_for_content(value), asked, "{value}");
        }
    }
}
