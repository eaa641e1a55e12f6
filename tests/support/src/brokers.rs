//! The two brokers as the faults see them: what a topology says of each, and what each holds in the end.

use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

use crate::oracle::Copy;
use crate::servers::{RabbitNode, RedisServer};

/// Most events whose outcome can be unknown at once: a batch of Redis, the unconfirmed publishes of RabbitMQ.
pub const WINDOW: usize = 128;

/// A broker with a sink in a topology.
pub trait Broker: Sync {
    /// The name of its sink.
    fn name(&self) -> &'static str;

    fn port(&self) -> u16;

    /// The keys of its kind, in YAML, reached on this port; a line each.
    fn keys(&self, port: u16) -> String;

    /// What it holds, in its order.
    fn arrived(&self) -> Vec<Copy>;
}

/// Redis with one stream, which the sink reaches as a user of its own.
#[derive(Debug)]
pub struct Redis {
    pub server: RedisServer,
}

/// The name and the password of the sink at its broker: neither may show anywhere.
pub const USER: &str = "app";
pub const PASSWORD: &str = "canary-8417";

impl Redis {
    pub fn start() -> Redis {
        let password = format!(">{PASSWORD}");
        // With `everysec` a reply may go out before its data is written, while the disk is slow.
        let args = [
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--user",
            USER,
            "on",
            &password,
            "~*",
            "&*",
            "+@all",
        ];
        Redis { server: RedisServer::start_with(&args) }
    }

    pub fn cli(&self, line: &str) -> String {
        self.server.cli(&line.split(' ').collect::<Vec<_>>())
    }
}

impl Broker for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    fn keys(&self, port: u16) -> String {
        format!(
            "    type: redis\n    url: \"redis://{USER}:{PASSWORD}@127.0.0.1:{port}\"\n    stream_key: events\n"
        )
    }

    fn arrived(&self) -> Vec<Copy> {
        let mut redis = ::redis::Client::open(self.server.url()).and_then(|client| client.get_connection());
        let redis = redis.as_mut().expect("it answers");
        let (mut copies, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let mut range = ::redis::cmd("XRANGE");
            range.arg("events").arg(&from).arg("+").arg("COUNT").arg(1000);
            let page: Vec<Entry> = range.query(redis).expect("a stream");
            let Some((last, _)) = page.last() else { return copies };
            from = format!("({last}");
            copies.extend(page.into_iter().map(|(_, fields)| copy_of(fields)));
        }
    }
}

/// An id, and the fields with their values.
type Entry = (String, Vec<(String, Vec<u8>)>);

fn copy_of(fields: Vec<(String, Vec<u8>)>) -> Copy {
    let mut copy = Copy { json: Vec::new(), attempt: 1 };
    for (field, value) in fields {
        match field.as_str() {
            "event" => copy.json = value,
            "attempt" => {
                copy.attempt = String::from_utf8_lossy(&value).parse().expect("a number");
            }
            other => panic!("an entry has a field `{other}`"),
        }
    }
    copy
}

/// A virtual host of a RabbitMQ node, with a queue that gets everything.
#[derive(Debug)]
pub struct Rabbit<'a> {
    pub node: &'a RabbitNode,
    pub vhost: String,
    /// What was taken from the queue so far.
    taken: Mutex<Vec<Copy>>,
    /// Keys of the queue, beside its binding.
    queue: &'static str,
    /// Whether the sink declares exchange, queue and binding.
    declares: bool,
}

impl<'a> Rabbit<'a> {
    pub fn on(node: &'a RabbitNode) -> Rabbit<'a> {
        Rabbit::with(node, "")
    }

    /// With these keys of the queue besides, such as `, max_length: 5`.
    pub fn with(node: &'a RabbitNode, queue: &'static str) -> Rabbit<'a> {
        let vhost = node.vhost();
        // A user for each, so that a test can take away its rights.
        node.ctl(&["add_user", &format!("{USER}-{vhost}"), PASSWORD]);
        let rabbit = Rabbit { node, vhost, taken: Mutex::default(), queue, declares: true };
        rabbit.permit(".*");
        rabbit
    }

    /// With everything declared before, by somebody else than the sink.
    pub fn declared(node: &'a RabbitNode) -> Rabbit<'a> {
        let rabbit = Rabbit { declares: false, ..Rabbit::on(node) };
        let declared = rabbit.admin(async |channel| {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare("events".into(), ExchangeKind::Topic, durable, FieldTable::default())
                .await?;
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare("all".into(), durable, FieldTable::default()).await?;
            let options = QueueBindOptions::default();
            channel
                .queue_bind("all".into(), "events".into(), "#".into(), options, FieldTable::default())
                .await
        });
        declared.expect("everything is declared");
        rabbit
    }

    /// What the sink's user may declare and write.
    pub fn permit(&self, what: &str) {
        let user = format!("{USER}-{}", self.vhost);
        self.node.ctl(&["set_permissions", "-p", &self.vhost, &user, what, what, ".*"]);
    }

    /// Does something on a channel of `guest`'s.
    pub fn admin<T>(&self, work: impl AsyncFnOnce(&Channel) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let url = self.node.url(&self.vhost);
            let connection = Connection::connect(&url, ConnectionProperties::default()).await;
            let connection = connection.expect("it answers");
            let channel = connection.create_channel().await.expect("a channel");
            let done = work(&channel).await;
            connection.close(200, "done".into()).await.expect("it closes");
            done
        })
    }

    /// Takes from the queue what is there.
    pub fn take(&self) {
        let copies = self.admin(async |channel| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare("all".into(), passive, FieldTable::default()).await;
            let waiting = queue.expect("the queue is declared").message_count() as usize;
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume("all".into(), "oracle".into(), options, FieldTable::default());
            let mut messages = consumer.await.expect("a consumer").take(waiting);
            let mut copies = Vec::with_capacity(waiting);
            // Only what is read is acknowledged: the broker has sent more by now, where events still come in. Each at
            // once: a quorum queue sends no more than some thousand beyond that.
            while let Some(message) = messages.next().await {
                let message = message.expect("a message");
                message.acker.ack(BasicAckOptions::default()).await.expect("acknowledged");
                copies.push(message_of(&message));
            }
            copies
        });
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(copies);
    }
}

impl Broker for Rabbit<'_> {
    fn name(&self) -> &'static str {
        "rabbit"
    }

    fn port(&self) -> u16 {
        self.node.port()
    }

    fn keys(&self, port: u16) -> String {
        let (vhost, queue) = (&self.vhost, self.queue);
        format!(
            "    type: rabbitmq\n    url: \"amqp://{USER}-{vhost}:{PASSWORD}@127.0.0.1:{port}/{vhost}\"\n    \
             exchange: events\n    window: {WINDOW}\n    declare: {}\n    queues: {{ all: {{ bind: [\"#\"]{queue} }} }}\n",
            self.declares
        )
    }

    fn arrived(&self) -> Vec<Copy> {
        self.take();
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn message_of(message: &lapin::message::Delivery) -> Copy {
    let headers = message.properties.headers();
    let attempt = headers.as_ref().and_then(|headers| headers.inner().get("attempt"));
    let attempt = match attempt {
        None => 1,
        Some(AMQPValue::LongUInt(n)) => *n,
        Some(other) => panic!("the header `attempt` is {other:?}"),
    };
    Copy { json: message.data.clone(), attempt }
}
