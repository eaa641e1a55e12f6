//! What a Redis sink advises against a refusal: it knows its own settings. Also the failures that only writing has.

use crate::brokers::redis::error::{Cause, Failure, Topic};

/// What messages say of a key: the key, and the sink's advice.
pub(super) fn topic(key: &str) -> Topic<'_> {
    Topic { key, advice }
}

fn advice(cause: Cause, key: &str) -> String {
    match cause {
        Cause::OutOfMemory => "raise maxmemory or trim with max_len".to_owned(),
        Cause::OtherNode => "leave out `cluster: false`".to_owned(),
        Cause::WrongType => "choose another stream_key, or delete the key".to_owned(),
        Cause::NotPermitted => format!("allow it `+xadd +multi +exec ~{key}`, with expire also `+pexpire`"),
        Cause::Exhausted => "choose another stream_key".to_owned(),
        Cause::UnknownCommand => "streams and transactions need Redis 5 or newer".to_owned(),
        Cause::NoCluster => "leave out `cluster: true`, and name one server in url".to_owned(),
    }
}

/// A slot was not at the node that the cluster named, again and again.
pub(super) fn between_nodes(key: &str) -> Failure {
    Failure::unavailable(format!("the slot of `{key}` is being moved from one node to another"))
}

/// The user may not follow a slot that is being moved.
pub(super) fn no_asking() -> Failure {
    Failure::misconfigured("the user of url may not write to slots that are being moved: allow it `+asking`")
}

/// The user may not set how long a stream stays.
pub(super) fn no_pexpire(key: &str) -> Failure {
    Failure::misconfigured(format!(
        "the user of url may not set how long streams stay: allow it `+pexpire ~{key}`, or leave out expire"
    ))
}

/// The events have arrived, but the expiry of their streams could not be set.
pub(super) fn not_expiring(failure: Failure) -> Failure {
    failure.amid(|why| {
        format!(
            "events arrived, but the expiry of their streams (expire) could not be set: {why}; it is set again before the next batch"
        )
    })
}

/// Why an event can never arrive: its key [is refused](crate::brokers::redis::error::is_of_key), while other keys are taken.
pub(super) fn of_key(code: &str, key: &str, user: Option<&str>) -> String {
    match code {
        "NOPERM" => {
            let user = user.map_or("the user of url".to_owned(), |user| format!("the user `{user}`"));
            format!(
                "{user} may not write to the key `{key}`: allow it `~{key}`, or choose another stream_key"
            )
        }
        "ERR" => {
            format!(
                "the stream `{key}` has used its last possible id: delete it, or choose another stream_key"
            )
        }
        _ => format!("the key `{key}` holds no stream: delete it, or choose another stream_key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::redis::error::reply;

    #[test]
    fn a_refusal_is_mended_by_a_key_of_the_sink_or_a_right_of_its_user() {
        for (code, detail, words) in [
            (
                "OOM",
                "command not allowed when used memory > 'maxmemory'.",
                "raise maxmemory or trim with max_len",
            ),
            ("MOVED", "3999 127.0.0.1:6381", "leave out `cluster: false`"),
            ("WRONGTYPE", "Operation against a key", "holds no stream: choose another stream_key"),
            (
                "NOPERM",
                "this user has no permissions to run the 'xadd' command",
                "+xadd +multi +exec ~ai_events",
            ),
            ("ERR", "The stream has exhausted the last possible ID", "choose another stream_key"),
            ("ERR", "unknown command 'XADD', with args beginning with: 'hunter2'", "need Redis 5"),
            ("ERR", "This instance has cluster support disabled", "leave out `cluster: true`"),
        ] {
            let line = reply(code, detail, topic("ai_events")).at("redis://h:1").to_string();
            assert!(line.contains(words) && !line.contains("hunter2"), "{line}");
        }
    }
}
