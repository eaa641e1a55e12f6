//! What coalescing merges, what it lets pass, and that nothing is lost or overtaken by it.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use streamll::processors::CoalesceConfig;
use streamll::topology::{Period, Size};
use streamll_actors::event::{Confirmation, Context, Decoder, Event, Step};
use streamll_actors::graph::{Plan, Stage};
use streamll_actors::testkit::{self, Arrival, Journal, Rig, settle};

use crate::{incoming, step};

const WINDOW: Duration = Duration::from_millis(50);

fn config() -> CoalesceConfig {
    CoalesceConfig::default()
}

/// A plan that coalesces all events, in front of a sink that keeps them.
fn plan(journal: &Journal) -> Plan {
    let stage = Stage::processor("coalesce", || config().build().unwrap());
    Plan::new("s").stage(stage).sink(journal.spec("kept", Duration::ZERO))
}

/// A plan whose sink coalesces for itself.
fn plan_of_sink(journal: &Journal) -> Plan {
    let mut sink = journal.spec("kept", Duration::ZERO);
    sink.processors.push(("coalesce".to_owned(), Arc::new(|| Box::new(config().build().unwrap()))));
    Plan::new("s").sink(sink)
}

fn emit(rig: &Rig, event: Event) {
    let _ = rig.graph.emitter().emit(event);
}

fn text(arrival: &Arrival) -> &str {
    arrival.json["data"]["token"].as_str().unwrap_or_default()
}

/// How many tokens an arrival stands for.
fn tokens(arrival: &Arrival) -> u64 {
    if arrival.kind() == "token" { arrival.number("merged").unwrap_or(1) } else { 0 }
}

