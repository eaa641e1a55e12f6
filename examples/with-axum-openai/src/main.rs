//! A chat of axum and async-openai, whose answers are streamed to browsers, seen by streamll: every token with its
//! conversation.
//!
//! `STREAMLL_ENV=development cargo run` serves four visitors, against a stub model that it starts itself: two ask at the same
//! time, one is asked of a model that fails, and one leaves in the middle of the answer. With the argument `serve` it waits
//! for yours, until Ctrl-C.

mod chat;

use std::error::Error;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use axum::Router;
use axum::routing::post;
use serde_json::json;
use streamll::LayerExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing_subscriber::prelude::*;

/// Asks, and reads so many pieces of the answer at most, as they come.
async fn visit(
    url: &str,
    who: &str,
    model: &str,
    question: &str,
    pieces: usize,
) -> Result<(), reqwest::Error> {
    let asked = json!({ "conversation_id": who, "model": model, "question": question });
    let mut answer = reqwest::Client::new().post(url).json(&asked).send().await?;
    let mut read = 0;
    while read < pieces && answer.chunk().await?.is_some() {
        read += 1;
    }
    Ok(())
}

async fn visits(url: &str) -> Result<(), reqwest::Error> {
    tokio::try_join!(
        visit(url, "ada", "stub-1", "What pulls on the water?", usize::MAX),
        visit(url, "ben", "stub-1", "When does the tide turn?", usize::MAX),
    )?;
    visit(url, "cleo", "stub-500", "What pulls on the water?", usize::MAX).await?;
    visit(url, "dan", "stub-1", "What pulls on the water?", 1).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let _streamll = streamll::init()?;
    // async-openai opens no spans: those of this program stand for them.
    tracing_subscriber::registry().with(streamll::layer().targets(["with_axum_openai"])).init();

    let config = OpenAIConfig::new().with_api_base(openai_stub::start()?).with_api_key("no-key");
    let app = Router::new().route("/chat", post(chat::chat)).with_state(Client::with_config(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/chat", listener.local_addr()?);
    let waits = std::env::args().nth(1).is_some_and(|argument| argument == "serve");
    let (leave, left) = oneshot::channel();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = if waits { tokio::signal::ctrl_c().await.is_ok() } else { left.await.is_ok() };
    });
    let server = tokio::spawn(server.into_future());
    if waits {
        let asked =
            json!({ "conversation_id": "you", "model": "stub-1", "question": "What pulls on the water?" });
        println!("curl --no-buffer --json '{asked}' {url}");
    } else {
        visits(&url).await?;
        let _ = leave.send(());
    }
    // It ends when nobody is connected any more.
    server.await??;
    Ok(())
}
