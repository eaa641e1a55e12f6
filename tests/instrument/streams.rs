//! A function that returns a stream ends when the stream ends, or is dropped.

use std::pin::Pin;

use streamll::instrument;
use tokio_stream::{Stream, StreamExt as _, iter};

use super::{block_on, lines, record, record_async};

type BoxStream<'a, T> = Pin<Box<dyn Stream<Item = T> + Send + 'a>>;

struct Model {
    words: Vec<String>,
}

#[instrument(inputs = false)]
impl Model {
    fn words(&self) -> impl Stream<Item = &str> + Send {
        below();
        iter(self.words.iter().map(|word| {
            below();
            word.as_str()
        }))
    }

    fn boxed(&self) -> Pin<Box<dyn Stream<Item = String> + Send + '_>> {
        Box::pin(iter(self.words.clone()))
    }

    fn by_alias(&self) -> BoxStream<'_, usize> {
        Box::pin(iter(self.words.iter().map(String::len)))
    }

    fn in_a_result(&self, fails: bool) -> Result<impl Stream<Item = u8> + use<>, String> {
        if fails {
            return Err("no words".into());
        }
        Ok(iter([1, 2]))
    }

    async fn later(&self) -> impl Stream<Item = u8> + use<> {
        tokio::task::yield_now().await;
        iter([1, 2, 3])
    }

    async fn later_in_a_result(&self, fails: bool) -> Result<BoxStream<'static, u8>, String> {
        tokio::task::yield_now().await;
        if fails {
            Err("no words")?;
        }
        Ok(Box::pin(iter([1, 2, 3, 4])))
    }

    fn hidden_future(&self) -> impl Future<Output = Result<Pin<Box<dyn Stream<Item = u8>>>, String>> + use<> {
        async { Ok(Box::pin(iter([1_u8])) as Pin<Box<dyn Stream<Item = u8>>>) }
    }

    fn breaks(&self) -> impl Stream<Item = Result<u8, String>> + use<> {
        iter([Ok(1), Err("cut".to_owned()), Err("again".to_owned())])
    }

    fn panics(&self) -> impl Stream<Item = u8> + use<> {
        iter([1, 2]).map(|n| if n == 2 { panic!("at {n}") } else { n })
    }
}

#[instrument]
fn below() {}

fn model() -> Model {
    Model { words: vec!["forty".into(), "-two".into()] }
}

fn kinds_of<'a>(events: &'a [serde_json::Value], operation: &str) -> Vec<&'a str> {
    let of_it = events.iter().filter(|event| event["operation"] == operation);
    of_it.map(|event| event["event_type"].as_str().unwrap()).collect()
}

#[test]
fn the_scope_lasts_as_long_as_the_stream_and_what_it_does_is_inside() {
    let model = model();
    let (words, events) = record_async(async {
        let stream = model.words();
        below();
        stream.collect::<Vec<_>>().await
    });
    assert_eq!(words, ["forty", "-two"]);
    let call = &events[0];
    let parents: Vec<_> = events
        .iter()
        .filter(|event| event["operation"] == "below" && event["event_type"] == "start")
        .map(|event| event["parent_id"] == call["span_id"])
        .collect();
    assert_eq!(parents, [true, false, true, true], "in the body, after the call, at each item");
    assert_eq!(lines(&events).last().unwrap(), "end words {}");
}

#[test]
fn streams_in_boxes_results_and_futures_end_the_scope_too() {
    let model = model();
    let (counts, events) = record_async(async {
        [
            model.boxed().collect::<Vec<_>>().await.len(),
            model.by_alias().collect::<Vec<_>>().await.len(),
            model.in_a_result(false).unwrap().collect::<Vec<_>>().await.len(),
            model.later().await.collect::<Vec<_>>().await.len(),
            model.later_in_a_result(false).await.unwrap().collect::<Vec<_>>().await.len(),
            model.hidden_future().await.unwrap().collect::<Vec<_>>().await.len(),
        ]
    });
    assert_eq!(counts, [2, 2, 2, 3, 4, 1]);
    let names = ["boxed", "by_alias", "in_a_result", "later", "later_in_a_result", "hidden_future"];
    let expected: Vec<_> =
        names.iter().flat_map(|name| [format!("start {name} {{}}"), format!("end {name} {{}}")]).collect();
    assert_eq!(lines(&events), expected);
}

#[test]
fn without_a_stream_the_error_ends_the_scope() {
    let model = model();
    let (_, events) = record_async(async {
        assert!(model.in_a_result(true).is_err());
        assert!(model.later_in_a_result(true).await.is_err());
    });
    let error = |name: &str| format!(r#"error {name} {{"error_type":"Error","error_message":"no words"}}"#);
    assert_eq!(
        lines(&events),
        [
            "start in_a_result {}".to_owned(),
            error("in_a_result"),
            "start later_in_a_result {}".into(),
            error("later_in_a_result"),
        ]
    );
}

#[test]
fn a_stream_that_is_dropped_is_cancelled() {
    let model = model();
    let (_, events) = record_async(async {
        let mut stream = Box::pin(model.later().await);
        assert_eq!(stream.next().await, Some(1));
        drop(stream);
        drop(model.boxed());
    });
    assert_eq!(
        (kinds_of(&events, "later"), kinds_of(&events, "boxed")),
        (vec!["start", "error"], vec!["start", "error"])
    );
    for error in [&events[1], &events[3]] {
        assert_eq!(error["data"]["error_type"], "Cancelled");
    }
}

#[test]
fn the_first_err_among_the_items_makes_it_end_with_an_error() {
    let model = model();
    let (items, events) = record(|| block_on(model.breaks().collect::<Vec<_>>()));
    assert_eq!(items, [Ok(1), Err("cut".to_owned()), Err("again".to_owned())]);
    assert_eq!(lines(&events)[1], r#"error breaks {"error_type":"Error","error_message":"cut"}"#);
}

#[test]
fn a_panic_in_the_stream_ends_it_and_goes_on() {
    let model = model();
    let (panic, events) = record(|| {
        let run = || block_on(model.panics().collect::<Vec<_>>());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("it panics")
    });
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "at 2");
    assert_eq!(lines(&events)[1], r#"error panics {"error_type":"Panic","error_message":"at 2"}"#);
}