#[test]
fn five_hundred_tokens_become_at_most_forty_writes_with_the_same_text() {
    for plan in [plan, plan_of_sink] {
        let journal = Journal::new([]);
        let expected: String = (0..500).map(|i| format!("t{i} é\n")).collect();
        testkit::run(async {
            let rig = Rig::start(plan(&journal)).await;
            emit(&rig, Event::new(&rig.step, "start"));
            for i in 0..500 {
                emit(&rig, Event::token(&rig.step, "answer", format!("t{i} é\n"), i));
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            emit(&rig, Event::new(&rig.step, "end"));
            rig.end().await;
        });
        let arrivals = journal.arrivals();
        let kinds = journal.kinds();
        assert_eq!((kinds[0].as_str(), kinds[kinds.len() - 1].as_str()), ("start", "end"));
        let streamed = &arrivals[1..arrivals.len() - 1];
        assert!(streamed.len() <= 40, "{} writes", streamed.len());
        assert_eq!(streamed.iter().map(text).collect::<String>(), expected);
        let mut next = 0;
        for token in streamed {
            assert_eq!(token.number("token_index"), Some(next), "the first index stays");
            next += tokens(token);
        }
        assert_eq!(next, 500);
        assert_eq!(tokens(&streamed[0]), 1, "the first one waits for nobody");
    }
}

#[test]
fn the_first_token_passes_at_once_and_the_next_ones_after_the_window() {
    let journal = Journal::new([]);
    testkit::run(async {
        let rig = Rig::start(plan(&journal)).await;
        (0..3).for_each(|n| rig.token(n));
        settle().await;
        assert_eq!(journal.arrivals().iter().map(text).collect::<Vec<_>>(), ["0"]);
        tokio::time::sleep(WINDOW * 2).await;
        assert_eq!(journal.arrivals().iter().map(text).collect::<Vec<_>>(), ["0", "12"]);
        // By now the stream is forgotten: its next token is a first one.
        tokio::time::sleep(WINDOW * 2).await;
        rig.token(3);
        settle().await;
        assert_eq!(journal.arrivals().len(), 3);
        rig.end().await;
    });
}

#[test]
fn nothing_of_a_step_overtakes_its_tokens_and_other_steps_do_not_wait() {
    let journal = Journal::new([]);
    testkit::run(async {
        let rig = Rig::start(plan(&journal)).await;
        let other = Step::new("Other");
        (0..3).for_each(|n| rig.token(n));
        emit(&rig, Event::new(&other, "elsewhere"));
        emit(&rig, Event::token(&rig.step, "reason", "r0", 0));
        emit(&rig, Event::token(&rig.step, "reason", "r1", 1));
        rig.token(3);
        emit(&rig, Event::new(&rig.step, "docs_found"));
        settle().await;
        let seen: Vec<_> = journal.arrivals().iter().map(|a| format!("{} {}", a.kind(), text(a))).collect();
        assert_eq!(seen, ["token 0", "elsewhere ", "token r0", "token 123", "token r1", "docs_found "]);
        rig.end().await;
    });
}

#[test]
fn a_text_never_grows_beyond_max_bytes() {
    let config = CoalesceConfig { window: Period(WINDOW), max_bytes: Size(10) };
    let call = step("llm_call", "s");
    let texts = ["first", "12345", "1234", "5", "678901", "larger than ten", "x"];
    let events = (0..).zip(texts).map(|(i, text)| Event::token(&call, "answer", text, i));
    let left = testkit::drive(config.build().unwrap(), events);
    let left: Vec<_> = left.iter().map(|event| event.as_token().unwrap().text.to_string()).collect();
    assert_eq!(left, ["first", "1234512345", "678901", "larger than ten", "x"]);
}

#[test]
fn tokens_with_other_ids_are_never_merged() {
    let call = step("llm_call", "s");
    let known = call.clone().context(&Context::empty().with("conversation_id", "c1"));
    let again = step("llm_call", "s");
    let steps = [&call, &call, &again, &known, &known, &call];
    let events = (0..).zip(steps).map(|(i, step)| Event::token(step, "answer", i.to_string(), i));
    let left = testkit::drive(config().build().unwrap(), events);
    let left: Vec<_> = left
        .iter()
        .map(|event| (event.as_token().unwrap().text.to_string(), event.data("conversation_id").is_some()))
        .collect();
    let expected = [("0", false), ("12", false), ("34", true), ("5", false)];
    assert_eq!(left, expected.map(|(text, known)| (text.to_owned(), known)));
}

#[test]
fn what_cannot_be_merged_passes_untouched_behind_what_waits() {
    let call = step("llm_call", "s");
    let mut merged = Event::token(&call, "answer", "m", 2);
    merged.set_merged(3, "mmm");
    let with_more = r#"{"event_type":"token","span_id":"s","data":{"field":"answer","token":"t","token_index":9,"more":1}}"#;
    let beside = r#"{"event_type":"token","span_id":"s","trace":"x","data":{"field":"answer","token":"t","token_index":9}}"#;
    for odd in [merged, incoming(with_more), incoming(beside), Event::new(&call, "start").with("a", 1)] {
        let encoding = odd.json().as_ptr();
        let waiting = (0..3).map(|i| Event::token(&call, "answer", i.to_string(), i));
        let left = testkit::drive(config().build().unwrap(), waiting.chain([odd]));
        assert_eq!(left.len(), 3);
        assert_eq!(left[1].as_token().unwrap().text, "12");
        assert_eq!(left[2].json().as_ptr(), encoding, "{:?}", left[2]);
    }
}

#[test]
fn tokens_that_came_with_keys_of_their_own_keep_them() {
    let mut decoder = Decoder::default();
    let events: Vec<_> = (0..4)
        .map(|i| {
            let line = json!({
                "event_type": "token", "span_id": "s", "execution_id": "e", "trace": i,
                "data": {"field": "answer", "token": "t", "token_index": i},
            });
            decoder.decode(line.to_string().as_bytes()).unwrap()
        })
        .collect();
    let left = testkit::drive(config().build().unwrap(), events);
    let traces: Vec<_> = left.iter().map(|event| event.extra().unwrap()["trace"].clone()).collect();
    assert_eq!(traces, [0, 1, 2, 3]);
}

#[test]
fn what_waited_leaves_in_the_order_in_which_it_came() {
    let journal = Journal::new([]);
    testkit::run(async {
        let rig = Rig::start(plan(&journal)).await;
        let steps: Vec<_> = (0..50).map(|_| Step::new("Chat")).collect();
        for (n, step) in steps.iter().enumerate() {
            emit(&rig, Event::token(step, "answer", "first", 0));
            emit(&rig, Event::token(step, "answer", n.to_string(), 1));
        }
        tokio::time::sleep(WINDOW * 2).await;
        let arrivals = journal.arrivals();
        let second: Vec<_> = arrivals.iter().map(text).filter(|text| *text != "first").collect();
        assert_eq!(second, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
        rig.end().await;
    });
}

#[test]
fn a_token_whose_sender_waits_is_held_safely_before_the_sender_hears_so() {
    let journal = Journal::new([]);
    testkit::run(async {
        let rig = Rig::start(plan(&journal)).await;
        for n in 0..3 {
            rig.token(3 * n);
            rig.token(3 * n + 1);
            let token = Event::token(&rig.step, "answer", "x", 3 * n + 2);
            assert_eq!(rig.graph.emitter().send_confirmed(token).await, Confirmation::Held(1));
        }
        rig.end().await;
    });
    assert_eq!(journal.arrivals().iter().map(text).collect::<String>(), "01x34x67x");
}

#[test]
fn more_streams_than_are_looked_after_lose_nothing_and_the_oldest_leave_first() {
    let journal = Journal::new([]);
    testkit::run(async {
        let rig = Rig::start(plan(&journal)).await;
        let steps: Vec<_> = (0..3000).map(|_| Step::new("Chat")).collect();
        for step in &steps {
            (0..3).for_each(|i| emit(&rig, Event::token(step, "answer", i.to_string(), i)));
        }
        settle().await;
        let arrivals = journal.arrivals();
        let whole: Vec<_> = arrivals.iter().filter(|a| text(a) == "12").map(|a| &a.json["span_id"]).collect();
        assert_eq!(whole.len(), 3000 - 1024, "the others wait");
        let oldest: Vec<_> = steps[..whole.len()].iter().map(|step| json!(*step.parts().span_id)).collect();
        assert!(whole.into_iter().eq(&oldest), "not in order");
        rig.end().await;
    });
    assert_eq!(journal.arrivals().iter().map(tokens).sum::<u64>(), 9000);
}

#[test]
fn one_after_the_other_keep_the_books() {
    let journal = Journal::new([]);
    testkit::run(async {
        let mut plan = plan_of_sink(&journal);
        plan = plan.stage(Stage::processor("coalesce", || config().build().unwrap()));
        let rig = Rig::start(plan).await;
        for n in 0..100 {
            rig.token(n);
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        rig.end().await;
    });
    assert_eq!(journal.arrivals().iter().map(tokens).sum::<u64>(), 100);
}

#[test]
fn what_is_out_of_range_is_refused_with_a_way_out() {
    for (value, reason) in [
        (json!({"window": "0s"}), "window: must be longer than nothing; leave"),
        (json!({"max_bytes": "0B"}), "max_bytes: must be from 1B to 128KiB; write"),
        (json!({"max_bytes": "1MiB"}), "max_bytes: must be from 1B to 128KiB; write"),
    ] {
        let config: CoalesceConfig = serde_json::from_value(value).unwrap();
        assert!(config.build().unwrap_err().starts_with(reason), "{reason}");
    }
}

/// One thing that happens: a token of a step and field, or another event of a step, or time goes by.
#[derive(Debug, Clone)]
enum Act {
    Token(usize, usize),
    Other(usize),
    Pause(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..3usize, 0..2usize).prop_map(|(step, field)| Act::Token(step, field)),
        1 => (0..3usize).prop_map(Act::Other),
        2 => (0..80u64).prop_map(Act::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_field_reads_the_same_between_the_events_of_its_step(
        acts in prop::collection::vec(act(), 1..120)
    ) {
        let journal = Journal::new([]);
        let steps: Vec<_> = (0..3).map(|_| Step::new("Chat")).collect();
        // What must be read: per step and field the text, with a mark for each other event of the step.
        let mut expected = vec![[String::new(), String::new()]; 3];
        testkit::run(async {
            let rig = Rig::start(plan(&journal)).await;
            for (n, act) in acts.iter().enumerate() {
                match *act {
                    Act::Token(step, field) => {
                        let text = format!("{n},");
                        expected[step][field].push_str(&text);
                        emit(&rig, Event::token(&steps[step], ["a", "b"][field], text, n as u64));
                    }
                    Act::Other(step) => {
                        expected[step].iter_mut().for_each(|text| text.push('|'));
                        emit(&rig, Event::new(&steps[step], ["note", "end"][n % 2]));
                    }
                    Act::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                }
            }
            rig.end().await;
        });
        let mut read = vec![[String::new(), String::new()]; 3];
        for arrival in journal.arrivals() {
            let of = |step: &Step| arrival.json["span_id"] == *step.parts().span_id;
            let step = steps.iter().position(of).unwrap();
            match arrival.json["data"]["field"].as_str() {
                Some(field) => read[step][usize::from(field == "b")].push_str(text(&arrival)),
                None => read[step].iter_mut().for_each(|text| text.push('|')),
            }
        }
        prop_assert_eq!(read, expected);
    }
}
