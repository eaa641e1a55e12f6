//! Twenty times more than a sink can take: tokens go first, each hole has its marker, and the counts are exact.

use streamll::{Emitted, Event, Topology};
use streamll_actors::sink::BufferPolicy;

use super::{Arrival, Kept, LONG, end_anyhow};

/// Walks over what arrived: every number that is missing must be accounted for by markers in that very place.
fn assert_every_hole_is_marked(arrivals: &[Arrival], emitted: u64) -> (u64, u64) {
    let (mut expected, mut missing, mut markers) = (1, 0, 0);
    for arrival in arrivals {
        if arrival.kind() == "gap" {
            let data = &arrival.json["data"];
            let [count, from, to] = ["count", "from_seq", "to_seq"].map(|key| data[key].as_u64().unwrap());
            assert_eq!(data["classes"]["token"], count, "only tokens are missing: {data}");
            assert_eq!(
                (from, to),
                (expected, expected + count - 1),
                "a marker stands in the place of its hole"
            );
            expected += count;
            missing += count;
            markers += 1;
        } else {
            assert_eq!(arrival.json["seq"], expected, "a hole without a marker");
            expected += 1;
        }
    }
    assert_eq!(expected, emitted + 1);
    (missing, markers)
}

#[test]
fn a_buffer_that_gets_twenty_times_what_it_holds_sheds_tokens_only_and_marks_every_hole() {
    const EVENTS: u64 = 40_000;
    let kept = Kept::default();
    let mut spec = kept.spec();
    spec.buffer = BufferPolicy { max_events: EVENTS as usize / 20, ..BufferPolicy::default() };
    let handle = Topology::builder("rag-api").sink("slow", spec).start().unwrap();
    kept.hold();
    let step = streamll::step("Chat");
    for n in 0..EVENTS {
        let event = match n % 40 {
            0 => Event::new(&step, "progress"),
            _ => Event::token(&step, "answer", "x", n),
        };
        assert_eq!(handle.emit(event), Emitted::Accepted, "the way in holds all of them");
    }
    // The path behind the way in must have seen them all before the sink moves.
    while handle.status().sink("slow").unwrap().balance.accepted < EVENTS {
        std::thread::yield_now();
    }
    kept.let_go();
    let drained = end_anyhow(&handle);
    let numbers = drained.status.sink("slow").unwrap().balance;
    let arrivals = kept.arrivals();
    let (missing, markers) = assert_every_hole_is_marked(&arrivals, EVENTS);
    assert_eq!(missing, numbers.shed);
    assert_eq!(markers, numbers.notices);
    assert_eq!(numbers.accepted, EVENTS);
    let lifecycle =
        arrivals.iter().filter(|arrival| arrival.kind() != "gap" && arrival.kind() != "token").count();
    assert_eq!(lifecycle as u64, EVENTS / 40, "no lifecycle event is lost");
    assert!(missing > EVENTS * 9 / 10, "{missing}");
}

#[test]
fn a_flood_that_the_way_in_cannot_hold_is_counted_exactly_too() {
    const THREADS: u64 = 4;
    const EVENTS: u64 = 100_000;
    let kept = Kept::default();
    let mut spec = kept.spec();
    spec.buffer = BufferPolicy { max_events: 5_000, ..BufferPolicy::default() };
    let handle = Topology::builder("rag-api").sink("slow", spec).start().unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                let step = streamll::step("Chat");
                for n in 0..EVENTS {
                    let event = match n % 1000 {
                        0 => Event::new(&step, "progress"),
                        _ => Event::token(&step, "answer", "x", n),
                    };
                    handle.emit(event);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Losses on the way in are told with the next event that gets through.
    let step = streamll::step("Chat");
    let seen = super::block_on(handle.emitter().send_confirmed(Event::new(&step, "end")));
    assert_eq!(seen, streamll::Confirmation::Held(1));
    let drained = handle.shutdown_blocking(LONG);
    assert!(drained.status.balances(), "{:#?}", drained.status);
    let emitted = THREADS * EVENTS + 1;
    let (graph, sink) = (drained.status.balance(), drained.status.sink("slow").unwrap().balance);
    assert_eq!(graph.received, emitted);
    let arrivals = kept.arrivals();
    let (missing, _) = assert_every_hole_is_marked(&arrivals, emitted);
    assert_eq!(missing, graph.shed + sink.shed);
    let lifecycle = arrivals.iter().filter(|arrival| arrival.kind() == "progress").count();
    assert_eq!(lifecycle as u64, THREADS * EVENTS / 1000);
}
