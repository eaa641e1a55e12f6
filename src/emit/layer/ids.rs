//! The ids that a span has when it is made: ids of a trace that began elsewhere.

use std::fmt;

use streamll_actors::event::{Step, is_span_id, is_trace_id};
use tracing::field::{Field, Visit};
use tracing::span::Attributes;

use super::super::traceparent::Position;

/// The ids that a span has when it is made. Later ids are not read, because its first event cannot wait for them.
#[derive(Debug, Default)]
pub(super) struct Ids {
    traceparent: Option<Position>,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl Ids {
    pub(super) fn of(attributes: &Attributes<'_>) -> Ids {
        let mut ids = Ids::default();
        // Most spans have no such field.
        let fields = attributes.metadata().fields();
        if ["traceparent", "trace_id"].iter().any(|name| fields.field(name).is_some()) {
            attributes.record(&mut ids);
        }
        ids
    }

    /// Returns the step of the span. Inside another step, it is a part of that step's run, whatever ids the span has.
    pub(super) fn step(self, enclosing: Option<&Step>) -> Step {
        if let Some(enclosing) = enclosing {
            return enclosing.child();
        }
        let mut parts = Step::new("llm").parts().clone();
        match (self.traceparent, self.trace_id) {
            (Some(parent), _) => {
                parts.execution_id = parent.execution_id;
                parts.parent_id = Some(parent.span_id);
            }
            (None, Some(trace_id)) => parts.execution_id = trace_id.into(),
            (None, None) => {}
        }
        if let Some(span_id) = self.span_id {
            parts.span_id = span_id.into();
        }
        Step::from(parts)
    }
}

impl Visit for Ids {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "traceparent" => self.traceparent = value.parse().ok(),
            "trace_id" if is_trace_id(value) => self.trace_id = Some(value.to_owned()),
            "span_id" if is_span_id(value) => self.span_id = Some(value.to_owned()),
            _ => {}
        }
    }

    /// By `%`, or by `?` of what is no text.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if ["traceparent", "trace_id", "span_id"].contains(&field.name()) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}
