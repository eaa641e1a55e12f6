//! Where a span stands: inside of which step, with which ids, and what stands inside of it.

use std::cell::RefCell;

use streamll::{
    Event, Handle, LayerExt as _, context, current_context, step, trace, with_context, with_context_sync,
};
use streamll_actors::testkit::Arrival;
use tracing::{Instrument as _, Span, info_span};
use tracing_subscriber::prelude::*;

use super::{chat, end, names, only, seen, seen_by, subscriber, topology};

fn span_id(arrival: &Arrival) -> &str {
    arrival.json["span_id"].as_str().unwrap()
}

fn parent_id(arrival: &Arrival) -> Option<&str> {
    arrival.json["parent_id"].as_str()
}

fn agent() -> Span {
    info_span!("a", gen_ai.operation.name = "invoke_agent", gen_ai.agent.name = "Planner")
}

#[test]
fn spans_and_scopes_stand_inside_of_each_other() {
    let events = seen(|handle| {
        let _answer = trace("answer").to(handle.emitter()).enter();
        let _agent = agent().entered();
        let _search = trace("search").to(handle.emitter()).enter();
        let _chat = chat!().entered();
        handle.emit(Event::new(&step("Deepest"), "note"));
    });
    let place = |kind: &str, operation: &str| {
        let found = events.iter().find(|e| e.kind() == kind && e.json["operation"] == operation);
        found.unwrap_or_else(|| panic!("no {kind} {operation} in {:?}", names(&events)))
    };
    let way = [
        ("start", "answer"),
        ("start", "invoke_agent"),
        ("start", "search"),
        ("llm_start", "chat"),
        ("note", "chat"),
    ];
    let way = way.map(|(kind, operation)| match kind {
        "note" => only(&events, "note"),
        _ => place(kind, operation),
    });
    assert_eq!(parent_id(way[0]), None);
    for pair in way.windows(2) {
        assert_eq!(parent_id(pair[1]), Some(span_id(pair[0])), "{:?}", names(&events));
        assert_eq!(pair[1].json["execution_id"], pair[0].json["execution_id"]);
    }
    assert_eq!(place("llm_start", "chat").json["module_name"], "Planner", "also through a scope");
}

#[test]
fn spans_of_others_in_between_hide_no_parent() {
    let (handle, journal) = topology();
    // The other layer wants all spans, so that there are some in between.
    let all = tracing_subscriber::registry()
        .with(streamll::layer().to(handle.emitter()))
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink));
    tracing::subscriber::with_default(all, || {
        let _agent = agent().entered();
        let _between = info_span!("request").entered();
        let other = info_span!("other");
        drop(chat!(parent = 1));
        drop(info_span!(parent: &other, "c", gen_ai.operation.name = "retrieval"));
    });
    let events = end(&handle, &journal);
    let run = only(&events, "start");
    for kind in ["llm_start", "retrieval_start"] {
        assert_eq!(parent_id(only(&events, kind)), Some(span_id(run)), "{kind}");
        assert_eq!(only(&events, kind).json["module_name"], "Planner");
    }
}

#[test]
fn an_explicit_parent_wins_over_where_the_code_is() {
    let events = seen(|handle| {
        let agent = agent();
        let _elsewhere = trace("elsewhere").to(handle.emitter()).enter();
        drop(info_span!(parent: &agent, "c", gen_ai.operation.name = "chat", gen_ai.request.model = "m"));
    });
    let agent = events.iter().find(|e| e.json["operation"] == "invoke_agent").unwrap();
    assert_eq!(parent_id(only(&events, "llm_start")), Some(span_id(agent)));
}

#[test]
fn a_span_of_one_request_that_is_opened_in_another_has_the_ids_of_its_parent() {
    let events = seen(|handle| {
        let mine = with_context_sync(&context! { user = "mine" }, agent);
        let open = || {
            drop(info_span!(parent: &mine, "c", gen_ai.operation.name = "chat", gen_ai.request.model = "m"))
        };
        with_context_sync(&context! { user = "other", turn = 1 }, || {
            open();
            let _other = trace("other").to(handle.emitter()).enter();
            open();
        });
    });
    let chats: Vec<_> = events.iter().filter(|e| e.kind() == "llm_start").collect();
    assert_eq!(chats.len(), 2);
    for chat in chats {
        let data = &chat.json["data"];
        assert!(data["user"] == "mine" && data["turn"].is_null(), "{data}");
    }
}

