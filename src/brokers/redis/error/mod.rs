//! What a failure of Redis means: its class, a line for an operator, and whether anything can have been carried out.

mod connecting;
mod failure;
mod reply;
mod scene;

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use redis::RedisError;
use streamll_actors::sink::ErrorClass;

use super::ANSWER;
use connecting::tls;

pub(crate) use connecting::{no_tls, unconnected, unreachable};
pub(crate) use failure::Failure;
pub(crate) use reply::{cluster_down, is_of_key, no_cluster, no_cluster_info, no_master, reply, wrong_type};
pub(crate) use scene::{Cause, Scene, Stage, Topic};

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
            Failure::new(ErrorClass::Unknown, what).by(kind).perhaps_sent()
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

/// What a server says before it hangs up by itself. The library does not pass it on.
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

/// The library keeps it behind a pointer of its own.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source()?.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use streamll_actors::sink::Cost;

    use super::super::address::Address;
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

    fn shown(failure: &Failure) -> String {
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
            let line_shown = shown(&failure);
            assert!(
                line_shown.starts_with("redis://h:1: ")
                    && line_shown.contains(line)
                    && !line_shown.contains('\n'),
                "{line_shown}"
            );
            assert_eq!(line_shown.ends_with("; events wait"), class != Rejected, "{line_shown}");
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
            shown(&failure),
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
            assert!(shown(&failure).contains(line), "{}", shown(&failure));
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
