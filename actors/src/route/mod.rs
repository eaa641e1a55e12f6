//! Who gets which event, and under which key.

mod actor;
mod pattern;
mod segment;
mod table;
mod tap;
mod template;

pub(crate) use actor::{RouterActor, RouterParts};
pub use pattern::{PatternError, TopicPattern};
pub(crate) use table::{Route, Table};
pub use tap::Subscription;
pub(crate) use tap::Taps;
pub use template::{Field, Fields, Template, TemplateError};

use std::borrow::Cow;

use serde_json::Value;

use crate::event::{Event, Statics};

/// The routing key of a topology that names none.
pub const DEFAULT_ROUTING_KEY: &str = "ai.{module_name}.{event_type}";

/// An event as a source of a template's values; the statics stand in where the enricher has not been yet.
pub(crate) struct Named<'a>(pub(crate) &'a Event, pub(crate) &'a Statics);

impl Fields for Named<'_> {
    fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
        let Named(event, statics) = self;
        let parts = event.step().parts();
        match field {
            Field::ModuleName => Some(Cow::Borrowed(&parts.module_name)),
            Field::EventType => Some(Cow::Borrowed(event.kind().as_str())),
            Field::Operation => parts.operation.as_deref().map(Cow::Borrowed),
            Field::MethodName => parts.method_name.as_deref().map(Cow::Borrowed),
            Field::ExecutionId => Some(Cow::Borrowed(&parts.execution_id)),
            Field::Service => Some(Cow::Borrowed(&statics.service)),
            Field::Environment => Some(Cow::Borrowed(&statics.environment)),
            Field::Tag(name) => event.tag(name).or_else(|| statics.tag(name)).map(Cow::Borrowed),
            Field::Data(path) => {
                let (first, rest) = path.split_first()?;
                let value = event.data(first)?;
                let found = rest.iter().try_fold(&*value, |value, name| value.get(&**name))?;
                match found {
                    Value::String(text) => Some(Cow::Owned(text.clone())),
                    Value::Null => None,
                    other => Some(Cow::Owned(other.to_string())),
                }
            }
        }
    }
}
