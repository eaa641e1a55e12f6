//! Runs that go through several services: a `traceparent` that comes in is continued, and one goes out.

use serde_json::Value;
use streamll::{Step, StepParts, TokenStream as _, trace};
use tokio_stream::StreamExt as _;

use super::{block_on, end, one, topology};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn ids(event: &Value) -> (&str, &str, Option<&str>) {
    let text = |key: &str| event[key].as_str();
    (text("execution_id").unwrap(), text("span_id").unwrap(), text("parent_id"))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn a_run_goes_on_with_the_ids_that_came_and_gives_its_own_on() {
    let (handle, kept) = topology();
    let came = format!("00-{TRACE}-{SPAN}-00");
    let mut sent = Vec::new();
    block_on(trace("answer").module("Rag").continues(&came).to(handle.emitter()).run(async |scope| {
        sent.push(scope.traceparent().unwrap());
        let inner = trace("tool_call").enter();
        assert_eq!(streamll::traceparent(), inner.traceparent());
        sent.push(streamll::traceparent().unwrap());
        drop(inner);
        let mut words = tokio_stream::iter(["a", "b"])
            .map(|word| (word, streamll::traceparent().unwrap()))
            .tokens("words", |(word, _)| Some(*word));
        while let Some((_, header)) = words.next().await {
            sent.push(header);
        }
    }));
    assert_eq!(streamll::traceparent(), None);
    let events = end(&handle, &kept);
    let (answer, tool, words) =
        (one(&events, "start", "answer"), one(&events, "start", "tool_call"), one(&events, "start", "words"));
    assert_eq!(
        (ids(answer).0, ids(answer).2, answer["module_name"].as_str()),
        (TRACE, Some(SPAN), Some("Rag"))
    );
    for inner in [tool, words] {
        assert_eq!((ids(inner).0, ids(inner).2), (TRACE, Some(ids(answer).1)));
    }
    let header = |event: &Value| format!("00-{TRACE}-{}-00", ids(event).1);
    assert_eq!(sent, [header(answer), header(tool), header(words), header(words)]);
    assert!(events.iter().all(|event| is_hex(ids(event).0, 32) && is_hex(ids(event).1, 16)));
}

#[test]
fn a_header_that_is_none_changes_nothing() {
    let (handle, kept) = topology();
    let upper = format!("00-{}-{SPAN}-01", TRACE.to_uppercase());
    for (name, wrong) in [("empty", ""), ("words", "drop table"), ("upper", &upper)] {
        let scope = trace(name).continues(wrong).to(handle.emitter()).enter();
        let header = scope.traceparent().unwrap();
        assert!(header.starts_with("00-") && header.ends_with("-01") && !header.contains(TRACE), "{header}");
        let inner = trace("inner").continues(wrong).enter();
        assert_eq!(inner.step().parts().execution_id, scope.step().parts().execution_id);
    }
    let events = end(&handle, &kept);
    for name in ["empty", "words", "upper"] {
        assert_eq!(ids(one(&events, "start", name)).2, None);
    }
}

#[test]
fn a_header_counts_more_than_what_is_around_and_takes_its_ids_along() {
    let (handle, kept) = topology();
    let outer = trace("serve")
        .module("Server")
        .context(streamll::context! { tenant = "acme" })
        .to(handle.emitter())
        .enter();
    drop(trace("request").continues(format!("00-{TRACE}-{SPAN}-01")).enter());
    let other = outer.step();
    drop(outer);
    drop(trace("reaction").inside_of(&other).to(handle.emitter()).enter());
    let events = end(&handle, &kept);
    let (request, reaction) = (one(&events, "start", "request"), one(&events, "start", "reaction"));
    assert_eq!((ids(request).0, ids(request).2), (TRACE, Some(SPAN)));
    assert_eq!(
        (request["module_name"].as_str(), request["data"]["tenant"].as_str()),
        (Some("request"), Some("acme"))
    );
    let serve = ids(one(&events, "start", "serve"));
    assert_eq!((ids(reaction).0, ids(reaction).2), (serve.0, Some(serve.1)));
}

#[test]
fn ids_of_another_kind_give_no_header() {
    let (handle, kept) = topology();
    let with = |execution_id: &str| {
        let parts = StepParts { execution_id: execution_id.into(), ..Step::new("M").parts().clone() };
        trace("t").inside_of(&Step::from(parts)).to(handle.emitter()).enter().traceparent()
    };
    assert_eq!(with("run_1"), None);
    let uuid = with("4BF92F35-77b3-4da6-a3ce-929d0e0e4736").unwrap();
    assert!(uuid.starts_with(&format!("00-{TRACE}-")), "{uuid}");
    end(&handle, &kept);
}
