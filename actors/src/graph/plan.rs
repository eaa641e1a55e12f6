//! The parts of a graph as plain values, built from YAML or in code.

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

/// The plan of one graph. Every field is public. [`Plan::new`] sets the defaults.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The name of the application. It is also a tag of every event.
    pub service: String,
    /// The environment that runs. Default: empty.
    pub environment: String,
    /// Tags of every event, besides `service`, `environment` and `host`. An event's own tag wins.
    pub tags: Vec<(String, String)>,
    /// The template of every event's topic. Default: `ai.{module_name}.{event_type}`.
    pub routing_key: Template,
    /// Classes of events by topic. The first match wins. Without a match, tokens have the class `token`, and all other
    /// events `lifecycle`.
    pub classes: Vec<(TopicPattern, Class)>,
    /// The stages between the enricher and the router, in order.
    pub stages: Vec<Stage>,
    /// The sinks.
    pub sinks: Vec<SinkSpec>,
    /// The sink that takes the dead letters of sinks that name none. Default: a file for each sink below `data_dir`.
    pub dead_letter: Option<String>,
    /// The folder of `dead/<sink>.ndjson`. It is made when it is first needed, and only its owner can read it.
    pub data_dir: PathBuf,
    /// How long a sink may be open before the other sinks get an alert. Default: 30 s.
    pub alert_after: Duration,
    /// How long a thread may stand still before it is given up: the thread of a sink that does not move, a processor
    /// that does not return from one call, or an actor of your own that does not finish one batch. Default: 30 s.
    /// Minimum: 3 s.
    pub watchdog: Duration,
    /// How many events the ingress holds. Default: 65,536.
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

/// One sink, and everything between it and the router. Every field is public and has the default of its type.
#[derive(Clone)]
pub struct SinkSpec {
    /// The name: `[a-z0-9_]+`, unique in the graph.
    pub name: String,
    /// Makes a fresh sink for each incarnation, on the thread on which it will run.
    pub factory: SinkFactory,
    /// The topics that it takes. `None` means all, or none if another sink names it as dead-letter or fallback sink.
    pub topics: Option<Vec<TopicPattern>>,
    /// Topics that it does not take, although `topics` matches them.
    pub except: Vec<TopicPattern>,
    /// The template of the key of its events at the broker, if that differs from the topic.
    pub routing_key: Option<Template>,
    /// Processors in front of this sink only, with their names in logs.
    pub processors: Vec<(String, ProcessorFactory)>,
    /// The limits of its buffer.
    pub buffer: BufferPolicy,
    /// When its circuit opens, and for how long.
    pub breaker: BreakerPolicy,
    /// What happens to new events while the circuit is open.
    pub on_open: OnOpen,
    /// After how many crashes it is given up.
    pub restart: RestartPolicy,
    /// The limits of its batches.
    pub batch: BatchPolicy,
    /// How long one delivery, or one `open`, may take. Default: 30 s.
    pub deliver_timeout: Duration,
    /// An event that alone crashed this many incarnations is dead-lettered. Default: 3. Zero means never.
    pub poison_after: u32,
    /// The sink that takes its dead letters.
    pub dead_letter: Option<String>,
    /// Where it runs. Default: on its own thread.
    pub placement: Placement,
}

impl Plan {
    /// Makes a graph without stages and sinks.
    ///
    /// # Panics
    ///
    /// Never. The default template is known to be right.
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

    /// Returns this plan with one more sink.
    #[must_use]
    pub fn sink(mut self, sink: SinkSpec) -> Plan {
        self.sinks.push(sink);
        self
    }

    /// Returns this plan with one more stage.
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
    /// Makes a processor. `make` makes it on the thread of the processors.
    #[must_use]
    pub fn processor<P: Processor>(name: &str, make: impl Fn() -> P + Send + Sync + 'static) -> Stage {
        Stage::from_factory(name, Arc::new(move || Box::new(make()) as Box<dyn Processor>))
    }

    /// Makes a processor from its factory.
    #[must_use]
    pub fn from_factory(name: &str, factory: ProcessorFactory) -> Stage {
        Stage { name: name.into(), kind: StageKind::Processor(factory) }
    }

    /// Adds an actor of your own, on its own thread. `start` starts the actor and returns its address as a recipient of
    /// batches. The actor sends every batch on to the recipient that `start` gets.
    ///
    /// The actor gets the next batch when its handler has returned from the batch before. If the actor panics, or if
    /// its thread or its handler does not move for the plan's [`watchdog`](Plan::watchdog), a fresh actor gets the
    /// batch that was being handled again, event by event. The event that ends it again becomes a dead letter, and no
    /// other event is lost.
    ///
    /// Time in which the handler awaits counts, in the handler or by `ctx.wait`. Time in which it waits for room in the
    /// next stage does not count. A handler that needs long for a batch shows that it moves each time it looks at the
    /// batch ([`Batch::events`] and similar methods) or sends a batch on. The watchdog does not watch batches that the
    /// actor keeps after its handler has returned, except the last one.
    #[must_use]
    pub fn actor(
        name: &str,
        start: impl Fn(Recipient<Batch>) -> Recipient<Batch> + Send + Sync + 'static,
    ) -> Stage {
        Stage { name: name.into(), kind: StageKind::Actor(Arc::new(start)) }
    }

    /// Makes a processor from a closure.
    #[must_use]
    pub fn closure(name: &str, f: impl Fn(Event) -> Option<Event> + Clone + Send + Sync + 'static) -> Stage {
        Stage::processor(name, move || f.clone())
    }
}

impl SinkSpec {
    /// Makes a sink with all defaults. `make` makes a fresh one for each incarnation.
    #[must_use]
    pub fn new<S: Sink>(name: impl Into<String>, make: impl Fn() -> S + Send + Sync + 'static) -> SinkSpec {
        SinkSpec::from_factory(name, Arc::new(move || Box::new(make())))
    }

    /// Makes a sink with all defaults, from its factory.
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
    /// Two sinks have the same name.
    #[error("two sinks are named `{0}`")]
    TwoOfAName(String),
    /// A sink refers to a sink that does not exist.
    #[error("sink `{from}` names `{to}` as its {role}, but there is no such sink")]
    NoSuchSink {
        /// The sink that has the reference.
        from: String,
        /// The missing sink.
        to: String,
        /// `dead_letter` or `fallback`.
        role: &'static str,
    },
    /// A disk buffer cannot be opened.
    #[error("the buffer of sink `{sink}`: {error}")]
    Buffer {
        /// The sink of the buffer.
        sink: String,
        /// The reason.
        error: FolderError,
    },
    /// Unset variables were allowed when the topology was loaded, and one of them is needed.
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
