//! What a handle tells and does while its topology runs, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use streamll::{Confirmation, Emitted, Event, Processor, SinkState, Step, TopicPattern, Topology, context};
use streamll_actors::process::ProcessorFactory;
use tokio_stream::StreamExt as _;

use super::{Kept, LONG, block_on, end, end_anyhow, topology};

fn progress(step: &Step, numbers: std::ops::Range<u64>) -> impl Iterator<Item = Event> {
    numbers.map(|n| Event::new(step, "progress").with("n", n))
}

#[test]
fn the_status_says_what_holds_a_sink_up_and_what_waits() {
    let (handle, kept) = topology();
    let step = streamll::step("RagPipeline");
    while !handle.status().sink("kept").unwrap().running {
        std::thread::sleep(Duration::from_millis(1));
    }
    handle.sink("kept").unwrap().force_open();
    progress(&step, 0..3).for_each(|event| {
        handle.emit(event);
    });
    assert_eq!(block_on(handle.flush()), 3, "a flush does not wait for an open sink, and says what waits");
    let status = handle.status();
    let sink = status.sink("kept").unwrap();
    assert!(sink.running && sink.circuit_open && !status.is_healthy());
    assert_eq!((sink.state, sink.balance.accepted, sink.balance.waiting), (SinkState::Open, 3, 3));
    assert_eq!(sink.reason.as_deref(), Some("ordered by hand"));
    let text = sink.to_string();
    assert!(text.starts_with("open (not sending since ") && text.ends_with("; 3 waiting)"), "{text}");
    assert!(kept.arrivals().is_empty() && status.balances());

    handle.sink("kept").unwrap().force_close();
    assert_eq!(block_on(handle.flush()), 0);
    let status = handle.status();
    let sink = status.sink("kept").unwrap();
    assert_eq!((sink.state, sink.balance.delivered, sink.balance.waiting), (SinkState::Closed, 3, 0));
    assert_eq!(sink.to_string(), "closed (delivering)");
    assert!(status.is_healthy() && sink.last_delivered_at.is_some() && handle.sink("other").is_none());
    end(&handle);
    assert_eq!(kept.numbers(), [0, 1, 2]);
}

