//! Inspects a server on connecting and while connected: what keeps the sink from working there, and what will hurt later.

use std::path::Path;
use std::time::Duration;

use redis::{Pipeline, Value};
use streamll_actors::sink::SinkContext;
use tokio::time::Instant;
use tracing::warn;

use super::advice::{no_pexpire, topic};
use crate::brokers::redis::address::Address;
use crate::brokers::redis::cluster::several;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, reply, wrong_type};

/// Between two inspections.
pub(super) const INSPECT: Duration = Duration::from_secs(60);

/// The places of the answers.
const PING: usize = 0;
const INFO: usize = 1;
const SAVE: usize = 2;
const MULTI: usize = 3;
const EXEC: usize = 4;
const CLUSTER: usize = 5;
const TYPE: usize = 6;

/// The questions, in the order in which [`read`] takes the answers.
fn questions(key: Option<&str>, expires: bool) -> Pipeline {
    let mut ask = Pipeline::new();
    // A missing login shows only now: the handshake says nothing of it.
    ask.cmd("PING").cmd("INFO").cmd("CONFIG").arg("GET").arg("save");
    // A user that may not begin a transaction would write outside of it.
    ask.cmd("MULTI").cmd("EXEC");
    // Asked by itself, as the user may lack the permission for `INFO`.
    ask.cmd("CLUSTER").arg("INFO");
    if let Some(key) = key {
        ask.cmd("TYPE").arg(key);
    }
    if expires {
        // `?` is no number, so nothing is set; the server looks at the permission before that.
        ask.cmd("PEXPIRE").arg(key.unwrap_or("streamll")).arg("?");
    }
    ask
}

/// What an inspection found.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    /// What will hurt, a line each.
    pub(super) findings: Vec<String>,
    /// Whether the server is a node of a cluster.
    pub(super) in_cluster: bool,
    /// Whether the user may ask for that.
    pub(super) may_ask: bool,
}

/// What the last inspection found, and when that was.
#[derive(Debug)]
pub(super) struct Findings {
    known: Vec<String>,
    pub(super) at: Instant,
}

impl Findings {
    pub(super) fn none() -> Findings {
        Findings { known: Vec::new(), at: Instant::now() }
    }

    /// Publishes what an inspection found, and logs what is new.
    pub(super) fn publish(
        &mut self,
        findings: Vec<String>,
        ctx: Option<&SinkContext>,
        addresses: &[Address],
    ) {
        let name = ctx.map_or("", SinkContext::name);
        for finding in findings.iter().filter(|finding| !self.known.contains(finding)) {
            warn!(sink = %name, server = %several(addresses), "{finding}");
        }
        self.known.clone_from(&findings);
        if let Some(ctx) = ctx {
            ctx.warnings(findings);
        }
    }
}

/// Connects, logs in and inspects. `key` is one that the sink must be able to write to.
pub(super) async fn connect(
    address: &Address,
    ca_file: Option<&Path>,
    key: Option<&str>,
    expires: bool,
    on_end: impl FnOnce() + Send + 'static,
) -> Result<(Link, Inspection), Failure> {
    let (questions, topic) = (questions(key, expires), topic(key.unwrap_or("*")));
    let (link, answers) = Link::open(address, ca_file, &questions, topic, on_end).await?;
    Ok((link, read(&answers, key, expires)?))
}

/// Inspects a server that is connected; `None` where it does not answer.
pub(super) async fn again(link: &mut Link, key: Option<&str>, expires: bool) -> Option<Vec<String>> {
    let answers = link.ask(&questions(key, expires)).await.ok()?;
    read(&answers, key, expires).ok().map(|inspection| inspection.findings)
}

/// Reads the answers. What the user may not ask stays unknown, quietly.
fn read(answers: &[Value], key: Option<&str>, expires: bool) -> Result<Inspection, Failure> {
    let (answers, pexpire) = match answers.split_last() {
        Some((pexpire, others)) if expires => (others, Some(pexpire)),
        _ => (answers, None),
    };
    check(answers, pexpire, key)?;
    let in_cluster = answers.get(CLUSTER).is_some_and(|info| text(info).is_some())
        || matches!(answers.get(TYPE), Some(Value::ServerError(error)) if of_cluster(error.code()));
    let may_ask =
        !matches!(answers.get(CLUSTER), Some(Value::ServerError(error)) if error.code() == "NOPERM");
    Ok(Inspection { findings: findings(answers, expires), in_cluster, may_ask })
}

/// What keeps the sink from working.
fn check(answers: &[Value], pexpire: Option<&Value>, key: Option<&str>) -> Result<(), Failure> {
    let name = key.unwrap_or("*");
    for (i, answer) in answers.iter().enumerate() {
        // The sink does without an answer that the user may not have, or that the server does not know.
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
        // Which keys events will name is not known here, so only a refusal of the command counts.
        && (key.is_some() || error.details().is_some_and(|detail| detail.contains("pexpire")))
    {
        return Err(no_pexpire(name));
    }
    if let (Some(key), Some(Value::SimpleString(kind))) = (key, answers.get(TYPE))
        && !["none", "stream"].contains(&kind.as_str())
    {
        return Err(wrong_type(Some(kind), topic(key)));
    }
    Ok(())
}

/// What will hurt, a line each.
fn findings(answers: &[Value], expires: bool) -> Vec<String> {
    let info = answers.get(INFO).and_then(text).unwrap_or_default();
    let value = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim())
    };
    let mut found = Vec::new();
    let policy = value("maxmemory_policy");
    if policy.starts_with("allkeys-") || (expires && policy.starts_with("volatile-")) {
        found.push(format!(
            "the server's eviction policy {policy} deletes whole streams once maxmemory is reached: set maxmemory-policy noeviction"
        ));
    }
    let save = match answers.get(SAVE) {
        Some(Value::Array(pair)) => pair.get(1).and_then(text),
        _ => None,
    };
    if value("aof_enabled") == "0" && save.is_some_and(str::is_empty) {
        found.push(
            "the server keeps nothing on disk: what it acknowledges is lost when it ends; set appendonly yes"
                .to_owned(),
        );
    }
    if value("role") == "slave" {
        found.push(
            "the server is a replica and takes no writes: promote it, or let url lead to the master"
                .to_owned(),
        );
    }
    found
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
