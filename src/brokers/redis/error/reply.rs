//! What a reply means that is an error.

use std::io::ErrorKind;

use streamll_actors::sink::ErrorClass;

use super::failure::Failure;
use super::scene::{Cause, Topic};
use crate::brokers::words::quote;

/// A reply that is an error.
pub(crate) fn reply(code: &str, detail: &str, topic: Topic<'_>) -> Failure {
    let with = |what: &str, refusal| format!("{what}: {}", topic.advice(refusal));
    match code {
        "EXECABORT" if detail.contains(BECAUSE) => {
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
            ErrorClass::Overload,
            "is a replica and takes no writes: promote it, or let url lead to the master",
        ),
        "MASTERDOWN" => Failure::new(
            ErrorClass::Overload,
            "is a replica that has lost its master: bring the master back, or promote it",
        ),
        "LOADING" => Failure::unavailable("is loading its data: wait"),
        "CLUSTERDOWN" => cluster_down(0),
        "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" => Failure::misconfigured(with(
            &format!("is a node of a cluster, and `{}` is another's", topic.key),
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
        "ERR" => error_reply(detail, topic),
        _ => unforeseen(code, detail),
    }
}

/// A reply with the code `ERR`, which says what it means in its words alone.
fn error_reply(detail: &str, topic: Topic<'_>) -> Failure {
    let says = |what: &str| detail.contains(what);
    let key = topic.key;
    let with = |what: &str, refusal| format!("{what}: {}", topic.advice(refusal));
    match detail {
        _ if says("unauthenticated") => Failure::misconfigured(NO_LOGIN),
        _ if says("bulk length") => Failure::new(
            ErrorClass::Rejected,
            "an event is larger than it takes: raise proto-max-bulk-len, or send less",
        ),
        _ if says("max number of clients") => {
            // The server is there, and each try takes one of the places that it has too few of.
            Failure::new(
                ErrorClass::Unavailable,
                "has too many clients (maxclients reached): raise it, or end some",
            )
            .by(Some(ErrorKind::ResourceBusy))
        }
        _ if says("DB index") => Failure::misconfigured(
            "has no such database: take a smaller number at the end of url, or raise databases",
        ),
        _ if says("cluster support disabled") => no_cluster(topic),
        _ if says("not allowed in cluster mode") => Failure::misconfigured(
            "is a node of a cluster, which has no databases: take the number out of the end of url",
        ),
        _ if says("without any password configured") => {
            Failure::misconfigured("has no password, but url brings one: take it out, or set requirepass")
        }
        _ if says("unknown command") => {
            let what =
                format!("knows no such command ({})", quote(detail.split(',').next().unwrap_or_default()));
            Failure::misconfigured(with(&what, Cause::UnknownCommand))
        }
        _ if says(EXHAUSTED) => Failure::misconfigured(with(
            &format!("the stream `{key}` has used its last possible id"),
            Cause::Exhausted,
        )),
        _ => unforeseen("ERR", detail),
    }
}

/// A reply that is in no table. Some replies repeat arguments, and those hold passwords or events.
fn unforeseen(code: &str, detail: &str) -> Failure {
    let said = quote(detail.split(", with args").next().unwrap_or_default());
    Failure::misconfigured(format!("refuses what it was sent: {code} {said}").trim_end())
}

/// What it says of a stream that has no id left.
const EXHAUSTED: &str = "exhausted the last possible ID";
/// What `EXEC` says when it is itself what is refused.
const BECAUSE: &str = "discarded because of: ";
const NO_LOGIN: &str = "asks for a password: put user and password into url (`redis://user:password@host`)";

/// The cluster takes no writes; `missing` slots have no master, as far as is known.
pub(crate) fn cluster_down(missing: u16) -> Failure {
    let why = match missing {
        0 => "a master is gone and no replica has taken its place, or most masters are gone".to_owned(),
        missing => format!("{missing} of its 16384 slots have no master"),
    };
    let what = format!(
        "its cluster is down (CLUSTERDOWN) and takes no writes: {why}; bring the nodes back, see `CLUSTER NODES`"
    );
    Failure::unavailable(what).kept()
}

/// No node has the slot of what was to be written.
pub(crate) fn no_master(slot: u16) -> Failure {
    Failure::unavailable(format!(
        "no master has slot {slot} of its cluster: bring the nodes back, or assign the slot (`redis-cli --cluster fix`)"
    ))
}

/// Whether the server is a node of a cluster is not known, or where the keys are.
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
