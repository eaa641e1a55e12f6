//! Dead letters as entries of another stream. In a cluster that stream has a slot of its own, and mostly another node.

use std::future::Future;
use std::sync::Arc;

use redis::{Pipeline, Value};
use streamll_actors::sink::DeliveryError;
use tokio::sync::Mutex;

use super::nodes::Nodes;
use super::server::Server;
use super::words;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, Scene, Stage, explain};
use crate::consume::dead_letter::Letter;

/// The stream that keeps dead letters.
#[derive(Debug)]
pub(super) struct LetterStream {
    key: String,
    /// The connection to the node of a cluster that has it, once there were letters.
    link: Arc<Mutex<Option<Link>>>,
}

impl LetterStream {
    pub(super) fn new(key: String) -> LetterStream {
        LetterStream { key, link: Arc::default() }
    }

    /// Adds a letter.
    pub(super) fn keep(
        &self,
        server: &Server,
        letter: &Letter,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send + 'static + use<> {
        let (key, shown, control) = (self.key.clone(), server.shown().to_owned(), server.control());
        let command = server.place.dead_letter(&key, letter);
        let elsewhere = server.nodes.is_cluster.then(|| (server.nodes.clone(), self.link.clone()));
        async move {
            let added = match (elsewhere, control) {
                (Some((nodes, link)), _) => {
                    add_in_cluster(nodes, &mut *link.lock().await, &key, &command).await
                }
                (None, Some(mut connection)) => {
                    connection.send_packed_commands(&command, 0, command.len()).await.map_err(|error| {
                        let topic = words::topic(&key);
                        explain(&error, &Scene { stage: Stage::Repeatable, last_words: &[], topic })
                    })
                }
                (None, None) => return Err(DeliveryError::unavailable("not connected")),
            };
            outcome(added, &key).map_err(|failure| failure.at(&shown))
        }
    }
}

/// Whether a letter was added, from the replies.
fn outcome(added: Result<Vec<Value>, Failure>, key: &str) -> Result<(), Failure> {
    let added = added?;
    let [Value::ServerError(error)] = &added[..] else { return Ok(()) };
    Err(match error.code() {
        "NOPERM" => {
            Failure::misconfigured(format!("the user of url may not write there: allow it `+xadd ~{key}`"))
        }
        "MOVED" | "ASK" | "TRYAGAIN" => Failure::unavailable(format!(
            "`{key}` moves to another node of the cluster, and is looked for there"
        )),
        code => words::reply(code, error.details().unwrap_or_default(), key),
    })
}

/// Adds a letter at the node that has the slot of its stream.
async fn add_in_cluster(
    mut nodes: Nodes,
    known: &mut Option<Link>,
    key: &str,
    command: &Pipeline,
) -> Result<Vec<Value>, Failure> {
    let mut link = match known.take().filter(Link::is_alive) {
        Some(link) => link,
        None => nodes.find(key).await?.link,
    };
    let replies = link.ask(command).await.map_err(|error| {
        let (last_words, topic) = (link.wire().last_words(), words::topic(key));
        explain(&error, &Scene { stage: Stage::Repeatable, last_words: &last_words, topic })
    })?;
    // The refusal may be that of a node which has lost the slot: the next letter looks for the node anew.
    if !matches!(replies.first(), Some(Value::ServerError(_))) {
        *known = Some(link);
    }
    Ok(replies)
}
