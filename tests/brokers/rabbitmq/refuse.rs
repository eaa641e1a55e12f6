//! Brokers that refuse: users without rights, queues that are full or not there, messages that are too large.

use std::ops::Range;

use super::*;
use crate::machine::Machine;
use crate::proxy::Proxy;
use streamll::sinks::rabbitmq::{Argument, ExchangeType, Ordering};

#[tokio::test]
async fn a_wrong_password_names_the_user_and_not_the_password() {
    let room = Room::shared();
    let url = room.url().replace("guest:guest", &format!("ann:{CANARY}"));
    let error = refused(&sinks::rabbitmq(url)).await;
    says(&error, ErrorClass::Misconfigured, &["login refused for user `ann`", "127.0.0.1:"]);
}

#[tokio::test]
async fn a_missing_vhost_or_one_of_others_is_named() {
    let room = Room::shared();
    let error = refused(&sinks::rabbitmq(room.node.url("nowhere"))).await;
    says(&error, ErrorClass::Misconfigured, &["vhost `nowhere`", "user `guest`", "not found"]);
    let url = room.user("stranger", ["", "", ""]).replace(&room.vhost, "%2f");
    let url = url.replace("stranger-%2f", &format!("stranger-{}", room.vhost));
    let error = refused(&sinks::rabbitmq(url)).await;
    says(&error, ErrorClass::Misconfigured, &["vhost `/`", "stranger", "refused"]);
}

#[tokio::test]
async fn a_user_without_the_right_to_declare_is_told_what_to_grant() {
    let room = Room::shared();
    let url = room.user("reader", ["^$", ".*", ".*"]);
    let error = refused(&sinks::rabbitmq(url)).await;
    says(
        &error,
        ErrorClass::Misconfigured,
        &["`reader-", "may not declare", "exchange `ai_events`", &room.vhost, "set_permissions"],
    );
}

