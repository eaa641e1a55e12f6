//! Consumers against real servers that are started here, killed and cut off: what they promise, and the commands beside.

mod claims;
mod cluster;
mod delivery;
mod end_to_end;
mod exact;
mod faults;
mod foreign;
mod killed;
mod letters;
mod misuse;
mod offsets;
mod order;
mod quorum;
mod rabbitmq;
mod redis;
mod replay;
mod streams;
mod suspects;
mod tail;
mod tls;
mod words;

use std::future::Future;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::FromRedisValue;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use streamll::Event;
use streamll::consume::{Consumer, ConsumerHandle, ConsumerStatus};
use tokio::task::JoinHandle;

use support::{LONG, proxy, redis_cluster, servers, until as wait_until, until_true as wait_for};

use crate::servers::{RabbitNode, RedisServer};

const STREAM: &str = "ai_events";
/// A process of a test, which ends with it, also with one that fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Of one that has ended there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// The JSON of the n-th event; its conversation and its place in that are told by `n`.
fn json(n: u64, conversations: u64) -> String {
    format!(
        r#"{{"event_id":"e{n}","execution_id":"run","span_id":"s","timestamp":"2026-11-21T03:20:15.842142Z","module_name":"RagPipeline","event_type":"token","topic":"ai.rag_pipeline.token","source":"test","seq":{n},"data":{{"field":"answer","token":"word{n} ","token_index":{},"conversation_id":"conv_{}"}},"tags":{{"service":"rag-api"}}}}"#,
        n / conversations,
        n % conversations
    )
}

fn number(event: &Event) -> u64 {
    event.seq().expect("the tests' events are numbered")
}

fn client(server: &RedisServer) -> ::redis::Connection {
    ::redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("it answers")
}

/// Adds entries with one field.
fn add(server: &RedisServer, field: &str, values: impl IntoIterator<Item = String>) {
    let mut redis = client(server);
    let values: Vec<_> = values.into_iter().collect();
    for values in values.chunks(1000) {
        let mut adds = ::redis::pipe();
        values.iter().for_each(|value| {
            adds.cmd("XADD").arg(STREAM).arg("*").arg(field).arg(value).ignore();
        });
        adds.exec(&mut redis).expect("they are added");
    }
}

fn add_numbers(server: &RedisServer, numbers: impl IntoIterator<Item = u64>) {
    add(server, "event", numbers.into_iter().map(|n| json(n, 10)));
}

/// What a client of the test's own is answered.
fn ask<T: FromRedisValue>(server: &RedisServer, command: &str) -> T {
    let mut words = command.split(' ');
    let mut ask = ::redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        ask.arg(word);
    });
    ask.query(&mut client(server)).unwrap_or_else(|error| panic!("{command}: {error}"))
}

type Fields = Vec<(String, String)>;

fn entries(server: &RedisServer, key: &str) -> Vec<Fields> {
    let entries: Vec<(String, Fields)> = ask(server, &format!("XRANGE {key} - +"));
    entries.into_iter().map(|(_, fields)| fields).collect()
}

#[track_caller]
fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    let found = fields.iter().find(|(field, _)| field == name);
    &found.unwrap_or_else(|| panic!("no `{name}` in {fields:?}")).1
}

/// How many entries of a group are in somebody's hand.
fn pending(server: &RedisServer, group: &str) -> u64 {
    let (pending, ..): (u64, ::redis::Value, ::redis::Value, ::redis::Value) =
        ask(server, &format!("XPENDING {STREAM} {group}"));
    pending
}

/// How many clients wait for entries, in a group.
fn reading(server: &RedisServer) -> usize {
    server.cli(&["CLIENT", "LIST"]).lines().filter(|line| line.contains(" cmd=xreadgroup ")).count()
}

/// A channel of `guest`'s, with confirms.
async fn channel(node: &RabbitNode, vhost: &str) -> (Connection, Channel) {
    let connection = Connection::connect(&node.url(vhost), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(Default::default()).await.unwrap();
    (connection, channel)
}

/// Makes an exchange.
async fn exchange(channel: &Channel, name: &str, kind: lapin::ExchangeKind) {
    let options = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(name.into(), kind, options, Default::default()).await.unwrap();
}

/// Publishes messages to an exchange, and waits until they are confirmed.
async fn publish(channel: &Channel, exchange: &str, key: &str, bodies: impl IntoIterator<Item = String>) {
    let mut confirms = Vec::new();
    for body in bodies {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), persistent);
        confirms.push(published.await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
}

/// What handlers have seen, in their order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Seen {
    fn handler(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let seen = self.clone();
        move |event| seen.add(event)
    }

    fn add(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn numbers(&self) -> Vec<u64> {
        self.events().iter().map(number).collect()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A consumer that runs beside the test.
struct Running {
    handle: ConsumerHandle,
    task: JoinHandle<ConsumerStatus>,
}

impl Running {
    fn start(consumer: Consumer) -> Running {
        let handle = consumer.handle();
        let task = tokio::spawn(async move { consumer.run().await.expect("it is made well") });
        Running { handle, task }
    }

    fn status(&self) -> ConsumerStatus {
        self.handle.status()
    }

    /// Waits until something holds of it.
    async fn until(&self, what: &str, holds: impl Fn(&ConsumerStatus) -> bool) {
        wait_until(what, || {
            let status = self.status();
            if holds(&status) { Ok(()) } else { Err(format!("{status:#?}")) }
        })
        .await;
    }

    /// Stops it, and sees that its numbers balance with nothing in hand.
    async fn stop(self) -> ConsumerStatus {
        self.handle.stop();
        let status =
            tokio::time::timeout(LONG, self.task).await.expect("it stops").expect("it does not panic");
        assert!(status.balances() && status.balance.in_flight == 0, "{status:#?}");
        status
    }

    /// Ends it as a crash would.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
