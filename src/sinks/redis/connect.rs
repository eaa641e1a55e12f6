//! Connecting with a deadline, over TCP or TLS, and the connection for as long as it lasts.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, Value};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use streamll_actors::sink::SinkContext;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{AbortHandle, spawn, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Address;
use super::error::{Failure, Scene, Stage, explain, unreachable};
use super::look::{self, Look};
use super::wire::{Tapped, Wire};

/// For everything from the name lookup to the look around. The library's own deadline is twice hidden retries long.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// For TLS, of that.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// For an answer. What comes later counts as unknown, as it may still be carried out.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// How long sent bytes may stay without a sign of the other side; the system's own limit is a quarter of an hour.
#[cfg(target_os = "linux")]
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
    /// Connects, logs in and looks around.
    pub(super) async fn open(
        address: &Address,
        ca_file: Option<&Path>,
        key: Option<&str>,
        expires: bool,
        ctx: Option<SinkContext>,
    ) -> Result<(Link, Look), Failure> {
        let (link, answers) =
            Link::asking(address, ca_file, key, &look::questions(key, expires), ctx).await?;
        Ok((link, look::read(&answers, key, expires)?))
    }

    /// Connects and logs in, and asks the first questions; also returns the answers. `key` is for messages.
    pub(crate) async fn asking(
        address: &Address,
        ca_file: Option<&Path>,
        key: Option<&str>,
        questions: &Pipeline,
        ctx: Option<SinkContext>,
    ) -> Result<(Link, Vec<Value>), Failure> {
        let connected = async {
            let stream = tcp(address).await?;
            if !address.tls {
                return Link::speak(stream, address, key, questions, ctx).await;
            }
            let tls = TlsConnector::from(trust(ca_file).await?);
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| Failure::misconfigured("its host cannot stand in a certificate: change url"))?;
            let Ok(stream) = timeout(HANDSHAKE, tls.connect(name, stream)).await else {
                return Err(if speaks_plain(address).await {
                    Failure::no_tls()
                } else {
                    Failure::late(CONNECT)
                });
            };
            let stream = stream.map_err(|error| unreachable(&error))?;
            Link::speak(stream, address, key, questions, ctx).await
        };
        timeout(CONNECT, connected).await.unwrap_or_else(|_| Err(Failure::late(CONNECT)))
    }

    async fn speak(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: &Address,
        key: Option<&str>,
        questions: &Pipeline,
        ctx: Option<SinkContext>,
    ) -> Result<(Link, Vec<Value>), Failure> {
        let wire = Arc::new(Wire::default());
        let failed = |error: RedisError| {
            let last_words = wire.last_words();
            let scene = Scene { stage: Stage::Connecting, last_words: &last_words, key: key.unwrap_or("*") };
            explain(&error, &scene)
        };
        let tapped = Tapped { stream, wire: wire.clone() };
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&address.login, tapped, config).await.map_err(failed)?;
        let driver = spawn(async move {
            driver.await;
            if let Some(ctx) = ctx {
                ctx.connected(false);
            }
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

    /// It outlives the connection, and knows its last words.
    pub(super) fn shared_wire(&self) -> Arc<Wire> {
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
    let found = lookup_host((&*address.host, address.port)).await;
    let places: Vec<_> = found
        .map_err(|error| Failure::unavailable(format!("its name cannot be resolved: {error}")))?
        .collect();
    let mut last = Error::from(ErrorKind::AddrNotAvailable);
    for place in &places {
        // Each gets its share: one that is silent must not hide the next.
        match timeout(CONNECT / u32::try_from(places.len()).unwrap_or(1), TcpStream::connect(place)).await {
            Ok(Ok(stream)) => return set_up(stream).map_err(|error| unreachable(&error)),
            Ok(Err(error)) => last = error,
            Err(_) => last = ErrorKind::TimedOut.into(),
        }
    }
    Err(unreachable(&last))
}

fn set_up(stream: TcpStream) -> Result<TcpStream, Error> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.with_retries(3);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNHEARD))?;
    Ok(stream)
}

/// Whom to trust, read anew at each attempt: authorities are replaced while programs run.
async fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Failure> {
    let ca_file = ca_file.map(Path::to_owned);
    let read = spawn_blocking(move || {
        let mut roots = RootCertStore::empty();
        match &ca_file {
            Some(path) => {
                let bad = |error: String| {
                    Failure::misconfigured(format!("ca_file `{}` cannot be used: {error}", path.display()))
                };
                for certificate in
                    CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?
                {
                    let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(bad("there is no certificate in it".to_owned()));
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(Failure::misconfigured(
                        "this system trusts nobody: install ca-certificates, or name an authority in ca_file",
                    ));
                }
            }
        }
        Ok(roots)
    });
    let roots = read.await.map_err(|_| Failure::unavailable("the authorities cannot be read"))??;
    // With a provider of its own, nothing needs to be installed for the whole process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::misconfigured(format!("TLS fails: {error}")))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
