//! What a failure of Redis means: its class, a line for an operator, and whether anything can have been carried out.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use streamll_actors::sink::{Cost, DeliveryError, ErrorClass};

use super::ANSWER;
use super::address::Address;
use crate::brokers::net::{self, Unreachable};
use crate::brokers::words::quote;

/// A refusal that is mended by a setting of whoever is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The memory of the server is full.
    OutOfMemory,
    /// The key lives on another node of a cluster.
    OtherNode,
    /// The key holds something else.
    WrongType,
    /// The user may not run the command, or not for this key.
    NotPermitted,
    /// The stream has used its last possible id.
    Exhausted,
    /// The server is too old.
    UnknownCommand,
    /// The server is no node of a cluster.
    NoCluster,
}

/// What a command is about, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topic<'a> {
    /// The key; `*` for any.
    pub(crate) key: &'a str,
    /// What the caller advises against a refusal: only the caller knows its own settings.
    pub(crate) advice: fn(cause: Cause, key: &str) -> String,
}

impl Topic<'_> {
    fn advice(self, cause: Cause) -> String {
        (self.advice)(cause, self.key)
    }
}

/// A failure, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    cost: Cost,
    what: String,
    /// Whether what was sent is certain not to have been carried out.
    pub(crate) unsent: bool,
    /// Whether the connection may be used again.
    pub(crate) keep: bool,
}

/// How far things had come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) stage: Stage,
    /// What the server said last; needed when it hung up.
    pub(crate) last_words: &'a [u8],
    pub(crate) topic: Topic<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Logging in and looking around.
    Connecting,
    /// Nothing of the transaction was written.
    Unwritten,
    /// Some of it was.
    Written,
    /// Something that may be asked again: the time of streams, a read, an acknowledgement.
    Repeatable,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, what: impl Into<String>) -> Failure {
        Failure { class, cost: Cost::of(class, None), what: what.into(), unsent: true, keep: false }
    }

    pub(crate) fn unavailable(what: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Unavailable, what)
    }

    pub(crate) fn misconfigured(what: impl Into<String>) -> Failure {
        Failure::new(ErrorClass::Misconfigured, what)
    }

    fn overload(what: impl Into<String>) -> Failure {
        Failure { keep: true, ..Failure::new(ErrorClass::Overload, what) }
    }

    /// An error of the system is behind it.
    fn by(self, kind: Option<ErrorKind>) -> Failure {
        Failure { cost: Cost::of(self.class, kind), ..self }
    }

    /// The first of two, on several nodes: one that refuses is asked again soon, although another is silent.
    pub(crate) fn cheaper(self, other: &Failure) -> Failure {
        let is_free = self.class == ErrorClass::Unavailable && other.cost == Cost::Nothing;
        Failure { cost: if is_free { Cost::Nothing } else { self.cost }, ..self }
    }

    /// It is about one of several nodes.
    pub(crate) fn of_node(self, node: &Address) -> Failure {
        Failure { what: format!("node {node}: {}", self.what), ..self }
    }

    /// It did not answer in time while connecting.
    pub(super) fn late(limit: Duration) -> Failure {
        Failure::unavailable(format!(
            "no connection within {limit:?}: is it frozen, or a firewall in between?"
        ))
        .by(Some(ErrorKind::TimedOut))
    }

    /// The same failure, in the course of something larger: `describe` words that around what it says.
    pub(crate) fn amid(self, describe: impl FnOnce(&str) -> String) -> Failure {
        Failure { what: describe(&self.what), ..self }
    }

    /// It answers without TLS.
    pub(super) fn no_tls() -> Failure {
        Failure::misconfigured(NO_TLS)
    }

    /// The error to report, with the server's address in front.
    pub(crate) fn at(self, address: impl Display) -> DeliveryError {
        let Failure { class, cost, what, .. } = self;
        let error = match class {
            ErrorClass::Rejected => DeliveryError::rejected(format!("{address}: {what}")),
            ErrorClass::Misconfigured => {
                DeliveryError::misconfigured(format!("{address}: {what}; events wait"))
            }
            ErrorClass::Overload => DeliveryError::overload(format!("{address}: {what}; events wait")),
            ErrorClass::Unknown => DeliveryError::unknown(format!("{address}: {what}; events wait")),
            _ => DeliveryError::unavailable(format!("{address}: {what}; events wait")),
        };
        error.with_cost(cost)
    }
}

