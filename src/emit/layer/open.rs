//! One open span: when its first event is due, and what its events hold.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use streamll_actors::event::{Context, Event, Kind, Step, Timestamp};
use streamll_actors::ingress::Emitter;
use tokio::time::Instant;
use tracing::Metadata;

use super::super::early::is_dropping;
use super::super::emit_silently;
use super::super::scope::Scope;
use super::fields::{Fields, Said, Wanted};
use super::filter::is_gen_ai;
use super::ids::Ids;
use super::map::Operation;

/// An open span that events are made of.
pub(super) struct Open {
    metadata: &'static Metadata<'static>,
    /// Its ids and its context. Its names are set when it begins.
    step: Step,
    /// The nearest span around it.
    outer: Option<Arc<Open>>,
    emitter: Option<Emitter>,
    at: Timestamp,
    opened: Instant,
    wanted: Wanted,
    fields: Mutex<Fields>,
    begun: OnceLock<Begun>,
}

/// The values that are fixed with the first event.
struct Begun {
    scope: Scope,
    /// The type of the last event, unless it is an error.
    last: Kind,
}

impl Open {
    pub(super) fn new(
        metadata: &'static Metadata<'static>,
        enclosing: Option<Step>,
        context: &Context,
        outer: Option<Arc<Open>>,
        emitter: Option<Emitter>,
        content: bool,
        ids: Ids,
    ) -> Open {
        let step = ids.step(enclosing.as_ref());
        Open {
            metadata,
            step: step.context(context),
            outer,
            emitter,
            at: Timestamp::now(),
            opened: Instant::now(),
            wanted: Wanted { content, own: !is_gen_ai(metadata) },
            fields: Mutex::default(),
            begun: OnceLock::new(),
        }
    }

    /// Stores fields of the span, and begins it if there is nothing more to wait for.
    pub(super) fn record(&self, read: impl FnOnce(&mut Said)) {
        let mut said = Said::new(self.wanted);
        read(&mut said);
        let is_due = {
            let mut fields = self.fields();
            fields.add(said);
            fields.answered || fields.text("model").is_some() || self.wanted.own
        };
        if is_due {
            self.begin();
        }
    }

    /// Stores what an event inside reports of an error.
    pub(super) fn record_error(&self, read: impl FnOnce(&mut Said)) {
        let mut said = Said::new(self.wanted);
        read(&mut said);
        self.fields().add_error(said);
    }

    /// The code inside has come to its first pause, or to its end, so the span has its own fields. Only the name of a
    /// model may come later, when a client is asked for it.
    pub(super) fn paused(&self) {
        if self.begun.get().is_none() {
            let waits = self.operation(&self.fields()).names_a_model();
            if !waits {
                self.begin();
            }
        }
    }

    /// Emits the first event if that has not happened, and returns the scope of the span.
    pub(super) fn begin(&self) -> &Scope {
        &self.begun().scope
    }

    fn begun(&self) -> &Begun {
        self.begun.get_or_init(|| {
            let (first, last, name, data) = {
                let mut fields = self.fields();
                let (first, last) = self.operation(&fields).kinds();
                let name = fields.operation.clone().unwrap_or_else(|| self.metadata.name().to_owned());
                (first, last, name, fields.take())
            };
            let step = self.step.clone().module(self.module()).operation(name);
            emit_silently(self.emitter.as_ref(), Event::new(&step, first).with_data(data.into()).at(self.at));
            Begun { scope: Scope::with_inputs(step, self.emitter.clone(), Default::default()), last }
        })
    }

    /// Emits the last event.
    pub(super) fn close(&self) {
        let Begun { scope, last } = self.begun();
        let mut fields = self.fields();
        if let Some(usage) = scope.take_usage() {
            fields.add_usage(&usage);
        }
        if std::thread::panicking() && !fields.failed {
            fields.failed = true;
            fields.error_type = Some("Panic".to_owned());
            fields.error_message = Some("the code inside of the span panicked".to_owned());
        }
        if is_dropping() && !fields.failed && !fields.is_complete() {
            fields.failed = true;
            fields.error_type = Some("Cancelled".to_owned());
            fields.error_message = Some("dropped before it was done".to_owned());
        }
        let kind = if fields.failed { Kind::Error } else { last.clone() };
        let is_silent = kind == Kind::LlmEnd && !fields.answered;
        let step = scope.step();
        let mut event = Event::new(&step, kind).with_data(fields.take().into());
        event.set_data("duration", self.opened.elapsed().as_secs_f64());
        if is_silent {
            event.set_data("answered", false);
        }
        if fields.failed {
            let what = step.parts().operation.as_deref().unwrap_or("it");
            let message = fields.error_message.take().unwrap_or_else(|| format!("{what} failed"));
            event.set_data("error_type", fields.error_type.take().unwrap_or_else(|| "Error".to_owned()));
            event.set_data("error_message", message);
        }
        emit_silently(self.emitter.as_ref(), event);
    }

    fn operation<'a>(&self, fields: &'a Fields) -> Operation<'a> {
        fields.operation.as_deref().map_or(Operation::Run, Operation::from)
    }

    fn module(&self) -> String {
        if self.wanted.own {
            let target = self.metadata.target();
            return target.rsplit("::").next().unwrap_or(target).to_owned();
        }
        let provider = || self.fields().text("provider").map(str::to_owned);
        self.agent().or_else(provider).unwrap_or_else(|| "llm".to_owned())
    }

    /// Returns the agent for which the operation is done.
    fn agent(&self) -> Option<String> {
        let own = self.fields().agent.clone();
        own.or_else(|| self.outer.as_ref()?.agent())
    }

    fn fields(&self) -> MutexGuard<'_, Fields> {
        self.fields.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
