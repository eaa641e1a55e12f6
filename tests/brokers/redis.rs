//! The Redis sink against real servers: what arrives, every way to be refused, and how it connects.

mod arrive;
mod connect;
mod expire;
mod refuse;
pub(crate) mod tls;
mod whole;

use std::future::Future;

use redis::FromRedisValue;
use streamll::sinks::redis::RedisSink;
use streamll::sinks::{self, RedisConfig};
use streamll::{Deliveries, Delivery, DeliveryError, ErrorClass, Event, Sink, SinkContext, Step};

use crate::servers::RedisServer;

/// The password of the tests' users: it must show nowhere.
const CANARY: &str = "canary-2b9d1";

fn sink(server: &RedisServer) -> RedisConfig {
    sinks::redis(server.url())
}

/// The address of a user, made here, who may do what the rules say.
fn user(server: &RedisServer, rules: &str) -> String {
    let rules: Vec<&str> = rules.split(' ').collect();
    server.cli(&[&["ACL", "SETUSER", "app", "on", &format!(">{CANARY}")], &rules[..]].concat());
    format!("redis://app:{CANARY}@127.0.0.1:{}", server.port())
}

async fn open(config: &RedisConfig) -> Result<RedisSink, DeliveryError> {
    let mut sink = config.build().unwrap();
    sink.open(&SinkContext::detached("live")).await?;
    Ok(sink)
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn event(number: u64) -> Event {
    Event::new(&Step::new("RagPipeline").operation("llm_call"), "start").with("number", number)
}

fn batch_of(events: impl IntoIterator<Item = Event>) -> Deliveries {
    let delivery = |event| Delivery::new(event, "ai.rag_pipeline.start".into());
    Deliveries::new(events.into_iter().map(delivery).collect())
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> Deliveries {
    batch_of(numbers.into_iter().map(event))
}

/// The same events, handed over again as the machine does when they may have arrived.
fn again(batch: &Deliveries) -> Deliveries {
    let retried = |delivery: &Delivery| {
        let mut delivery = delivery.clone();
        delivery.attempt += 1;
        delivery
    };
    Deliveries::new(batch.iter().map(retried).collect())
}

/// How a sink marked each event, in one word for all or a word each.
fn marks(batch: &Deliveries) -> String {
    let text = format!("{batch:?}");
    let (marks, _) = text.rsplit_once(", why: ").unwrap();
    let (_, marks) = marks.rsplit_once("marks: [").unwrap();
    let mut words: Vec<&str> = marks.trim_end_matches(&[']', '}', ' '][..]).split(", ").collect();
    if words.iter().all(|word| *word == words[0]) {
        words.truncate(1);
    }
    words.join(" ")
}

/// What a client of the test's own is answered.
fn ask<T: FromRedisValue>(server: &RedisServer, command: &str) -> T {
    let mut words = command.split(' ');
    let mut ask = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        ask.arg(word);
    });
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    ask.query(&mut connection).unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// The entries of a stream, each with its fields.
fn entries(server: &RedisServer, key: &str) -> Vec<Vec<(String, String)>> {
    let entries: Vec<(String, Vec<(String, String)>)> = ask(server, &format!("XRANGE {key} - +"));
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// The numbers of the events of a stream, in its order.
fn numbers(server: &RedisServer, key: &str) -> Vec<u64> {
    let number = |fields: &Vec<(String, String)>| {
        let event: serde_json::Value = serde_json::from_str(&fields[0].1).unwrap();
        event["data"]["number"].as_u64().unwrap()
    };
    entries(server, key).iter().map(number).collect()
}

/// Delivers to a sink that refuses: the class and the line for the operator, which never shows a password.
async fn refused(sink: &mut RedisSink, batch: &mut Deliveries) -> (ErrorClass, String) {
    told(sink.deliver(batch).await.unwrap_err())
}

fn told(error: DeliveryError) -> (ErrorClass, String) {
    let text = error.to_string();
    assert!(text.starts_with("redis") && text.contains("://"), "no address in front: {text}");
    assert!(!format!("{text} {error:?}").contains(CANARY) && !text.contains('\n'), "{text}");
    (error.class(), text)
}

#[track_caller]
fn assert_told((class, text): (ErrorClass, String), expected: ErrorClass, words: &str) {
    assert!(class == expected && text.contains(words), "{class:?}, not {expected:?} with `{words}`: {text}");
}
