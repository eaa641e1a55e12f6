//! What concerns one event alone: its key, its size, its names. That event becomes a dead letter or arrives without what the
//! protocol has no room for, and the others arrive; what concerns all of them is for a person to mend, and they wait.

use streamll::SinkState;
use streamll::sinks::rabbitmq::Ordering;

use super::*;
use crate::machine::Machine;

/// A sink whose user may write to these topics alone, and how to change that.
struct Topics {
    room: Room<'static>,
    user: String,
    url: String,
}

impl Topics {
    fn matching(pattern: &str) -> Topics {
        let room = Room::shared();
        let url = room.user("some", [".*"; 3]);
        let topics = Topics { user: format!("some-{}", room.vhost), room, url };
        topics.allow(pattern);
        topics
    }

    fn allow(&self, pattern: &str) {
        let vhost = &self.room.vhost;
        self.room.node.ctl(&["set_topic_permissions", "-p", vhost, &self.user, "ai_events", pattern, ".*"]);
    }

    fn machine(&self, ordering: &str) -> Machine {
        let url = format!("url: \"{}\"", self.url);
        Machine::start(&[
            "type: rabbitmq",
            &url,
            "queues: { all: [\"#\"] }",
            &format!("ordering: {ordering}"),
        ])
    }

    /// What arrived, each once.
    fn arrived(&self) -> Vec<u64> {
        let mut arrived = self.room.take("all");
        arrived.sort_unstable();
        arrived.dedup();
        arrived
    }
}

const BUT_SECRETS: &str = "^ai\\.(?!secret)";

/// Emits events of these modules, and sees that those of secrets die and all others arrive.
fn only_secrets_die(modules: &[&str], ordering: &str, one_by_one: bool) {
    let topics = Topics::matching(BUT_SECRETS);
    let mut machine = topics.machine(ordering);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for module in modules {
        let number = machine.emit(module);
        if module.starts_with("Secret") {
            bad.push(number)
        } else {
            good.push(number)
        }
        if one_by_one {
            // In trouble or not, it has taken this one in hand.
            machine.wait("it was tried", |status| {
                status.circuit_open || status.balance.delivered + status.balance.dead_lettered > number
            });
        }
    }
    machine.settles();
    let letters = machine.ends();
    assert_eq!(
        letters.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        bad,
        "{modules:?}: {letters:?}"
    );
    for (_, reason) in &letters {
        for words in ["key `ai.secret", "exchange `ai_events`", &topics.user, "set_topic_permissions"] {
            assert!(reason.contains(words), "{reason} lacks `{words}`");
        }
    }
    assert_eq!(topics.arrived(), good, "{modules:?}");
}

#[test]
fn one_key_that_its_user_may_not_write_stops_no_other_wherever_it_stands() {
    let mut modules = ["One", "Two", "Three", "Four", "Five"].repeat(4);
    modules[7] = "Secret";
    for ordering in ["pipelined", "strict"] {
        only_secrets_die(&modules, ordering, false);
    }
    modules.swap(0, 7);
    only_secrets_die(&modules, "pipelined", false);
}

#[test]
fn keys_that_come_alone_are_judged_by_those_that_come_behind() {
    only_secrets_die(&["Secret", "SecretTwo", "One", "Two"], "pipelined", true);
    only_secrets_die(&["One", "Secret", "Secret", "SecretTwo", "Two"], "strict", true);
}

#[tokio::test]
async fn a_key_longer_than_what_the_broker_quotes_is_found_all_the_same() {
    let topics = Topics::matching(BUT_SECRETS);
    let config = sinks::rabbitmq(&topics.url).bind("all", QueueConfig::bound(["#"]));
    let mut sink = opened(&config).await;
    let (long, other) = (format!("ai.secret.{}", "x".repeat(200)), format!("ai.secret.{}y", "x".repeat(200)));
    let mut events = Deliveries::new(vec![
        under("ai.one", 0),
        under(&long, 1),
        under("ai.two", 2),
        under(&other, 3),
        under("ai.one", 4),
    ]);
    let mut poisoned = Vec::new();
    for attempt in 0.. {
        assert!(attempt < 6, "it does not end: {events:?}");
        sink.deliver(&mut events).await.unwrap();
        let marked = marks(&events);
        let marked = |mark: &str| {
            let of = events.iter().zip(&marked).filter(|(_, is)| *is == mark);
            of.map(|(delivery, _)| delivery.clone()).collect::<Vec<_>>()
        };
        poisoned.extend(marked("Poison").iter().map(|delivery| number(delivery.event.json())));
        let rest: Vec<_> = ["Retry", "Unsent"].iter().flat_map(|mark| marked(mark)).collect();
        if rest.is_empty() {
            break;
        }
        events = Deliveries::new(rest);
    }
    poisoned.sort_unstable();
    assert_eq!(poisoned, [1, 3]);
    assert_eq!(topics.arrived(), [0, 2, 4]);
}

