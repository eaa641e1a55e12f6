//! The consumer as its user makes it: what to read, what to do with it, and a handle beside.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use streamll_actors::event::{Event, Kind};
use streamll_actors::route::{PatternError, TopicPattern};
use streamll_actors::sink::LetterFile;
use tokio::sync::mpsc::Sender;

use super::dead_letter::DeadLetters;
use super::desk::{Dead, Plan};
use super::duplicates::Duplicates;
use super::engine::Engine;
use super::error::ConsumeError;
use super::filter::{Filter, Key};
use super::handler::{Handler, Reply, Wants};
use super::status::{ConsumerStatus, Shared};
use super::stream::Events;
use super::worker::{Receipt, Work};

/// Where to begin. A group of Redis that exists goes on where it was, whatever this says. A classic or quorum queue of
/// RabbitMQ goes on with what is in it: with [`After`](Start::After) it is refused, as it has no offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the oldest entry that is still there.
    Begin,
    /// With what comes after the first connection.
    Now,
    /// Behind this id of a Redis stream, `1718000000000-0`, or this offset of a RabbitMQ stream queue, `4711`, as
    /// [`ConsumerStatus::cursor`] has it.
    After(String),
}

/// What its user calls the settings of a consumer that messages name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) field: &'static str,
    pub(crate) group: &'static str,
    pub(crate) start: &'static str,
    pub(crate) topics: &'static str,
}

impl Default for Options {
    fn default() -> Options {
        Options { field: "`field`", group: "`group`", start: "`start`", topics: "`topics`" }
    }
}

/// Reads events from a Redis stream or a RabbitMQ exchange, and hands them to closures.
///
/// ```no_run
/// use streamll::Event;
/// use streamll::consume::Consumer;
///
/// # async fn page(_: Event) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn run() -> Result<(), streamll::consume::ConsumeError> {
/// let consumer = Consumer::connect("redis://localhost:6379", "prod_ai_events")
///     .group("alerts") // shared by all its consumers; without a group everyone sees everything
///     .on("error", |event| async move { page(event).await }) // retried, then a dead letter
///     .on_topic("ai.rag_pipeline.*", |event| println!("{}", event.kind()));
/// let handle = consumer.handle(); // handle.stop(), handle.status()
/// let ended = consumer.run().await?;
/// assert!(ended.balances());
/// # Ok(())
/// # }
/// ```
#[must_use = "a consumer does nothing until it is run"]
pub struct Consumer {
    url: SecretString,
    pub(super) target: String,
    pub(super) group: Option<String>,
    pub(super) name: Option<String>,
    pub(super) start: Option<Start>,
    pub(super) until: Option<String>,
    pub(super) claim_after: Duration,
    pub(super) prefetch: usize,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) topics: Vec<TopicPattern>,
    pub(super) handlers: Vec<Handler>,
    field: Option<String>,
    filters: Vec<Filter>,
    kinds: Vec<Kind>,
    max_attempts: u32,
    workers: usize,
    key: Key,
    duplicates: Option<usize>,
    stop_timeout: Duration,
    wrong: Option<ConsumeError>,
    /// Whether an exchange, or a stream for a group, may be made.
    pub(super) makes_target: bool,
    pub(super) options: Options,
    pub(super) reader: Option<Sender<Receipt>>,
    pub(super) shared: Arc<Shared>,
}

impl Consumer {
    /// From the broker at `url` (`redis`, `rediss`, `amqp`, `amqps`): `target` is a stream of Redis, or an exchange of
    /// RabbitMQ. Nothing is connected yet. An exchange that is missing is made, and with a [`group`](Consumer::group) a
    /// stream, so that nothing is missed of what comes first; `streamll tail` makes none.
    pub fn connect(url: impl Into<SecretString>, target: impl Into<String>) -> Consumer {
        Consumer {
            url: url.into(),
            target: target.into(),
            group: None,
            name: None,
            start: None,
            until: None,
            claim_after: Duration::from_secs(60),
            prefetch: 1024,
            dead_letters: None,
            ca_file: None,
            topics: Vec::new(),
            handlers: Vec::new(),
            field: None,
            filters: Vec::new(),
            kinds: Vec::new(),
            max_attempts: 3,
            workers: 1,
            key: Key::Data("conversation_id".to_owned()),
            duplicates: None,
            stop_timeout: Duration::from_secs(10),
            wrong: None,
            makes_target: true,
            options: Options::default(),
            reader: None,
            shared: Arc::new(Shared::new()),
        }
    }

