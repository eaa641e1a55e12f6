//! Kinds for the tests, which deliver nothing; and that kinds of one's own are as good as built-in ones.

use actix::{Actor, Context, Handler, Recipient};
use secrecy::SecretString;
use serde::Deserialize;
use streamll::topology::{Period, Registry};
use streamll_actors::event::Event;
use streamll_actors::ingress::Batch;
use streamll_actors::sink::{Deliveries, DeliveryError, Sink};

use super::{errors, topology};

pub(crate) struct Null;

impl Sink for Null {
    async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Terminal {}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "path")]
    _path: String,
}

#[derive(Deserialize)]
struct Stream {
    url: String,
    #[serde(rename = "stream_key")]
    _stream_key: Option<String>,
    #[serde(rename = "max_len")]
    _max_len: Option<u64>,
    #[serde(rename = "password")]
    _password: Option<SecretString>,
    #[serde(rename = "durable")]
    _durable: Option<bool>,
}

#[derive(Deserialize)]
struct Redact {
    #[serde(rename = "fields")]
    _fields: Vec<String>,
}

#[derive(Deserialize)]
struct Coalesce {
    #[serde(rename = "window")]
    _window: Period,
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default, rename = "topics")]
    _topics: Vec<String>,
    #[serde(default, rename = "except")]
    _except: Vec<String>,
}

struct Pass(Recipient<Batch>);

impl Actor for Pass {
    type Context = Context<Self>;
}

impl Handler<Batch> for Pass {
    type Result = <Batch as actix::Message>::Result;

    fn handle(&mut self, _: Batch, _: &mut Self::Context) -> Self::Result {
        let _ = &self.0;
    }
}

pub(crate) fn kinds() -> Registry {
    Registry::empty()
        .sink("terminal", |_: Terminal| Null)
        .sink("file", |_: File| Null)
        .try_sink("stream", |config: Stream| match config.url.split_once("://") {
            Some(("redis", _)) => Ok(Null),
            Some(_) => {
                Err(format!("url: `{}` is not the address of a Redis; begin it with `redis://`", config.url))
            }
            None => Err(format!("url: `{0}` is no address; write `redis://{0}:6379`", config.url)),
        })
        .processor("redact", |_: Redact| Some::<Event>)
        .processor("coalesce", |_: Coalesce| Some::<Event>)
        .processor("filter", |_: Filter| Some::<Event>)
        .actor("usage", |next, _: Coalesce| Pass(next))
}

#[test]
fn an_actor_of_ones_own_can_be_named_and_its_keys_are_checked() {
    let with = |keys: &str| format!("processors:\n  - usage: {keys}\nsinks:\n  a: {{ type: terminal }}\n");
    topology(&[("env", &with("{ window: 1s }"))], &[]).expect("known");
    assert!(errors(&with("{ windw: 1s }"), &[]).contains("did you mean `window`?"));
}

#[test]
fn a_kind_that_denies_unknown_fields_itself_gets_the_same_place() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(rename = "level")]
        _level: u8,
    }
    let dir = super::folder(&[("env", "sinks:\n  a:\n    type: strict\n    level: 1\n    levle: 2\n")]);
    let kinds = Registry::empty().sink("strict", |_: Strict| Null);
    let options = Default::default();
    let error = streamll::topology::Topology::load_with(dir.path(), "env", &kinds, &options)
        .expect_err("unknown key");
    let at = error.problems[0].at.as_ref().expect("a place");
    assert_eq!((at.line, at.column, error.problems[0].path.as_str()), (5, 5, "sinks.a.levle"));
}
