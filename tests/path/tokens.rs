//! The token adapter: items pass through untouched, and every one that holds text is an event.

use std::pin::Pin;
use std::task::{Context, Poll};

use streamll::{Event, TokenStream as _};
use tokio_stream::{Stream, StreamExt as _};

use super::{block_on, end, topology};

/// Items that can be neither cloned nor compared by accident, with errors among them.
#[derive(Debug, PartialEq)]
struct Chunk(Box<str>);

/// A stream that is sometimes not ready, and says how many items are left.
struct Halting {
    items: std::vec::IntoIter<Result<Chunk, String>>,
    ready: bool,
}

impl Stream for Halting {
    type Item = Result<Chunk, String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready = !self.ready;
        if self.ready {
            return Poll::Ready(self.items.next());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

fn items() -> Vec<Result<Chunk, String>> {
    let text = |n: u64| match n % 4 {
        0 => Err(format!("cut at {n}")),
        1 => Ok(Chunk("".into())),
        _ => Ok(Chunk(format!("tok{n}").into())),
    };
    (0..100).map(text).collect()
}

/// The text of an item: none in an error, and none worth an event in an empty chunk.
fn text(item: &Result<Chunk, String>) -> Option<&str> {
    item.as_ref().ok().map(|chunk| &*chunk.0).filter(|text| !text.is_empty())
}

#[test]
fn items_errors_and_size_hints_pass_through_untouched_and_indexes_have_no_holes() {
    let (handle, kept) = topology();
    let step = streamll::step("Chat").operation("llm_call");
    let halting = Halting { items: items().into_iter(), ready: false };
    let mut tokens = halting.tokens("answer", text).of(&step).to(handle.emitter());
    assert_eq!(tokens.size_hint(), (100, Some(100)));
    let through = block_on(async {
        let first = tokens.next().await;
        assert_eq!(tokens.size_hint(), (99, Some(99)));
        let rest: Vec<_> = tokens.collect().await;
        first.into_iter().chain(rest).collect::<Vec<_>>()
    });
    assert_eq!(through, items());
    handle.emit(Event::new(&step, "end"));
    end(&handle);

    let arrivals = kept.arrivals();
    let (tokens, last) = arrivals.split_at(arrivals.len() - 1);
    assert_eq!(last[0].kind(), "end");
    let expected: Vec<_> = items().iter().filter_map(|item| Some(text(item)?.to_owned())).collect();
    let texts: Vec<_> = tokens.iter().map(|token| token.json["data"]["token"].as_str().unwrap()).collect();
    assert_eq!(texts, expected);
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(token.json["data"]["token_index"], index, "{}", token.text);
        assert_eq!(token.json["data"]["field"], "answer");
        assert_eq!(token.json["span_id"], *step.parts().span_id);
    }
}

#[test]
fn two_streams_of_one_step_number_their_fields_apart() {
    let (handle, kept) = topology();
    let step = streamll::step("Chat");
    let stream = |field: &str| {
        let words = tokio_stream::iter(["a", "b", "c"]);
        words.tokens(field, |item: &&'static str| Some(*item)).of(&step).to(handle.emitter())
    };
    let (mut reasoning, mut answer) = (stream("reasoning"), stream("answer"));
    block_on(async { while reasoning.next().await.is_some() && answer.next().await.is_some() {} });
    end(&handle);
    for field in ["reasoning", "answer"] {
        let arrivals = kept.arrivals();
        let of_field = arrivals.iter().map(|a| &a.json["data"]).filter(|data| data["field"] == field);
        let indexes: Vec<_> = of_field.map(|data| data["token_index"].as_u64().unwrap()).collect();
        assert_eq!(indexes, [0, 1, 2], "{field}");
    }
}

#[test]
fn a_stream_dropped_in_the_middle_leaves_what_was_said() {
    let (handle, kept) = topology();
    let mut words = tokio_stream::iter(["a", "b", "c"])
        .tokens("answer", |item: &&'static str| Some(*item))
        .to(handle.emitter());
    assert_eq!(block_on(words.next()), Some("a"));
    drop(words);
    end(&handle);
    assert_eq!(kept.kinds(), ["token"]);
}