#[test]
fn keys_that_are_all_refused_are_for_a_person_to_mend_and_none_dies() {
    let topics = Topics::matching("^$");
    let mut machine = topics.machine("pipelined");
    for module in ["One", "Two", "One", "Three"].repeat(5) {
        machine.emit(module);
    }
    machine.breaks("rabbitmqctl set_topic_permissions");
    machine.wait("it has tried again", |status| status.failures > 3);
    assert_eq!(machine.status().balance.dead_lettered, 0);
    topics.allow(".*");
    machine.settles();
    assert_eq!(machine.ends(), []);
    assert_eq!(topics.arrived(), (0..20).collect::<Vec<_>>());
}

#[test]
fn keys_that_are_taken_away_while_it_runs_are_for_a_person_to_mend() {
    let topics = Topics::matching(".*");
    let mut machine = topics.machine("pipelined");
    for module in ["One", "Two", "Three"].repeat(3) {
        machine.emit(module);
    }
    machine.settles();
    topics.allow("^$");
    // A channel remembers what it was permitted.
    topics.room.node.ctl(&["close_all_connections", "-p", &topics.room.vhost, "test"]);
    for module in ["One", "Two", "Three"].repeat(3) {
        machine.emit(module);
    }
    machine.breaks("set_topic_permissions");
    assert_eq!(machine.status().balance.dead_lettered, 0);
    topics.allow(".*");
    machine.settles();
    assert_eq!(machine.ends(), []);
    assert_eq!(topics.arrived(), (0..18).collect::<Vec<_>>());
}

#[test]
fn a_burst_of_refused_keys_stops_no_good_event_behind_it() {
    let burst = (0..6000).map(|n| ["SecretA", "SecretB", "SecretC", "SecretD"][n % 4]);
    let modules: Vec<_> = ["One"; 10].into_iter().chain(burst).chain(["One"; 1000]).collect();
    let topics = Topics::matching(BUT_SECRETS);
    let mut machine = topics.machine("pipelined");
    for (n, module) in modules.iter().enumerate() {
        machine.emit(module);
        if n == 9 {
            machine.settles();
        }
    }
    machine.settles();
    assert_eq!(machine.ends().len(), 6000);
    assert_eq!(topics.arrived(), (0..10).chain(6010..7010).collect::<Vec<_>>());
}

#[test]
fn refused_keys_that_come_alone_one_after_the_other_open_no_circuit() {
    let modules = ["One", "SecretA", "SecretB", "SecretC", "SecretD", "SecretE", "SecretF", "One"];
    let topics = Topics::matching(BUT_SECRETS);
    let mut machine = topics.machine("pipelined");
    for module in modules {
        let number = machine.emit(module);
        machine.wait("it is settled", |status| {
            assert!(!status.circuit_open, "{status:#?}");
            status.balance.delivered + status.balance.dead_lettered > number
        });
    }
    assert_eq!(machine.ends().len(), 6);
    assert_eq!(topics.arrived(), [0, 7], "nothing else was written to ask");
}

#[test]
fn new_keys_alone_wait_for_a_person_when_the_permission_for_all_was_taken_away() {
    let topics = Topics::matching(".*");
    let mut machine = topics.machine("pipelined");
    for module in ["One", "Two", "Three"] {
        machine.emit(module);
    }
    machine.settles();
    topics.allow("^$");
    topics.room.node.ctl(&["close_all_connections", "-p", &topics.room.vhost, "test"]);
    for module in ["Four", "Five", "Six", "Seven", "Eight", "Nine"].repeat(20) {
        machine.emit(module);
    }
    machine.breaks("set_topic_permissions");
    machine.wait("it has tried again", |status| status.failures > 3);
    assert_eq!(machine.status().balance.dead_lettered, 0);
    topics.allow(".*");
    machine.settles();
    assert_eq!(machine.ends(), []);
    assert_eq!(topics.arrived(), (0..123).collect::<Vec<_>>());
}

#[test]
fn an_exchange_that_its_user_may_not_write_opens_the_circuit_whatever_the_keys() {
    let room = Room::shared();
    opened_blocking(&room.sink());
    let url = room.user("declarer", [".*", "^$", ".*"]);
    let mut machine = Machine::start(&["type: rabbitmq", &format!("url: \"{url}\"")]);
    for module in ["One", "Two"] {
        machine.emit(module);
    }
    machine.breaks("rabbitmqctl set_permissions");
    assert_eq!(machine.status().balance.dead_lettered, 0);
    let name = format!("declarer-{}", room.vhost);
    room.node.ctl(&["set_permissions", "-p", &room.vhost, &name, ".*", ".*", ".*"]);
    machine.settles();
    assert_eq!(machine.ends(), []);
}

fn opened_blocking(config: &RabbitMqConfig) {
    run(async { drop(opened(config).await) });
}

