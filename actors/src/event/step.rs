//! One step of a run: what all its events share. Its JSON fragments are encoded once.

use std::sync::{Arc, OnceLock};

use super::write::{tag, write, write_optional};
use super::{Context, id, traceparent};

/// The keys of a token's own data: a context key of the same name gives way.
const TOKEN_KEYS: [&str; 4] = ["field", "token", "token_index", "merged"];

/// One step of a run. Its start, its tokens and its end share it. Clones are cheap, and a step never changes.
///
/// Make it once for each step. Then a token costs no more than its own text.
#[derive(Debug, Clone)]
pub struct Step(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: StepParts,
    fragments: OnceLock<Fragments>,
    traceparent: OnceLock<Option<Box<str>>>,
}

/// The fields of a [`Step`], to make a step with all of them given.
#[derive(Debug, Clone, PartialEq)]
pub struct StepParts {
    /// The emitting module, for example `RagPipeline`.
    pub module_name: Arc<str>,
    /// The method, for example `forward`.
    pub method_name: Option<Arc<str>>,
    /// The operation of the step, for example `llm_call`.
    pub operation: Option<Arc<str>>,
    /// The id of the whole run.
    pub execution_id: Arc<str>,
    /// The id of this step.
    pub span_id: Arc<str>,
    /// The id of the enclosing step.
    pub parent_id: Option<Arc<str>>,
    /// Ids and tags that every event of the step carries.
    pub context: Context,
}

/// The parts of the JSON that are the same for every event of the step.
#[derive(Debug)]
pub(super) struct Fragments {
    /// From behind the event id to before the timestamp.
    pub(super) ids: Vec<u8>,
    /// From behind the timestamp to before the event type.
    pub(super) names: Vec<u8>,
    /// From behind the event type to before the topic.
    pub(super) operation: Vec<u8>,
    /// `,"key":value` of the context, without the keys that a token has itself.
    pub(super) token_context: Vec<u8>,
    /// `"key":"value"` of the context's tags, separated by commas.
    pub(super) tags: Vec<u8>,
}

impl Step {
    /// Makes the root of a new run of `module_name`.
    #[must_use]
    pub fn new(module_name: impl Into<Arc<str>>) -> Step {
        Step::from(StepParts {
            module_name: module_name.into(),
            method_name: None,
            operation: None,
            execution_id: id::execution_id(),
            span_id: id::span_id(),
            parent_id: None,
            context: Context::empty(),
        })
    }

    /// Makes a new step inside this one: it has the same run, module and context, and this step as its parent.
    #[must_use]
    pub fn child(&self) -> Step {
        let mut parts = self.0.parts.clone();
        parts.parent_id = Some(parts.span_id);
        parts.span_id = id::span_id();
        Step::from(parts)
    }

    /// Returns the same step with another operation.
    #[must_use]
    pub fn operation(self, operation: impl Into<Arc<str>>) -> Step {
        self.changed(|parts| parts.operation = Some(operation.into()))
    }

    /// Returns the same step with another method.
    #[must_use]
    pub fn method(self, method_name: impl Into<Arc<str>>) -> Step {
        self.changed(|parts| parts.method_name = Some(method_name.into()))
    }

    /// Returns the same step with another module. The method of the old module is dropped.
    #[must_use]
    pub fn module(self, module_name: impl Into<Arc<str>>) -> Step {
        let module_name = module_name.into();
        if module_name == self.parts().module_name {
            return self;
        }
        self.changed(|parts| (parts.module_name, parts.method_name) = (module_name, None))
    }

    /// Returns the same step with `context` added to its context. Values of `context` win.
    #[must_use]
    pub fn context(self, context: &Context) -> Step {
        if context.is_empty() {
            return self;
        }
        self.changed(|parts| parts.context = parts.context.merged(context))
    }

    /// Returns the fields of the step.
    #[must_use]
    pub fn parts(&self) -> &StepParts {
        &self.0.parts
    }

    /// The header `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/) that names this step, as part of
    /// a trace that is sampled: `00-<execution_id>-<span_id>-01`. It is rendered once for each step. `None` where the ids are
    /// not of the size of a trace's: 32 and 16 hexadecimal digits. A UUID is rendered without its hyphens.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        let StepParts { execution_id, span_id, .. } = &self.0.parts;
        self.0.traceparent.get_or_init(|| traceparent::header(execution_id, span_id)).as_deref()
    }

    /// Returns whether both are the same step in memory.
    #[must_use]
    pub fn same(&self, other: &Step) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it lies in memory, for caches, without the low bits that all allocations share.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr() >> 6
    }

    pub(super) fn fragments(&self) -> &Fragments {
        self.0.fragments.get_or_init(|| Fragments::of(&self.0.parts))
    }

    fn changed(mut self, change: impl FnOnce(&mut StepParts)) -> Step {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(&mut inner.parts);
            inner.fragments.take();
            inner.traceparent.take();
            return self;
        }
        let mut parts = self.0.parts.clone();
        change(&mut parts);
        Step::from(parts)
    }
}

impl From<StepParts> for Step {
    fn from(parts: StepParts) -> Step {
        Step(Arc::new(Inner { parts, fragments: OnceLock::new(), traceparent: OnceLock::new() }))
    }
}

impl Fragments {
    fn of(parts: &StepParts) -> Fragments {
        let mut ids = b"\",\"execution_id\":".to_vec();
        write(&*parts.execution_id, &mut ids);
        ids.extend_from_slice(b",\"span_id\":");
        write(&*parts.span_id, &mut ids);
        ids.extend_from_slice(b",\"parent_id\":");
        write_optional(parts.parent_id.as_deref(), &mut ids);
        ids.extend_from_slice(b",\"timestamp\":\"");

        let mut names = b"\",\"module_name\":".to_vec();
        write(&*parts.module_name, &mut names);
        names.extend_from_slice(b",\"method_name\":");
        write_optional(parts.method_name.as_deref(), &mut names);
        names.extend_from_slice(b",\"event_type\":\"");

        let mut operation = b"\",\"operation\":".to_vec();
        write_optional(parts.operation.as_deref(), &mut operation);
        operation.extend_from_slice(b",\"topic\":");

        let mut token_context = Vec::new();
        for (key, value) in parts.context.members().filter(|(key, _)| !TOKEN_KEYS.contains(key)) {
            token_context.push(b',');
            write(key, &mut token_context);
            token_context.push(b':');
            value.write(&mut token_context);
        }
        let tags =
            parts.context.tags().iter().map(|(key, value)| tag(key, value)).collect::<Vec<_>>().join(&b',');
        Fragments { ids, names, operation, token_context, tags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stays_in_the_run_and_names_its_parent() {
        let root = Step::new("RagPipeline").context(&Context::empty().with("conversation_id", "c"));
        let child = root.child().operation("llm_call");
        assert_eq!(child.parts().execution_id, root.parts().execution_id);
        assert_eq!(child.parts().parent_id.as_ref(), Some(&root.parts().span_id));
        assert_ne!(child.parts().span_id, root.parts().span_id);
        assert!(child.parts().context.get("conversation_id").is_some());
    }

    #[test]
    fn a_method_belongs_to_its_module() {
        let run = Step::new("RagPipeline").method("forward");
        assert_eq!(run.child().parts().method_name.as_deref(), Some("forward"));
        assert_eq!(run.child().module("RagPipeline").parts().method_name.as_deref(), Some("forward"));
        assert_eq!(run.child().module("Retriever").parts().method_name, None);
    }
}