/// What an error of the client library means. Its `retry_method` is not asked: it calls a full memory hopeless and a
/// timeout harmless.
pub(crate) fn explain(error: &RedisError, scene: &Scene<'_>) -> Failure {
    match error.kind() {
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => {
            let (code, detail) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
            reply(code, detail, scene.topic)
        }
        redis::ErrorKind::AuthenticationFailed => last_words(scene)
            .unwrap_or_else(|| Failure::misconfigured("refuses the login: check user and password in url")),
        redis::ErrorKind::Parse if scene.stage == Stage::Connecting => {
            last_words(scene).unwrap_or_else(|| {
                Failure::misconfigured("answers in another protocol: is that the port of a Redis server?")
            })
        }
        redis::ErrorKind::Io | redis::ErrorKind::Parse => broken(error, scene),
        _ => Failure::unavailable(format!("the client fails: {}", error.category())),
    }
}

/// The connection is of no more use.
fn broken(error: &RedisError, scene: &Scene<'_>) -> Failure {
    if let Some(failure) = last_words(scene) {
        return failure;
    }
    let io = io_error(error);
    if let Some(failure) = io.and_then(tls) {
        return failure;
    }
    let kind = if error.is_timeout() { Some(ErrorKind::TimedOut) } else { io.map(io::Error::kind) };
    match scene.stage {
        Stage::Connecting if error.is_timeout() => Failure::late(ANSWER),
        Stage::Connecting => Failure::unavailable(
            "hung up while connecting: is maxclients reached, or is it a TLS port (then `rediss://`)?",
        ),
        Stage::Unwritten => Failure::unavailable("hung up while nothing was under way"),
        Stage::Repeatable => Failure::unavailable(unanswered(error)).by(kind),
        Stage::Written => {
            let what = unanswered(error) + ": what was under way may have arrived and is sent again, marked";
            Failure { unsent: false, ..Failure::new(ErrorClass::Unknown, what).by(kind) }
        }
    }
}

fn unanswered(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {ANSWER:?} (frozen, paused or cut off?)");
    }
    let how = io_error(error).map_or("no sense in its answer".to_owned(), |io| io.kind().to_string());
    format!("lost before it answered ({how})")
}