    /// Handles the events of one type, such as `token`. Every handler that wants an event gets it, in the order in which
    /// they were added.
    ///
    /// A handler is `Fn(Event)`, sync or async, and returns nothing or a `Result`. One that fails or panics is tried
    /// again, then the event is a dead letter. A sync one that blocks holds up a thread of the runtime; once they are all
    /// held up, the consumer shows no sign of life either, and others take over what it has in hand. What blocks for
    /// longer than a moment belongs into `tokio::task::spawn_blocking`.
    pub fn on<R: Reply<W>, W>(
        mut self,
        event_type: impl AsRef<str>,
        handler: impl Fn(Event) -> R + Send + Sync + 'static,
    ) -> Consumer {
        self.handlers.push(Handler::new(Wants::Kind(Kind::from(event_type.as_ref())), handler));
        self
    }

    /// Handles the events whose topic fits a pattern, such as `ai.*.error` or `ai.#`; see [`TopicPattern`].
    pub fn on_topic<R: Reply<W>, W>(
        mut self,
        pattern: impl AsRef<str>,
        handler: impl Fn(Event) -> R + Send + Sync + 'static,
    ) -> Consumer {
        if let Some(pattern) = self.pattern(pattern.as_ref()) {
            self.handlers.push(Handler::new(Wants::Topic(pattern), handler));
        }
        self
    }

    /// Takes only events with this value: `data.conversation_id`, any other key of `data`, or `tags.tenant`. Further
    /// filters must fit as well. What does not fit is acknowledged and counted.
    pub fn filter(mut self, key: impl AsRef<str>, value: impl Into<Value>) -> Consumer {
        match Filter::new(key.as_ref(), value.into()) {
            Ok(filter) => self.filters.push(filter),
            Err(why) => self.is_wrong(ConsumeError::Setting(format!("filter: {why}"))),
        }
        self
    }