#[tokio::test]
async fn what_a_property_has_no_room_for_is_left_out_and_the_event_arrives_whole() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    let kind = Event::new(&Step::new("M"), Kind::from("k".repeat(300).as_str())).with("number", 0);
    let module = Event::new(&Step::new("m".repeat(20_000).as_str()), "start").with("number", 1);
    let mut events =
        Deliveries::new(vec![Delivery::new(kind, "ai.a".into()), Delivery::new(module, "ai.b".into())]);
    sink.deliver(&mut events).await.unwrap();
    let messages = room.read("all");
    assert_eq!(messages.iter().map(|message| number(&message.data)).collect::<Vec<_>>(), [0, 1]);
    let header = |at: usize, name: &str| {
        let headers = messages[at].properties.headers().as_ref().unwrap();
        headers.inner().get(name).map(|value| match value {
            AMQPValue::LongString(text) => text.to_string().len(),
            other => panic!("{other:?}"),
        })
    };
    assert!(messages[0].properties.kind().is_none(), "a cut type would be another");
    assert_eq!((header(0, "event_type"), header(0, "module_name")), (Some(300), Some(1)));
    assert_eq!((header(1, "event_type"), header(1, "module_name")), (Some(5), None));
    for (message, bytes) in messages.iter().zip([300, 20_000]) {
        assert!(message.data.len() > bytes, "the body has it whole");
    }
}

#[tokio::test]
async fn headers_fit_into_the_smallest_frame_that_a_broker_may_ask_for() {
    let room = Room::shared();
    let url = format!("{}?frame_max=4096", room.url());
    let mut sink = opened(&sinks::rabbitmq(url).bind("all", QueueConfig::bound(["#"]))).await;
    let module = Event::new(&Step::new("m".repeat(6000).as_str()), "start").with("number", 0);
    let mut events = Deliveries::new(vec![Delivery::new(module, "ai.a".into()), under("ai.b", 1)]);
    sink.deliver(&mut events).await.unwrap();
    assert_eq!(marks(&events), ["Delivered"; 2]);
    assert_eq!(room.numbers("all"), [0, 1]);
}

#[tokio::test]
async fn a_queue_without_an_exchange_that_vanishes_is_declared_anew_and_nothing_dies() {
    let room = Room::shared();
    let mut sink = opened(&sinks::rabbitmq(room.url()).queue("only")).await;
    sink.deliver(&mut batch([0])).await.unwrap();
    let mut looking = opened(&sinks::rabbitmq(room.url()).queue("only").declare(false)).await;
    room.with(async |channel| channel.queue_delete("only".into(), Default::default()).await.unwrap());
    for _ in 0..7 {
        let mut events = batch([1]);
        let error = looking.deliver(&mut events).await.unwrap_err();
        assert!(error.to_string().contains("only"), "{error}");
        assert_ne!(marks(&events), ["Poison"]);
        ahead(Duration::from_millis(600)).await;
        if let Err(error) = looking.open(&SinkContext::detached("records")).await {
            says(&error, ErrorClass::Misconfigured, &["no queue 'only'"]);
        }
    }
    let mut events = batch([2]);
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(&error, ErrorClass::Unavailable, &["queue `only`", "is gone"]);
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink.deliver(&mut again(&events)).await.unwrap();
    assert_eq!(room.numbers("only"), [2]);
}

/// The clock of the sink runs ahead of that of the broker and the client.
async fn ahead(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[test]
fn what_no_queue_takes_is_dead_after_two_seconds_however_many_keys_there_are() {
    let room = Room::shared();
    let mut machine = Machine::start(&[
        "type: rabbitmq",
        &format!("url: \"{}\"", room.url()),
        "queues: { some: [\"ai.yes.#\"] }",
    ]);
    machine.emit("Yes");
    machine.settles();
    for modules in [&["No"][..], &["A", "B", "C", "Yes", "D"]] {
        for module in modules {
            machine.emit(module);
        }
        machine.settles();
    }
    assert_eq!(machine.status().state, SinkState::Closed);
    let letters = machine.ends();
    assert_eq!(letters.len(), 5);
    for (_, reason) in letters {
        assert!(reason.contains("for 2s"), "{reason}");
    }
}

#[tokio::test]
async fn with_strict_order_a_refused_key_lets_nothing_overtake() {
    let topics = Topics::matching(BUT_SECRETS);
    let config = sinks::rabbitmq(&topics.url).bind("all", QueueConfig::bound(["#"]));
    let mut sink = opened(&config.ordering(Ordering::Strict)).await;
    let mut events = Deliveries::new(vec![
        under("ai.one", 0),
        under("ai.secret", 1),
        under("ai.two", 2),
        under("ai.one", 3),
        under("ai.secret", 4),
    ]);
    sink.deliver(&mut events).await.unwrap();
    assert_eq!(marks(&events), ["Delivered", "Poison", "Delivered", "Delivered", "Poison"]);
    assert_eq!(topics.room.numbers("all"), [0, 2, 3]);
}
