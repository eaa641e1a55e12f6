//! The kinds of sinks and processors that a topology can name: the built-in kinds, and your own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Recipient};
use serde::de::DeserializeOwned;
use serde_json::Value;
use streamll_actors::event::Event;
use streamll_actors::graph::ActorFactory;
use streamll_actors::ingress::Batch;
use streamll_actors::process::{Processor, ProcessorFactory};
use streamll_actors::sink::{BatchPolicy, Deliveries, DeliveryError, DynSink, Placement, Sink, SinkFactory};

use crate::processors::{CoalesceConfig, FilterConfig, RedactConfig, SampleConfig};
#[cfg(feature = "rabbitmq")]
use crate::sinks::RabbitMqConfig;
#[cfg(feature = "redis")]
use crate::sinks::RedisConfig;
use crate::sinks::{FileConfig, TerminalConfig};

use super::error::{Class, Problem};
use super::fields::fields_of;
use super::key_path::KeyPath;
use super::read::{Read, Reader, with};
use super::secrets::is_address_key;
use super::sources::At;

/// The kinds that a topology can name. [`Default`] holds the built-in kinds.
///
/// The configuration of a kind is any type with `Deserialize`. Mistakes in it are reported with their place. Unknown
/// keys are reported, too, without `deny_unknown_fields`. The configuration is read once when the topology is checked,
/// and again for each incarnation. A message of your own like `must be at most 5; write 5` is shown as a message
/// (before the semicolon) and a help (after it).
///
/// A secret in the configuration should have the type [`Secret`](crate::Secret). Then it is never shown, whatever the
/// name of its key.
#[derive(Clone)]
pub struct Registry {
    sinks: BTreeMap<String, SinkKind>,
    processors: BTreeMap<String, Check<Step>>,
}

/// What checking a kind's configuration needs, and gives.
pub(crate) type Check<F> = Arc<dyn Fn(&mut Reader<'_>, Value, &KeyPath) -> Option<F> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct SinkKind {
    pub(crate) check: Check<SinkFactory>,
    pub(crate) fields: &'static [&'static str],
    pub(crate) batch: BatchPolicy,
    pub(crate) placement: Placement,
    pub(crate) keeps: Option<ReadKeeps>,
}

/// The patterns under which a broker keeps events, by the name of what keeps them.
pub(crate) type Keeps = Vec<(String, Vec<String>)>;
type ReadKeeps = Arc<dyn Fn(&Value) -> Option<Keeps> + Send + Sync>;

/// How a processor is made.
#[derive(Clone)]
pub(crate) enum Step {
    Processor(ProcessorFactory),
    Actor(ActorFactory),
}

impl Registry {
    /// Makes a registry without any kinds, not even the built-in ones.
    pub fn empty() -> Self {
        Self { sinks: BTreeMap::new(), processors: BTreeMap::new() }
    }

    /// Adds a kind of sink, or replaces one. `make` must not do I/O: connect in [`Sink::open`].
    #[must_use]
    pub fn sink<C, S, F>(self, name: &str, make: F) -> Self
    where
        C: DeserializeOwned + 'static,
        S: Sink,
        F: Fn(C) -> S + Send + Sync + 'static,
    {
        self.try_sink(name, move |config| Ok(make(config)))
    }

    /// Adds a kind of sink that can find mistakes in its configuration which the types cannot express.
    ///
    /// `make` runs when the topology is checked, and for each incarnation. It must not do I/O, because topologies are
    /// also checked on machines that reach no broker. Its error `url: must begin with x; write y` is shown at the key
    /// `url`, with its help.
    #[must_use]
    pub fn try_sink<C, S, F>(mut self, name: &str, make: F) -> Self
    where
        C: DeserializeOwned + 'static,
        S: Sink,
        F: Fn(C) -> Result<S, String> + Send + Sync + 'static,
    {
        let fields = fields_of::<C>();
        let make = Arc::new(make);
        let check: Check<SinkFactory> = Arc::new(move |reader, value, base| {
            let value = built(reader, &*make, value, base)?;
            let (make, secrets, base) = (make.clone(), reader.sources.secrets.clone(), base.clone());
            Some(Arc::new(move || match build(&*make, &value) {
                Ok(sink) => Box::new(sink) as Box<dyn DynSink>,
                Err(why) => Box::new(Unbuildable(secrets.told(&why, &base).unwrap_or_else(|| {
                    "its kind refuses its configuration, in words that may show a secret".to_owned()
                }))),
            }) as SinkFactory)
        });
        let (batch, placement) = (BatchPolicy::default(), Placement::default());
        self.sinks.insert(name.to_owned(), SinkKind { check, fields, batch, placement, keeps: None });
        self
    }

