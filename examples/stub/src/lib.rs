//! A stub of an OpenAI-compatible server on the loopback: chat completions, whole or streamed, with tools and usage.
//!
//! It answers from what it is given: with those sentences of the system message that have most in common with the question,
//! with a call of a tool where there is one, and then with what the tool said. The model `stub-500` fails.

mod chat;
mod reply;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use chat::Chat;

/// The pause before each token, in milliseconds: about as fast as people read, unless this variable says something else.
const DELAY: (&str, u64) = ("OPENAI_STUB_DELAY_MS", 40);

/// The model that always fails.
const BROKEN: &str = "stub-500";

type Body = BoxBody<Bytes, Infallible>;

/// Starts the server on a thread of its own, for as long as the process lives, and returns its base URL.
///
/// # Errors
/// When the machine has no port or no thread to give.
pub fn start() -> io::Result<String> {
    let delay = std::env::var(DELAY.0).ok().and_then(|delay| delay.parse().ok()).unwrap_or(DELAY.1);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || runtime.block_on(serve(listener, Duration::from_millis(delay)));
    thread::Builder::new().name("openai-stub".to_owned()).spawn(serve)?;
    Ok(format!("http://{address}/v1"))
}

async fn serve(listener: TcpListener, delay: Duration) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let answer =
            service_fn(move |request| async move { Ok::<_, Infallible>(answer(request, delay).await) });
        // A client that hangs up is no trouble of the server.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), answer));
    }
}

async fn answer(request: Request<Incoming>, delay: Duration) -> Response<Body> {
    if request.method() != Method::POST || request.uri().path() != "/v1/chat/completions" {
        return refusal(StatusCode::NOT_FOUND, "there is nothing but POST /v1/chat/completions");
    }
    let Ok(body) = request.into_body().collect().await else {
        return refusal(StatusCode::BAD_REQUEST, "the request was cut off");
    };
    let Ok(asked) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return refusal(StatusCode::BAD_REQUEST, "the request is no JSON");
    };
    if asked["model"] == BROKEN {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the model is overloaded");
    }
    static ANSWERS: AtomicU64 = AtomicU64::new(1);
    let chat = Chat::new(&asked, ANSWERS.fetch_add(1, Ordering::Relaxed));
    if asked["stream"] == true {
        stream(chat, delay)
    } else {
        tokio::time::sleep(delay).await;
        whole(StatusCode::OK, &chat.whole())
    }
}

/// One event for each chunk, each after a pause. It ends when the client goes.
fn stream(chat: Chat, delay: Duration) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for chunk in chat.chunks() {
            tokio::time::sleep(delay).await;
            sender.send_data(format!("data: {chunk}\n\n").into()).await?;
        }
        sender.send_data("data: [DONE]\n\n".into()).await
    });
    response(StatusCode::OK, "text/event-stream", body.boxed())
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    whole(status, &json!({ "error": { "message": message, "type": kind, "param": null, "code": null } }))
}

fn whole(status: StatusCode, json: &Value) -> Response<Body> {
    response(status, "application/json", Full::from(json.to_string()).boxed())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
