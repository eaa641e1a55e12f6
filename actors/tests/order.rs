//! Promise 4: per sink, events leave in the order the router saw them.

use std::time::Duration;

use streamll_actors::graph::Plan;
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};

const TAKES: Duration = Duration::from_millis(5);

#[test]
fn everything_arrives_in_order_and_batches_grow_by_themselves() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        settle().await;
        rig.emit_all(0..1000);
        let drained = rig.end().await;
        assert!(drained.complete);
        assert_eq!(journal.numbers(), (0..1000).collect::<Vec<_>>());
        assert_eq!(journal.opened_and_closed(), (1, 1));
    });
}

#[test]
fn nothing_overtakes_after_an_outage_a_retry_or_a_crash() {
    run(async {
        let script = [
            Act::Deliver,
            Act::Unavailable(3),
            Act::Unknown(1),
            Act::Panic(2),
            Act::Overload,
            Act::Misconfigured,
        ];
        let journal = Journal::new(script);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        for chunk in 0..20 {
            rig.emit_all(chunk * 50..(chunk + 1) * 50);
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..1000).collect::<Vec<_>>());
    });
}

/// A script without acts that lose events or give the sink up.
fn at_random(acts: usize, seed: u64) -> Vec<Act> {
    let mut random = fastrand::Rng::with_seed(seed);
    let act = |random: &mut fastrand::Rng| match random.u8(..14) {
        0 => Act::Unavailable(random.usize(..20)),
        1 => Act::Unknown(random.usize(..20)),
        2 => Act::Cut(random.usize(..20)),
        3 => Act::Overload,
        4 => Act::Misconfigured,
        5 => Act::Panic(random.usize(..20)),
        6 => Act::Fatal,
        7 => Act::Hang,
        _ => Act::Deliver,
    };
    (0..acts).map(|_| act(&mut random)).collect()
}

#[test]
fn whatever_happens_the_first_arrivals_are_in_order_and_complete() {
    for seed in 0..12 {
        run(async move {
            let journal = Journal::new(at_random(120, seed));
            let mut spec = journal.spec("live", TAKES);
            spec.deliver_timeout = Duration::from_secs(2);
            spec.poison_after = 0;
            spec.restart.max = 1000;
            let rig = Rig::start(Plan::new("test").sink(spec)).await;
            for chunk in 0..50 {
                rig.emit_all(chunk * 20..(chunk + 1) * 20);
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
            tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
            let drained = rig.end().await;
            assert!(drained.complete, "seed {seed}: {:#?}", drained.status);
            let mut seen = std::collections::HashSet::new();
            let firsts: Vec<u64> = journal.numbers().into_iter().filter(|n| seen.insert(*n)).collect();
            assert_eq!(firsts, (0..1000).collect::<Vec<_>>(), "seed {seed}");
            let repeats = journal.arrivals().iter().filter(|arrival| arrival.attempt > 1).count();
            assert!(repeats > 0, "seed {seed}: the script has no teeth");
        });
    }
}

#[test]
fn the_search_for_a_bad_event_does_not_change_the_order_of_the_good_ones() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let is_bad = |n: u64| n % 97 == 13;
        let journal = Journal::new([]).whenever(is_bad, Act::Rejected);
        let mut plan = Plan::new("test").sink(journal.spec("live", TAKES));
        plan.data_dir = data.path().into();
        let rig = Rig::start(plan).await;
        settle().await;
        rig.emit_all(0..1000);
        rig.end().await;
        assert_eq!(journal.numbers(), (0..1000).filter(|n| !is_bad(*n)).collect::<Vec<_>>());
    });
}

#[test]
fn single_events_that_the_sink_wants_again_keep_their_place_in_the_buffer() {
    use streamll_actors::graph::SinkSpec;
    use streamll_actors::sink::{Deliveries, DeliveryError, Placement, Sink};

    /// Takes every third event at the second attempt only.
    struct Picky(Journal);

    impl Sink for Picky {
        async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
            let mut good = Vec::new();
            for i in 0..batch.len() {
                let delivery = &batch.as_slice()[i];
                let n = delivery.event.data("n").unwrap().as_u64().unwrap();
                if n.is_multiple_of(3) && delivery.attempt == 1 {
                    batch.retry(i);
                } else {
                    good.push(delivery.clone());
                }
            }
            match good.is_empty() {
                true => Ok(()),
                false => self.0.sink(Duration::ZERO).deliver(&mut Deliveries::new(good)).await,
            }
        }
    }

    run(async {
        let journal = Journal::new([]);
        let mut spec = SinkSpec::new("live", {
            let journal = journal.clone();
            move || Picky(journal.clone())
        });
        spec.placement = Placement::Spine;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        settle().await;
        rig.emit_all(0..90);
        assert!(rig.end().await.complete);
        let late: Vec<u64> =
            journal.arrivals().iter().filter(|a| a.attempt > 1).filter_map(|a| a.n()).collect();
        assert_eq!(late, (0..90).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    });
}

#[test]
fn a_word_to_the_sink_that_meets_an_event_starts_no_second_delivery() {
    run(async {
        let journal = Journal::new([]);
        let told = std::sync::Arc::new(std::sync::OnceLock::<streamll_actors::graph::GraphHandle>::new());
        let mut spec = journal.spec("live", TAKES);
        // The router runs this right before it fills the buffer: the sink hears both at once.
        let graph = told.clone();
        let word = move |event: streamll_actors::event::Event| {
            if let Some(sink) = graph.get().and_then(|graph| graph.sink("live")) {
                sink.auto();
            }
            Some(event)
        };
        let make: streamll_actors::process::ProcessorFactory =
            std::sync::Arc::new(move || Box::new(word.clone()));
        spec.processors.push(("word".to_owned(), make));
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        assert!(told.set(rig.graph.clone()).is_ok());
        for n in 0..100 {
            settle().await;
            rig.emit("start", n);
            tokio::time::sleep(TAKES * 2).await;
        }
        rig.end().await;
        assert_eq!(journal.numbers(), (0..100).collect::<Vec<_>>());
        assert_eq!(journal.opened_and_closed(), (1, 1), "one instance for all of it");
    });
}
