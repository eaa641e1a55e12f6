//! What a failure to connect means, over TCP or TLS.

use std::io::{self, ErrorKind};

use super::failure::Failure;
use crate::brokers::net::{self, Unreachable};

const NO_TLS: &str = "does not speak TLS: name its TLS port (tls-port) in url";

/// The server answers without TLS.
pub(crate) fn no_tls() -> Failure {
    Failure::misconfigured(NO_TLS)
}

/// What a failure to reach the server means.
pub(crate) fn unreachable(error: &Unreachable) -> Failure {
    match error {
        Unreachable::Name(error) => Failure::unavailable(format!("its name cannot be resolved: {error}")),
        Unreachable::Connect(error) => unconnected(error),
    }
}

/// What a failure to connect, or to trust the server, means.
pub(crate) fn unconnected(error: &io::Error) -> Failure {
    if let Some(failure) = tls(error) {
        return failure;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::unavailable("connection refused: is it running?"),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
            Failure::unavailable("hung up while connecting: is maxclients reached, or is it no TLS port?")
        }
        kind => Failure::unavailable(format!("cannot be reached: {error}")).by(Some(kind)),
    }
}

/// What a failure of TLS means; plain text is never tried instead.
pub(super) fn tls(error: &io::Error) -> Option<Failure> {
    use rustls::{AlertDescription, CertificateError as Bad, Error};
    let what = match net::tls_error(error)? {
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another host: let url say the name that it is for, or of a cluster \
             cluster-announce-hostname"
                .to_owned()
        }
        Error::InvalidMessage(_) => NO_TLS.to_owned(),
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "wants a certificate from its clients, and gets none: set tls-auth-clients no".to_owned()
        }
        other => match net::distrust(other) {
            Some(why) => format!("its certificate {why}"),
            None => format!("TLS fails: {other}"),
        },
    };
    Some(Failure::misconfigured(what))
}
