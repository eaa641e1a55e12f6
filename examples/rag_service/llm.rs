//! A client for models that speak the streaming API of OpenAI, over plain HTTP.

use std::io;

use futures_util::stream;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use streamll::Usage;
use tokio::net::TcpStream;
use tokio_stream::Stream;

/// What a model streams.
pub(crate) enum Piece {
    Text(String),
    /// How many tokens it took; the last piece.
    Usage(Usage),
}

impl Piece {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Piece::Text(text) => Some(text),
            Piece::Usage(_) => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LlmError {
    #[error("the model answers {0}: {1}")]
    Status(u16, String),
    #[error("the model cannot be reached: {0}")]
    Connection(#[from] io::Error),
    #[error("the answer is cut off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the answer is no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A server of models.
pub(crate) struct Client {
    base_url: Uri,
}

impl Client {
    pub(crate) fn new(base_url: &str) -> Result<Client, LlmError> {
        Ok(Client { base_url: base_url.parse().map_err(hyper::http::Error::from)? })
    }

    /// Asks a model a question about some notes.
    pub(crate) async fn chat(
        &self,
        model: &str,
        notes: &str,
        question: &str,
    ) -> Result<impl Stream<Item = Result<Piece, LlmError>> + use<>, LlmError> {
        let asked = json!({
            "model": model,
            "messages": [{ "role": "system", "content": notes }, { "role": "user", "content": question }],
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let host = self.base_url.authority().map_or("", |authority| authority.as_str());
        let request = Request::post(format!("{}/chat/completions", self.base_url.path()))
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(asked.to_string()))?;

        let (mut sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(host).await?)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            let said = response.into_body().collect().await?.to_bytes();
            return Err(LlmError::Status(status.as_u16(), String::from_utf8_lossy(&said).into_owned()));
        }
        let events = Events { body: response.into_body(), read: Vec::new() };
        Ok(stream::unfold(events, |mut events| async move {
            let piece = events.next_piece().await.transpose()?;
            Some((piece, events))
        }))
    }
}

/// Server-sent events, as they come.
struct Events {
    body: Incoming,
    /// What has come and is not a whole line yet.
    read: Vec<u8>,
}

impl Events {
    async fn next_piece(&mut self) -> Result<Option<Piece>, LlmError> {
        loop {
            while let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let data = line.strip_prefix(b"data: ").filter(|data| !data.starts_with(b"[DONE]"));
                let chunk: Value = data.map(serde_json::from_slice).transpose()?.unwrap_or_default();
                if let Some(piece) = piece(&chunk) {
                    return Ok(Some(piece));
                }
            }
            let Some(frame) = self.body.frame().await.transpose()? else { return Ok(None) };
            self.read.extend(frame.into_data().unwrap_or_default());
        }
    }
}

fn piece(chunk: &Value) -> Option<Piece> {
    let text = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty());
    text.map(|text| Piece::Text(text.to_owned())).or_else(|| Usage::read(chunk).map(Piece::Usage))
}