    /// Sets the defaults of a kind of sink: the limits of its batches if YAML sets none, and where its actor runs.
    ///
    /// Without this call, the limits are those of the default [`BatchPolicy`], and each sink has its own thread. The
    /// call does nothing if the kind is not registered.
    #[must_use]
    pub fn sink_defaults(mut self, name: &str, batch: BatchPolicy, placement: Placement) -> Self {
        if let Some(kind) = self.sinks.get_mut(name) {
            (kind.batch, kind.placement) = (batch, placement);
        }
        self
    }

    /// Says how to find out which topics a kind's broker keeps, to warn about events that would get lost there.
    #[allow(dead_code, reason = "only kinds behind a feature have such a broker")]
    pub(crate) fn sink_keeps<C: DeserializeOwned>(
        mut self,
        name: &str,
        keeps: impl Fn(&C) -> Option<Keeps> + Send + Sync + 'static,
    ) -> Self {
        if let Some(kind) = self.sinks.get_mut(name) {
            kind.keeps = Some(Arc::new(move |value| keeps(&again::<C>(value)?)));
        }
        self
    }

    /// Adds a kind of processor, or replaces one. `make` must not do I/O.
    #[must_use]
    pub fn processor<C, P, F>(self, name: &str, make: F) -> Self
    where
        C: DeserializeOwned + 'static,
        P: Processor,
        F: Fn(C) -> P + Send + Sync + 'static,
    {
        self.try_processor(name, move |config| Ok(make(config)))
    }

    /// Adds a kind of processor that can find mistakes in its configuration, as [`try_sink`](Self::try_sink) does for
    /// sinks.
    #[must_use]
    pub fn try_processor<C, P, F>(mut self, name: &str, make: F) -> Self
    where
        C: DeserializeOwned + 'static,
        P: Processor,
        F: Fn(C) -> Result<P, String> + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let check: Check<Step> = Arc::new(move |reader, value, base| {
            let value = built(reader, &*make, value, base)?;
            let make = make.clone();
            Some(Step::Processor(Arc::new(move || match build(&*make, &value) {
                Ok(processor) => Box::new(processor) as Box<dyn Processor>,
                // cannot be: it was built when the topology was checked
                Err(_) => Box::new(Some::<Event>),
            })))
        });
        self.processors.insert(name.to_owned(), check);
        self
    }

    /// Adds a kind of processor that is an actor of its own, or replaces one. The actor handles batches, and sends the
    /// events that it lets pass to `next`. `make` must not do I/O.
    ///
    /// The actor runs on its own thread. It gets the next batch when its handler has returned from the batch before.
    ///
    /// A panic costs one event. A fresh actor gets the batch that was being handled again, event by event. An event
    /// that ends the actor again becomes a dead letter. So events of that batch may come to an actor twice, but to the
    /// next stage only once. The state of the actor is lost, and so are batches that it made itself and had not sent
    /// on. The same happens if the thread of the actor does not move for 30 s.
    #[must_use]
    pub fn actor<C, A, F>(mut self, name: &str, make: F) -> Self
    where
        C: DeserializeOwned + 'static,
        A: Actor<Context = Context<A>> + Handler<Batch>,
        F: Fn(Recipient<Batch>, C) -> A + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let check: Check<Step> = Arc::new(move |reader, value, base| {
            let read = config::<C>(reader, value, base);
            let value = (read.complete && read.read.is_some()).then_some(read.value)?;
            let make = make.clone();
            Some(Step::Actor(Arc::new(move |next: Recipient<Batch>| match again::<C>(&value) {
                Some(config) => make(next, config).start().recipient(),
                None => next,
            })))
        });
        self.processors.insert(name.to_owned(), check);
        self
    }

    pub(crate) fn sink_kind(&self, name: &str) -> Option<&SinkKind> {
        self.sinks.get(name)
    }

    pub(crate) fn processor_kind(&self, name: &str) -> Option<&Check<Step>> {
        self.processors.get(name)
    }

    /// Returns the names of the kinds of sinks, sorted.
    pub fn sinks(&self) -> impl Iterator<Item = &str> {
        self.sinks.keys().map(String::as_str)
    }

    /// Returns the names of the kinds of processors, sorted.
    pub fn processors(&self) -> impl Iterator<Item = &str> {
        self.processors.keys().map(String::as_str)
    }
}

