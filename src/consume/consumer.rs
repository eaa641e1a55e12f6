//! The consumer as its user makes it: what to read, and what to do with each event.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use streamll_actors::event::{Event, Kind};
use streamll_actors::route::{PatternError, TopicPattern};
use tokio::sync::mpsc::{self, Sender};

use super::dead_letter::DeadLetters;
use super::engine::Engine;
use super::error::ConsumeError;
use super::filter::{Filter, Key};
use super::handle::ConsumerHandle;
use super::handler::{Handler, Reply, Wants};
use super::settings::{IfMissing, SettingNames, Settings, Start};
use super::source::Source;
use super::status::{ConsumerStatus, Shared};
use super::stream::{Events, READY};
use super::worker::{Receipt, Work};

/// Reads events from a Redis stream or a RabbitMQ exchange, and hands them to closures.
///
/// ```no_run
/// use streamll::Event;
/// use streamll::consume::Consumer;
///
/// # async fn page(_: Event) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn run() -> Result<(), streamll::consume::ConsumeError> {
/// let consumer = Consumer::connect("redis://localhost:6379", "prod_ai_events")
///     .group("alerts") // its consumers share the events; a consumer without a group gets all of them
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
    settings: Settings,
    handlers: Vec<Handler>,
    /// The reader of a stream gets the events after the handlers.
    reader: Option<Sender<Receipt>>,
    /// The first mistake that was made in building it.
    mistake: Option<ConsumeError>,
    shared: Arc<Shared>,
}

/// A source of the kind that the URL names.
enum AnySource {
    #[cfg(feature = "redis")]
    Redis(Box<super::redis::RedisSource>),
    #[cfg(feature = "rabbitmq")]
    RabbitMq(Box<super::rabbitmq::RabbitMqSource>),
}

impl Consumer {
    /// A consumer of `target` at the broker `url` (`redis`, `rediss`, `amqp`, `amqps`). The target is a stream of Redis, or an
    /// exchange of RabbitMQ. Nothing is connected yet. If the exchange is missing, the consumer makes it. With a
    /// [`group`](Consumer::group) it also makes a missing stream, so that the first events are not missed. `streamll tail`
    /// makes neither.
    pub fn connect(url: impl Into<SecretString>, target: impl Into<String>) -> Consumer {
        Consumer {
            settings: Settings::new(url.into(), target.into()),
            handlers: Vec::new(),
            reader: None,
            mistake: None,
            shared: Arc::new(Shared::new()),
        }
    }

    /// Handles the events of one type, such as `token`. Every handler that wants an event gets it, in the order in which the
    /// handlers were added.
    ///
    /// A handler is `Fn(Event)`, sync or async. It returns nothing or a `Result`. If it fails or panics, it is tried again;
    /// after [`max_attempts`](Consumer::max_attempts) calls the event becomes a dead letter.
    ///
    /// A sync handler that blocks holds up a thread of the runtime. If all threads are held up, the consumer shows no sign of
    /// life, and other consumers of its group take over what it has in hand. Work that blocks for longer than a moment
    /// belongs into `tokio::task::spawn_blocking`.
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

    /// Takes only events with this value. The key is `data.conversation_id`, any other key of `data`, or `tags.tenant`. If
    /// there are several filters, all of them must fit. Other events are acknowledged and counted.
    pub fn filter(mut self, key: impl AsRef<str>, value: impl Into<Value>) -> Consumer {
        match Filter::new(key.as_ref(), value.into()) {
            Ok(filter) => self.settings.choice.filters.push(filter),
            Err(why) => self.note_mistake(ConsumeError::Setting(format!("filter: {why}"))),
        }
        self
    }

