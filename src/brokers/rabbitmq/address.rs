//! One address of a broker: what connecting needs of it, and how errors name it, without the password.

use std::fmt;

use lapin::uri::{AMQPScheme, AMQPUri};

use crate::brokers::addresses::is_several;
use crate::brokers::words::ENCODE;

/// What may be set behind a `?`; the client knows others and does nothing with them.
const PARAMETERS: [&str; 4] = ["heartbeat", "frame_max", "channel_max", "auth_mechanism"];

/// One address of a broker.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) uri: AMQPUri,
}

impl Address {
    /// Reads an address. The message never quotes it: it may hold a password.
    pub(crate) fn parse(url: &str, heartbeat: u16) -> Result<Address, String> {
        const HELP: &str = "write `amqp://user:password@host:5672/vhost`";
        if !url.starts_with("amqp://") && !url.starts_with("amqps://") {
            return Err(format!("url: must begin with `amqp://` or `amqps://`; {HELP}"));
        }
        let (_, rest) = url.split_once("://").unwrap_or_default();
        // What would be read as host and port is the beginning of a password then.
        let behind = rest.find(['/', '?']).and_then(|end| rest.get(end..)).unwrap_or_default();
        if rest.contains('#') || behind.contains('@') {
            return Err(format!(
                "url: neither a `#` nor an `@` behind the host may stand in it; {HELP}; {ENCODE}"
            ));
        }
        let (authority, query) = match rest.split_once('?') {
            Some((before, query)) => (before, query),
            None => (rest, ""),
        };
        if is_several(authority.split('/').next().unwrap_or_default()) {
            return Err(format!(
                "url: each of several addresses needs its own scheme; write `amqp://h1:5672,amqp://h2:5672`; in the \
                 password write `,` as `%2C`; {ENCODE}"
            ));
        }
        let names = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split('=').next());
        if !names.flatten().all(|name| PARAMETERS.contains(&name)) {
            return Err(format!(
                "url: has an unknown parameter; behind the `?` there may be {}, and TLS is `amqps://`",
                PARAMETERS.map(|name| format!("`{name}`")).join(", ")
            ));
        }
        let mut uri: AMQPUri = url.parse().map_err(|_| {
            format!("url: is not an address; {HELP}, with special characters of user and password as %XX")
        })?;
        let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        if vhost.contains('/') {
            return Err("url: the vhost holds a `/`; write it as %2f".to_owned());
        }
        // A mere `/` at the end means the vhost `/`.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        let host = authority.rsplit('@').next().unwrap_or_default();
        // Not taken in by the parser, which would fall back to the local host.
        if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            address.clone_into(&mut uri.authority.host);
        } else if host.is_empty() || host.starts_with(':') {
            return Err(format!("url: has no host; {HELP}"));
        }
        if uri.vhost.len() > 255 || uri.authority.userinfo.username.len() > 255 {
            return Err("url: a user or vhost of more than 255 bytes; the protocol allows no more".to_owned());
        }
        uri.query.heartbeat.get_or_insert(heartbeat);
        Ok(Address { uri })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    pub(crate) fn host(&self) -> &str {
        &self.uri.authority.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    pub(crate) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(crate) fn vhost(&self) -> &str {
        &self.uri.vhost
    }
}

/// `host:port`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host() {
            host if host.contains(':') => write!(f, "[{host}]:{}", self.port()),
            host => write!(f, "{host}:{}", self.port()),
        }
    }
}

/// The parser's own would print the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_mean_it() {
        for (url, shown, vhost, heartbeat) in [
            ("amqp://localhost", "localhost:5672", "/", 10),
            ("amqp://u:p@rabbit/", "rabbit:5672", "/", 10),
            ("amqps://u:p@rabbit/prod", "rabbit:5671", "prod", 10),
            ("amqp://rabbit:1/%2fa?heartbeat=3", "rabbit:1", "/a", 3),
            ("amqp://u:p%40@[::1]:5673/v", "[::1]:5673", "v", 10),
        ] {
            let target = Address::parse(url, 10).expect(url);
            assert_eq!((target.to_string().as_str(), target.vhost()), (shown, vhost));
            assert_eq!(target.uri.query.heartbeat, Some(heartbeat), "{url}");
        }
    }

    #[test]
    fn a_parameter_that_nobody_reads_is_refused_with_those_that_are() {
        for url in
            ["amqp://h?ssl=true", "amqp://u:p@h/v?heartbeat=5&hunter2", "amqps://h/?connection_timeout=5"]
        {
            let error = Address::parse(url, 10).expect_err(url);
            assert!(error.contains("`heartbeat`") && error.contains("amqps://"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        Address::parse("amqp://h/v?heartbeat=5&frame_max=8192&channel_max=16&auth_mechanism=plain", 10)
            .expect("all are known");
    }

    #[test]
    fn several_places_each_need_a_scheme() {
        for url in ["amqp://h1:5672,h2:5672", "amqp://u:p@h1,h2/v", "amqps://u:p@h1:1,u:p@h2:1"] {
            let error = Address::parse(url, 10).expect_err(url);
            assert!(error.contains("each of several addresses needs its own scheme"), "{error}");
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_refused_and_not_shown() {
        for url in [
            "amqp://ann:12/hunter2@h",
            "amqp://ann:12/hunter2@h/v",
            "amqp://ann:12?hunter2@h",
            "amqp://ann:12#hunter2@h",
            "amqps://ann:hunter2#@h",
            "amqp://h/hunter2@v",
        ] {
            let error = Address::parse(url, 10).expect_err(url);
            assert!(
                error.contains("`#` as `%23`") && !error.contains("hunter") && !error.contains("12"),
                "{error}"
            );
        }
        for url in ["amqp://ann:12%2Fhunter2@h", "amqp://ann:a@b@h/v%40w"] {
            let target = Address::parse(url, 10).expect(url);
            assert_eq!(target.host(), "h", "{url}");
        }
    }
}
