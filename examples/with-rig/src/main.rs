//! An agent of rig, with a tool, seen by streamll: its spans by a layer, its tokens by a tap on its stream.
//!
//! `STREAMLL_ENV=development cargo run` asks a stub model, which it starts itself, three times: it answers, it fails, and
//! nobody waits for the end of its answer. With the name of one of these as an argument, that one alone.

mod tide_table;

use std::error::Error;

use rig_agent::prelude::*;
use rig_core::providers::openai::{OpenAIConfig, Route};
use rig_core::streaming::{Item, StreamEvent};
use streamll::{TokenStream as _, context, with_context};
use tokio_stream::StreamExt as _;
use tracing_subscriber::prelude::*;

use tide_table::TideTable;

/// The text in an item of the agent's stream.
fn text(item: &Result<MultiTurnStreamItem, PromptError>) -> Option<&str> {
    match item {
        Ok(MultiTurnStreamItem::StreamAssistantItem(Item::Event(StreamEvent::Text { text, .. }))) => {
            Some(text)
        }
        _ => None,
    }
}

/// Reads the answer to a question, for so many items at most.
async fn ask(agent: &Agent, question: &str, items: usize) {
    let answer = agent.prompt(question).max_turns(3).stream();
    let answer = answer.tokens("answer", text).errors(|item| item.as_ref().err());
    let mut answer = std::pin::pin!(answer.take(items));
    while let Some(_for_the_user) = answer.next().await {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let _streamll = streamll::init()?;
    tracing_subscriber::registry().with(streamll::layer()).init();

    let base_url = openai_stub::start()?;
    let openai = OpenAIConfig::new("no-key").with_base_url(base_url).with_route(Route::Chat).client();
    let wanted = std::env::args().nth(1);
    for (name, model, items) in
        [("answered", "stub-1", usize::MAX), ("failed", "stub-500", usize::MAX), ("cancelled", "stub-1", 12)]
    {
        if wanted.as_ref().is_none_or(|wanted| wanted == name) {
            let pilot = AgentBuilder::new(openai.completion(model)).name("pilot").tool(TideTable).build();
            let asked = ask(&pilot, "When is high water in Brest?", items);
            with_context(context! { conversation_id = name }, asked).await;
        }
    }
    Ok(())
}
