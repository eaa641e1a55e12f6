//! `stream_fields(answer)`: the items of the returned stream are tokens.

use std::pin::Pin;

use serde_json::json;
use streamll::{AsToken, Usage, instrument};
use tokio_stream::{Stream, StreamExt as _, iter};

use super::{end, error, lines, record_async, start};

/// As libraries have them: a piece of text, a call of a tool, or the end.
enum Chunk {
    Text(String),
    Tool(&'static str),
    /// The tokens of the input and of the output.
    Done(u64, u64),
}

impl AsToken for Chunk {
    fn as_token(&self) -> Option<&str> {
        match self {
            Chunk::Text(text) => Some(text),
            Chunk::Tool(_) | Chunk::Done(..) => None,
        }
    }

    fn usage(&self) -> Option<Usage> {
        match self {
            Chunk::Done(input, output) => Some(Usage::new(*input, *output)),
            _ => None,
        }
    }
}

#[instrument(stream_fields(answer))]
fn counted(cut: bool) -> impl Stream<Item = Result<Option<Chunk>, String>> {
    streamll::usage(Usage::default().model("m"));
    let cut = if cut { vec![Err("upstream closed".to_owned())] } else { Vec::new() };
    let chunks = [Chunk::Text("forty-two".into()), Chunk::Done(1, 1), Chunk::Done(6, 2)];
    iter(chunks.into_iter().map(|chunk| Ok(Some(chunk))).chain(cut))
}

#[instrument(stream_fields(answer))]
fn texts() -> impl Stream<Item = &'static str> {
    iter(["forty", "-", "two"])
}

#[instrument(stream_fields(answer), operation = "llm_call", module = "Chat")]
async fn chunks(question: &str) -> Result<impl Stream<Item = Result<Chunk, String>> + use<>, String> {
    tokio::task::yield_now().await;
    if question.is_empty() {
        return Err("no question".into());
    }
    let cut = if question == "cut" { vec![Err("upstream closed".to_owned())] } else { Vec::new() };
    let items = [Ok(Chunk::Text("forty".into())), Ok(Chunk::Tool("search")), Ok(Chunk::Text("-two".into()))];
    Ok(iter(items.into_iter().chain(cut)))
}

#[instrument(stream_fields(answer), outputs = false)]
fn untold() -> Pin<Box<dyn Stream<Item = Option<String>> + Send>> {
    Box::pin(iter([Some("forty".to_owned()), None, Some("-two".to_owned())]))
}

#[test]
fn each_text_is_a_token_and_the_end_has_the_whole() {
    let (items, events) = record_async(async { texts().collect::<Vec<_>>().await });
    assert_eq!(items, ["forty", "-", "two"]);
    assert_eq!(
        lines(&events),
        [
            "start texts {}",
            r#"token texts {"field":"answer","token":"forty","token_index":0}"#,
            r#"token texts {"field":"answer","token":"-","token_index":1}"#,
            r#"token texts {"field":"answer","token":"two","token_index":2}"#,
            r#"end texts {"answer":"forty-two","tokens":3}"#,
        ]
    );
    for event in &events {
        assert_eq!(event["span_id"], events[0]["span_id"]);
    }
    let data = &end(&events)["data"];
    assert!(data["time_to_first_token"].is_number() && data["duration"].is_number(), "{data}");
}

#[test]
fn items_of_ones_own_say_their_text_and_those_without_pass_in_silence() {
    let (items, events) = record_async(async { chunks("why").await.unwrap().collect::<Vec<_>>().await });
    assert!(items.len() == 3 && matches!(items[1], Ok(Chunk::Tool("search"))));
    assert_eq!(start(&events)["data"], json!({ "question": "why" }));
    assert_eq!(
        lines(&events)[1..],
        [
            r#"token llm_call {"field":"answer","token":"forty","token_index":0}"#,
            r#"token llm_call {"field":"answer","token":"-two","token_index":1}"#,
            r#"end llm_call {"answer":"forty-two","tokens":2}"#,
        ]
    );
}

#[test]
fn an_err_among_the_items_ends_it_with_an_error_and_the_text_so_far() {
    let (_, events) = record_async(async { chunks("cut").await.unwrap().collect::<Vec<_>>().await });
    let data = &error(&events)["data"];
    assert_eq!((&data["error_message"], &data["answer"]), (&"upstream closed".into(), &"forty-two".into()));
    let (_, events) = record_async(async { chunks("").await.is_err() });
    assert_eq!(error(&events)["data"]["error_message"], "no question");
}

#[test]
fn a_stream_that_is_dropped_is_cancelled_with_the_text_so_far() {
    let (_, events) = record_async(async {
        let mut stream = Box::pin(texts());
        stream.next().await
    });
    let data = &error(&events)["data"];
    assert_eq!(
        (&data["error_type"], &data["answer"], &data["tokens"]),
        (&"Cancelled".into(), &"forty".into(), &1.into())
    );
}

#[test]
fn the_closing_event_says_the_usage_that_an_item_tells() {
    let (_, events) = record_async(async { counted(false).collect::<Vec<_>>().await });
    let used = r#""model":"m","input_tokens":6,"output_tokens":2,"total_tokens":8}"#;
    let last = lines(&events).pop();
    assert_eq!(last, Some(format!(r#"end counted {{"answer":"forty-two","tokens":1,{used}"#)));
    let (_, events) = record_async(async { counted(true).collect::<Vec<_>>().await });
    let data = &error(&events)["data"];
    assert_eq!((&data["model"], &data["total_tokens"]), (&json!("m"), &json!(8)));
}

#[test]
fn outputs_false_keeps_the_whole_text_out_of_the_end() {
    let (_, events) = record_async(async { untold().collect::<Vec<_>>().await });
    assert_eq!(end(&events)["data"].get("answer"), None);
    assert_eq!(events.iter().filter(|event| event["event_type"] == "token").count(), 2);
}

#[test]
fn tokens_that_are_polled_after_the_handler_is_gone_belong_to_its_call() {
    let (_, events) = record_async(async {
        let context = streamll::context! { conversation_id = "c1" };
        let stream = streamll::with_context(context, async { chunks("why").await }).await.unwrap();
        let other = streamll::context! { conversation_id = "c2" };
        streamll::with_context(other, stream.collect::<Vec<_>>()).await
    });
    for event in &events {
        assert_eq!(event["data"]["conversation_id"], "c1", "{event}");
        assert_eq!(event["span_id"], events[0]["span_id"]);
    }
}