#[tokio::test]
async fn a_user_without_the_right_to_write_is_told_what_to_grant() {
    let room = Room::shared();
    opened(&room.sink()).await;
    let url = room.user("declarer", [".*", "^$", ".*"]);
    let mut sink = opened(&sinks::rabbitmq(&url)).await;
    let mut events = batch(0..100);
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(
        &error,
        ErrorClass::Misconfigured,
        &["may not write", "exchange `ai_events`", &room.vhost, "declarer"],
    );
    assert!(!marks(&events).contains(&"Poison".to_owned()), "nothing is dead-lettered");
    let name = format!("declarer-{}", room.vhost);
    room.node.ctl(&["set_permissions", "-p", &room.vhost, &name, ".*", ".*", ".*"]);
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink.deliver(&mut again(&events)).await.unwrap();
    assert_eq!(room.numbers("all"), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_exchange_that_vanishes_is_named_and_declared_anew() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    room.with(async |channel| channel.exchange_delete("ai_events".into(), Default::default()).await.unwrap());
    let mut events = batch(0..50);
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(&error, ErrorClass::Unavailable, &["exchange `ai_events`", &room.vhost, "is declared anew"]);
    assert!(!marks(&events).contains(&"Delivered".to_owned()));
    sink.open(&SinkContext::detached("records")).await.unwrap();
    sink.deliver(&mut again(&events)).await.unwrap();
    assert_eq!(room.numbers("all"), (0..50).collect::<Vec<_>>());
}

/// A sink with a queue that takes everything, which has taken the first event.
fn running(room: &Room<'_>) -> Machine {
    let url = format!("url: \"{}\"", room.url());
    let mut machine = Machine::start(&["type: rabbitmq", &url, "queues: { all: [\"#\"] }"]);
    machine.emit("One");
    machine.settles();
    machine
}

/// Emits until all has arrived, without a circuit that opens; nothing dies.
fn goes_on(mut machine: Machine, room: &Room<'_>, arrive: Range<u64>) {
    for n in 1..6 {
        machine.emit("One");
        machine.wait("it arrives", |status| {
            assert!(!status.circuit_open && status.balance.dead_lettered == 0, "{status:#?}");
            status.balance.delivered > n
        });
    }
    assert_eq!(machine.ends(), []);
    assert_eq!(room.numbers("all"), arrive.collect::<Vec<_>>());
}

#[test]
fn a_declared_queue_or_binding_that_vanishes_while_it_runs_is_declared_anew_and_nothing_dies() {
    for what in ["queue", "binding"] {
        let room = Room::shared();
        let machine = running(&room);
        match what {
            "queue" => room.with(async |channel| {
                channel.queue_delete("all".into(), Default::default()).await.unwrap();
            }),
            _ => room.unbind("all", "#"),
        }
        goes_on(machine, &room, u64::from(what == "queue")..6);
    }
}

#[test]
fn an_exchange_that_vanishes_while_it_runs_opens_no_circuit() {
    let room = Room::shared();
    let machine = running(&room);
    room.with(async |channel| channel.exchange_delete("ai_events".into(), Default::default()).await.unwrap());
    goes_on(machine, &room, 0..6);
}

#[tokio::test]
async fn an_exchange_that_is_not_declared_and_vanishes_is_for_a_person_to_mend() {
    let room = Room::shared();
    opened(&room.sink()).await;
    let mut sink = opened(&room.sink().declare(false)).await;
    room.with(async |channel| channel.exchange_delete("ai_events".into(), Default::default()).await.unwrap());
    let error = sink.deliver(&mut batch([1])).await.unwrap_err();
    says(&error, ErrorClass::Misconfigured, &["no exchange", "set `declare: true`"]);
}

#[tokio::test]
async fn a_user_that_is_deleted_while_connected_is_the_reason() {
    let room = Room::shared();
    let url = room.user("leaver", [".*", ".*", ".*"]);
    let mut sink = opened(&sinks::rabbitmq(url).bind("all", QueueConfig::bound(["#"]))).await;
    sink.deliver(&mut batch([1])).await.unwrap();
    room.node.ctl(&["delete_user", &format!("leaver-{}", room.vhost)]);
    says(&fails(&mut sink).await, ErrorClass::Misconfigured, &["leaver"]);
}

#[tokio::test]
async fn a_connection_that_an_administrator_closes_is_made_anew() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    for number in 0..3 {
        room.node.ctl(&["close_all_connections", "-p", &room.vhost, "spring cleaning"]);
        let mut events = batch([number]);
        if let Err(error) = sink.deliver(&mut events).await {
            assert!([ErrorClass::Unavailable, ErrorClass::Unknown].contains(&error.class()), "{error}");
            sink.deliver(&mut again(&events)).await.unwrap();
        }
    }
    let mut arrived = room.numbers("all");
    arrived.dedup();
    assert_eq!(arrived, [0, 1, 2]);
}

#[tokio::test]
async fn a_full_queue_that_refuses_is_overload_and_what_it_took_is_delivered() {
    let room = Room::shared();
    let full = QueueConfig { max_length: Some(3), ..QueueConfig::bound(["#"]) }
        .argument("x-overflow", Argument::Text("reject-publish".to_owned()));
    let mut sink = opened(&sinks::rabbitmq(room.url()).bind("full", full)).await;
    let mut events = batch(0..10);
    let error = sink.deliver(&mut events).await.unwrap_err();
    says(
        &error,
        ErrorClass::Overload,
        &[
            "refused",
            "of 10 events",
            "full (`x-overflow: reject-publish`) or going down",
            "`ai_events`",
            &room.vhost,
        ],
    );
    let marked = marks(&events);
    let (taken, refused): (Vec<_>, Vec<_>) = (0..10_u64).partition(|i| marked[*i as usize] == "Delivered");
    assert!(!taken.is_empty() && !refused.is_empty());
    assert_eq!(room.take("full"), taken);
    // Once there is room the others come, and nothing twice.
    let rest: Vec<_> =
        events.iter().filter(|delivery| refused.contains(&number(delivery.event.json()))).collect();
    let mut rest = Deliveries::new(rest.into_iter().take(3).cloned().collect());
    sink.deliver(&mut rest).await.unwrap();
    assert_eq!(room.take("full"), refused[..3]);
}

