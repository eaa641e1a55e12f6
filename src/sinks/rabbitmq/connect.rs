//! Connecting with a deadline, so that neither a frozen broker nor a dropped future leaves a thread or a descriptor.
//!
//! The client keeps a thread for each connection, which ends when its socket does: the sink holds a second handle of
//! that socket, and shuts it down where an attempt is given up or a connection is dropped. What the client runs besides
//! (heartbeats, its own commands) runs on one small runtime of the process, so that it goes on while the thread of a sink
//! is busy, and does not panic when that thread ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_rs::traits::Reactor;
use async_rs::{Tokio, TokioRuntime};
use futures_util::Stream;
use lapin::tcp::{AsyncTcpStream, RustlsConnector, RustlsConnectorConfig};
use lapin::{Channel, Connection, ConnectionProperties, ConnectionStatus, Event};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use socket2::{SockRef, TcpKeepalive};
use streamll_actors::sink::SinkContext;
use tokio::net::lookup_host;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::channels::Channels;
use super::error::Trouble;
use super::place::Target;
use crate::sinks::words::quote;

/// How long one address may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How much of that until a TCP connection stands, over all addresses of a name.
const REACH: Duration = Duration::from_secs(2);
/// When data that nobody acknowledges ends the connection. Heartbeats notice earlier, but for a broker that has blocked
/// us: it stops reading for as long as its alarm lasts, and must not be taken for gone.
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// A connection, and what its broker said outside of any answer.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) health: watch::Receiver<Health>,
    channels: Channels,
    _listener: Tied<()>,
    // Last: everything else is dropped into an open socket.
    _plug: Plug,
}

/// What a broker says of a connection as a whole.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why it takes nothing.
    pub(super) blocked: Option<String>,
    /// How the connection ended.
    pub(crate) ended: Option<lapin::Error>,
    /// When and how a channel of it ended last.
    pub(crate) channel: Option<(Instant, lapin::Error)>,
}

impl Link {
    /// Whether the connection stands, as far as anybody knows.
    pub(crate) fn is_alive(&self) -> bool {
        self.connection.status().connected()
    }

    /// A fresh channel.
    pub(crate) async fn channel(&mut self) -> lapin::Result<Channel> {
        self.channels.open(&self.connection).await
    }

    /// Whether another channel needs another connection.
    pub(crate) fn is_used_up(&self) -> bool {
        self.channels.are_used_up()
    }

    /// Ends it in order, if the broker plays along within `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        if let Ok(reason) = lapin::types::ShortString::try_new("bye") {
            let _ = timeout(limit, self.connection.close(200, reason)).await;
        }
    }
}

/// A second handle of a socket, which shuts it down when it goes.
struct Plug(TcpStream);

impl Drop for Plug {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A task that ends when nobody waits for it.
struct Tied<T>(JoinHandle<T>);

impl<T> Future for Tied<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(io::Error::other)
    }
}

impl<T> Drop for Tied<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where the client runs.
fn home() -> io::Result<Handle> {
    static HOME: OnceLock<Runtime> = OnceLock::new();
    if HOME.get().is_none() {
        let fresh = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("streamll-amqp")
            .enable_all()
            .build()?;
        if let Err(late) = HOME.set(fresh) {
            late.shutdown_background();
        }
    }
    HOME.get().map(|home| home.handle().clone()).ok_or_else(|| io::Error::other("no runtime"))
}

/// Connects to one address.
pub(crate) async fn connect(target: &Target, ca: Option<&Path>, ctx: &SinkContext) -> Result<Link, Trouble> {
    let home = home()?;
    let (target, ca, ctx) = (target.clone(), ca.map(Path::to_owned), ctx.clone());
    let attempt =
        async move { timeout(CONNECT, open(target, ca, ctx)).await.map_err(|_| Trouble::Silent(CONNECT))? };
    Tied(home.spawn(attempt)).await?
}