/// A reply that is an error.
pub(crate) fn reply(code: &str, detail: &str, topic: Topic<'_>) -> Failure {
    use ErrorClass::{Misconfigured, Overload, Rejected, Unavailable};
    let says = |what: &str| detail.contains(what);
    let key = topic.key;
    let with = |what: &str, refusal| format!("{what}: {}", topic.advice(refusal));
    match code {
        "EXECABORT" if says(BECAUSE) => {
            let cause = detail.split_once(BECAUSE).map_or("", |(_, cause)| cause);
            let (code, detail) = cause.split_once(' ').unwrap_or((cause, ""));
            reply(code, detail, topic)
        }
        "OOM" => Failure::overload(with("out of memory (maxmemory reached)", Cause::OutOfMemory)),
        "MISCONF" => Failure::overload(
            "cannot save to its disk and takes no writes (MISCONF): look at its log and its disk",
        ),
        "NOREPLICAS" => Failure::overload(
            "has fewer replicas than min-replicas-to-write and takes no writes: bring them back",
        ),
        "BUSY" => Failure::overload("busy with a script: wait, or end it with SCRIPT KILL"),
        "READONLY" => Failure::new(
            Overload,
            "is a replica and takes no writes: promote it, or let url lead to the master",
        ),
        "MASTERDOWN" => Failure::new(
            Overload,
            "is a replica that has lost its master: bring the master back, or promote it",
        ),
        "LOADING" => Failure::unavailable("is loading its data: wait"),
        "CLUSTERDOWN" => cluster_down(0),
        "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" => Failure::misconfigured(with(
            &format!("is a node of a cluster, and `{key}` is another's"),
            Cause::OtherNode,
        )),
        "WRONGTYPE" => wrong_type(None, topic),
        "NOAUTH" => Failure::misconfigured(NO_LOGIN),
        "WRONGPASS" => Failure::misconfigured("refuses the login: check user and password in url"),
        "NOPERM" => {
            let what = format!("the user of url may not do this ({})", quote(detail));
            Failure::misconfigured(with(&what, Cause::NotPermitted))
        }
        "DENIED" => Failure::misconfigured(
            "is in protected mode and takes no clients from afar: set a password and protected-mode no",
        ),
        "ERR" if says("unauthenticated") => Failure::misconfigured(NO_LOGIN),
        "ERR" if says("bulk length") => {
            Failure::new(Rejected, "an event is larger than it takes: raise proto-max-bulk-len, or send less")
        }
        "ERR" if says("max number of clients") => {
            // It is there, and each try takes one of the places that it has too few of.
            Failure::new(Unavailable, "has too many clients (maxclients reached): raise it, or end some")
                .by(Some(ErrorKind::ResourceBusy))
        }
        "ERR" if says("DB index") => Failure::misconfigured(
            "has no such database: take a smaller number at the end of url, or raise databases",
        ),
        "ERR" if says("cluster support disabled") => no_cluster(topic),
        "ERR" if says("not allowed in cluster mode") => Failure::misconfigured(
            "is a node of a cluster, which has no databases: take the number out of the end of url",
        ),
        "ERR" if says("without any password configured") => {
            Failure::misconfigured("has no password, but url brings one: take it out, or set requirepass")
        }
        "ERR" if says("unknown command") => {
            let what =
                format!("knows no such command ({})", quote(detail.split(',').next().unwrap_or_default()));
            Failure::misconfigured(with(&what, Cause::UnknownCommand))
        }
        "ERR" if says(EXHAUSTED) => Failure::misconfigured(with(
            &format!("the stream `{key}` has used its last possible id"),
            Cause::Exhausted,
        )),
        _ => Failure::new(
            Misconfigured,
            // Some errors repeat arguments, and those hold passwords or events.
            format!(
                "refuses what it was sent: {code} {}",
                quote(detail.split(", with args").next().unwrap_or_default())
            )
            .trim_end(),
        ),
    }
}

/// What it says of a stream that has no id left.
const EXHAUSTED: &str = "exhausted the last possible ID";
/// What `EXEC` says when it is itself what is refused.
const BECAUSE: &str = "discarded because of: ";
const NO_TLS: &str = "does not speak TLS: name its TLS port (tls-port) in url";
const NO_LOGIN: &str = "asks for a password: put user and password into url (`redis://user:password@host`)";

/// The cluster takes no writes; `missing` slots have no master, as far as is known.
pub(super) fn cluster_down(missing: u16) -> Failure {
    let why = match missing {
        0 => "a master is gone and no replica has taken its place, or most masters are gone".to_owned(),
        missing => format!("{missing} of its 16384 slots have no master"),
    };
    let what = format!(
        "its cluster is down (CLUSTERDOWN) and takes no writes: {why}; bring the nodes back, see `CLUSTER NODES`"
    );
    Failure { keep: true, ..Failure::unavailable(what) }
}

/// No node has the slot of what was to be written.
pub(crate) fn no_master(slot: u16) -> Failure {
    Failure::unavailable(format!(
        "no master has slot {slot} of its cluster: bring the nodes back, or assign the slot (`redis-cli --cluster fix`)"
    ))
}