/// A node that is cut off from the majority of a quorum queue refuses everything for as long as the connection lives.
#[tokio::test]
async fn who_refuses_everything_is_left_for_the_next_address() {
    let room = Room::shared();
    let full = QueueConfig { max_length: Some(1), ..QueueConfig::bound(["#"]) }
        .argument("x-overflow", Argument::Text("reject-publish".to_owned()));
    let (first, second) = (Proxy::to(room.node.port()), Proxy::to(room.node.port()));
    let [one, two] = [&first, &second].map(|proxy| room.url_at(proxy.port()));
    let config = sinks::rabbitmq(format!("{one},{two}"));
    let mut sink = opened(&config.bind("full", full)).await;
    sink.deliver(&mut batch([0])).await.unwrap();
    let mut refused = batch([1]);
    let error = sink.deliver(&mut refused).await.unwrap_err();
    says(&error, ErrorClass::Overload, &["refused 1 of 1 events"]);
    assert_eq!(room.take("full"), [0]);
    sink.deliver(&mut refused).await.unwrap();
    assert_eq!((first.connections(), second.connections()), (1, 1));
    assert_eq!(room.take("full"), [1]);
}

#[tokio::test]
async fn what_no_queue_takes_is_tried_five_times_and_then_everything_of_its_key_is_poison() {
    let room = Room::shared();
    let mut sink = opened(&sinks::rabbitmq(room.url()).bind("some", QueueConfig::bound(["ai.yes"]))).await;
    let events = [under("ai.yes", 1), under("ai.no", 2), under("ai.yes", 3), under("ai.no", 4)];
    let mut first = Deliveries::new(events.to_vec());
    sink.deliver(&mut first).await.unwrap();
    assert_eq!(marks(&first), ["Delivered", "Retry", "Delivered", "Retry"]);
    for attempt in 2..=5 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut rest = Deliveries::new(vec![events[1].clone(), events[3].clone()]);
        sink.deliver(&mut rest).await.unwrap();
        let text = format!("{rest:?}");
        match attempt {
            5 => {
                assert_eq!(marks(&rest), all("Poison", 2));
                let room_name = &room.vhost;
                for words in ["`ai_events`", "`ai.no`", room_name, "has had no binding"] {
                    assert!(text.contains(words), "{text}");
                }
                assert!((2..60).any(|n| text.contains(&format!("for {n}s"))), "{text}");
            }
            _ => assert_eq!(marks(&rest), all("Retry", 2)),
        }
    }
    assert_eq!(room.numbers("some"), [1, 3]);
    let mut later = Deliveries::new(vec![under("ai.no", 5), under("ai.other", 6)]);
    sink.deliver(&mut later).await.unwrap();
    assert_eq!(marks(&later), ["Poison", "Retry"], "at its first return");
    room.bind("some", "ai.no");
    let mut taken = Deliveries::new(vec![under("ai.no", 7)]);
    sink.deliver(&mut taken).await.unwrap();
    assert_eq!(marks(&taken), ["Delivered"]);
    room.unbind("some", "ai.no");
    let mut anew = Deliveries::new(vec![under("ai.no", 8)]);
    sink.deliver(&mut anew).await.unwrap();
    assert_eq!(marks(&anew), ["Retry"], "a queue took one meanwhile");
}

