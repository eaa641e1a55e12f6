//! The endpoint: a question comes in, an answer goes out as server-sent events, token by token.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionRequestSystemMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequest,
    CreateChatCompletionStreamResponse,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use serde::Deserialize;
use streamll::{TokenStream as _, context, with_context};
use tokio_stream::{Stream, StreamExt as _};

/// What the model knows.
const NOTES: &str = "The Moon pulls on the water of the sea. The Sun pulls on the water too, but less. Every six hours \
                     the tide does turn.";

/// What a visitor sends.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    conversation_id: String,
    model: String,
    question: String,
}

/// `POST /chat`
pub(crate) async fn chat(
    State(openai): State<Client<OpenAIConfig>>,
    Json(asked): Json<Asked>,
) -> Result<Sse<impl Stream<Item = Result<Event, OpenAIError>>>, (StatusCode, String)> {
    let ids = context! { conversation_id = asked.conversation_id };
    let answer = with_context(ids, answer(&openai, &asked)).await;
    answer.map(Sse::new).map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
}

/// Asks the model. What it streams is polled by axum, long after this is done; the tap keeps the ids of the conversation.
#[tracing::instrument(skip_all, fields(model = asked.model), err)]
async fn answer(
    openai: &Client<OpenAIConfig>,
    asked: &Asked,
) -> Result<impl Stream<Item = Result<Event, OpenAIError>> + use<>, OpenAIError> {
    let request = CreateChatCompletionRequest {
        model: asked.model.clone(),
        messages: vec![
            ChatCompletionRequestSystemMessage::from(NOTES).into(),
            ChatCompletionRequestUserMessage::from(&*asked.question).into(),
        ],
        ..Default::default()
    };
    let chunks = openai.chat().create_stream(request).await?;
    let chunks = chunks.tokens("answer", text).errors(|chunk| chunk.as_ref().err()).operation("llm_call");
    Ok(chunks.filter_map(|chunk| match text(&chunk) {
        Some(text) => Some(Ok(Event::default().data(text))),
        None => chunk.err().map(Err),
    }))
}

/// The text in an item of the stream.
fn text(chunk: &Result<CreateChatCompletionStreamResponse, OpenAIError>) -> Option<&str> {
    let text = chunk.as_ref().ok()?.choices.first()?.delta.content.as_deref()?;
    (!text.is_empty()).then_some(text)
}
