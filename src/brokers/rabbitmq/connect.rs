//! Connecting with a deadline, so that neither a frozen broker nor a dropped future leaves a thread or a descriptor.
//!
//! The client keeps a thread for each connection, which ends when its socket does: the sink holds a second handle of
//! that socket, and shuts it down where an attempt is given up or a connection is dropped. What the client runs besides
//! (heartbeats, its own commands) runs on one small runtime of the process, so that it goes on while the thread of a sink
//! is busy, and does not panic when that thread ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_compat::Compat;
use async_rs::TokioRuntime;
use futures_util::Stream;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::{Channel, Connection, ConnectionProperties, ConnectionStatus, Event};
use socket2::SockRef;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::channels::Channels;
use super::error::{Trouble, is_vague};
use crate::brokers::net;
use crate::brokers::words::quote;

/// How long one address may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How much of that until a TCP connection stands, over all addresses of a name.
const REACH: Duration = Duration::from_secs(2);
/// When data without an acknowledgement ends the connection. Heartbeats notice earlier, but for a broker that has blocked
/// us: it stops reading for as long as its alarm lasts, and must not be taken for gone.
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// A connection, and what its broker said outside of any answer.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) health: watch::Receiver<Health>,
    channels: Channels,
    _listener: AbortOnDrop<()>,
    // Last: everything else is dropped into an open socket.
    _closer: CloseOnDrop,
}

/// What a broker says of a connection as a whole.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why it takes nothing.
    pub(crate) blocked: Option<String>,
    /// How the connection ended.
    pub(crate) ended: Option<lapin::Error>,
    /// When and how a channel of it ended last.
    pub(crate) channel: Option<(Instant, lapin::Error)>,
}

impl Link {
    /// Whether the connection stands, as far as the client knows.
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

    /// The reason behind an error that only says that something ended: the last word of the broker, about a channel that was
    /// opened at `since` or later, or about the connection. The client may take `limit` to pass that on.
    pub(crate) async fn cause(&self, error: lapin::Error, since: Instant, limit: Duration) -> lapin::Error {
        if !is_vague(&error) {
            return error;
        }
        let mut health = self.health.clone();
        let last_word = |health: &Health| {
            let channel = health.channel.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error);
            let ended = health.ended.as_ref();
            // That a channel was closed may have ended the connection in turn.
            ended.filter(|error| !is_vague(error)).or(channel).or(ended).cloned()
        };
        match timeout(limit, health.wait_for(|health| last_word(health).is_some())).await {
            Ok(Ok(health)) => last_word(&health).unwrap_or(error),
            _ => error,
        }
    }

    /// Ends it in order, if the broker plays along within `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        if let Ok(reason) = lapin::types::ShortString::try_new("bye") {
            let _ = timeout(limit, self.connection.close(200, reason)).await;
        }
    }
}

/// A second handle of a socket, which shuts it down when it goes.
struct CloseOnDrop(TcpStream);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A task that ends when its handle is dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(io::Error::other)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The runtime of the client's own tasks, one for the process.
fn client_runtime() -> io::Result<Handle> {
    static CLIENT: OnceLock<Runtime> = OnceLock::new();
    if CLIENT.get().is_none() {
        let fresh = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("streamll-amqp")
            .enable_all()
            .build()?;
        if let Err(late) = CLIENT.set(fresh) {
            late.shutdown_background();
        }
    }
    CLIENT.get().map(|client| client.handle().clone()).ok_or_else(|| io::Error::other("no runtime"))
}

/// What a broker says of a connection as a whole.
#[derive(Debug)]
pub(crate) enum Change {
    /// The broker takes nothing, for this reason.
    Blocked(String),
    Unblocked,
    Ended,
}

/// Connects to one address. `name` stands in the broker's list of connections.
pub(crate) async fn connect(
    target: &Address,
    ca: Option<&Path>,
    name: &str,
    on_change: impl Fn(Change) + Send + 'static,
) -> Result<Link, Trouble> {
    let runtime = client_runtime()?;
    let (target, ca, name) = (target.clone(), ca.map(Path::to_owned), format!("streamll {name}"));
    let attempt = async move {
        let opened = open(target, ca, name, on_change);
        timeout(CONNECT, opened).await.map_err(|_| Trouble::Silent(CONNECT))?
    };
    AbortOnDrop(runtime.spawn(attempt)).await?
}

async fn open(
    target: Address,
    ca: Option<PathBuf>,
    name: String,
    on_change: impl Fn(Change) + Send + 'static,
) -> Result<Link, Trouble> {
    let runtime = TokioRuntime::tokio_with_handle(Handle::current());
    let tls = match target.is_tls() {
        true => Some(RustlsConnector::from(net::trust(ca.as_deref()).await?)),
        false => None,
    };
    let socket = net::dial(target.host(), target.port(), REACH, USER_TIMEOUT).await?;
    let closer = CloseOnDrop(SockRef::from(&socket).try_clone()?.into());
    let stream = AsyncTcpStream::Plain(Compat::new(socket));
    let stream = match tls {
        Some(tls) => stream.into_rustls(&tls, target.host()).await.map_err(Trouble::Tls)?,
        None => stream,
    };
    let stream = Mutex::new(Some(stream));
    let given = async move |_, _| {
        // On the client's thread, whose own words hold the payload of every message that comes back.
        std::mem::forget(tracing::subscriber::set_default(NoLog));
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connector(target.uri.clone(), runtime, given, properties).await?;
    let (reports, health) = watch::channel(Health::default());
    let (events, status) = (connection.events_listener(), connection.status().clone());
    let listener = AbortOnDrop(tokio::spawn(listen(events, status, reports, on_change)));
    let channels = Channels::new(connection.configuration().channel_max());
    Ok(Link { connection, health, channels, _listener: listener, _closer: closer })
}

/// Takes no words at all, and says so, lest the level of the whole process rise.
struct NoLog;

impl tracing::Subscriber for NoLog {
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
    reports: watch::Sender<Health>,
    on_change: impl Fn(Change),
) {
    let mut events = pin!(events);
    while let Some(event) = poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        match event {
            Event::ConnectionBlocked(why) => {
                let reason = format!("blocked by the broker: {}", quote(&why));
                reports.send_modify(|health| health.blocked = Some(reason.clone()));
                on_change(Change::Blocked(reason));
            }
            Event::ConnectionUnblocked => {
                reports.send_modify(|health| health.blocked = None);
                on_change(Change::Unblocked);
            }
            Event::Error(error) if status.connected() && !is_last_word(&error) => {
                reports.send_modify(|health| health.channel = Some((Instant::now(), error)));
            }
            Event::Error(error) => {
                on_change(Change::Ended);
                let blocked = reports.borrow().blocked.is_some();
                reports.send_modify(|health| {
                    health.blocked = None;
                    health.ended.get_or_insert(error);
                });
                if blocked {
                    on_change(Change::Unblocked);
                }
            }
            _ => {}
        }
    }
}
