//! Chats of genai, with a tool, seen by streamll: its spans by a layer, its tokens by a tap on its streams.
//!
//! `STREAMLL_ENV=development cargo run` asks a stub model, which it starts itself, three times: it answers, it fails, and
//! nobody waits for the end of its answer. With the name of one of these as an argument, that one alone.

use std::error::Error;

use genai::adapter::AdapterKind;
use genai::chat::{ChatOptions, ChatRequest, ChatStreamEvent, StreamEnd, Tool, ToolCall, ToolResponse};
use genai::otel::agent::execute_tool_span;
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};
use serde_json::json;
use streamll::{TokenStream as _, context, trace, with_context};
use tokio_stream::StreamExt as _;
use tracing_subscriber::prelude::*;

/// A model of the stub, and what is asked of it.
struct Pilot {
    client: Client,
    target: ServiceTarget,
}

impl Pilot {
    fn new(base_url: &str, model: &'static str) -> Result<Pilot, genai::Error> {
        let endpoint = Endpoint::from_owned(format!("{base_url}/"));
        let model = ModelIden::from_static(AdapterKind::OpenAI, model);
        let target = ServiceTarget { endpoint, auth: AuthData::Key("no-key".to_owned()), model };
        Ok(Pilot { client: Client::builder().build()?, target })
    }

    /// Reads the answer to a question, for so many words at most.
    async fn ask(&self, question: &str, words: usize) -> Result<(), genai::Error> {
        let schema = json!({ "type": "object", "properties": { "port": { "type": "string" } } });
        let table =
            Tool::new("tide_table").with_description("High water in a port, today").with_schema(schema);
        let mut request = ChatRequest::from_user(question).with_tools([table]);
        // The first answer calls the tool; the second one says what the tool said.
        while let Some(end) = self.turn(&request, words).await? {
            let Some(call) = end.captured_tool_calls().and_then(|calls| calls.first().copied().cloned())
            else {
                break;
            };
            let found = ToolResponse::from_tool_call(&call, tide_table(&call));
            request = request.append_tool_use_from_stream_end(&end, found);
        }
        Ok(())
    }

    /// One call of the model; `None` where nobody waited for its end.
    async fn turn(&self, request: &ChatRequest, words: usize) -> Result<Option<StreamEnd>, genai::Error> {
        let options = ChatOptions::default().with_capture_usage(true).with_capture_tool_calls(true);
        let response =
            self.client.exec_chat_stream(self.target.clone(), request.clone(), Some(&options)).await?;
        let answer = response.stream.tokens("answer", text).errors(|item| item.as_ref().err());
        let mut answer = std::pin::pin!(answer);
        let (mut end, mut read) = (None, 0);
        // To the end of the stream, and not to its last item only: who goes before has cancelled it.
        while let Some(item) = answer.next().await {
            match item? {
                ChatStreamEvent::End(last) => end = Some(last),
                ChatStreamEvent::Chunk(_) => read += 1,
                _ => {}
            }
            if read == words {
                break;
            }
        }
        Ok(end)
    }
}

/// The text in an item of a stream.
fn text(item: &Result<ChatStreamEvent, genai::Error>) -> Option<&str> {
    match item {
        Ok(ChatStreamEvent::Chunk(chunk)) => Some(&chunk.content),
        _ => None,
    }
}

/// Knows when the tide is in.
fn tide_table(call: &ToolCall) -> String {
    execute_tool_span(call).in_scope(|| {
        let port = call.fn_arguments["port"].as_str().unwrap_or_default();
        let times = if port == "Brest" { "04:12 and 16:37" } else { "unknown" };
        format!("high water in {port} is {times}")
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let _streamll = streamll::init()?;
    tracing_subscriber::registry().with(streamll::layer()).init();

    let base_url = openai_stub::start()?;
    let wanted = std::env::args().nth(1);
    for (name, model, words) in
        [("answered", "stub-1", usize::MAX), ("failed", "stub-500", usize::MAX), ("cancelled", "stub-1", 4)]
    {
        if wanted.as_ref().is_none_or(|wanted| wanted == name) {
            let pilot = Pilot::new(&base_url, model)?;
            let asked =
                trace("ask").module("Pilot").try_run(|_| pilot.ask("When is high water in Brest?", words));
            // What fails is among the events.
            let _ = with_context(context! { conversation_id = name }, asked).await;
        }
    }
    Ok(())
}
