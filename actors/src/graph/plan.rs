//! What a graph is made of: plain values, built from YAML or in code.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::Recipient;

use crate::event::{Class, Event};
use crate::ingress::{Batch, INGRESS_CAPACITY};
pub use crate::process::ActorFactory;
use crate::process::{Processor, ProcessorFactory};
use crate::route::{DEFAULT_ROUTING_KEY, Template, TemplateError, TopicPattern};
use crate::sink::breaker::BreakerPolicy;
use crate::sink::{BatchPolicy, BufferPolicy, FolderError, OnOpen, Placement, Sink, SinkFactory};
use crate::supervise::RestartPolicy;

/// One graph. Every field is public and has the default that [`Plan::new`] says.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names the application; a tag of every event, too.
    pub service: String,
    /// The environment that runs; empty by default.
    pub environment: String,
    /// Tags of every event, beside `service`, `environment` and `host`; an event's own tag wins.
    pub tags: Vec<(String, String)>,
    /// Makes the topic of every event; `ai.{module_name}.{event_type}` by default.
    pub routing_key: Template,
    /// Classes of events by topic, first match first; by default tokens are tokens and all else is lifecycle.
    pub classes: Vec<(TopicPattern, Class)>,
    /// The stages between the enricher and the router, in order.
    pub stages: Vec<Stage>,
    /// The sinks.
    pub sinks: Vec<SinkSpec>,
    /// The sink that takes the dead letters of sinks that name none; a file for each below `data_dir` by default.
    pub dead_letter: Option<String>,
    /// Where `dead/<sink>.ndjson` goes; made when first needed, for its owner only.
    pub data_dir: PathBuf,
    /// How long a sink may be open before the other sinks hear of it; 30 s by default.
    pub alert_after: Duration,
    /// A sink's own thread that has not moved for this long is given up, and so is a processor that has not come back from
    /// one call, or an actor of one's own from one batch; 30 s by default, at least 3 s.
    pub watchdog: Duration,
    /// How many events the way in holds; 65,536 by default.
    pub ingress_capacity: usize,
}

/// One stage between the enricher and the router.
#[derive(Clone)]
pub struct Stage {
    pub(crate) name: Arc<str>,
    pub(crate) kind: StageKind,
}

#[derive(Clone)]
pub(crate) enum StageKind {
    Processor(ProcessorFactory),
    Actor(ActorFactory),
}

/// One sink, and all that is between it and the router. Every field is public and has the default of its type.
#[derive(Clone)]
pub struct SinkSpec {
    /// Its name: `[a-z0-9_]+`, one of a kind in the graph.
    pub name: String,
    /// Makes a fresh sink for each incarnation, on the thread where it will run.
    pub factory: SinkFactory,
    /// The topics that it takes; `None` is everything, or nothing where it is named as dead-letter or fallback sink.
    pub topics: Option<Vec<TopicPattern>>,
    /// Topics that it does not take all the same.
    pub except: Vec<TopicPattern>,
    /// Names its events at the broker, where that is not the topic.
    pub routing_key: Option<Template>,
    /// Processors in front of this sink alone, with the names they have in logs.
    pub processors: Vec<(String, ProcessorFactory)>,
    /// The bounds of its buffer.
    pub buffer: BufferPolicy,
    /// When its circuit opens, and for how long.
    pub breaker: BreakerPolicy,
    /// What happens to new events while it is open.
    pub on_open: OnOpen,
    /// When it is given up.
    pub restart: RestartPolicy,
    /// How it likes its batches.
    pub batch: BatchPolicy,
    /// How long one delivery, or one `open`, may take; 30 s by default.
    pub deliver_timeout: Duration,
    /// An event that crashed this many incarnations alone is dead-lettered; 3 by default, 0 is never.
    pub poison_after: u32,
    /// The sink that takes its dead letters.
    pub dead_letter: Option<String>,
    /// Where it runs: a thread of its own by default.
    pub placement: Placement,
}

impl Plan {
    /// A graph without stages and sinks.
    ///
    /// # Panics
    /// Never: the default template is known to be right.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Plan {
        Plan {
            service: service.into(),
            environment: String::new(),
            tags: Vec::new(),
            routing_key: default_routing_key(),
            classes: Vec::new(),
            stages: Vec::new(),
            sinks: Vec::new(),
            dead_letter: None,
            data_dir: PathBuf::from("."),
            alert_after: Duration::from_secs(30),
            watchdog: Duration::from_secs(30),
            ingress_capacity: INGRESS_CAPACITY,
        }
    }

    /// This plan with one more sink.
    #[must_use]
    pub fn sink(mut self, sink: SinkSpec) -> Plan {
        self.sinks.push(sink);
        self
    }

    /// This plan with one more stage.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Plan {
        self.stages.push(stage);
        self
    }
}