/// Whether it is a cluster cannot be known, or not where its keys are.
pub(crate) fn no_cluster_info() -> Failure {
    Failure::misconfigured(
        "the user of url may not ask where keys are: allow it `+cluster|slots +cluster|info`",
    )
}

/// Whether what a server says of a command concerns the key that it names, and not the command as such.
pub(crate) fn is_of_key(code: &str, detail: &str) -> bool {
    match code {
        "WRONGTYPE" => true,
        // "one of the keys used as arguments", and "a key" since Redis 7.2.
        "NOPERM" => detail.contains("key") && !detail.contains("command"),
        "ERR" => detail.contains(EXHAUSTED),
        _ => false,
    }
}

/// A server by itself was asked as a node of a cluster.
pub(crate) fn no_cluster(topic: Topic<'_>) -> Failure {
    Failure::misconfigured(format!("is no node of a cluster: {}", topic.advice(Cause::NoCluster)))
}

/// A key that is taken by something else.
pub(crate) fn wrong_type(kind: Option<&str>, topic: Topic<'_>) -> Failure {
    let kind = kind.map_or("no stream".to_owned(), |kind| format!("a {kind}, not a stream"));
    let advice = topic.advice(Cause::WrongType);
    Failure::misconfigured(format!("the key `{}` holds {kind}: {advice}", topic.key))
}

/// What a server says before it hangs up by itself, of which the library tells nothing.
fn last_words(scene: &Scene<'_>) -> Option<Failure> {
    let words = scene.last_words;
    if words.starts_with(&[0x15, 0x03]) {
        return Some(Failure::misconfigured("speaks TLS: begin url with `rediss://`"));
    }
    String::from_utf8_lossy(words).lines().find_map(|line| {
        let (code, detail) = line.strip_prefix('-')?.split_once(' ')?;
        let known = ["Protocol error", "max number of clients", "without any password configured"];
        let last = code == "DENIED" || (code == "ERR" && known.iter().any(|words| detail.contains(words)));
        last.then(|| reply(code, detail, scene.topic))
    })
}

/// What a failure to reach the server means.
pub(super) fn unreachable(error: &Unreachable) -> Failure {
    match error {
        Unreachable::Name(error) => Failure::unavailable(format!("its name cannot be resolved: {error}")),
        Unreachable::Connect(error) => unconnected(error),
    }
}

