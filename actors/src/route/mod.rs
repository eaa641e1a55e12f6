//! Which sink gets which event, and under which key.

mod actor;
mod lane;
mod pattern;
mod segment;
mod table;
mod tap;
mod template;

pub(crate) use actor::{RouterActor, RouterParts};
pub(crate) use lane::Lane;
pub use pattern::{PatternError, TopicPattern};
pub(crate) use table::{Route, Table};
pub use tap::Subscription;
pub(crate) use tap::Taps;
pub use template::{Field, Fields, Template, TemplateError};

use std::borrow::Cow;

use crate::event::{Event, Statics, View};

/// The routing key of a topology that sets none.
pub const DEFAULT_ROUTING_KEY: &str = "ai.{module_name}.{event_type}";

/// An event as a source of a template's values. The statics are used if the enricher has not seen the event.
pub(crate) struct Named<'a>(pub(crate) &'a Event, pub(crate) &'a Statics);

impl Fields for Named<'_> {
    fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
        Some(match field {
            Field::Service => Cow::Borrowed(&self.1.service),
            Field::Environment => Cow::Borrowed(&self.1.environment),
            Field::Tag(name) => Cow::Borrowed(self.0.tag(name).or_else(|| self.1.tag(name))?),
            _ => return self.0.field(field),
        })
    }
}

/// For templates of a single sink. Service, environment and tags are those that its graph added.
impl Fields for Event {
    fn field(&self, field: &Field) -> Option<Cow<'_, str>> {
        let parts = self.step().parts();
        match field {
            Field::ModuleName => Some(Cow::Borrowed(&parts.module_name)),
            Field::EventType => Some(Cow::Borrowed(self.kind().as_str())),
            Field::Operation => parts.operation.as_deref().map(Cow::Borrowed),
            Field::MethodName => parts.method_name.as_deref().map(Cow::Borrowed),
            Field::ExecutionId => Some(Cow::Borrowed(&parts.execution_id)),
            Field::Service => self.statics().map(|statics| Cow::Borrowed(&*statics.service)),
            Field::Environment => self.statics().map(|statics| Cow::Borrowed(&*statics.environment)),
            Field::Tag(name) => self.tag(name).map(Cow::Borrowed),
            Field::Data(path) => {
                let (first, rest) = path.split_first()?;
                let found = rest.iter().try_fold(self.look(first)?, |value, name| value.get(name))?;
                match found.view() {
                    View::Null => None,
                    _ => Some(found.text()),
                }
            }
        }
    }
}