#[test]
fn whatever_order_spans_and_scopes_are_left_in_nothing_stays_behind() {
    let (handle, journal) = topology();
    tracing::dispatcher::with_default(&subscriber(&handle, |layer| layer), || {
        let scope = trace("s").to(handle.emitter()).enter();
        let span = chat!().entered();
        drop(scope);
        drop(span);
        assert_eq!(step("After").parts().parent_id, None);

        let span = chat!().entered();
        let scope = trace("s").to(handle.emitter()).enter();
        drop(span);
        drop(scope);
        assert_eq!(step("After").parts().parent_id, None);

        let (one, two) = (chat!().entered(), agent().entered());
        let inside = || step("Inside").parts().parent_id.clone();
        let of_two = inside();
        drop(one);
        assert!(of_two.is_some() && inside() == of_two, "still inside of the other one");
        drop(two);
        assert_eq!(step("After").parts().parent_id, None);
    });
    end(&handle, &journal);
}

#[test]
fn a_span_carries_the_ids_of_where_it_was_opened_to_its_end_and_no_others() {
    let events = seen(|_| {
        let span = with_context_sync(&context! { conversation_id = "c1", tags.tenant = "acme" }, || chat!());
        with_context_sync(&context! { conversation_id = "c2", request_id = 2, tags.tenant = "else" }, || {
            span.record("gen_ai.usage.output_tokens", 1);
            drop(span);
        });
    });
    for event in &events {
        let (data, tags) = (&event.json["data"], &event.json["tags"]);
        assert_eq!((&data["conversation_id"], &tags["tenant"]), (&"c1".into(), &"acme".into()), "{event:?}");
        assert!(data.get("request_id").is_none());
    }
    assert_eq!(events.len(), 2);
}

/// One request of many: an agent with two calls one after the other, and events of the application inside.
async fn request(handle: Handle, id: u64) {
    let run = async {
        for _ in 0..2 {
            let call = async {
                for n in 0..3 {
                    tokio::task::yield_now().await;
                    handle.emit(Event::token(&step("App"), "answer", "x", n));
                }
            };
            call.instrument(chat!(mine = id)).await;
        }
    };
    with_context(context! { request_id = id }, async { run.instrument(agent()).await }).await;
}

#[test]
fn interleaved_requests_never_mix() {
    const REQUESTS: u64 = 200;
    let events = seen(|handle| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let all: Vec<_> = (0..REQUESTS).map(|id| tokio::spawn(request(handle.clone(), id))).collect();
            for one in all {
                one.await.unwrap();
            }
        });
    });
    for id in 0..REQUESTS {
        let mine: Vec<_> = events.iter().filter(|e| e.json["data"]["request_id"] == id).collect();
        let kinds: Vec<_> = mine.iter().map(|event| event.kind()).collect();
        let call = ["llm_start", "token", "token", "token", "llm_end"];
        assert_eq!(kinds, [&["start"][..], &call, &call, &["end"]].concat(), "request {id}");
        assert!(mine.iter().all(|event| event.json["execution_id"] == mine[0].json["execution_id"]));
        for call in [&mine[1..6], &mine[6..11]] {
            assert_eq!(parent_id(call[0]), Some(span_id(mine[0])));
            assert!(call[1..4].iter().all(|token| parent_id(token) == Some(span_id(call[0]))));
        }
    }
    assert_eq!(events.len() as u64, REQUESTS * 12);
}

#[test]
fn a_task_that_is_spawned_with_a_span_has_its_ids_too() {
    let events = seen(|handle| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = handle.clone();
        runtime.block_on(async {
            let span = with_context_sync(&context! { conversation_id = "c1" }, || chat!());
            let task = async move {
                assert_eq!(current_context().get("conversation_id"), Some(&"c1".into()));
                handle.emit(Event::new(&step("App"), "note"))
            };
            tokio::spawn(task.instrument(span)).await.unwrap();
        });
    });
    assert_eq!(only(&events, "note").json["data"]["conversation_id"], "c1");
    assert_eq!(parent_id(only(&events, "note")), Some(span_id(only(&events, "llm_start"))));
}