/// What a failure to connect, or to trust the server, means.
pub(super) fn unconnected(error: &io::Error) -> Failure {
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
fn tls(error: &io::Error) -> Option<Failure> {
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

/// The library keeps it behind a pointer of its own.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source()?.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorClass::{Misconfigured, Overload, Rejected, Unavailable, Unknown};

    fn scene(stage: Stage, last_words: &[u8]) -> Scene<'_> {
        Scene {
            stage,
            last_words,
            topic: Topic { key: "ai_events", advice: |cause, _| format!("{cause:?}") },
        }
    }

    fn server(line: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    fn told(failure: &Failure) -> String {
        let address = Address::parse("redis://u:hunter2@h:1").unwrap();
        failure.clone().at(&address).to_string()
    }

    /// What a server says, as it says it; class, whether the connection is kept, and what the operator reads of it.
    const SAID: [(&str, ErrorClass, bool, &str); 25] = [
        (
            "EXECABORT Transaction discarded because of: NOPERM this user has no permissions to run the 'exec' command",
            Misconfigured,
            false,
            "NotPermitted",
        ),
        ("READONLY You can't write against a read only replica.", Overload, false, "promote it"),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Overload,
            false,
            "master back",
        ),
        ("LOADING Redis is loading the dataset in memory", Unavailable, false, "loading its data"),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            Overload,
            true,
            "(maxmemory reached): OutOfMemory",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            Misconfigured,
            false,
            "the key `ai_events` holds no stream: WrongType",
        ),
        ("NOAUTH Authentication required.", Misconfigured, false, "password into url"),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            Misconfigured,
            false,
            "check user and password",
        ),
        (
            "NOPERM this user has no permissions to run the 'xadd' command",
            Misconfigured,
            false,
            "NotPermitted",
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            Overload,
            true,
            "its log and its disk",
        ),
        ("NOREPLICAS Not enough good replicas to write.", Overload, true, "min-replicas-to-write"),
        ("BUSY Redis is busy running a script.", Overload, true, "SCRIPT KILL"),
        ("MOVED 3999 127.0.0.1:6381", Misconfigured, false, "`ai_events` is another's: OtherNode"),
        ("ASK 3999 127.0.0.1:6381", Misconfigured, false, "`ai_events` is another's: OtherNode"),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            Misconfigured,
            false,
            "`ai_events` is another's: OtherNode",
        ),
        ("CLUSTERDOWN The cluster is down", Unavailable, true, "(CLUSTERDOWN) and takes no writes"),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            Misconfigured,
            false,
            "`ai_events` is another's: OtherNode",
        ),
        ("ERR Protocol error: invalid bulk length", Rejected, false, "proto-max-bulk-len"),
        ("ERR Protocol error: unauthenticated bulk length", Misconfigured, false, "password into url"),
        ("ERR max number of clients reached", Unavailable, false, "maxclients"),
        ("ERR DB index is out of range", Misconfigured, false, "raise databases"),
        ("DENIED Redis is running in protected mode because", Misconfigured, false, "protected-mode no"),
        (
            "ERR AUTH <password> called without any password configured for the default user.",
            Misconfigured,
            false,
            "take it out",
        ),
        (
            "ERR The stream has exhausted the last possible ID, unable to add more items",
            Misconfigured,
            false,
            "last possible id: Exhausted",
        ),
        (
            "ERR unknown command 'XADD', with args beginning with: 'k' 'hunter2'",
            Misconfigured,
            false,
            "(unknown command 'XADD'): UnknownCommand",
        ),
    ];

    #[test]
    fn what_a_server_says_has_a_class_and_a_line_for_the_operator() {
        for (said, class, keep, line) in SAID {
            let failure = explain(&server(said), &scene(Stage::Written, b""));
            assert_eq!((failure.class, failure.keep, failure.unsent), (class, keep, true), "{said}");
            let told = told(&failure);
            assert!(
                told.starts_with("redis://h:1: ") && told.contains(line) && !told.contains('\n'),
                "{told}"
            );
            assert_eq!(told.ends_with("; events wait"), class != Rejected, "{told}");
        }
    }

    #[test]
    fn what_is_said_of_a_key_is_told_from_what_is_said_of_a_command() {
        for (code, detail, of_key) in [
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value", true),
            ("NOPERM", "this user has no permissions to access one of the keys used as arguments", true),
            ("NOPERM", "No permissions to access a key", true),
            ("NOPERM", "this user has no permissions to run the 'xadd' command", false),
            ("NOPERM", "User app has no permissions to run the 'xadd' command", false),
            ("ERR", "The stream has exhausted the last possible ID, unable to add more items", true),
            ("ERR", "unknown command 'XADD'", false),
            ("OOM", "command not allowed", false),
        ] {
            assert_eq!(is_of_key(code, detail), of_key, "{code} {detail}");
        }
    }

    #[test]
    fn what_nobody_foresaw_waits_for_a_person_and_shows_no_arguments() {
        let failure = explain(
            &server("ODD nothing like this, with args beginning with: 'hunter2'"),
            &scene(Stage::Written, b""),
        );
        assert_eq!(failure.class, Misconfigured);
        assert_eq!(
            told(&failure),
            "redis://h:1: refuses what it was sent: ODD nothing like this; events wait"
        );
    }

    #[test]
    fn a_connection_that_broke_is_unknown_only_when_something_was_written() {
        let (cut, late): (RedisError, RedisError) =
            (io::Error::from(ErrorKind::BrokenPipe).into(), io::Error::from(ErrorKind::TimedOut).into());
        for (error, stage, class, unsent, line) in [
            (&cut, Stage::Written, Unknown, false, "lost before it answered (broken pipe)"),
            (&late, Stage::Written, Unknown, false, "no answer within 5s"),
            (&cut, Stage::Unwritten, Unavailable, true, "hung up"),
            (&cut, Stage::Connecting, Unavailable, true, "maxclients"),
            (&late, Stage::Connecting, Unavailable, true, "frozen"),
        ] {
            let failure = explain(error, &scene(stage, b"+QUEUED\r\n"));
            assert_eq!((failure.class, failure.keep, failure.unsent), (class, false, unsent), "{stage:?}");
            assert!(told(&failure).contains(line), "{}", told(&failure));
        }
    }

    #[test]
    fn what_refuses_or_is_starting_costs_nothing_and_what_is_silent_or_full_does() {
        let said = |line: &str| explain(&server(line), &scene(Stage::Written, b""));
        let broken = |kind: ErrorKind, stage| explain(&io::Error::from(kind).into(), &scene(stage, b""));
        for (failure, expected) in [
            (unconnected(&ErrorKind::ConnectionRefused.into()), Cost::Nothing),
            (unconnected(&ErrorKind::ConnectionReset.into()), Cost::Nothing),
            (unconnected(&ErrorKind::UnexpectedEof.into()), Cost::Nothing),
            (unconnected(&ErrorKind::TimedOut.into()), Cost::Something),
            (Failure::late(ANSWER), Cost::Something),
            (broken(ErrorKind::ConnectionReset, Stage::Connecting), Cost::Nothing),
            (broken(ErrorKind::BrokenPipe, Stage::Unwritten), Cost::Nothing),
            (broken(ErrorKind::BrokenPipe, Stage::Written), Cost::Nothing),
            (broken(ErrorKind::BrokenPipe, Stage::Repeatable), Cost::Nothing),
            (broken(ErrorKind::TimedOut, Stage::Connecting), Cost::Something),
            (broken(ErrorKind::TimedOut, Stage::Written), Cost::Something),
            (broken(ErrorKind::TimedOut, Stage::Repeatable), Cost::Something),
            (said("LOADING Redis is loading the dataset in memory"), Cost::Nothing),
            (said("CLUSTERDOWN The cluster is down"), Cost::Nothing),
            (no_master(1), Cost::Nothing),
            (said("ERR max number of clients reached"), Cost::Something),
            (said("OOM command not allowed"), Cost::Something),
            (said("NOAUTH Authentication required."), Cost::Something),
        ] {
            let address = Address::parse("redis://h:1").unwrap();
            let of_node = failure.clone().of_node(&address).at(&address);
            assert_eq!((failure.cost, of_node.cost()), (expected, expected), "{failure:?}");
        }
    }

    #[test]
    fn last_words_tell_why_a_server_hung_up() {
        let cut: RedisError = io::Error::from(ErrorKind::BrokenPipe).into();
        let refused: RedisError =
            (redis::ErrorKind::AuthenticationFailed, "Password authentication failed").into();
        for (error, words, class) in [
            (&cut, &b"+QUEUED\r\n-ERR Protocol error: invalid bulk length\r\n"[..], Rejected),
            (&cut, b"-ERR max number of clients reached\r\n", Unavailable),
            (&refused, b"-ERR max number of clients reached\r\n", Unavailable),
            (&cut, b"-DENIED Redis is running in protected mode\r\n", Misconfigured),
            (&cut, &[0x15, 0x03, 0x03, 0, 2, 2, 70], Misconfigured),
            (&cut, b"-OOM no\r\n", Unknown),
            (&refused, b"-WRONGPASS invalid\r\n", Misconfigured),
        ] {
            assert_eq!(explain(error, &scene(Stage::Written, words)).class, class, "{words:?}");
        }
    }
}
