//! The sink: opens and keeps its connection, and hands batches to a server or a cluster.

use std::time::Duration;

use streamll_actors::sink::{Deliveries, DeliveryError, ErrorClass, Sink, SinkContext};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::of_node;
use super::connect::Connection;
use super::inspect::{self, Findings, INSPECT};
use super::read_replies::Undone;
use super::settings::Settings;
use super::to_server::unsent;
use super::writer::Writer;
use crate::brokers::redis::cluster::several;
use crate::brokers::redis::connect::CONNECT;
use crate::brokers::redis::error::Failure;

/// Between two looks whether a cluster has its masters again.
const ELECTION: Duration = Duration::from_millis(300);
/// How long an inspection of what is connected may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Writes events into Redis Streams; see [`RedisConfig`](super::RedisConfig).
#[derive(Debug)]
pub struct RedisSink {
    writer: Writer,
    /// `None` before the first open, after a failure, and while a future of ours is under way: a future that is dropped
    /// half-way leaves no connection behind.
    connection: Option<Connection>,
    /// Whether to wait for an election: the sink had a cluster since it was last opened in vain.
    is_patient: bool,
    findings: Findings,
}

impl Sink for RedisSink {
    async fn open(&mut self, ctx: &SinkContext) -> Result<(), DeliveryError> {
        self.connection = None;
        self.writer.ctx = Some(ctx.clone());
        // Nothing is sent afterwards: all of the time is for connecting, but for one more try, which may meet silence.
        let time = ctx.deliver_timeout();
        let patience = time.saturating_sub(3 * CONNECT).max(time / 2);
        let until = Instant::now() + if self.is_patient { patience } else { Duration::ZERO };
        let connection = loop {
            match self.connect().await {
                // A cluster that worked elects another master within seconds: the circuit's pauses are made for longer.
                Err(failure) if failure.class == ErrorClass::Unavailable && Instant::now() < until => {
                    sleep(ELECTION).await;
                }
                connection => break connection,
            }
        };
        // Once in vain is enough: then it is the circuit that waits.
        self.is_patient &= connection.is_ok();
        self.connection = Some(connection.map_err(|failure| self.shown(failure))?);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.writer.in_doubt = false;
        let sent = match self.connection.take() {
            Some(Connection::Server(link)) if !link.is_alive() => self.connect_and_send(batch).await,
            Some(Connection::Cluster(cluster)) if !cluster.is_alive() => self.connect_and_send(batch).await,
            Some(connection) => match self.send(connection, batch).await {
                // The server had hung up meanwhile, which only showed now.
                Err(Undone { unwritten: true, .. }) => self.connect_and_send(batch).await,
                sent => sent.map_err(|undone| undone.failure),
            },
            None => self.connect_and_send(batch).await,
        };
        if self.connection.is_none() {
            self.writer.connected(false);
        }
        if let Some(ctx) = &self.writer.ctx {
            ctx.probe_widely(self.writer.in_doubt && sent.is_err());
        }
        if sent.is_ok() && self.findings.at.elapsed() >= INSPECT {
            self.inspect_again().await;
        }
        sent.map_err(|failure| self.shown(failure))
    }

    async fn close(&mut self) {
        self.inspect_again().await;
        self.connection = None;
        self.writer.connected(false);
    }
}

impl RedisSink {
    pub(super) fn new(settings: Settings) -> RedisSink {
        let (writer, findings) = (Writer::new(settings), Findings::none());
        RedisSink { writer, connection: None, is_patient: false, findings }
    }

    async fn connect(&mut self) -> Result<Connection, Failure> {
        let connected = self.writer.connect().await;
        self.writer.connected(connected.is_ok());
        let (connection, findings) = connected?;
        self.is_patient |= matches!(connection, Connection::Cluster(_));
        self.findings.at = Instant::now();
        self.publish(findings);
        Ok(connection)
    }

    /// Sends a batch, and keeps the connection if it is good for another.
    async fn send(&mut self, connection: Connection, batch: &mut Deliveries) -> Result<(), Undone> {
        match connection {
            Connection::Server(link) => {
                let (link, sent) = self.writer.send_to_server(link, batch).await;
                self.connection = link.map(Connection::Server);
                sent
            }
            Connection::Cluster(cluster) => {
                let (cluster, sent) = self.writer.send_to_cluster(cluster, batch).await;
                if cluster.is_some() {
                    // A node that had hung up is connected again.
                    self.writer.connected(true);
                }
                self.connection = cluster.map(Connection::Cluster);
                sent.map_err(Undone::of)
            }
        }
    }

    async fn connect_and_send(&mut self, batch: &mut Deliveries) -> Result<(), Failure> {
        match self.connect().await {
            Ok(connection) => match self.send(connection, batch).await {
                Err(undone) if undone.unwritten => Err(unsent(batch, undone.failure)),
                sent => sent.map_err(|undone| undone.failure),
            },
            Err(failure) => Err(unsent(batch, failure)),
        }
    }

    /// Inspects what is connected: what will hurt may have been set since. What cannot be known stays as it was found before.
    async fn inspect_again(&mut self) {
        self.findings.at = Instant::now();
        let entry = &self.writer.settings.entry;
        let (key, expires) = (entry.keys.one(), entry.expire.is_some());
        let connection = self.connection.as_mut();
        let inspected = async {
            Some(match connection? {
                Connection::Server(link) => inspect::again(link, key, expires).await?,
                Connection::Cluster(cluster) => {
                    let mut found = Vec::new();
                    for (node, link) in cluster.links() {
                        found.extend(of_node(node, &inspect::again(link, None, expires).await?));
                    }
                    found
                }
            })
        };
        if let Ok(Some(findings)) = timeout(ANSWER, inspected).await {
            self.publish(findings);
        }
    }

    fn publish(&mut self, findings: Vec<String>) {
        self.findings.publish(findings, self.writer.ctx.as_ref(), &self.writer.settings.addresses);
    }

    /// A failure as people read it.
    fn shown(&self, failure: Failure) -> DeliveryError {
        failure.at(several(&self.writer.settings.addresses))
    }
}
