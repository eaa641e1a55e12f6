//! Spans of the application itself, where its targets are asked for.

use serde_json::json;
use streamll::LayerExt as _;
use tracing::field::Empty;
use tracing::{info_span, instrument};

use super::{chat, data, names, seen_by};

#[derive(Debug)]
struct Secret;

#[instrument(target = "my_app::rag", skip(_secret), fields(found = Empty), err)]
fn retrieve(query: &str, top_k: u64, _secret: Secret) -> Result<u64, String> {
    tracing::Span::current().record("found", 3_u64);
    if top_k == 0 { Err("nothing was asked for".to_owned()) } else { Ok(top_k) }
}

#[instrument(target = "my_app::rag::deep", err(Debug))]
async fn answer(query: &str) -> Result<u64, u64> {
    tokio::task::yield_now().await;
    let _ = chat!();
    Err(7)
}

#[test]
fn a_function_is_told_with_its_fields_and_its_error() {
    let events = seen_by(
        |layer| layer.targets(["my_app::rag"]),
        |_| {
            assert!(retrieve("six times seven", 2, Secret).is_ok());
            assert!(retrieve("six times seven", 0, Secret).is_err());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert!(runtime.block_on(answer("six")).is_err());
        },
    );
    assert_eq!(
        names(&events),
        [
            "rag start retrieve",
            "rag end retrieve",
            "rag start retrieve",
            "rag error retrieve",
            "deep start answer",
            "llm llm_start chat",
            "llm llm_end chat",
            "deep error answer",
        ]
    );
    assert_eq!(data(&events[0]), json!({"query": "six times seven", "top_k": 2}));
    assert_eq!(data(&events[1]), json!({"found": 3}));
    let expected = json!({"found": 3, "error_type": "Error", "error_message": "nothing was asked for"});
    assert_eq!(data(&events[3]), expected);
    assert_eq!(data(&events[7])["error_message"], "7");
    assert_eq!(events[5].json["parent_id"], events[4].json["span_id"]);
}

#[instrument(target = "my_app::rag", err)]
fn load() -> anyhow::Result<()> {
    Err(anyhow::anyhow!("file not found").context("while loading"))
}

#[test]
fn an_error_is_told_with_all_its_causes() {
    let events = seen_by(
        |layer| layer.targets(["my_app::rag"]),
        |_| {
            assert!(load().is_err());
            let span = info_span!(target: "my_app::rag", "reads", error = Empty);
            let wrong = serde_json::from_str::<u8>("x").unwrap_err();
            let wrong = std::io::Error::new(std::io::ErrorKind::InvalidData, Outer(wrong));
            span.record("error", &wrong as &dyn std::error::Error);
            drop(span);
            let span = info_span!(target: "my_app::rag", "shows", error = Empty, other = Empty);
            span.record("error", tracing::field::debug(Some(1)));
            span.record("other", tracing::field::debug(Some(1)));
            drop(span);
        },
    );
    let told =
        |at: usize| (data(&events[at])["error_type"].clone(), data(&events[at])["error_message"].clone());
    assert_eq!(told(1), (json!("Error"), json!("while loading: file not found")));
    assert_eq!(told(3), (json!("io::Error"), json!("outer: expected value at line 1 column 1")));
    assert_eq!(told(5), (json!("Error"), json!("Some(1)")));
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] serde_json::Error);

#[test]
fn only_the_targets_that_were_named_are_told() {
    let events = seen_by(
        |layer| layer.targets(["my_app::rag"]).targets(vec!["other".to_owned()]),
        |_| {
            drop(info_span!(target: "my_app::rag", "told"));
            drop(info_span!(target: "my_app::rag::inner", "told"));
            drop(info_span!(target: "other", "told"));
            drop(info_span!(target: "my_app::ragged", "not told"));
            drop(info_span!(target: "my_app", "not told"));
            tracing::error!(target: "my_app::rag", error = "outside of every span", "not told");
        },
    );
    assert_eq!(events.len(), 6);
    assert!(events.iter().all(|event| event.json["operation"] == "told"));
}

#[test]
fn what_was_said_is_left_out_of_the_applications_spans_too() {
    let events = seen_by(
        |layer| layer.targets(["my_app"]),
        |_| drop(info_span!(target: "my_app", "told", gen_ai.prompt = "canary", mine = 1)),
    );
    assert_eq!(data(&events[0]), json!({"mine": 1}));
}