fn default_routing_key() -> Template {
    static DEFAULT: std::sync::OnceLock<Result<Template, TemplateError>> = std::sync::OnceLock::new();
    match DEFAULT.get_or_init(|| Template::parse(DEFAULT_ROUTING_KEY)) {
        Ok(template) => template.clone(),
        Err(_) => unreachable!("a test parses it"),
    }
}

impl Stage {
    /// A processor, made afresh by `make` on the thread of the processors.
    #[must_use]
    pub fn processor<P: Processor>(name: &str, make: impl Fn() -> P + Send + Sync + 'static) -> Stage {
        Stage::from_factory(name, Arc::new(move || Box::new(make()) as Box<dyn Processor>))
    }

    /// A processor, by its factory.
    #[must_use]
    pub fn from_factory(name: &str, factory: ProcessorFactory) -> Stage {
        Stage { name: name.into(), kind: StageKind::Processor(factory) }
    }

    /// An actor of one's own, on a thread of its own. `start` starts it and gives its address as a recipient of batches;
    /// it hands every batch on to the recipient that it gets.
    ///
    /// It gets the next batch when its handler has returned from the one before. Should it panic, or its thread or its handler
    /// not move for the plan's [`watchdog`](Plan::watchdog), a fresh one gets the batch that it was handling once more, event
    /// by event: the event that ends it again becomes a dead letter, and nothing else is lost. What it awaits counts, in the
    /// handler or by `ctx.wait`; to wait for room in the next stage does not. A handler that needs long for a batch shows
    /// that it moves each time it looks at the batch ([`Batch::events`] and the like) or hands one on. Batches that it keeps
    /// after its handler has returned are its own affair, all but the last one.
    #[must_use]
    pub fn actor(
        name: &str,
        start: impl Fn(Recipient<Batch>) -> Recipient<Batch> + Send + Sync + 'static,
    ) -> Stage {
        Stage { name: name.into(), kind: StageKind::Actor(Arc::new(start)) }
    }

    /// A closure as a processor.
    #[must_use]
    pub fn closure(name: &str, f: impl Fn(Event) -> Option<Event> + Clone + Send + Sync + 'static) -> Stage {
        Stage::processor(name, move || f.clone())
    }
}

impl SinkSpec {
    /// A sink with all defaults, made afresh by `make` for each incarnation.
    #[must_use]
    pub fn new<S: Sink>(name: impl Into<String>, make: impl Fn() -> S + Send + Sync + 'static) -> SinkSpec {
        SinkSpec::from_factory(name, Arc::new(move || Box::new(make())))
    }

    /// A sink with all defaults, by its factory.
    #[must_use]
    pub fn from_factory(name: impl Into<String>, factory: SinkFactory) -> SinkSpec {
        SinkSpec {
            name: name.into(),
            factory,
            topics: None,
            except: Vec::new(),
            routing_key: None,
            processors: Vec::new(),
            buffer: BufferPolicy::default(),
            breaker: BreakerPolicy::default(),
            on_open: OnOpen::default(),
            restart: RestartPolicy::default(),
            batch: BatchPolicy::default(),
            deliver_timeout: Duration::from_secs(30),
            poison_after: 3,
            dead_letter: None,
            placement: Placement::default(),
        }
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StageKind::Processor(_) => "processor",
            StageKind::Actor(_) => "actor",
        };
        f.debug_struct("Stage").field("name", &self.name).field("kind", &kind).finish()
    }
}

impl fmt::Debug for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkSpec")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .field("buffer", &self.buffer)
            .field("breaker", &self.breaker)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

/// Why a graph cannot start, or a sink cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Two sinks have one name.
    #[error("two sinks are named `{0}`")]
    TwoOfAName(String),
    /// A sink is named where none is.
    #[error("sink `{from}` names `{to}` as its {role}, but there is no such sink")]
    NoSuchSink {
        /// The sink that names it.
        from: String,
        /// What it names.
        to: String,
        /// `dead_letter` or `fallback`.
        role: &'static str,
    },
    /// A disk buffer cannot be opened.
    #[error("the buffer of sink `{sink}`: {error}")]
    Buffer {
        /// Whose.
        sink: String,
        /// Why.
        error: FolderError,
    },
    /// Unset variables were allowed on loading, and one stands where a value is needed.
    #[error("the topology has unset variables: it can be checked, not started")]
    Incomplete,
    /// The graph is draining.
    #[error("the graph is draining")]
    Draining,
    /// A thread could not be started.
    #[error("no thread for the graph: {0}")]
    Thread(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_template_is_right() {
        assert_eq!(Plan::new("s").routing_key.as_str(), DEFAULT_ROUTING_KEY);
    }
}
