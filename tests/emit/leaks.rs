//! Where ids could get from one request to another: scopes left in any order, futures that go early, scopes handed around.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde_json::{Value, json};
use streamll::{Event, Handle, Scope, TokenStream as _, context, trace, with_context, with_context_sync};
use tokio_stream::{Stream, StreamExt as _};

use super::{block_on, end, one, told, topology};

#[test]
fn guards_that_go_in_any_order_leave_nothing_behind() {
    let (handle, kept) = topology();
    let outer = || trace("outer").to(handle.emitter()).context(context! { request_id = "a" }).enter();
    let is_outside = || {
        assert!(streamll::current_context().is_empty(), "{:?}", streamll::current_context());
        assert_eq!(streamll::step("Chat").parts().parent_id, None);
    };
    // The outer one first, of two and of three.
    let (first, second) = (outer(), trace("inner").enter());
    drop(first);
    assert_eq!(streamll::current_context().get("request_id"), Some(&"a".into()), "still in the inner one");
    drop(second);
    is_outside();
    let (first, second, third) = (outer(), trace("inner").enter(), trace("innermost").enter());
    drop(second);
    drop(first);
    drop(third);
    is_outside();
    let (first, second, third) = (outer(), trace("inner").enter(), trace("innermost").enter());
    drop(first);
    drop(second);
    drop(third);
    is_outside();
    // Carried out of the context in which it was entered, and into one.
    drop(with_context_sync(&context! { request_id = "b" }, outer));
    is_outside();
    let guard = outer();
    with_context_sync(&context! { request_id = "b" }, || drop(guard));
    is_outside();
    end(&handle, &kept);
}

/// Says that it goes.
struct Parting(Handle, &'static str);

impl Drop for Parting {
    fn drop(&mut self) {
        let step = streamll::step("Parting").operation(self.1);
        self.0.emit(Event::new(&step, "parting"));
    }
}

impl Stream for Parting {
    type Item = String;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<String>> {
        Poll::Ready(Some("word".to_owned()))
    }
}

#[streamll::instrument(inputs = false, operation = "instrumented", emitter = parting.0)]
async fn instrumented(parting: Parting) {
    let _parting = parting;
    std::future::pending::<()>().await;
}

#[streamll::instrument(inputs = false, emitter = parting.0)]
fn boxed(parting: Parting) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async {
        let _parting = parting;
        std::future::pending::<()>().await;
    })
}

#[test]
fn what_goes_with_a_cancelled_future_has_the_ids_of_its_own_request() {
    let (handle, kept) = topology();
    let forever = |operation| {
        let parting = Parting(handle.clone(), operation);
        async move {
            let _parting = parting;
            std::future::pending::<()>().await;
        }
    };
    block_on(async {
        let mine = context! { request_id = "mine", conversation_id = "c1" };
        let in_scope = trace("scope").to(handle.emitter()).run(|_| forever("in_scope"));
        let mut all: Vec<Pin<Box<dyn Future<Output = ()>>>> = vec![
            Box::pin(with_context(mine.clone(), forever("in_context"))),
            Box::pin(with_context(mine.clone(), in_scope)),
            Box::pin(with_context(mine.clone(), instrumented(Parting(handle.clone(), "in_call")))),
            Box::pin(with_context(mine.clone(), boxed(Parting(handle.clone(), "in_box")))),
        ];
        let stream = with_context_sync(&mine, || {
            Parting(handle.clone(), "in_stream").tokens("answer", |word| Some(word)).to(handle.emitter())
        });
        let mut stream = Box::pin(stream);
        stream.next().await;
        for one in &mut all {
            let polled = poll_fn(|cx| Poll::Ready(one.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        // Another request ends them.
        let other = trace("other").to(handle.emitter()).context(context! { request_id = "other", mark = 1 });
        other.run(|_| async move { drop((all, stream)) }).await;
    });
    let events = end(&handle, &kept);
    for operation in ["in_context", "in_scope", "in_call", "in_box", "in_stream"] {
        let event = one(&events, "parting", operation);
        let data = &event["data"];
        assert_eq!((&data["request_id"], data.get("mark")), (&json!("mine"), None), "{event}");
    }
    for (operation, scope) in
        [("in_scope", "scope"), ("in_call", "instrumented"), ("in_box", "boxed"), ("in_stream", "answer")]
    {
        let start = one(&events, "start", scope);
        assert_eq!(one(&events, "parting", operation)["parent_id"], start["span_id"], "{operation}");
    }
    let order = told(&events);
    let place = |line: &str| order.iter().position(|one| one == line).unwrap_or_else(|| panic!("{order:?}"));
    assert!(place("parting in_scope") < place("error scope"), "{order:?}");
    assert!(place("parting in_stream") < place("error answer"), "{order:?}");
}

#[test]
fn a_scope_that_is_used_in_another_request_takes_none_of_its_ids() {
    let (handle, kept) = topology();
    let mine = trace("mine").to(handle.emitter()).context(context! { request_id = "mine" });
    let (give, take) = std::sync::mpsc::channel::<Scope>();
    let there = handle.clone();
    let other = std::thread::spawn(move || {
        {
            let _other = trace("other").to(there.emitter()).context(context! { user = "other" }).enter();
            take.recv().unwrap().emit("note", json!({}));
        }
        // A request whose ids are laid around it, and that has no scope of its own.
        with_context_sync(&context! { user = "other" }, || take.recv().unwrap().emit("remark", json!({})));
    });
    let scope = mine.enter();
    // What is laid over the ids inside of its own run is on its events, too.
    with_context_sync(&context! { turn = 1 }, || scope.emit("own", json!({})));
    give.send(scope.clone()).unwrap();
    give.send(scope.clone()).unwrap();
    other.join().unwrap();
    drop(scope);
    let events = end(&handle, &kept);
    assert_eq!(one(&events, "own", "mine")["data"]["turn"], 1);
    for kind in ["note", "remark"] {
        let note = one(&events, kind, "mine");
        assert_eq!(
            (&note["data"]["request_id"], &note["data"]["user"]),
            (&json!("mine"), &Value::Null),
            "{note}"
        );
    }
}