#[test]
fn a_subscription_hears_one_conversation_only_and_ends_with_the_topology() {
    let (handle, _) = topology();
    let mine = handle.subscribe("data.conversation_id", "conv_1");
    let tenant = handle.subscribe("tags.tenant", "acme");
    let nobody = handle.subscribe("data.conversation_id", "conv_9");
    for n in 0..100 {
        let ids =
            context! { conversation_id = format!("conv_{}", n % 4), tags.tenant = ["acme", "globex"][n % 2] };
        let step = streamll::step("Chat").context(&ids);
        handle.emit(Event::new(&step, "progress").with("n", n));
    }
    end(&handle);
    let numbers = |subscription: streamll::Subscription| {
        assert_eq!(subscription.missed(), 0);
        let events = block_on(subscription.collect::<Vec<_>>());
        events.iter().map(|event| event.data("n").unwrap().as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(mine), (0..100).filter(|n| n % 4 == 1).collect::<Vec<_>>());
    assert_eq!(numbers(tenant), (0..100).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert!(numbers(nobody).is_empty());
}

#[test]
fn what_a_subscriber_is_too_slow_for_is_counted_and_disturbs_nobody() {
    let (handle, kept) = topology();
    let mut mine = handle.subscribe("data.conversation_id", "conv_1");
    let step = streamll::step("Chat").context(&context! { conversation_id = "conv_1" });
    progress(&step, 0..1500).for_each(|event| {
        handle.emit(event);
    });
    end(&handle);
    let held = block_on(async {
        let mut held = 0;
        while mine.next().await.is_some() {
            held += 1;
        }
        held
    });
    assert_eq!(held + mine.missed(), 1500);
    assert!(mine.missed() > 0, "1,500 events find no room in one subscription");
    assert_eq!(kept.numbers(), (0..1500).collect::<Vec<_>>());
}

#[test]
fn a_flush_waits_for_a_sink_that_is_slow() {
    let (handle, kept) = topology();
    let step = streamll::step("RagPipeline");
    kept.hold();
    progress(&step, 0..10).for_each(|event| {
        handle.emit(event);
    });
    let flush = handle.flush();
    block_on(async {
        tokio::pin!(flush);
        assert!(flush.as_mut().now_or_never().is_none(), "nothing can have arrived");
        kept.let_go();
        assert_eq!(flush.await, 0);
    });
    assert_eq!(kept.numbers(), (0..10).collect::<Vec<_>>());
    end(&handle);
}

#[test]
fn a_shutdown_ends_at_its_deadline_and_says_what_is_left() {
    let (handle, kept) = topology();
    let step = streamll::step("RagPipeline");
    kept.hold();
    progress(&step, 0..10).for_each(|event| {
        handle.emit(event);
    });
    while handle.status().sink("kept").unwrap().balance.accepted < 10 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let drained = block_on(handle.shutdown(Duration::from_millis(50)));
    let numbers = drained.status.sink("kept").unwrap().balance;
    assert!(!drained.complete && drained.status.balances(), "{drained:#?}");
    assert_eq!((numbers.accepted, numbers.delivered, numbers.waiting), (10, 0, 10));
    kept.let_go();
}

#[test]
fn a_second_shutdown_gets_the_last_status_and_later_events_are_counted_as_shed() {
    let (handle, kept) = topology();
    let step = streamll::step("RagPipeline");
    handle.emit(Event::new(&step, "start"));
    let clone = handle.clone();
    end(&handle);
    assert_eq!(handle.emit(Event::new(&step, "late")), Emitted::Closed);
    assert_eq!(block_on(handle.emitter().send(Event::new(&step, "late"))), Emitted::Closed);
    assert_eq!(block_on(handle.emitter().send_confirmed(Event::new(&step, "late"))), Confirmation::Lost);
    let again = end_anyhow(&clone);
    assert_eq!(again.status.balance().shed, 3);
    assert_eq!(again.status.sink("kept").unwrap().balance.delivered, 1);
    let and_again = block_on(clone.shutdown(LONG));
    assert!(and_again.status.balances());
    assert_eq!(block_on(handle.flush()), 0, "a flush of what has ended does not hang");
    assert_eq!(kept.kinds(), ["start"]);
}

#[test]
fn whoever_wants_to_know_hears_who_holds_the_event() {
    let (first, second) = (Kept::default(), Kept::default());
    let mut errors = second.spec();
    errors.topics = Some(vec![TopicPattern::parse("ai.*.error").unwrap()]);
    let handle = Topology::builder("rag-api").sink("errors", errors).start().unwrap();
    let step = streamll::step("RagPipeline");
    let confirmed = |kind| block_on(handle.emitter().send_confirmed(Event::new(&step, kind)));
    assert_eq!(confirmed("error"), Confirmation::Held(1));
    assert_eq!(confirmed("start"), Confirmation::NotWanted);
    block_on(handle.add_sink({
        let mut spec = first.spec();
        "all".clone_into(&mut spec.name);
        spec
    }))
    .unwrap();
    assert_eq!(confirmed("error"), Confirmation::Held(2));
    let last = block_on(handle.remove_sink("errors", LONG)).unwrap();
    assert_eq!((last.balance.delivered, last.balance.waiting), (2, 0));
    assert_eq!(confirmed("error"), Confirmation::Held(1));
    assert!(block_on(handle.remove_sink("errors", LONG)).is_none());
    let drained = end(&handle);
    assert_eq!(drained.status.balance().unrouted, 1);
    assert_eq!((first.kinds().len(), second.kinds().len()), (2, 2));
}

#[test]
fn the_processors_of_one_sink_change_nothing_for_the_others() {
    let (whole, short) = (Kept::default(), Kept::default());
    let no_pings = |event: Event| (event.kind().as_str() != "ping").then_some(event);
    let blinded = |event: Event| Some(event.with("question", "***"));
    let mut spec = short.spec();
    spec.processors =
        vec![("no_pings".to_owned(), factory(no_pings)), ("blinded".to_owned(), factory(blinded))];
    let handle =
        Topology::builder("rag-api").sink("whole", whole.spec()).sink("short", spec).start().unwrap();
    let step = streamll::step("RagPipeline");
    for (n, kind) in (0..).zip(["start", "ping", "end"]) {
        handle.emit(Event::new(&step, kind).with("n", n).with("question", "why?"));
    }
    let drained = end(&handle);
    assert_eq!((whole.numbers(), short.numbers()), (vec![0, 1, 2], vec![0, 2]));
    assert!(whole.arrivals().iter().all(|arrival| arrival.json["data"]["question"] == "why?"));
    assert!(short.arrivals().iter().all(|arrival| arrival.json["data"]["question"] == "***"));
    let numbers = drained.status.sink("short").unwrap();
    assert_eq!((numbers.processed.filtered, numbers.balance.accepted), (1, 2));
}

fn factory<P: Processor + Clone + Send + Sync>(processor: P) -> ProcessorFactory {
    Arc::new(move || Box::new(processor.clone()))
}

#[test]
fn a_processor_of_ones_own_counts_what_it_drops_and_what_it_panics_on() {
    let kept = Kept::default();
    let folder = tempfile::tempdir().unwrap();
    let picky = || {
        |event: Event| {
            assert_ne!(event.data("n").as_deref(), Some(&13.into()), "scripted panic");
            event.data("n").is_some_and(|n| n.as_u64().unwrap_or_default() % 2 == 1).then_some(event)
        }
    };
    let handle = Topology::builder("rag-api")
        .data_dir(folder.path())
        .processor("picky", picky)
        .sink("kept", kept.spec())
        .start()
        .unwrap();
    progress(&streamll::step("RagPipeline"), 0..20).for_each(|event| {
        handle.emit(event);
    });
    let numbers = end_anyhow(&handle).status.balance();
    assert_eq!((numbers.received, numbers.filtered, numbers.failed, numbers.routed), (20, 10, 1, 9));
    assert_eq!(kept.numbers(), (0..20).filter(|n| n % 2 == 1 && *n != 13).collect::<Vec<_>>());
    let dead = std::fs::read_to_string(folder.path().join("dead/processors.ndjson")).unwrap();
    assert_eq!(dead.lines().count(), 1, "{dead}");
    assert!(dead.contains("scripted panic") && dead.contains("\"n\":13"), "{dead}");
}
