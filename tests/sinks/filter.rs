//! Which events a filter keeps, and which filters are refused.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use streamll::processors::FilterConfig;
use streamll_actors::event::{Context, Event, Step};
use streamll_actors::graph::{GraphHandle, Plan, Stage, Threads};
use streamll_actors::route::Template;
use streamll_actors::testkit::{self, Journal};

use crate::{incoming, step};

fn config(value: Value) -> FilterConfig {
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn keeps(filter: Value, event: &Event) -> bool {
    let left = testkit::drive(config(filter).build().unwrap(), [event.clone()]);
    assert!(left.iter().all(|kept| kept.json().as_ptr() == event.json().as_ptr()), "it passes untouched");
    left.len() == 1
}

#[test]
fn an_event_stays_when_it_matches_a_topic_and_no_exception() {
    let token = Event::token(&step("llm_call", "s"), "answer", "hi", 0);
    for (filter, stays) in [
        (json!({"topics": ["ai.rag_pipeline.token"]}), true),
        (json!({"topics": ["ai.*.end", "ai.*.token"]}), true),
        (json!({"topics": ["ai.*.end"]}), false),
        (json!({"topics": ["ai.RagPipeline.token"]}), false),
        (json!({"except": ["ai.*.token"]}), false),
        (json!({"except": ["ai.*.end"]}), true),
        (json!({"topics": ["ai.#"], "except": ["#.token"]}), false),
    ] {
        assert_eq!(keeps(filter.clone(), &token), stays, "{filter}");
    }
}

#[test]
fn an_event_stays_when_all_values_are_equal() {
    let context = Context::empty().with("conversation_id", "c1").tag("tenant", "acme").tag("a.b", "dotted");
    let event = Event::new(&step("x", "s").context(&context), "start")
        .with("n", 1)
        .with("none", Value::Null)
        .with("user", json!({"name": "ada", "roles": ["admin", "dev"]}));
    for (conditions, stays) in [
        (json!({"data.n": 1}), true),
        (json!({"data.n": "1"}), false),
        (json!({"data.n": 1.0}), false),
        (json!({"data.user.name": "ada"}), true),
        (json!({"data.user.name": "bob"}), false),
        (json!({"data.user.roles.1": "dev"}), true),
        (json!({"data.user.roles.2": "dev"}), false),
        (json!({"data.user.roles": ["admin", "dev"]}), true),
        (json!({"data.user.name.first": "ada"}), false),
        (json!({"data.conversation_id": "c1"}), true),
        (json!({"tags.tenant": "acme"}), true),
        (json!({"tags.tenant": "else"}), false),
        (json!({"tags.a.b": "dotted"}), true),
        (json!({"data.none": null}), true),
        (json!({"data.missing": null}), false),
        (json!({"data.n": 1, "tags.tenant": "acme"}), true),
        (json!({"data.n": 1, "tags.tenant": "else"}), false),
    ] {
        assert_eq!(keeps(json!({"where": conditions}), &event), stays, "{conditions}");
    }
}

#[test]
fn values_are_found_in_tokens_and_in_events_that_came_as_json() {
    let token = Event::token(&step("x", "s"), "answer", "hi", 0);
    assert!(keeps(json!({"where": {"data.field": "answer"}}), &token));
    assert!(!keeps(json!({"where": {"data.field": "reason"}}), &token));
    let raw = incoming(r#"{"event_type":"x","data":{"user":{"name":"ada"}},"tags":{"tenant":"acme"}}"#);
    assert!(keeps(json!({"where": {"data.user.name": "ada", "tags.tenant": "acme"}}), &raw));
    assert!(!keeps(json!({"where": {"data.user.name": "bob"}}), &raw));
}

#[test]
fn what_the_machine_says_always_stays() {
    let gap = Event::new(&Step::new("streamll"), "gap").with("count", 3);
    assert!(keeps(json!({"topics": ["ai.rag_pipeline.#"], "where": {"data.x": 1}}), &gap));
}

/// The types of what arrives of a `start` and an `end` when `plan` is run with this filter in front of its sink.
fn arrived(filter: Value, mut plan: Plan) -> Vec<String> {
    let journal = Journal::new([]);
    let mut sink = journal.spec("kept", Duration::ZERO);
    let filter = config(filter);
    sink.processors.push(("filter".to_owned(), Arc::new(move || Box::new(filter.build().unwrap()))));
    plan.routing_key = Template::parse("app.{event_type}").unwrap();
    let drained = actix_rt::System::new().block_on(async {
        let graph = GraphHandle::start(plan.sink(sink), Threads::One).await.unwrap();
        for kind in ["start", "end"] {
            let _ = graph.emitter().emit(Event::new(&step("x", "s"), kind));
        }
        graph.drain(Duration::from_secs(10)).await
    });
    assert!(drained.complete && drained.status.balances(), "{drained:?}");
    journal.kinds()
}

#[test]
fn in_front_of_a_sink_topics_are_those_of_the_routing_key() {
    assert_eq!(arrived(json!({"topics": ["app.start"]}), Plan::new("s")), ["start"]);
    assert_eq!(arrived(json!({"topics": ["ai.#"]}), Plan::new("s")), [""; 0]);
}

#[test]
fn before_the_router_topics_are_those_of_the_default_routing_key() {
    let filter = config(json!({"topics": ["ai.rag_pipeline.end"]}));
    let plan = Plan::new("s").stage(Stage::processor("filter", move || filter.build().unwrap()));
    assert_eq!(arrived(json!({"except": ["nothing"]}), plan), ["end"]);
}

#[test]
fn what_is_no_filter_is_refused_with_its_place_and_a_way_out() {
    for (filter, reasons) in [
        (json!({}), ["would keep everything", "`topics`"]),
        (json!({"topics": ["ai..x"]}), ["topics: the topic pattern `ai..x`", "empty word"]),
        (json!({"except": ["ai.to*"]}), ["except: ", "`ai.*`"]),
        (json!({"where": {"tenant": "acme"}}), ["`tenant`", "write `data.<key>` or `tags.<key>`"]),
        (json!({"where": {"data": 1}}), ["`data`", "where: "]),
        (json!({"where": {"data..x": 1}}), ["`data..x`", "where: "]),
        (json!({"where": {"tags.": "x"}}), ["`tags.`", "where: "]),
        (json!({"where": {"tags.retries": 3}}), ["where: tags are strings", "`tags.retries: \"3\"`"]),
    ] {
        let error = config(filter.clone()).build().unwrap_err();
        for reason in reasons {
            assert!(error.contains(reason), "{filter}: {error}");
        }
    }
}