#[test]
fn a_span_that_goes_with_its_thread_still_ends() {
    thread_local! { static KEPT: RefCell<Option<Span>> = const { RefCell::new(None) } }
    let (handle, journal) = topology();
    let dispatch = subscriber(&handle, |layer| layer);
    std::thread::spawn(move || {
        let span = tracing::dispatcher::with_default(&dispatch, || chat!());
        KEPT.set(Some(span));
    })
    .join()
    .unwrap();
    assert_eq!(names(&end(&handle, &journal)), ["llm llm_start chat", "llm llm_end chat"]);
}

#[test]
fn two_layers_tell_two_graphs() {
    let ((one, first), (two, second)) = (topology(), topology());
    let both = tracing_subscriber::registry()
        .with(streamll::layer().to(one.emitter()))
        .with(streamll::layer().to(two.emitter()).targets(["my_app"]));
    tracing::subscriber::with_default(both, || {
        let _agent = agent().entered();
        let _own = info_span!(target: "my_app", "own").entered();
        drop(chat!());
    });
    let (first, second) = (end(&one, &first), end(&two, &second));
    assert_eq!((first.len(), second.len()), (4, 6));
    for events in [first, second] {
        let ids: Vec<_> = events.iter().map(span_id).collect();
        for event in &events {
            assert!(parent_id(event).is_none_or(|parent| ids.contains(&parent)), "a parent of another graph");
        }
    }
}

#[test]
fn the_code_inside_of_a_span_emits_where_the_layer_does() {
    let events = seen_by(
        |layer| layer,
        |_| {
            let _chat = chat!().entered();
            let inside = trace("inside").enter();
            inside.emit("note", 1);
        },
    );
    let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, ["llm_start", "start", "note", "end", "llm_end"]);
}

#[test]
fn what_is_carried_out_of_a_span_stays_inside_of_it() {
    let events = seen(|handle| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let inside = streamll::carry(async { step("Inside").parts().parent_id.clone() });
        let chat = chat!();
        let carried = chat.in_scope(|| streamll::carry(async { step("Inside").parts().parent_id.clone() }));
        assert_eq!(runtime.block_on(inside), None);
        let parent = runtime.block_on(carried);
        handle.emit(Event::new(&step("Other"), "note").with("parent", parent.as_deref()));
    });
    let parent = only(&events, "note").json["data"]["parent"].clone();
    assert_eq!(parent, span_id(only(&events, "llm_start")));
}

#[test]
fn a_span_that_is_made_with_the_ids_of_a_trace_has_them() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";
    let mut sent = None;
    let events = seen_by(
        |layer| layer.targets(["my_app"]),
        |_| {
            let header = format!("00-{TRACE}-{SPAN}-01");
            tracing::info_span!(target: "my_app", "request", traceparent = %header).in_scope(|| {
                sent = streamll::traceparent();
                drop(tracing::info_span!(target: "my_app", "inner", trace_id = "0".repeat(31) + "1", span_id = SPAN));
            });
            drop(tracing::info_span!(target: "my_app", "of_otel", trace_id = TRACE, span_id = SPAN));
            drop(
                tracing::info_span!(target: "my_app", "wrong", traceparent = "no", trace_id = "7", span_id = "8"),
            );
        },
    );
    let of = |name: &str| &events.iter().find(|event| event.json["operation"] == name).unwrap().json;
    let (request, inner, of_otel, wrong) = (of("request"), of("inner"), of("of_otel"), of("wrong"));
    assert_eq!((&request["execution_id"], &request["parent_id"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!(sent.unwrap(), format!("00-{TRACE}-{}-01", request["span_id"].as_str().unwrap()));
    assert_eq!((&inner["execution_id"], &inner["parent_id"]), (&TRACE.into(), &request["span_id"]));
    assert_eq!((&of_otel["execution_id"], &of_otel["span_id"]), (&TRACE.into(), &SPAN.into()));
    assert!(
        wrong["execution_id"].as_str().unwrap().len() == 32 && wrong["span_id"].as_str().unwrap().len() == 16
    );
}
