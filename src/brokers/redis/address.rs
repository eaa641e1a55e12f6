//! The address of a server and the login there, read from a URL whose password is never shown.

use std::fmt;

use redis::{ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};

use crate::brokers::addresses::is_several;
use crate::brokers::words::ENCODE;

const EXAMPLE: &str = "write it like `redis://user:password@host:6379/0`";

/// A server and a login. Printed, it is scheme, host and port.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// User, password and database.
    pub(crate) login: RedisConnectionInfo,
}

impl Address {
    /// Reads a URL; the error says nothing of what stands in it.
    pub(crate) fn parse(url: &str) -> Result<Address, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("has no `redis://` in front; {EXAMPLE}"));
        };
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            "unix" | "redis+unix" => return Err(format!("a Unix socket is not supported; {EXAMPLE}")),
            _ => return Err("must begin with `redis://`, or `rediss://` for TLS; ".to_owned() + EXAMPLE),
        };
        if url.ends_with("#insecure") {
            return Err("`#insecure` is not supported, certificates are always verified; \
                name the authority that signed the server's in `ca_file`"
                .to_owned());
        }
        if rest.contains('#') {
            return Err(format!("nothing may follow a `#`; leave it out, and {ENCODE}"));
        }
        if rest.contains('?') {
            return Err(format!(
                "nothing may follow a `?`, there are no parameters: TLS is `rediss://`, and the database stands behind the \
                 last `/`; leave it out, and {ENCODE}"
            ));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if is_several(authority) {
            return Err(format!(
                "is not an address: each of several needs its own scheme; write `redis://h1:6379,redis://h2:6379`; \
                 in the password write `,` as `%2C`; {ENCODE}"
            ));
        }
        let place = authority.rsplit('@').next().unwrap_or_default();
        let port = place.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
        if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
            return Err(format!("the port must be a number up to 65535; {EXAMPLE}; {ENCODE}"));
        }
        let db = path.trim_end_matches('/');
        if !db.is_empty() && db.parse::<u32>().is_err() {
            return Err(format!("the database behind the last `/` must be a number; {EXAMPLE}; {ENCODE}"));
        }
        // Without its scheme: TLS is ours, not the client's.
        let read = format!("redis://{rest}").into_connection_info().ok();
        let Some((login, ConnectionAddr::Tcp(host, port))) =
            read.map(|read| (read.redis_settings().clone(), read.addr().clone()))
        else {
            return Err(format!("is not an address; {EXAMPLE}; {ENCODE}"));
        };
        let login = login.set_lib_name("streamll", env!("CARGO_PKG_VERSION"));
        Ok(Address { tls, host, port, login })
    }

    /// Another node of the same cluster, with the same login.
    pub(crate) fn node(&self, host: &str, port: u16) -> Address {
        // A node that does not know its own name means the one that was asked.
        let host = if host.is_empty() { &self.host } else { host };
        Address { host: host.to_owned(), port, ..self.clone() }
    }

    /// The name that logs in, where the URL says one.
    pub(crate) fn user(&self) -> Option<&str> {
        self.login.username()
    }

    /// Whether both are the same place.
    pub(crate) fn is(&self, other: &Address) -> bool {
        self.port == other.port && self.host == other.host
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_login_and_shown_without() {
        for (url, shown, db, login) in [
            ("redis://localhost", "redis://localhost:6379", 0, (None, None)),
            ("redis://u:hunter2@h:7000/3", "redis://h:7000", 3, (Some("u"), Some("hunter2"))),
            ("rediss://:hunter2@h/", "rediss://h:6379", 0, (None, Some("hunter2"))),
            ("redis://:hunter%2F%40%C3%A92@[::1]:7000", "redis://[::1]:7000", 0, (None, Some("hunter/@é2"))),
            ("redis://:50%hunter2@h", "redis://h:6379", 0, (None, Some("50%hunter2"))),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!((address.to_string().as_str(), address.login.db()), (shown, db));
            assert_eq!(format!("{address:?}"), shown);
            assert_eq!((address.login.username(), address.login.password()), login, "{url}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_without_showing_its_password() {
        for (url, what) in [
            ("hunter2", "has no `redis://`"),
            ("localhost:6379", "has no `redis://`"),
            ("http://:hunter2@h", "must begin with"),
            ("unix:///run/redis.sock", "Unix socket"),
            ("redis+unix:///run/hunter2.sock", "Unix socket"),
            ("redis://:hunter2@h:99999", "port"),
            ("redis://:hunter2@h:a", "port"),
            ("redis://:hunter2@h/abc", "database"),
            ("redis://:hunter2@h/-1", "database"),
            ("redis://u:6379/hunter2@h", "database"),
            ("redis://:hun/ter2@h", "port"),
            ("rediss://:hunter2@h/0#insecure", "#insecure"),
            ("redis://:hunt#er2@h", "follow a `#`"),
            ("redis://:hunt?er2@h", "follow a `?`"),
            ("redis://:hunter2@h?protocol=resp3", "follow a `?`"),
            ("redis://0.0.0.0", "is not an address"),
            ("redis://", "is not an address"),
            ("redis://:hunter2@/0", "is not an address"),
            ("redis://:hunter2@h h", "is not an address"),
            ("redis://:hunter2@a:7000,b:7000", "is not an address: each of several needs its own scheme"),
            ("redis://:hunter2@a:7000,b", "each of several needs its own scheme"),
            ("redis://:hunter2@h?ssl=true", "there are no parameters: TLS is `rediss://`"),
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("hunt") && !error.contains("er2"), "{url}: {error}");
        }
    }
}
