//! A small RAG service, instrumented: its own retrieval, a client of its own for models, and a topology per environment.
//!
//! `cargo run --example rag_service` answers two users, against a stub model that it starts itself and that is about as fast
//! as people read; arguments are questions to ask instead. `STREAMLL_ENV=production` runs it with Redis and RabbitMQ of
//! `REDIS_URL` and `RABBITMQ_URL`; without them, at addresses where nobody listens: the answers do not care.

mod llm;
mod retrieval;

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use streamll::topology::LoadOptions;
use streamll::{Registry, TokenStream as _, Topology, context, trace, with_context};
use tokio_stream::StreamExt as _;

use llm::{Client, LlmError, Piece};
use retrieval::{Document, Library};

/// Answers questions from what is in its library.
struct RagService {
    library: Library,
    llm: Client,
    /// The second one is asked where the first one fails.
    models: [&'static str; 2],
}

impl RagService {
    #[streamll::instrument]
    async fn answer(&self, question: &str) -> Result<String, LlmError> {
        let found = self.retrieve(question);
        let [first, second] = self.models;
        match self.generate(first, question, &found).await {
            Err(LlmError::Status(500.., _)) => self.generate(second, question, &found).await,
            answer => answer,
        }
    }

    fn retrieve(&self, question: &str) -> Vec<&Document> {
        let scope = trace("retrieval").module("Library").enter();
        let found = self.library.search(question, 2);
        let ids: Vec<_> = found.iter().map(|document| document.id).collect();
        scope.emit("docs_found", json!({ "count": ids.len(), "ids": ids }));
        found
    }

    async fn generate(&self, model: &str, question: &str, found: &[&Document]) -> Result<String, LlmError> {
        let notes: Vec<_> = found.iter().map(|document| document.text).collect();
        let call = trace("llm_call").module("Llm").input("model", model);
        call.try_run(|scope| async move {
            let pieces = self.llm.chat(model, &notes.join("\n"), question).await?;
            let pieces = pieces.tokens("answer", |piece| piece.as_ref().ok()?.text()).operation("stream");
            let mut pieces = std::pin::pin!(pieces.errors(|piece| piece.as_ref().err()));
            let mut answer = String::new();
            while let Some(piece) = pieces.next().await {
                match piece? {
                    Piece::Text(text) => answer.push_str(&text),
                    Piece::Usage(usage) => scope.usage(usage.provider("stub")),
                }
            }
            Ok(answer)
        })
        .await
    }
}

/// The topology of the environment, from the same files as everywhere. What they want to know and nobody has said is filled
/// in: brokers at addresses where nobody listens, and a folder that goes with this run.
fn topology(scratch: &Path) -> Result<Topology, Box<dyn Error>> {
    let environment = env::var("STREAMLL_ENV").unwrap_or_else(|_| "development".to_owned());
    let folder = env::var("STREAMLL_TOPOLOGIES");
    let folder = folder.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/topologies").to_owned());
    let mut options = LoadOptions::from_process();
    for (variable, value) in [
        ("DATA_DIR", scratch.display().to_string()),
        ("REDIS_URL", "redis://127.0.0.1:1".to_owned()),
        ("RABBITMQ_URL", "amqp://127.0.0.1:1".to_owned()),
    ] {
        options.vars.entry(variable.to_owned()).or_insert(value);
    }
    Ok(Topology::load_with(folder, &environment, &Registry::default(), &options)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let handle = topology(scratch.path())?.start()?;
    streamll::install(&handle);

    let llm = Client::new(&openai_stub::start()?)?;
    let mut service = RagService { library: Library::default(), llm, models: ["stub-1", "stub-2"] };
    let asked: Vec<String> = env::args().skip(1).collect();
    let ask = async |service: &RagService, conversation_id: &str, tenant: &str, question: &str| {
        let ids = context! { conversation_id, tags.tenant = tenant };
        with_context(ids, service.answer(question)).await
    };
    if asked.is_empty() {
        ask(&service, "conv_1", "acme", "Why do the tides come twice a day?").await?;
        ask(&service, "conv_1", "acme", "And which tides are higher than others?").await?;
        // The usual model is down for the other one.
        service.models = ["stub-500", "stub-1"];
        ask(&service, "conv_2", "globex", "What does the beam of the lighthouse say?").await?;
    }
    for question in &asked {
        println!("{}", ask(&service, "you", "you", question).await?);
    }

    // Nobody waits for brokers that are not there. What is for them stays in `DATA_DIR` where its buffer is on disk.
    let ended = handle.shutdown(Duration::from_secs(5)).await;
    for sink in ended.status.sinks() {
        let (delivered, accepted) = (sink.balance.delivered, sink.balance.accepted);
        println!("{:<8} {sink}: {delivered} of {accepted} delivered", sink.name);
    }
    Ok(())
}
