//! The shortest way in: one sink, one answer with its steps and tokens, and an orderly end.

use std::time::Duration;

use serde_json::json;
use streamll::{StartFailure, TokenStream as _, Topology, context, instrument, sinks, trace, with_context};
use tokio_stream::StreamExt as _;

#[instrument(module = "RagPipeline")]
async fn answer(question: &str) {
    trace("retrieval").enter().emit("docs_found", json!({ "count": 3 }));
    let model = tokio_stream::iter(["The answer", " is", " forty", "-two."]); // a client of yours
    let mut tokens = model.tokens("answer", |text| Some(*text)).operation("llm_call");
    while let Some(_for_the_user) = tokens.next().await {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartFailure> {
    let handle = Topology::builder("rag-api").sink("console", sinks::terminal()).start()?;
    streamll::install(&handle);
    with_context(context! { conversation_id = "conv_42" }, answer("What is six times seven?")).await;
    let ended = streamll::shutdown().await;
    println!("everything arrived: {}", ended.is_some_and(|ended| ended.complete));
    Ok(())
}
