//! A look at a server on connecting: what keeps the sink from working there, and what will hurt later.

use std::path::Path;

use redis::{Pipeline, Value};

use super::advice::{no_pexpire, topic};
use crate::brokers::redis::address::Address;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, reply, wrong_type};

/// The places of the answers.
const PING: usize = 0;
const INFO: usize = 1;
const SAVE: usize = 2;
const MULTI: usize = 3;
const EXEC: usize = 4;
const CLUSTER: usize = 5;
const TYPE: usize = 6;

/// The questions, in the order in which [`read`] takes the answers.
pub(super) fn questions(key: Option<&str>, expires: bool) -> Pipeline {
    let mut ask = Pipeline::new();
    // A login that is missing shows only now: the handshake says nothing of it.
    ask.cmd("PING").cmd("INFO").cmd("CONFIG").arg("GET").arg("save");
    // Who may not begin a transaction would write outside of it.
    ask.cmd("MULTI").cmd("EXEC");
    // Also who may not ask `INFO` is to know.
    ask.cmd("CLUSTER").arg("INFO");
    if let Some(key) = key {
        ask.cmd("TYPE").arg(key);
    }
    if expires {
        // No number, so that nothing comes of it; whether it is permitted is looked at before.
        ask.cmd("PEXPIRE").arg(key.unwrap_or("streamll")).arg("?");
    }
    ask
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// What will hurt, a line each.
    pub(super) findings: Vec<String>,
    /// It is a node of a cluster.
    pub(super) in_cluster: bool,
    /// Whether it says so to this user.
    pub(super) may_ask: bool,
}

/// Connects, logs in and looks around. `key` is one that it must be able to write to.
pub(super) async fn connect(
    address: &Address,
    ca_file: Option<&Path>,
    key: Option<&str>,
    expires: bool,
    on_end: impl FnOnce() + Send + 'static,
) -> Result<(Link, Look), Failure> {
    let (questions, topic) = (questions(key, expires), topic(key.unwrap_or("*")));
    let (link, answers) = Link::open(address, ca_file, &questions, topic, on_end).await?;
    Ok((link, read(&answers, key, expires)?))
}

/// What the user may not ask stays unknown, quietly.
pub(super) fn read(answers: &[Value], key: Option<&str>, expires: bool) -> Result<Look, Failure> {
    let name = key.unwrap_or("*");
    let (answers, pexpire) = match answers.split_last() {
        Some((pexpire, others)) if expires => (others, Some(pexpire)),
        _ => (answers, None),
    };
    for (i, answer) in answers.iter().enumerate() {
        // Without permission, or without such a question at all, we do without the answer.
        let dispensable = |code| match i {
            PING => code == "NOPERM",
            MULTI | EXEC => false,
            _ => code == "NOPERM" || code == "ERR",
        };
        if let Value::ServerError(error) = answer
            && !dispensable(error.code())
            && !(i == TYPE && of_cluster(error.code()))
        {
            return Err(reply(error.code(), error.details().unwrap_or_default(), topic(name)));
        }
    }
    if let Some(Value::ServerError(error)) = pexpire
        && error.code() == "NOPERM"
        // Which keys events will name is not known here.
        && (key.is_some() || error.details().is_some_and(|detail| detail.contains("pexpire")))
    {
        return Err(no_pexpire(name));
    }
    if let (Some(key), Some(Value::SimpleString(kind))) = (key, answers.get(TYPE))
        && !["none", "stream"].contains(&kind.as_str())
    {
        return Err(wrong_type(Some(kind), topic(key)));
    }
    let info = answers.get(INFO).and_then(text).unwrap_or_default();
    let value = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim())
    };
    let mut found = Vec::new();
    let policy = value("maxmemory_policy");
    if policy.starts_with("allkeys-") || (expires && policy.starts_with("volatile-")) {
        found.push(format!(
            "its eviction policy {policy} deletes whole streams once maxmemory is reached: set maxmemory-policy noeviction"
        ));
    }
    let save = match answers.get(SAVE) {
        Some(Value::Array(pair)) => pair.get(1).and_then(text),
        _ => None,
    };
    if value("aof_enabled") == "0" && save.is_some_and(str::is_empty) {
        found.push(
            "it keeps nothing on disk: what it acknowledges is gone when it ends; set appendonly yes"
                .to_owned(),
        );
    }
    if value("role") == "slave" {
        found.push(
            "it is a replica and takes no writes: promote it, or let url lead to the master".to_owned(),
        );
    }
    let in_cluster = answers.get(CLUSTER).is_some_and(|info| text(info).is_some())
        || matches!(answers.get(TYPE), Some(Value::ServerError(error)) if of_cluster(error.code()));
    let may_ask =
        !matches!(answers.get(CLUSTER), Some(Value::ServerError(error)) if error.code() == "NOPERM");
    Ok(Look { findings: found, in_cluster, may_ask })
}

/// Whether only a node of a cluster says this of a key.
fn of_cluster(code: &str) -> bool {
    ["MOVED", "ASK", "CLUSTERDOWN"].contains(&code)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