    /// Takes only events of these topics. A queue of RabbitMQ is bound with them, even if the queue exists already. Without
    /// this setting, a new queue is bound with the patterns of the handlers, or with `#`.
    pub fn topics<T: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = T>) -> Consumer {
        for pattern in patterns {
            let parsed = self.pattern(pattern.as_ref());
            self.settings.choice.topics.extend(parsed);
        }
        self
    }

    /// Takes only events of these types, such as `error`. Default: all types.
    pub fn types<T: AsRef<str>>(mut self, event_types: impl IntoIterator<Item = T>) -> Consumer {
        self.settings.choice.kinds.extend(event_types.into_iter().map(|name| Kind::from(name.as_ref())));
        self
    }

    /// Shares the events with all consumers of this group: a consumer group of Redis, a durable queue of RabbitMQ. If the
    /// group is missing, the consumer makes it.
    ///
    /// The broker spreads the events over the consumers of a group as they ask for them. The order of a conversation
    /// therefore holds only inside of one consumer. A queue that is a stream is not shared: each consumer reads all of it,
    /// from where [`start`](Consumer::start) says.
    pub fn group(mut self, name: impl Into<String>) -> Consumer {
        self.settings.reading.group = Some(name.into());
        self
    }

    /// Names this consumer in its Redis group. After a restart, a consumer of the same name continues at once with what it
    /// had in hand. No two consumers may run with one name. Default: a fresh name; other consumers then take over after
    /// [`claim_after`](Consumer::claim_after).
    pub fn name(mut self, name: impl Into<String>) -> Consumer {
        self.settings.reading.name = Some(name.into());
        self
    }

    /// Where to begin. Default: a new group begins with the oldest entry, and so does a consumer of a RabbitMQ stream queue.
    /// A consumer without a group begins now. RabbitMQ keeps no past outside of its queues.
    pub fn start(mut self, start: Start) -> Consumer {
        self.settings.reading.start = Some(start);
        self
    }

    /// Ends after this id of a Redis stream. With `+`, the consumer ends after the entry that is the last one when it begins.
    /// Cannot be combined with a group.
    pub fn until(mut self, id: impl Into<String>) -> Consumer {
        self.settings.reading.until = Some(id.into());
        self
    }

    /// The field of a Redis entry that holds the event. Default: `event`, else `message`, else `__data__`.
    pub fn field(mut self, name: impl Into<String>) -> Consumer {
        self.settings.choice.field = Some(name.into());
        self
    }

    /// How often a handler that fails is called with one event. Default 3, at least 1. The first pause between two calls is
    /// 100 ms, and pauses grow. Later events with the same key wait meanwhile.
    pub fn max_attempts(mut self, attempts: u32) -> Consumer {
        self.settings.handling.max_attempts = attempts.max(1);
        self
    }

    /// Where entries go that cannot be handled; see [`DeadLetters`].
    pub fn dead_letters(mut self, target: DeadLetters) -> Consumer {
        self.settings.dead_letters = Some(target);
        self
    }

    /// How many events are handled at a time. Default 1. Events with the same [`key`](Consumer::key) are handled one after
    /// the other, in their order.
    pub fn workers(mut self, workers: usize) -> Consumer {
        self.settings.handling.workers = workers.max(1);
        self
    }

    /// The key that keeps events in order: events with the same value are handled one after the other. Default
    /// `data.conversation_id`. Events without the key stay in order with those of their run (`execution_id`).
    pub fn key(mut self, key: impl AsRef<str>) -> Consumer {
        match Key::parse(key.as_ref()) {
            Ok(key) => self.settings.handling.key = key,
            Err(why) => self.note_mistake(ConsumeError::Setting(format!("key: {why}"))),
        }
        self
    }

    /// Leaves out events that were handled before. Two events are the same if `source` and `seq` are the same, or else
    /// `event_id`. At least the last `window` handled events are remembered. In a [stream](Consumer::into_stream), an event
    /// counts as handled when the reader asks for the next one. The memory ends with the process.
    pub fn skip_duplicates(mut self, window: usize) -> Consumer {
        self.settings.handling.duplicate_window = Some(window.max(1));
        self
    }

    /// How many entries are in hand at most: entries that a handler has, that wait for one, or that are not acknowledged yet.
    /// Default 1024, at least 1. While a consumer takes over entries of another one of its Redis group, the entries of one
    /// read may come on top.
    pub fn prefetch(mut self, entries: u16) -> Consumer {
        self.settings.reading.prefetch = entries.max(1);
        self
    }

    /// After which time entries of another consumer of the Redis group are taken over, if that consumer shows no sign of life.
    /// Default 60 s, at least 100 ms, at most a year. A living consumer shows a sign of life for what it has in hand,
    /// however long its handlers take, as long as they leave its runtime a thread: see [`on`](Consumer::on).
    pub fn claim_after(mut self, idle: Duration) -> Consumer {
        self.settings.reading.claim_after =
            idle.clamp(Duration::from_millis(100), Duration::from_secs(365 * 24 * 60 * 60));
        self
    }

    /// How long handlers may finish what is in hand after a [`stop`](ConsumerHandle::stop). Default 10 s. Events that are not
    /// finished by then are given back.
    pub fn stop_timeout(mut self, limit: Duration) -> Consumer {
        self.settings.handling.stop_timeout = limit;
        self
    }

    /// The authorities to trust with `rediss` and `amqps`, as a PEM file. Default: those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Consumer {
        self.settings.broker.ca_file = Some(path.into());
        self
    }

    /// A handle that stops the consumer and reads its status, from any task or thread.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle(self.shared.clone())
    }

    /// Reads and handles events until the consumer is [stopped](ConsumerHandle::stop). If the broker is down, at the start or
    /// later, the consumer waits for it. If the future is dropped, the consumer ends at once, and the broker delivers what was
    /// in hand again.
    ///
    /// # Errors
    /// When the consumer cannot work whatever the broker says: a wrong address or pattern, settings that do not fit together,
    /// no handler.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn run(self) -> Result<ConsumerStatus, ConsumeError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        if self.handlers.is_empty() && self.reader.is_none() {
            return Err(ConsumeError::NoHandler);
        }
        match self.source()? {
            #[cfg(feature = "redis")]
            AnySource::Redis(source) => Ok(self.work(*source).await),
            #[cfg(feature = "rabbitmq")]
            AnySource::RabbitMq(source) => Ok(self.work(*source).await),
        }
    }

    /// Makes no target that is missing, and calls the settings by the names that the command has for them.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "it is for the command"))]
    pub(crate) fn for_command(mut self, names: SettingNames) -> Consumer {
        self.settings.reading.missing_target = IfMissing::Report;
        self.settings.names = names;
        self
    }

    /// The events as a stream. An event counts as handled when the next one is asked for. When the stream is dropped, its last
    /// event does not count as handled. The stream ends when the consumer is stopped. Handlers that were added run first.
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
    pub fn into_stream(mut self) -> Result<Events, ConsumeError> {
        self.check()?;
        let handle = self.handle();
        let (reader, events) = mpsc::channel(READY);
        self.reader = Some(reader);
        let running = tokio::spawn(async move {
            if let Err(error) = self.run().await {
                tracing::error!("{error}");
            }
        });
        Ok(Events::new(events, handle, running))
    }

    /// Finds what is wrong with the settings, as far as that is known without the broker.
    pub(crate) fn check(&self) -> Result<(), ConsumeError> {
        match &self.mistake {
            Some(mistake) => Err(mistake.clone()),
            None => self.source().map(drop),
        }
    }

    fn source(&self) -> Result<AnySource, ConsumeError> {
        let url = self.settings.broker.url.expose_secret();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            #[cfg(feature = "redis")]
            "redis" | "rediss" => {
                let source = super::redis::RedisSource::new(&self.settings, self.shared.clone())?;
                Ok(AnySource::Redis(Box::new(source)))
            }
            #[cfg(feature = "rabbitmq")]
            "amqp" | "amqps" => {
                let (handled, shared) = (self.handled_topics(), self.shared.clone());
                let source =
                    super::rabbitmq::RabbitMqSource::new(&self.settings, handled.as_deref(), shared)?;
                Ok(AnySource::RabbitMq(Box::new(source)))
            }
            _ => Err(unknown(scheme)),
        }
    }

    /// The patterns of the handlers, if events of no other topic are wanted. A handler of a type may want it from any topic,
    /// and the reader of a stream wants everything, whatever the handlers want.
    fn handled_topics(&self) -> Option<Vec<&TopicPattern>> {
        if self.handlers.is_empty() || self.reader.is_some() {
            return None;
        }
        self.handlers.iter().map(Handler::pattern).collect()
    }

    async fn work(self, source: impl Source) -> ConsumerStatus {
        let Consumer { settings, handlers, reader, shared, .. } = self;
        let work = Work::new(handlers, &settings.handling, reader);
        Engine::new(source, settings, work, shared.clone()).run().await;
        shared.status()
    }

    fn pattern(&mut self, text: &str) -> Option<TopicPattern> {
        let parsed: Result<TopicPattern, PatternError> = text.parse();
        parsed.map_err(|error| self.note_mistake(error.into())).ok()
    }

    /// The first mistake is the one that is reported.
    fn note_mistake(&mut self, error: ConsumeError) {
        self.mistake.get_or_insert(error);
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
            .field("target", &self.settings.reading.target)
            .field("group", &self.settings.reading.group)
            .field("handlers", &self.handlers)
            .finish_non_exhaustive()
    }
}