#[tokio::test]
async fn with_headers_it_is_the_headers_that_decide_and_not_the_key() {
    let room = Room::shared();
    let config = sinks::rabbitmq(room.url())
        .exchange_type(ExchangeType::Headers)
        .bind("chats", QueueConfig::bound(["operation=chat"]));
    let mut sink = opened(&config).await;
    let of = |operation: &str, number: u64| {
        let event = Event::new(&Step::new("M").operation(operation), "start").with("number", number);
        Delivery::new(event, "ai.m.start".into())
    };
    for n in 0..5 {
        let mut events = Deliveries::new(vec![of("chat", n), of("embed", 9)]);
        sink.deliver(&mut events).await.unwrap();
        // What arrives under its key says nothing of the other.
        let other = if n < 4 { "Retry" } else { "Poison" };
        assert_eq!(marks(&events), ["Delivered", other]);
        ahead(Duration::from_millis(600)).await;
    }
}

/// The clock of the sink runs ahead of that of the broker and the client.
async fn ahead(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_flood_that_no_queue_takes_holds_up_the_others_for_one_wait_alone() {
    let room = Room::shared();
    let config = sinks::rabbitmq(room.url()).bind("some", QueueConfig::bound(["ai.yes"]));
    let mut sink = opened(&config).await;
    let key = |number: u64| if number.is_multiple_of(2) { "ai.yes" } else { "ai.no" };
    let mut waiting: Vec<Delivery> = (0..20_000).map(|number| under(key(number), number)).collect();
    let mut deliveries = 0;
    while !waiting.is_empty() {
        deliveries += 1;
        let rest = waiting.split_off(waiting.len().min(4096));
        let mut events = Deliveries::new(waiting);
        sink.deliver(&mut events).await.unwrap();
        let again = events.iter().zip(marks(&events)).filter(|(_, mark)| mark == "Retry");
        waiting = again.map(|(delivery, _)| delivery.clone()).chain(rest).collect();
        ahead(Duration::from_millis(600)).await;
    }
    assert_eq!(room.take("some"), (0..20_000).step_by(2).collect::<Vec<_>>());
    // The first batch is full of them after its five tries; everything behind takes one.
    assert!(deliveries <= 5 + 4, "{deliveries} deliveries");
}

#[tokio::test]
async fn a_binding_that_comes_back_in_time_saves_the_event() {
    let room = Room::shared();
    let mut sink = opened(&sinks::rabbitmq(room.url()).bind("some", QueueConfig::bound(["ai.yes"]))).await;
    let event = under("ai.no", 2);
    for _ in 0..4 {
        let mut one = Deliveries::new(vec![event.clone()]);
        sink.deliver(&mut one).await.unwrap();
        assert_eq!(marks(&one), ["Retry"]);
    }
    room.bind("some", "ai.no");
    let mut one = Deliveries::new(vec![event]);
    sink.deliver(&mut one).await.unwrap();
    assert_eq!(marks(&one), ["Delivered"]);
    assert_eq!(room.numbers("some"), [2]);
}

#[tokio::test]
async fn with_strict_order_nothing_overtakes_what_no_queue_takes() {
    let room = Room::shared();
    let config = sinks::rabbitmq(room.url()).bind("some", QueueConfig::bound(["ai.yes"]));
    let mut sink = opened(&config.ordering(Ordering::Strict)).await;
    let mut events = Deliveries::new(vec![under("ai.yes", 1), under("ai.no", 2), under("ai.yes", 3)]);
    sink.deliver(&mut events).await.unwrap();
    assert_eq!(marks(&events), ["Delivered", "Retry", "Unsent"]);
    assert_eq!(room.numbers("some"), [1]);
}

#[tokio::test]
async fn of_twenty_thousand_exactly_the_unroutable_come_back_and_none_arrives_twice() {
    let room = Room::shared();
    let config = sinks::rabbitmq(room.url()).bind("some", QueueConfig::bound(["ai.yes"])).window(1024);
    let mut sink = opened(&config).await;
    let is_lost = |number: u64| number.is_multiple_of(7);
    let key = |number: u64| if is_lost(number) { "ai.no" } else { "ai.yes" };
    let mut waiting: Vec<Delivery> = (0..20_000).map(|number| under(key(number), number)).collect();
    let mut poisoned = Vec::new();
    let mut rounds = 0;
    while !waiting.is_empty() {
        rounds += 1;
        assert!(rounds < 200, "it does not end");
        let rest = waiting.split_off(waiting.len().min(4096));
        let mut events = Deliveries::new(waiting);
        sink.deliver(&mut events).await.unwrap();
        waiting = Vec::new();
        for (delivery, mark) in events.iter().zip(marks(&events)) {
            let number = number(delivery.event.json());
            match mark.as_str() {
                "Delivered" => assert!(!is_lost(number), "{number} counts as delivered"),
                "Retry" => {
                    assert!(is_lost(number), "{number} is sent again");
                    waiting.push(delivery.clone());
                }
                "Poison" => poisoned.push(number),
                other => panic!("{number} is {other}"),
            }
        }
        waiting.extend(rest);
    }
    poisoned.sort_unstable();
    assert_eq!(poisoned, (0..20_000).filter(|number| is_lost(*number)).collect::<Vec<_>>());
    assert_eq!(room.numbers("some"), (0..20_000).filter(|number| !is_lost(*number)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_that_the_protocol_has_no_room_for_is_poison_and_its_neighbours_arrive() {
    let room = Room::shared();
    let mut sink = opened(&room.sink()).await;
    let mut events = Deliveries::new(vec![under("ai.a", 0), under(&"k".repeat(256), 1), under("ai.e", 4)]);
    sink.deliver(&mut events).await.unwrap();
    assert_eq!(marks(&events), ["Delivered", "Poison", "Delivered"]);
    let text = format!("{events:?}");
    assert!(text.contains("routing key has 256 bytes"), "{text}");
    assert_eq!(room.numbers("all"), [0, 4]);
}

#[tokio::test]
async fn messages_too_large_for_the_broker_are_poison_by_their_size_and_the_first_alone_costs_a_channel() {
    let node = RabbitNode::start_with("max_message_size = 20000");
    let room = Room::on(&node);
    let mut sink = opened(&room.sink()).await;
    let large = |number: u64| event(number).with("text", "x".repeat(30_000));
    let mut events: Vec<Delivery> = (0..10).map(|number| under("ai.a", number)).collect();
    events.insert(5, Delivery::new(large(500), "ai.a".into()));
    events.insert(9, Delivery::new(large(501), "ai.b".into()));
    let bad = |events: &Deliveries| {
        let marked = marks(events);
        let bad = events.iter().zip(marked).filter(|(_, mark)| mark == "Poison");
        bad.map(|(delivery, _)| number(delivery.event.json())).collect::<Vec<_>>()
    };
    let mut events = Deliveries::new(events);
    sink.deliver(&mut events).await.unwrap();
    let text = format!("{events:?}");
    for words in ["too large for the broker", "at most 20000", "max_message_size"] {
        assert!(text.contains(words), "{text}");
    }
    // What was under way with the first may have arrived.
    let settled = ["Delivered", "Poison"];
    let rest = events.iter().zip(marks(&events)).filter(|(_, mark)| !settled.contains(&&**mark));
    let mut rest = Deliveries::new(rest.map(|(delivery, _)| delivery.clone()).collect());
    if !rest.is_empty() {
        sink.deliver(&mut rest).await.unwrap();
    }
    assert!(marks(&rest).iter().all(|mark| settled.contains(&&**mark)), "{rest:?}");
    assert_eq!([bad(&events), bad(&rest)].concat(), [500, 501]);
    let mut storm =
        Deliveries::new((600..1600).map(|number| Delivery::new(large(number), "ai.a".into())).collect());
    sink.deliver(&mut storm).await.unwrap();
    assert_eq!(bad(&storm), (600..1600).collect::<Vec<_>>());
    let refusals = node.log().lines().filter(|line| line.contains("Channel error on connection")).count();
    assert_eq!(refusals, 1);
    let mut arrived = room.numbers("all");
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..10).collect::<Vec<_>>());
}
