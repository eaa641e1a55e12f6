//! Connecting with a deadline, over TCP or TLS, and the connection for as long as it lasts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, Value};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::ANSWER;
use super::address::Address;
use super::error::{Failure, Scene, Stage, Topic, explain, no_tls, unconnected, unreachable};
use super::wire::{Tapped, Wire};
use crate::brokers::net;

/// How long connecting may take, from the lookup of the name to the first answers. The library's own deadline covers two hidden
/// retries.
pub(crate) const CONNECT: Duration = Duration::from_secs(3);
/// How much of that TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long sent bytes may stay without a sign of the other side; the system's own limit is a quarter of an hour.
const UNHEARD: Duration = Duration::from_secs(10);

/// A connection. Dropped, it is closed at once: commands that the server has not read yet are then mostly not run.
#[derive(Debug)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    wire: Arc<Wire>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Connects and logs in, and asks the first questions; also returns the answers. `on_end` is called when the server has
    /// hung up.
    pub(crate) async fn open(
        address: &Address,
        ca_file: Option<&Path>,
        questions: &Pipeline,
        topic: Topic<'_>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<(Link, Vec<Value>), Failure> {
        let connected = async {
            let stream = tcp(address).await?;
            if !address.tls {
                return Link::speak(stream, address, questions, topic, on_end).await;
            }
            let trust = net::trust(ca_file).await.map_err(|why| Failure::misconfigured(why.to_string()))?;
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| Failure::misconfigured("its host cannot stand in a certificate: change url"))?;
            let Ok(stream) = timeout(HANDSHAKE, TlsConnector::from(trust).connect(name, stream)).await else {
                return Err(if speaks_plain(address).await { no_tls() } else { Failure::late(CONNECT) });
            };
            let stream = stream.map_err(|error| unconnected(&error))?;
            Link::speak(stream, address, questions, topic, on_end).await
        };
        timeout(CONNECT, connected).await.unwrap_or_else(|_| Err(Failure::late(CONNECT)))
    }

    async fn speak(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: &Address,
        questions: &Pipeline,
        topic: Topic<'_>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<(Link, Vec<Value>), Failure> {
        let wire = Arc::new(Wire::default());
        let failed = |error: RedisError| {
            let last_words = wire.last_words();
            explain(&error, &Scene { stage: Stage::Connecting, last_words: &last_words, topic })
        };
        let tapped = Tapped { stream, wire: wire.clone() };
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&address.login, tapped, config).await.map_err(failed)?;
        let driver = spawn(async move {
            driver.await;
            on_end();
        });
        let mut link = Link { connection, driver: driver.abort_handle(), wire: wire.clone() };
        let answers = link.ask(questions).await.map_err(failed)?;
        Ok((link, answers))
    }

    /// Whether the server has not hung up: known before anything is written.
    pub(crate) fn is_alive(&self) -> bool {
        !self.driver.is_finished()
    }

    /// Sends commands and awaits the reply to each; errors of the server are among the replies.
    pub(crate) async fn ask(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        self.connection.send_packed_commands(commands, 0, commands.len()).await
    }

    /// The same connection once more, for a second transaction under way.
    pub(crate) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The wire, to keep: it outlives the connection, and has its last words.
    pub(crate) fn shared_wire(&self) -> Arc<Wire> {
        self.wire.clone()
    }
}

/// Whether a server that gave no answer to TLS gives one without: Redis waits silently for the end of what it takes for
/// a command. Only a `PING` goes out in plain text, and nothing comes of it but a message.
async fn speaks_plain(address: &Address) -> bool {
    let Ok(mut stream) = tcp(address).await else { return false };
    let mut sign = [0];
    stream.write_all(b"PING\r\n").await.is_ok()
        && stream.read_exact(&mut sign).await.is_ok()
        && matches!(sign, [b'+' | b'-'])
}

async fn tcp(address: &Address) -> Result<TcpStream, Failure> {
    net::dial(&address.host, address.port, CONNECT, UNHEARD).await.map_err(|error| unreachable(&error))
}
