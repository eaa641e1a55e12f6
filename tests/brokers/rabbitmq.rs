//! The RabbitMQ sink against real nodes: what arrives, what is declared, every way to fail, and what it keeps waiting for.

mod arrive;
mod channels;
mod cluster;
mod connect;
mod declare;
mod own;
mod refuse;
mod wait;
mod whole;

use std::future::Future;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use streamll::sinks::rabbitmq::{QueueConfig, QueueType, RabbitMqSink};
use streamll::sinks::{self, RabbitMqConfig};
use streamll::{Deliveries, Delivery, DeliveryError, ErrorClass, Event, Kind, Sink, SinkContext, Step};
use tokio::time::Instant;

use crate::servers::RabbitNode;
use support::until_true as eventually;

/// The password of users that tests make: it must show nowhere.
const CANARY: &str = "canary-7f3a9";

/// A virtual host of its own on a node.
struct Room<'a> {
    node: &'a RabbitNode,
    vhost: String,
}

impl Room<'static> {
    /// On the node that tests share.
    fn shared() -> Room<'static> {
        Room::on(RabbitNode::shared())
    }
}

impl<'a> Room<'a> {
    fn on(node: &'a RabbitNode) -> Room<'a> {
        Room { node, vhost: node.vhost() }
    }

    fn url(&self) -> String {
        self.node.url(&self.vhost)
    }

    /// The same through another port.
    fn url_at(&self, port: u16) -> String {
        self.url().replace(&format!(":{}/", self.node.port()), &format!(":{port}/"))
    }

    /// The address of a user, made here, who may do what the three patterns say.
    fn user(&self, name: &str, [configure, write, read]: [&str; 3]) -> String {
        let name = format!("{name}-{}", self.vhost);
        self.node.ctl(&["add_user", &name, CANARY]);
        self.node.ctl(&["set_permissions", "-p", &self.vhost, &name, configure, write, read]);
        self.url().replace("guest:guest", &format!("{name}:{CANARY}"))
    }

    /// A sink with one queue `all` that takes everything.
    fn sink(&self) -> RabbitMqConfig {
        sinks::rabbitmq(self.url()).bind("all", QueueConfig::bound(["#"]))
    }

    fn with<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Channel) -> F + Send) -> T {
        with(&self.url(), work)
    }

    /// Binds a queue to the exchange with a key.
    fn bind(&self, queue: &str, key: &str) {
        self.with(async |channel| {
            let (queue, key, options) = (queue.into(), key.into(), QueueBindOptions::default());
            channel.queue_bind(queue, "ai_events".into(), key, options, FieldTable::default()).await.unwrap();
        });
    }

    fn unbind(&self, queue: &str, key: &str) {
        self.with(async |channel| {
            let (queue, key) = (queue.into(), key.into());
            channel.queue_unbind(queue, "ai_events".into(), key, FieldTable::default()).await.unwrap();
        });
    }

    /// All messages of a queue, which stay there.
    fn read(&self, queue: &str) -> Vec<lapin::message::Delivery> {
        self.with(async |channel| {
            let mut found = Vec::new();
            while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
                found.push(got.delivery);
            }
            found
        })
    }

    /// The numbers of all events of a queue, in its order.
    fn numbers(&self, queue: &str) -> Vec<u64> {
        self.read(queue).iter().map(|message| number(&message.data)).collect()
    }

    /// Takes all messages out of a queue: the numbers of their events.
    fn take(&self, queue: &str) -> Vec<u64> {
        self.with(async |channel| {
            let mut found = Vec::new();
            let options = BasicGetOptions { no_ack: true };
            while let Some(got) = channel.basic_get(queue.into(), options).await.unwrap() {
                found.push(number(&got.delivery.data));
            }
            found
        })
    }
}

/// Works with a channel of a client of the test's own, on a thread of its own.
fn with<T: Send, F: Future<Output = T>>(url: &str, work: impl FnOnce(Channel) -> F + Send) -> T {
    let run = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(
            async {
                let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
                let channel = connection.create_channel().await.unwrap();
                let answer = work(channel).await;
                let _ = connection.close(200, "bye".into()).await;
                answer
            },
        )
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn number(json: &[u8]) -> u64 {
    let event: serde_json::Value = serde_json::from_slice(json).unwrap();
    event["data"]["number"].as_u64().unwrap()
}

fn event(number: u64) -> Event {
    Event::new(&Step::new("RagPipeline").operation("llm_call"), "start").with("number", number)
}

fn under(key: &str, number: u64) -> Delivery {
    Delivery::new(event(number), key.into())
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> Deliveries {
    Deliveries::new(numbers.into_iter().map(|number| under("ai.rag_pipeline.start", number)).collect())
}

/// The same events, handed over again as the machine does.
fn again(batch: &Deliveries) -> Deliveries {
    let retried = |delivery: &Delivery| {
        let mut delivery = delivery.clone();
        delivery.attempt += 1;
        delivery
    };
    Deliveries::new(batch.iter().map(retried).collect())
}

/// How a sink marked each event: the first word of each mark.
fn marks(batch: &Deliveries) -> Vec<String> {
    let text = format!("{batch:?}");
    let (_, marks) = text.rsplit_once("marks: [").unwrap();
    let (marks, _) = marks.rsplit_once("], why: ").unwrap();
    let names = ["Open", "Delivered", "Retry", "Unsent", "Poison"];
    let mut found: Vec<(usize, &str)> = names.iter().flat_map(|name| marks.match_indices(name)).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name.to_owned()).collect()
}

fn all(what: &str, count: usize) -> Vec<String> {
    vec![what.to_owned(); count]
}

async fn opened(config: &RabbitMqConfig) -> RabbitMqSink {
    let mut sink = config.build().unwrap();
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink
}

/// How opening fails.
async fn refused(config: &RabbitMqConfig) -> DeliveryError {
    let mut sink = config.build().unwrap();
    let error = sink.open(&SinkContext::detached("records")).await.unwrap_err();
    assert!(!error.to_string().contains(CANARY), "{error}");
    assert!(!error.to_string().contains("guest:guest"), "{error}");
    error
}

#[track_caller]
fn says(error: &DeliveryError, class: ErrorClass, words: &[&str]) {
    let line = error.to_string();
    assert_eq!(error.class(), class, "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{line} lacks one of {words:?}");
    assert!(!line.contains('\n') && !line.contains(CANARY), "{line}");
}

/// Delivers one event after the other until the broker takes no more, which it may be late to show.
async fn fails(sink: &mut RabbitMqSink) -> DeliveryError {
    for _ in 0..1200 {
        if let Err(error) = sink.deliver(&mut batch([1])).await {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it takes everything");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
