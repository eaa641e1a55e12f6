//! Which spans the layer sees. It reads their metadata, once per call site.

use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Our own crates. Their logs about the delivery of an event must never become an event.
const OURS: [&str; 3] = ["streamll", "streamll_actors", "streamll_macros"];

/// Lets spans of LLM libraries through, and spans of the targets that were asked for.
#[derive(Debug, Clone, Default)]
pub struct SpanFilter {
    targets: Vec<String>,
}

impl SpanFilter {
    pub(super) fn add(&mut self, targets: impl Iterator<Item = String>) {
        self.targets.extend(targets);
    }

    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_below = |module: &str| {
            target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let named = || self.targets.iter().any(|module| !module.is_empty() && is_below(module));
        if OURS.into_iter().any(is_below) {
            return false;
        }
        if metadata.is_span() {
            return is_gen_ai(metadata) || named();
        }
        // What `#[instrument(err)]` says.
        *metadata.level() == Level::ERROR && metadata.fields().field("error").is_some() && named()
    }
}

/// Whether a span follows the GenAI conventions. Names and targets of spans change with every version of a library.
pub(super) fn is_gen_ai(metadata: &Metadata<'_>) -> bool {
    metadata.fields().field("gen_ai.operation.name").is_some()
}

impl<S> Filter<S> for SpanFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.lets_through(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_through(metadata) { Interest::always() } else { Interest::never() }
    }
}
