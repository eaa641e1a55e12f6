//! The wire format, key by key and in order: public surface. Keys may be added, none renamed; `CHANGELOG.md` says so.

use streamll::{Event, Step, Timestamp, Topology, context};
use streamll_actors::event::StepParts;
use streamll_actors::sink::OnOpen;

use super::{Arrival, Kept, block_on, end, end_anyhow};

const AT: &str = "2026-11-21T03:20:15.842142Z";

fn step() -> Step {
    Step::from(StepParts {
        module_name: "RagPipeline".into(),
        method_name: Some("forward".into()),
        operation: Some("llm_call".into()),
        execution_id: "run_1".into(),
        span_id: "span_2".into(),
        parent_id: Some("span_1".into()),
        context: context! { conversation_id = "conv_123", tags.tenant = "acme" },
    })
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_micros(Timestamp::parse(AT).unwrap().as_micros() + seconds * 1_000_000)
}

/// The text of an arrival with the ids that are new each time as names.
fn text(arrival: &Arrival) -> String {
    let mut text = arrival.text.clone();
    for key in ["event_id", "source"] {
        if let Some(id) = arrival.json[key].as_str() {
            text = text.replacen(&format!("\"{id}\""), &format!("\"<{key}>\""), 1);
        }
    }
    text
}

#[test]
fn a_start_a_token_an_end_and_an_error_look_exactly_like_this() {
    let kept = Kept::default();
    let handle = Topology::builder("rag-api")
        .environment("production")
        .tag("host", "box-1")
        .sink("kept", kept.spec())
        .start()
        .unwrap();
    handle.emit(Event::new(&step(), "start").with("question", "six \"times\" seven?\n").at(later(0)));
    handle.emit(Event::token(&step(), "answer", " forty", 17).at(later(1)));
    handle.emit(Event::new(&step(), "end").with("answer", "forty-two").at(later(2)));
    let error = Event::new(
        &Step::from(StepParts {
            method_name: None,
            operation: None,
            parent_id: None,
            ..step().parts().clone()
        }),
        "error",
    );
    handle.emit(
        error
            .with("error_type", "Timeout")
            .with("error_message", "no answer")
            .with("duration", 0.25)
            .at(later(3)),
    );
    let begun = kept.clone();
    end(&handle);
    let head = r#"{"event_id":"<event_id>","execution_id":"run_1","span_id":"span_2","parent_id":"span_1""#;
    let tail = r#""tags":{"tenant":"acme","service":"rag-api","environment":"production","host":"box-1"}}"#;
    let expected = [
        format!(
            r#"{head},"timestamp":"2026-11-21T03:20:15.842142Z","module_name":"RagPipeline","method_name":"forward","event_type":"start","operation":"llm_call","topic":"ai.rag_pipeline.start","source":"<source>","seq":1,"data":{{"question":"six \"times\" seven?\n","conversation_id":"conv_123"}},{tail}"#
        ),
        format!(
            r#"{head},"timestamp":"2026-11-21T03:20:16.842142Z","module_name":"RagPipeline","method_name":"forward","event_type":"token","operation":"llm_call","topic":"ai.rag_pipeline.token","source":"<source>","seq":2,"data":{{"field":"answer","token":" forty","token_index":17,"conversation_id":"conv_123"}},{tail}"#
        ),
        format!(
            r#"{head},"timestamp":"2026-11-21T03:20:17.842142Z","module_name":"RagPipeline","method_name":"forward","event_type":"end","operation":"llm_call","topic":"ai.rag_pipeline.end","source":"<source>","seq":3,"data":{{"answer":"forty-two","duration":2.0,"conversation_id":"conv_123"}},{tail}"#
        ),
        format!(
            r#"{},"timestamp":"2026-11-21T03:20:18.842142Z","module_name":"RagPipeline","method_name":null,"event_type":"error","operation":null,"topic":"ai.rag_pipeline.error","source":"<source>","seq":4,"data":{{"error_type":"Timeout","error_message":"no answer","duration":0.25,"conversation_id":"conv_123"}},{tail}"#,
            head.replace(r#""span_1""#, "null")
        ),
    ];
    for (arrival, expected) in begun.arrivals().iter().zip(&expected) {
        assert_eq!(&text(arrival), expected);
        assert_eq!(arrival.key, arrival.json["topic"]);
    }
    assert_eq!(begun.arrivals().len(), expected.len());
}

#[test]
fn a_gap_marker_says_how_many_from_where_to_where_and_why() {
    let kept = Kept::default();
    let mut spec = kept.spec();
    spec.on_open = OnOpen::Drop;
    spec.routing_key = Some(streamll::Template::parse("mine.{event_type}").unwrap());
    let handle = Topology::builder("rag-api").tag("host", "box-1").sink("kept", spec).start().unwrap();
    handle.emit(Event::new(&step(), "start"));
    assert_eq!(block_on(handle.flush()), 0);
    handle.sink("kept").unwrap().force_open();
    for index in 0..3 {
        handle.emit(Event::token(&step(), "answer", "x", index));
    }
    handle.emit(Event::new(&step(), "end"));
    block_on(handle.flush());
    handle.sink("kept").unwrap().force_close();
    handle.emit(Event::new(&step(), "start"));
    let drained = end_anyhow(&handle);
    assert_eq!(drained.status.sink("kept").unwrap().balance.shed, 4);
    assert_eq!(drained.status.sink("kept").unwrap().balance.notices, 1, "markers are counted apart");

    let arrivals = kept.arrivals();
    let keys: Vec<_> = arrivals.iter().map(|arrival| &*arrival.key).collect();
    assert_eq!(keys, ["mine.start", "ai.streamll.gap", "mine.start"], "the key of a marker is fixed");
    let marker = &arrivals[1].json;
    let keys: Vec<_> = marker.as_object().unwrap().keys().collect();
    let all = "event_id execution_id span_id parent_id timestamp module_name method_name event_type operation topic \
               source seq data tags";
    assert_eq!(keys, all.split_whitespace().collect::<Vec<_>>());
    let head = ["module_name", "event_type", "topic"].map(|key| marker[key].as_str().unwrap());
    assert_eq!(head, ["streamll", "gap", "ai.streamll.gap"]);
    assert_eq!(
        marker["data"].to_string(),
        r#"{"sink":"kept","count":4,"from_seq":2,"to_seq":5,"reason":"circuit open","classes":{"token":3,"lifecycle":1}}"#
    );
}