    /// Takes only events of these topics. The queue of RabbitMQ is bound with them, also where it exists already;
    /// without them a new queue is bound with the patterns of the handlers, or with `#`.
    pub fn topics<T: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = T>) -> Consumer {
        for pattern in patterns {
            let parsed = self.pattern(pattern.as_ref());
            self.topics.extend(parsed);
        }
        self
    }

    /// Takes only events of these types, such as `error`; without any, all.
    pub fn types<T: AsRef<str>>(mut self, event_types: impl IntoIterator<Item = T>) -> Consumer {
        self.kinds.extend(event_types.into_iter().map(|name| Kind::from(name.as_ref())));
        self
    }

    /// Shares the events with all consumers of this name: a consumer group of Redis, a durable queue of RabbitMQ. Made
    /// where it is missing. The broker spreads events over the consumers of a group as they ask for them: the order of
    /// a conversation holds inside of one consumer alone. A queue that is a stream is not shared: everyone reads all of
    /// it, from where [`start`](Consumer::start) says.
    pub fn group(mut self, name: impl Into<String>) -> Consumer {
        self.group = Some(name.into());
        self
    }

    /// Names this consumer in its group of Redis, so that after a restart it goes on with what it had in hand at once.
    /// No two may run with one name. Default: a fresh name; then what it had is taken over after
    /// [`claim_after`](Consumer::claim_after).
    pub fn name(mut self, name: impl Into<String>) -> Consumer {
        self.name = Some(name.into());
        self
    }

    /// Where to begin. Default: a new group, and a stream queue of RabbitMQ, with the oldest entry, a consumer without a
    /// group now. RabbitMQ has no past outside of its queues.
    pub fn start(mut self, start: Start) -> Consumer {
        self.start = Some(start);
        self
    }

    /// Ends by itself behind this id of a Redis stream, or behind the last that is there at the beginning (`+`). Not with
    /// a group.
    pub fn until(mut self, id: impl Into<String>) -> Consumer {
        self.until = Some(id.into());
        self
    }

    /// The field of a Redis entry that holds the event. Default: `event`, else `message`, else `__data__`.
    pub fn field(mut self, name: impl Into<String>) -> Consumer {
        self.field = Some(name.into());
        self
    }

    /// How often a handler is called with an event that it fails on, at least once. Default 3; between the calls are
    /// 100 ms and more, in which the events behind it with the same key wait.
    pub fn max_attempts(mut self, attempts: u32) -> Consumer {
        self.max_attempts = attempts.max(1);
        self
    }

    /// Where entries go that cannot be handled; see [`DeadLetters`].
    pub fn dead_letters(mut self, target: DeadLetters) -> Consumer {
        self.dead_letters = Some(target);
        self
    }

    /// How many events are handled at a time. Default 1. Events with the same [`key`](Consumer::key) are handled one
    /// after the other, in their order.
    pub fn workers(mut self, workers: usize) -> Consumer {
        self.workers = workers.max(1);
        self
    }

    /// What events have in common that are to stay in order. Default `data.conversation_id`; events without it stay in
    /// order with those of their run (`execution_id`).
    pub fn key(mut self, key: impl AsRef<str>) -> Consumer {
        match Key::parse(key.as_ref()) {
            Ok(key) => self.key = key,
            Err(why) => self.is_wrong(ConsumeError::Setting(format!("key: {why}"))),
        }
        self
    }

    /// Leaves out events that were handled before: those of the same (`source`, `seq`), else of the same `event_id`,
    /// among the last `window` at least that were handled; of a [stream](Consumer::into_stream), that its reader has
    /// passed by. The memory for it ends with the process.
    pub fn skip_duplicates(mut self, window: usize) -> Consumer {
        self.duplicates = Some(window.max(1));
        self
    }

    /// How many entries are in hand at most: with a handler, waiting for one, or not yet acknowledged. Default 1024. While
    /// entries of another consumer of a Redis group are taken over, those of one read may come on top.
    pub fn prefetch(mut self, entries: u16) -> Consumer {
        self.prefetch = usize::from(entries.max(1));
        self
    }

    /// When entries of another consumer of the Redis group, which shows no sign of life, are taken over. Default 60 s,
    /// at least 100 ms and at most a year. A living consumer shows one for what it has in hand, however long its handlers
    /// take, as long as they leave its runtime a thread: see [`on`](Consumer::on).
    pub fn claim_after(mut self, idle: Duration) -> Consumer {
        self.claim_after = idle.clamp(Duration::from_millis(100), Duration::from_secs(365 * 24 * 60 * 60));
        self
    }

    /// How long handlers may finish what is in hand after a [`stop`](ConsumerHandle::stop). Default 10 s; what is left
    /// then is given back.
    pub fn stop_timeout(mut self, limit: Duration) -> Consumer {
        self.stop_timeout = limit;
        self
    }

    /// The authorities to trust with `rediss` and `amqps`, as PEM. Default: those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Consumer {
        self.ca_file = Some(path.into());
        self
    }

    /// Stops it and tells how it stands, from wherever.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle(self.shared.clone())
    }

    /// Reads and handles until it is [stopped](ConsumerHandle::stop). A broker that is down, before or meanwhile, is
    /// waited for. Dropped, it ends at once, and what was in hand is delivered again.
    ///
    /// # Errors
    /// When it cannot work whatever the broker says: a wrong address or pattern, settings that do not fit, no handler.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn run(self) -> Result<ConsumerStatus, ConsumeError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if self.handlers.is_empty() && self.reader.is_none() {
            return Err(ConsumeError::NoHandler);
        }
        let url = self.url.expose_secret();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            #[cfg(feature = "redis")]
            "redis" | "rediss" => {
                let source = super::redis::RedisSource::new(&self, url)?;
                self.work(source).await
            }
            #[cfg(feature = "rabbitmq")]
            "amqp" | "amqps" => {
                let source = super::rabbitmq::RabbitMqSource::new(&self, url)?;
                self.work(source).await
            }
            _ => Err(unknown(scheme)),
        }
    }

    /// Reads only what is there already, and calls its settings by other names in messages.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "it is for the command"))]
    pub(crate) fn only_there(mut self, options: Options) -> Consumer {
        (self.makes_target, self.options) = (false, options);
        self
    }

    /// The events as a stream. Each counts as handled once the next one is asked for; the last is not when the stream is
    /// dropped. It ends when the consumer is stopped. Handlers that were added run before.
    ///
    /// ```no_run
    /// use streamll::consume::Consumer;
    /// use tokio_stream::StreamExt as _;
    ///
    /// # async fn run() -> Result<(), streamll::consume::ConsumeError> {
    /// let mut tokens = Consumer::connect("redis://localhost:6379", "prod_ai_events")
    ///     .filter("data.conversation_id", "conv_123")
    ///     .into_stream()?;
    /// while let Some(event) = tokens.next().await {
    ///     if let Some(token) = event.data("token") {
    ///         print!("{}", token.as_str().unwrap_or_default());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`run`](Consumer::run).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn into_stream(self) -> Result<Events, ConsumeError> {
        Events::of(self)
    }

    /// What is wrong with it, as far as that is known without its broker.
    pub(crate) fn check(&self) -> Result<(), ConsumeError> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        match self.url.expose_secret() {
            #[cfg(feature = "redis")]
            url if url.starts_with("redis") => super::redis::RedisSource::new(self, url).map(drop),
            #[cfg(feature = "rabbitmq")]
            url if url.starts_with("amqp") => super::rabbitmq::RabbitMqSource::new(self, url).map(drop),
            url => Err(unknown(url.split_once("://").map_or("", |(scheme, _)| scheme))),
        }
    }

    async fn work(self, source: impl super::source::Source) -> Result<ConsumerStatus, ConsumeError> {
        let dead = match self.dead_letters {
            Some(DeadLetters::File(path)) => Dead::File(Arc::new(LetterFile::new(path))),
            None if self.group.is_none() => Dead::Nobody,
            _ => Dead::Source,
        };
        let plan = Plan {
            work: Arc::new(Work {
                handlers: self.handlers,
                max_attempts: self.max_attempts,
                seen: self.duplicates.map(|window| Arc::new(Mutex::new(Duplicates::new(window)))),
                reader: self.reader,
            }),
            topics: self.topics,
            filters: self.filters,
            kinds: self.kinds,
            key: self.key,
            workers: self.workers,
            prefetch: self.prefetch,
            field: self.field,
            options: self.options,
            dead,
            target: self.target,
            tend: (self.claim_after / 4).min(Duration::from_secs(1)),
            stop_timeout: self.stop_timeout,
        };
        Engine::new(source, plan, self.shared.clone()).run().await;
        Ok(self.shared.status())
    }

    fn pattern(&mut self, text: &str) -> Option<TopicPattern> {
        let parsed: Result<TopicPattern, PatternError> = text.parse();
        parsed.map_err(|error| self.is_wrong(error.into())).ok()
    }

    /// The first mistake counts.
    fn is_wrong(&mut self, error: ConsumeError) {
        self.wrong.get_or_insert(error);
    }
}

