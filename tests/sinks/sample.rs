//! Which runs a sample keeps, and what of the others.

use serde_json::json;
use streamll::processors::SampleConfig;
use streamll_actors::event::{Class, Event, Step};
use streamll_actors::graph::{Plan, Stage};
use streamll_actors::route::TopicPattern;
use streamll_actors::testkit::{self, Journal, Rig};

fn of(rate: f64) -> SampleConfig {
    SampleConfig { rate }
}

fn events(step: &Step) -> Vec<Event> {
    let kinds = ["start", "docs_found", "llm_start", "llm_end", "end"].into_iter();
    let tokens = (0..3).map(|i| Event::token(step, "answer", "x", i));
    kinds.map(|kind| Event::new(step, kind)).chain(tokens).collect()
}

#[test]
fn a_run_is_whole_or_absent_and_about_as_many_are_kept_as_was_said() {
    let mut kept = 0;
    for _ in 0..2000 {
        let run = Step::new("Chat");
        let all = events(&run).into_iter().chain(events(&run.child().module("Tool"))).collect::<Vec<_>>();
        let left = testkit::drive(of(0.25).build().unwrap(), all.clone());
        assert!(left.is_empty() || left.len() == all.len(), "{} of {}", left.len(), all.len());
        kept += usize::from(!left.is_empty());
    }
    // Ten standard deviations away from 500 at the least.
    assert!((300..700).contains(&kept), "{kept} of 2000");
}

#[test]
fn who_keeps_more_keeps_what_others_keep() {
    let keeps = |rate: f64, step: &Step| of(rate).build().unwrap().keeps(&Event::new(step, "start"));
    for _ in 0..500 {
        let run = Step::new("Chat");
        assert!(!keeps(0.3, &run) || keeps(0.6, &run));
        assert!(keeps(1.0, &run) && !keeps(0.0, &run));
    }
}

#[test]
fn errors_stay_and_so_does_audit_also_before_the_router_and_the_rest_is_filtered() {
    let journal = Journal::new([]);
    testkit::run(async {
        let mut plan = Plan::new("s").stage(Stage::processor("sample", || of(0.0).build().unwrap()));
        plan.classes = vec![(TopicPattern::parse("ai.payments.#").unwrap(), Class::Audit)];
        let rig = Rig::start(plan.sink(journal.spec("kept", std::time::Duration::ZERO))).await;
        let payment = Step::new("Payments");
        for event in events(&rig.step).into_iter().chain([
            Event::new(&rig.step, "error"),
            Event::new(&payment, "charged"),
            Event::token(&payment, "answer", "x", 0),
        ]) {
            let _ = rig.graph.emitter().emit(event);
        }
        let drained = rig.end().await;
        assert_eq!(drained.status.balance().filtered, 8);
    });
    assert_eq!(journal.kinds(), ["error", "charged", "token"]);
}

#[test]
fn what_is_no_share_is_refused_with_a_way_out() {
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(of(rate).build().unwrap_err().starts_with("rate: must be from 0 to 1; write"), "{rate}");
    }
    assert!(serde_json::from_value::<SampleConfig>(json!({})).unwrap_err().to_string().contains("`rate`"));
}
