//! A TCP proxy between a sink and its broker, which makes the network as bad as a test wants it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::servers::free_port;

/// What the network is like.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Nothing moves, and nobody is told.
    blackhole: bool,
    /// How often all connections were reset.
    resets: usize,
    /// The mean and the jitter of what each piece of data waits.
    latency: Option<(Duration, Duration)>,
    /// Bytes a second.
    bandwidth: Option<usize>,
}

/// A proxy on a port of its own. It ends with its last connection when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many connections have reached the server.
    connections: AtomicUsize,
    /// How many more bytes may pass to the server before their connection is cut.
    limit: Mutex<Option<usize>>,
}

impl Proxy {
    /// A proxy to this port of the loopback.
    pub fn to(server: u16) -> Proxy {
        let port = free_port();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        listener.set_nonblocking(true).expect("it can be awaited");
        let (weather, forecast) = watch::channel(Weather::default());
        let shared: Arc<Shared> = Arc::default();
        let carried = shared.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(accept(listener, server, forecast, carried));
        };
        let thread = thread::Builder::new().name("proxy".to_owned()).spawn(run).expect("a thread");
        Proxy { port, weather, shared, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have reached the server so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Accepts connections, but carries nothing any more, in neither direction; what was under way is held back.
    pub fn blackhole(&self) {
        self.weather.send_modify(|weather| weather.blackhole = true);
    }

    /// Ends the blackhole, the latency and the limits.
    pub fn heal(&self) {
        *self.shared.limit.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.weather.send_modify(|weather| {
            *weather = Weather { resets: weather.resets, ..Weather::default() };
        });
    }

    /// Resets all connections that there are, as a firewall does that has forgotten them.
    pub fn reset_peers(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Delays each piece of data.
    pub fn latency(&self, mean: Duration, jitter: Duration) {
        self.weather.send_modify(|weather| weather.latency = Some((mean, jitter)));
    }

    /// Lets so many bytes a second through.
    pub fn bandwidth(&self, bytes_per_second: usize) {
        self.weather.send_modify(|weather| weather.bandwidth = Some(bytes_per_second));
    }

    /// Lets so many more bytes through to the server, and then cuts their connection, once, be it inside a frame.
    pub fn limit_data(&self, bytes: usize) {
        *self.shared.limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A channel whose sender is gone ends the thread.
        self.weather = watch::channel(Weather::default()).0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: std::net::TcpListener,
    server: u16,
    mut weather: watch::Receiver<Weather>,
    shared: Arc<Shared>,
) {
    let listener = TcpListener::from_std(listener).expect("it is registered");
    loop {
        tokio::select! {
            client = listener.accept() => {
                let Ok((client, _)) = client else { continue };
                tokio::spawn(carry(client, server, weather.clone(), shared.clone()));
            }
            changed = weather.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

/// One connection, to its end.
async fn carry(
    mut client: TcpStream,
    server: u16,
    mut weather: watch::Receiver<Weather>,
    shared: Arc<Shared>,
) {
    let resets = weather.borrow().resets;
    let met = async {
        // Into a black hole nothing arrives, not even the wish to connect.
        weather.wait_for(|weather| !weather.blackhole || weather.resets > resets).await.ok()?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.ok()
    };
    if let Some(mut upstream) = met.await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let nodelay = [client.set_nodelay(true), upstream.set_nodelay(true)];
        assert!(nodelay.iter().all(Result::is_ok), "the loopback knows no delay");
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.split();
        let mut resets_of = weather.clone();
        let reset = async {
            let _ = resets_of.wait_for(|weather| weather.resets > resets).await;
        };
        let ended = tokio::select! {
            () = reset => true,
            ended = pump(&mut from_client, &mut to_server, weather.clone(), Some(&shared.limit)) => ended,
            ended = pump(&mut from_server, &mut to_client, weather.clone(), None) => ended,
        };
        if !ended {
            return;
        }
        abort(&upstream);
    }
    abort(&client);
}

/// Makes a socket's end a reset.
fn abort(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Carries data one way; says whether the other end is to see a reset.
async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    limit: Option<&Mutex<Option<usize>>>,
) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let mut pieces = 0.0_f64;
    loop {
        if weather.wait_for(|weather| !weather.blackhole).await.is_err() {
            return true;
        }
        let Weather { latency, bandwidth, .. } = *weather.borrow_and_update();
        let most = bandwidth.map_or(buffer.len(), |rate| (rate / 20).clamp(1, buffer.len()));
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return true,
            },
        };
        let read = match read {
            Ok(0) => return false,
            Ok(read) => read,
            Err(_) => return true,
        };
        if let Some((mean, jitter)) = latency {
            // Multiples of the golden ratio are spread evenly, and the same in every run.
            pieces += 1.0;
            let low = mean.saturating_sub(jitter);
            sleep(low + (mean + jitter - low).mul_f64((pieces * 1.618_034).fract())).await;
        }
        if let Some(rate) = bandwidth {
            sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        }
        if weather.wait_for(|weather| !weather.blackhole).await.is_err() {
            return true;
        }
        let (pass, cut) = limit.map_or((read, false), |limit| allowed(limit, read));
        if to.write_all(&buffer[..pass]).await.is_err() || cut {
            return true;
        }
    }
}

/// How many of these bytes may pass, and whether the connection ends with them.
fn allowed(limit: &Mutex<Option<usize>>, wanted: usize) -> (usize, bool) {
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    match *limit {
        Some(left) if left <= wanted => {
            *limit = None;
            (left, true)
        }
        Some(left) => {
            *limit = Some(left - wanted);
            (wanted, false)
        }
        None => (wanted, false),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};

    use super::*;

    /// A proxy to a server that says everything twice, and one connection through it.
    fn doubled() -> (Proxy, std::net::TcpStream) {
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::to(server.local_addr().unwrap().port());
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..read].repeat(2));
                }
            }
        });
        let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        (proxy, stream)
    }

    #[track_caller]
    fn ask(stream: &mut std::net::TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; 2 * text.len()];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn a_blackhole_holds_everything_back_until_it_heals() {
        let (proxy, mut stream) = doubled();
        assert_eq!(ask(&mut stream, "a").unwrap(), "aa");
        proxy.blackhole();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let nothing = ask(&mut stream, "b").unwrap_err().kind();
        assert!(matches!(nothing, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{nothing}");
        proxy.heal();
        stream.set_read_timeout(None).unwrap();
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, proxy.connections()), (b"bb", 1));
    }

    #[test]
    fn a_reset_is_seen_as_one_and_later_connections_live() {
        let (proxy, mut stream) = doubled();
        assert_eq!(ask(&mut stream, "a").unwrap(), "aa");
        proxy.reset_peers();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(stream);
        let mut next = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        assert_eq!(ask(&mut next, "a").unwrap(), "aa");
    }

    #[test]
    fn a_limit_cuts_where_it_says_and_once() {
        let (proxy, mut stream) = doubled();
        proxy.limit_data(3);
        stream.set_read_timeout(None).unwrap();
        let mut answer = Vec::new();
        stream.write_all(b"abcde").unwrap();
        // The reset may overtake what the server says.
        let end = stream.read_to_end(&mut answer);
        assert!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        assert!(b"abcabc".starts_with(&answer), "{answer:?}");
        drop(stream);
        let mut next = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        assert_eq!(ask(&mut next, "abcde").unwrap(), "abcdeabcde");
    }

    #[test]
    fn a_slow_network_carries_everything() {
        let (proxy, mut stream) = doubled();
        stream.set_read_timeout(None).unwrap();
        proxy.latency(Duration::from_millis(2), Duration::from_millis(1));
        proxy.bandwidth(20_000);
        let text = "0123456789".repeat(50);
        let begun = tokio::time::Instant::now();
        assert_eq!(ask(&mut stream, &text).unwrap().len(), 1000);
        assert!(begun.elapsed() >= Duration::from_millis(50), "1,500 bytes at 20,000 a second");
    }
}