fn unknown(scheme: &str) -> ConsumeError {
    ConsumeError::Url(match scheme {
        "redis" | "rediss" => "this build reads no Redis: build it with the feature `redis`".to_owned(),
        "amqp" | "amqps" => "this build reads no RabbitMQ: build it with the feature `rabbitmq`".to_owned(),
        _ => "must begin with `redis://`, `rediss://`, `amqp://` or `amqps://`".to_owned(),
    })
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("target", &self.target)
            .field("group", &self.group)
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}

/// Stops a consumer and tells how it stands. Clones are cheap.
#[derive(Debug, Clone)]
pub struct ConsumerHandle(Arc<Shared>);

impl ConsumerHandle {
    /// Asks it to end: no more events are read, and [`run`](Consumer::run) returns when those in hand are handled. One
    /// that waits for its broker, or to try an event again, does so no longer.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// How it stands: state, reason, lag, and the numbers, all of one moment.
    ///
    /// ```
    /// use streamll::consume::{Consumer, ConsumerState};
    ///
    /// let consumer = Consumer::connect("redis://localhost", "ai_events").group("alerts").on("error", |_| ());
    /// let status = consumer.handle().status();
    /// assert!(status.state == ConsumerState::Open && status.balances());
    /// ```
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        self.0.status()
    }
}
