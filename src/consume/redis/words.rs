//! What a refusal of Redis means to a consumer, and what the consumer advises against it.

use crate::brokers::redis::error::{Cause, Failure, Topic, reply as said};

/// The key that a command is about, with the advice of a consumer.
pub(super) fn topic(key: &str) -> Topic<'_> {
    Topic { key, advice }
}

fn advice(cause: Cause, key: &str) -> String {
    match cause {
        Cause::OutOfMemory => "raise maxmemory, or trim the stream".to_owned(),
        Cause::OtherNode => "it is looked for there".to_owned(),
        Cause::WrongType => "read another one, or delete it".to_owned(),
        Cause::NotPermitted => format!("allow it to read `~{key}`"),
        Cause::Exhausted => "delete it".to_owned(),
        Cause::UnknownCommand => "consumers need Redis 6.2 or newer".to_owned(),
        Cause::NoCluster => "name one server".to_owned(),
    }
}

/// What a reply means that is an error of a command about `key`.
pub(super) fn reply(code: &str, detail: &str, key: &str) -> Failure {
    match code {
        "NOPERM" => Failure::misconfigured(format!("the user of url may not read `{key}`")),
        // What is in the stream can be read all the same, so this passes.
        "OOM" => {
            Failure::unavailable("out of memory (maxmemory reached): raise maxmemory, or trim the stream")
        }
        "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" => Failure::unavailable(format!(
            "`{key}` moves to another node of the cluster, and is looked for there"
        )),
        _ => said(code, detail, topic(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_refusal_speaks_of_what_a_sink_does_or_of_its_keys() {
        for (code, detail, words) in [
            ("NOAUTH", "Authentication required.", "put user and password into url"),
            ("WRONGPASS", "invalid username-password pair", "check user and password in url"),
            ("NOPERM", "this user has no permissions to run the 'xread' command", "may not read `ai_events`"),
            (
                "WRONGTYPE",
                "Operation against a key holding the wrong kind of value",
                "the key `ai_events` holds no stream",
            ),
            ("OOM", "command not allowed", "trim the stream"),
            ("MOVED", "1 127.0.0.1:1", "looked for there"),
            ("CROSSSLOT", "Keys in request don't hash to the same slot", "looked for there"),
            ("LOADING", "Redis is loading the dataset in memory", "wait"),
            ("ERR", "unknown command 'XREAD', with args", "Redis 6.2"),
            ("ERR", "The stream has exhausted the last possible ID", "last possible id"),
        ] {
            let line = reply(code, detail, "ai_events").at("redis://h:1").to_string();
            assert!(line.contains(words), "{line}");
            let keys = ["stream_key", "max_len", "`cluster:", "expire", "xadd", "may not write"];
            assert!(!keys.iter().any(|key| line.contains(key)), "{line}");
        }
    }
}