async fn open(target: Target, ca: Option<std::path::PathBuf>, ctx: SinkContext) -> Result<Link, Trouble> {
    let runtime = TokioRuntime::tokio_with_handle(Handle::current());
    let tls = match target.is_tls() {
        true => {
            Some(tokio::task::spawn_blocking(move || tls(ca.as_deref())).await.map_err(io::Error::other)??)
        }
        false => None,
    };
    let (stream, plug) = dial(&target, &runtime).await?;
    let stream = match tls {
        Some(tls) => stream.into_rustls(&tls, target.host()).await.map_err(Trouble::Tls)?,
        None => stream,
    };
    let stream = Mutex::new(Some(stream));
    let given = async move |_, _| {
        // On the client's thread, whose own words hold the payload of every message that comes back.
        std::mem::forget(tracing::subscriber::set_default(Mute));
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    let properties =
        ConnectionProperties::default().with_connection_name(format!("streamll {}", ctx.name()).into());
    let connection = Connection::connector(target.uri.clone(), runtime, given, properties).await?;
    let (tell, health) = watch::channel(Health::default());
    let listener =
        Tied(tokio::spawn(listen(connection.events_listener(), connection.status().clone(), tell, ctx)));
    let channels = Channels::new(connection.configuration().channel_max());
    Ok(Link { connection, health, channels, _listener: listener, _plug: plug })
}

/// Takes no words at all, and says so, lest the level of the whole process rise.
struct Mute;

impl tracing::Subscriber for Mute {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        false
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::OFF)
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

type Plain = <Tokio as Reactor>::TcpStream;
type Socket = AsyncTcpStream<Plain>;

async fn dial(target: &Target, runtime: &TokioRuntime) -> io::Result<(Socket, Plug)> {
    let until = Instant::now() + REACH;
    let found = timeout_at(until, lookup_host((target.host(), target.port()))).await;
    let found =
        found.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "timed out looking up its name"))?;
    let addresses: Vec<_> = found?.collect();
    let socket = reach(&addresses, until, runtime).await?;
    let plug = Plug(SockRef::from(socket.get_ref()).try_clone()?.into());
    Ok((AsyncTcpStream::Plain(socket), plug))
}

/// A stream to the first of these addresses that answers.
async fn reach(addresses: &[SocketAddr], until: Instant, runtime: &TokioRuntime) -> io::Result<Plain> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        // Each gets its share: one that is silent must not hide the next.
        let share = until.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        let stream = match timeout(share, runtime.tcp_connect_addr(*address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                failed = error;
                continue;
            }
            Err(_) => {
                failed = io::Error::new(io::ErrorKind::TimedOut, "timed out");
                continue;
            }
        };
        let socket = SockRef::from(stream.get_ref());
        socket.set_tcp_nodelay(true)?;
        let keepalive =
            TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        return Ok(stream);
    }
    Err(failed)
}

fn tls(ca: Option<&Path>) -> Result<RustlsConnector, Trouble> {
    let trusted = match ca {
        None => RustlsConnectorConfig::new_with_native_certs().map_err(Trouble::Roots)?,
        Some(path) => {
            let unreadable = |why: String| Trouble::CaFile(path.display().to_string(), why);
            let certificates =
                CertificateDer::pem_file_iter(path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
            let certificates = certificates.map_err(|error| unreadable(error.to_string()))?;
            if certificates.is_empty() {
                return Err(unreadable("there is no certificate in it".to_owned()));
            }
            RustlsConnectorConfig::default().with_parsable_certificates(certificates)
        }
    };
    trusted.connector_with_no_client_auth().map_err(Trouble::Tls)
}

/// Whether an error ends the connection, whatever its status still says.
fn is_last_word(error: &lapin::Error) -> bool {
    use lapin::ErrorKind;
    use lapin::protocol::AMQPErrorKind;
    match error.kind() {
        ErrorKind::ProtocolError(error) => matches!(error.kind(), AMQPErrorKind::Hard(_)),
        ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError => true,
        _ => false,
    }
}

/// Passes on what the broker says of the connection.
async fn listen(
    events: impl Stream<Item = Event>,
    status: ConnectionStatus,
    tell: watch::Sender<Health>,
    ctx: SinkContext,
) {
    let mut events = pin!(events);
    while let Some(event) = poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        match event {
            Event::ConnectionBlocked(why) => {
                let reason = format!("blocked by the broker: {}", quote(&why));
                tell.send_modify(|health| health.blocked = Some(reason.clone()));
                ctx.block(reason);
            }
            Event::ConnectionUnblocked => {
                tell.send_modify(|health| health.blocked = None);
                ctx.unblock();
            }
            Event::Error(error) if status.connected() && !is_last_word(&error) => {
                tell.send_modify(|health| health.channel = Some((Instant::now(), error)));
            }
            Event::Error(error) => {
                ctx.connected(false);
                let blocked = tell.borrow().blocked.is_some();
                tell.send_modify(|health| {
                    health.blocked = None;
                    health.ended.get_or_insert(error);
                });
                if blocked {
                    ctx.unblock();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A listener that answers nobody: nothing is accepted, and its queue is full.
    fn silent() -> (Socket, Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let queued = (0..8).map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address);
            client
        });
        let queued = queued.collect();
        (listener, queued, address.as_socket().unwrap())
    }

    #[tokio::test]
    async fn a_silent_address_of_a_name_does_not_hide_the_next() {
        let (_listener, _queued, silent) = silent();
        let good = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (good, begun) = (good.local_addr().unwrap(), Instant::now());
        let runtime = TokioRuntime::tokio_with_handle(Handle::current());
        let stream = reach(&[silent, good], begun + REACH, &runtime).await.unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), good);
        assert!(begun.elapsed() >= REACH / 2);
        let error = reach(&[silent], begun + REACH, &runtime).await.map(drop).unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && begun.elapsed() >= REACH);
    }
}