impl Default for Registry {
    fn default() -> Self {
        let kinds = Self::empty();
        #[cfg(feature = "rabbitmq")]
        let kinds = kinds
            .try_sink("rabbitmq", |config: RabbitMqConfig| config.build())
            .sink_defaults("rabbitmq", crate::sinks::rabbitmq::BATCH, Placement::Own)
            .sink_keeps("rabbitmq", RabbitMqConfig::keeps);
        #[cfg(feature = "redis")]
        let kinds = kinds.try_sink("redis", |config: RedisConfig| config.build()).sink_defaults(
            "redis",
            crate::sinks::redis::BATCH,
            crate::sinks::redis::PLACEMENT,
        );
        kinds
            .sink("terminal", |config: TerminalConfig| config.build())
            .try_sink("file", |config: FileConfig| config.check().map(|()| config.build()))
            .try_processor("coalesce", |config: CoalesceConfig| config.build())
            .try_processor("filter", |config: FilterConfig| config.build())
            .try_processor("redact", |config: RedactConfig| config.build())
            .try_processor("sample", |config: SampleConfig| config.build())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sinks, processors) = (self.sinks.keys(), self.processors.keys());
        f.debug_struct("Registry").field("sinks", &sinks).field("processors", &processors).finish()
    }
}

/// Reads a kind's configuration.
fn config<C: DeserializeOwned>(reader: &mut Reader<'_>, value: Value, base: &KeyPath) -> Read<C> {
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    let known = |path: &KeyPath| match path == base {
        true => fields_of::<C>().iter().map(|field| (*field).to_owned()).collect(),
        false => Vec::new(),
    };
    let read = reader.read::<C>(value, base, &known);
    // Not even its keys are known.
    if !(read.complete && read.read.is_some()) && fields_of::<C>().is_empty() {
        reader.sources.keep_unread(base, &read.value);
    }
    read
}

/// Reads a kind's configuration and has it built, to find out what its kind says of it. The value is returned, to read it
/// again for each incarnation.
fn built<C: DeserializeOwned, S>(
    reader: &mut Reader<'_>,
    make: &dyn Fn(C) -> Result<S, String>,
    value: Value,
    base: &KeyPath,
) -> Option<Value> {
    let Read { read, value, complete } = config::<C>(reader, value, base);
    let Err(why) = make(read?) else { return complete.then_some(value) };
    let key = why.split_once(": ").map(|(key, _)| key).filter(|key| value.get(key).is_some());
    // Of what could not be read, a default is there instead: only what is said of another key is true.
    if complete || key.is_some() {
        let same = reader
            .sources
            .secrets
            .same_for_others(&why, base, |others| build(make, &with(&value, base, others)).err());
        refused(reader, &why, same, key, base);
    }
    None
}

/// Reads a configuration that has been read before, so that nothing can be wrong with it.
fn again<C: DeserializeOwned>(value: &Value) -> Option<C> {
    C::deserialize(value).ok()
}

fn build<C: DeserializeOwned, S>(make: &dyn Fn(C) -> Result<S, String>, value: &Value) -> Result<S, String> {
    make(again(value).ok_or("its configuration cannot be read twice")?)
}

/// Reports what a kind itself says about its configuration, at the key that its message begins with.
fn refused(reader: &mut Reader<'_>, why: &str, same: Option<String>, key: Option<&str>, base: &KeyPath) {
    if reader.sources.is_placeholder(base) {
        return; // any of its values may be at fault
    }
    let said = same.as_deref().unwrap_or(why);
    let message = key.and_then(|key| said.strip_prefix(key)?.strip_prefix(": ")).unwrap_or(said);
    let path = key.map_or(base.clone(), |key| base.key(key));
    let class = if is_address_key(key.unwrap_or_default()) { Class::Url } else { Class::Range };
    let (message, help) = message.split_once("; ").map_or((message, None), |(m, help)| (m, Some(help)));
    let mut problem = Problem::new(class, message);
    problem.help = help.map(str::to_owned);
    match same {
        Some(_) => reader.report(problem, &path, At::Value),
        None => reader.report_of(problem, &path, base),
    }
}

/// Stands in for a sink whose constructor refuses what it took when the topology was checked.
pub(super) struct Unbuildable(pub(super) String);

impl Sink for Unbuildable {
    async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
        Err(DeliveryError::fatal(self.0.clone()))
    }
}
