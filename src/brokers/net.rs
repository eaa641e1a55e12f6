//! Dialling and TLS, the same for every broker: a connection within a time, and whom to trust.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

/// Why there is no TCP connection.
#[derive(Debug)]
pub(crate) enum Unreachable {
    /// The name of the host cannot be resolved.
    Name(io::Error),
    /// None of its addresses takes a connection; the error of the last one.
    Connect(io::Error),
}

/// Connects to the first address of a host that answers, all within `limit`. `unheard` is how long sent bytes may stay
/// without a sign of the other side; the system's own limit is a quarter of an hour.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    limit: Duration,
    unheard: Duration,
) -> Result<TcpStream, Unreachable> {
    let until = Instant::now() + limit;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "timed out looking up its name");
    let found = timeout_at(until, lookup_host((host, port))).await;
    let found = found.map_err(|_| late()).and_then(|found| found).map_err(Unreachable::Name)?;
    let addresses: Vec<_> = found.collect();
    let stream = reach(&addresses, until).await.and_then(|stream| set_up(stream, unheard));
    stream.map_err(Unreachable::Connect)
}

/// A stream to the first of these addresses that answers.
async fn reach(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        // Each gets its share: one that is silent must not hide the next.
        let share = until.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, "timed out"),
        }
    }
    Err(failed)
}

fn set_up(stream: TcpStream, unheard: Duration) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.with_retries(3);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unheard))?;
    #[cfg(not(target_os = "linux"))]
    let _ = unheard;
    Ok(stream)
}

/// Why no certificate can be verified. Every caller has a setting `ca_file`.
#[derive(Debug)]
pub(crate) enum NoTrust {
    /// The file of authorities is of no use.
    CaFile(PathBuf, String),
    /// The system names no authority.
    System,
    /// TLS itself cannot be set up.
    Setup(String),
}

impl fmt::Display for NoTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoTrust::CaFile(path, why) => {
                write!(f, "ca_file `{}` cannot be used: {why}; it must be a file in PEM", path.display())
            }
            NoTrust::System => f.write_str(
                "this system has no trusted authorities: install ca-certificates, or name an authority in ca_file",
            ),
            NoTrust::Setup(why) => write!(f, "TLS cannot be set up: {why}"),
        }
    }
}

/// Whom to trust: the authorities of `ca_file`, or those of the system. Read anew at each attempt, as authorities are
/// replaced while programs run.
pub(crate) async fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, NoTrust> {
    let ca_file = ca_file.map(Path::to_owned);
    let read = spawn_blocking(move || authorities(ca_file));
    let roots = read.await.map_err(|error| NoTrust::Setup(error.to_string()))??;
    // The configuration has a provider of its own, so none needs to be installed for the whole process.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NoTrust::Setup(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn authorities(ca_file: Option<PathBuf>) -> Result<RootCertStore, NoTrust> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(NoTrust::System) } else { Ok(roots) };
    };
    let read = CertificateDer::pem_file_iter(&path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    match read {
        Ok(certificates) => roots.add_parsable_certificates(certificates),
        Err(error) => return Err(NoTrust::CaFile(path, error.to_string())),
    };
    match roots.is_empty() {
        true => Err(NoTrust::CaFile(path, "there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

/// The error of TLS inside of an error of a stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why the certificate of a server is not trusted, said of the certificate: `has expired: renew it`.
pub(crate) fn distrust(error: &rustls::Error) -> Option<String> {
    use rustls::{CertificateError as Bad, Error};
    let Error::InvalidCertificate(bad) = error else { return None };
    Some(match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => "has expired: renew it".to_owned(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "is not valid yet: look at the clocks".to_owned()
        }
        // A bad signature: an authority of the same name.
        Bad::UnknownIssuer | Bad::BadSignature => {
            "is not signed by a trusted authority: name the authority in ca_file".to_owned()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "is for another host: let url say the name that it is for".to_owned()
        }
        bad => format!("cannot be trusted: {bad}"),
    })
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
        const LIMIT: Duration = Duration::from_secs(2);
        let (_listener, _queued, silent) = silent();
        let good = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (good, begun) = (good.local_addr().unwrap(), Instant::now());
        let stream = reach(&[silent, good], begun + LIMIT).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(begun.elapsed() >= LIMIT / 2);
        let error = reach(&[silent], begun + LIMIT).await.map(drop).unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && begun.elapsed() >= LIMIT);
    }
}
