//! A cluster of three nodes and a quorum queue on them: its leader is killed, then the node that the sink talks to, then
//! the majority is away.

use super::*;
use crate::alone::{Logs, alone};
use crate::brokers::{Broker, PASSWORD, Rabbit, USER};
use crate::oracle::Copy;
use crate::outage::{Expected, HASTY, Outage, PATIENT, name_fault};
use crate::servers::RabbitCluster;
use support::wait_until;

const SECOND: Duration = Duration::from_secs(1);

/// A sink that knows all three nodes, with a quorum queue that gets everything.
struct Joined<'a> {
    cluster: &'a RabbitCluster,
    rabbit: Rabbit<'a>,
}

impl<'a> Joined<'a> {
    fn on(cluster: &'a RabbitCluster) -> Joined<'a> {
        Joined { cluster, rabbit: Rabbit::with(&cluster.nodes[2], ", type: quorum") }
    }

    /// Makes its queue on a node, which leads it then.
    fn led_by(self, node: usize) -> Self {
        let quorum = QueueConfig::bound(["#"]).kind(QueueType::Quorum);
        let url = self.cluster.nodes[node].url(&self.rabbit.vhost);
        let config = sinks::rabbitmq(url).exchange("events").bind("all", quorum);
        // Nodes that have just begun take their time for their first queue.
        wait_until("the queue is there", || {
            let mut sink = config.build().unwrap();
            run(async {
                let open = sink.open(&SinkContext::detached("records")).await;
                sink.close().await;
                open.map_err(|error| error.to_string())
            })
        });
        assert_eq!(self.leader(), Some(node));
        self
    }

    fn leader(&self) -> Option<usize> {
        self.cluster.leader(self.rabbit.node, &self.rabbit.vhost, "all")
    }
}

impl Broker for Joined<'_> {
    fn name(&self) -> &'static str {
        self.rabbit.name()
    }

    fn port(&self) -> u16 {
        self.rabbit.port()
    }

    fn keys(&self, port: u16) -> String {
        let login = format!("{USER}-{}:{PASSWORD}", self.rabbit.vhost);
        let urls = self.cluster.urls(&self.rabbit.vhost).replace("guest:guest", &login);
        let one = format!("amqp://{login}@127.0.0.1:{port}/{}", self.rabbit.vhost);
        self.rabbit.keys(port).replace(&one, &urls)
    }

    fn arrived(&self) -> Vec<Copy> {
        self.rabbit.arrived()
    }
}

#[test]
fn a_cluster_loses_its_leader_its_node_and_its_majority() {
    alone("rabbitmq::cluster::a_cluster_loses_its_leader_its_node_and_its_majority", || {
        let begun = Instant::now();
        let at = |what: &str| println!("{:.1} s: {what}", begun.elapsed().as_secs_f64());
        let cluster = RabbitCluster::start();
        at("the cluster runs");
        let [first, second, late] = [1; 3].map(|leader| Joined::on(&cluster).led_by(leader));
        // A node that is killed within half a second forgets a queue that it has just been given.
        std::thread::sleep(SECOND);
        the_leader_is_killed_and_then_the_node_of_the_sink(&cluster, &first);
        at("the leader and the node of the sink were killed");
        a_login_that_is_refused_is_passed_by_and_told(&cluster, &second);
        the_majority_is_away(&cluster, &second, &late);
        at("the majority was away");
    });
}

/// The sink talks to the first node, another leads, and the third is never touched. The first stays away.
fn the_leader_is_killed_and_then_the_node_of_the_sink(cluster: &RabbitCluster, joined: &Joined<'_>) {
    name_fault("rabbitmq::the leader of a quorum queue is killed, and then the node of the sink");
    let outage = Outage::of_few(joined, PATIENT);
    outage.flows();
    let since = outage.since();
    cluster.nodes[1].kill9();
    outage.flows();
    wait_until("another leads", || match joined.leader() {
        Some(0 | 2) => Ok(()),
        leader => Err(format!("{leader:?}")),
    });
    outage.never_broke(&since);
    cluster.restart(&[1]);
    // The next node is met while it knows of no other leader yet: it refuses all that is for the queue at first.
    cluster.lead(joined.rabbit.node, &joined.rabbit.vhost, "all", 0);
    cluster.nodes[0].kill9();
    outage.recovers();
    outage.ends(&Expected { losses: 1, ..Expected::default() });
}

/// The first node is away already.
fn the_majority_is_away(cluster: &RabbitCluster, joined: &Joined<'_>, late: &Joined<'_>) {
    name_fault("rabbitmq::the majority of a quorum queue is away");
    let logs = Logs::keep();
    let outage = Outage::of_few(joined, HASTY);
    outage.flows();
    let [away, next] = [0, 1].map(|node| cluster.nodes[node].port());
    passed_by(&logs, next, &format!("cannot connect to 127.0.0.1:{away}"));
    cluster.nodes[2].kill9();
    let lost = Instant::now();
    outage.breaks("majority");
    // A queue of its own, for what was refused may be taken all the same once the majority is back.
    let url = cluster.nodes[1].url(&late.rabbit.vhost);
    let config = sinks::rabbitmq(url).exchange("events");
    let quorum = || QueueConfig::bound(["#"]).kind(QueueType::Quorum);
    run(async {
        // A connection that is made meanwhile hears a refusal instead of nothing.
        let mut late = opened(&config.clone().bind("all", quorum())).await;
        let error = late.deliver(&mut batch([1])).await.unwrap_err();
        says(&error, ErrorClass::Overload, &["the majority of its nodes"]);
        // The broker itself gives up after the same 5 s, and closes the connection.
        let error = refused(&config.bind("new", quorum())).await;
        let says = |words: &str| error.to_string().contains(words);
        let silent = says("does not answer within 5s") && says("majority");
        assert!(silent || says("closed the connection"), "{error}");
        assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    });
    outage.lasts((15 * SECOND).saturating_sub(lost.elapsed()));
    outage.breaks("majority");
    cluster.restart(&[0, 2]);
    outage.recovers();
    // What was sent before is confirmed now: nothing is sent twice, if the nodes came back in the minute that it is given.
    let losses = usize::from(lost.elapsed() > 55 * SECOND);
    outage.ends(&Expected { losses, ..Expected::default() });
}

fn a_login_that_is_refused_is_passed_by_and_told(cluster: &RabbitCluster, joined: &Joined<'_>) {
    let logs = Logs::keep();
    let [wrong, good] = [1, 2].map(|node| cluster.nodes[node].url(&joined.rabbit.vhost));
    let wrong = wrong.replace("guest:guest", &format!("ann:{CANARY}"));
    run(async { opened(&sinks::rabbitmq(format!("{wrong},{good}"))).await.close().await });
    passed_by(&logs, cluster.nodes[2].port(), "login refused for user `ann`");
}

/// One line says to whom the sink is connected, and why not to another.
#[track_caller]
fn passed_by(logs: &Logs, port: u16, why: &str) {
    let lines = logs.lines();
    let to = format!("to=127.0.0.1:{port} ");
    let told = |line: &&String| line.contains("the next address") && line.contains(&to) && line.contains(why);
    assert_eq!(lines.iter().filter(told).count(), 1, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(CANARY)), "the password shows: {lines:#?}");
}
