//! Signatures of all kinds stay what they were: lifetimes, generics, hidden types, recursion, `Send`.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use streamll::instrument;
use tokio_stream::{Stream, StreamExt as _};

use super::{lines, record, record_async};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn is_send<T: Send>(value: T) -> T {
    value
}

struct Store {
    names: Vec<String>,
}

#[instrument(inputs = false)]
impl Store {
    fn first(&self) -> Option<&str> {
        self.names.first().map(String::as_str)
    }

    fn first_mut(&mut self) -> &mut String {
        &mut self.names[0]
    }

    fn longest<'a>(&'a self, other: &'a str) -> &'a str {
        self.names.iter().map(String::as_str).chain([other]).max_by_key(|name| name.len()).unwrap_or(other)
    }

    async fn first_later(&self) -> Option<&str> {
        tokio::task::yield_now().await;
        self.names.first().map(String::as_str)
    }

    async fn push_later(&mut self, name: impl Into<String>) -> &mut Self {
        let name = name.into();
        tokio::task::yield_now().await;
        self.names.push(name);
        self
    }

    fn shared(self: Arc<Self>) -> usize {
        Arc::strong_count(&self)
    }

    fn pinned(self: Pin<&mut Self>) -> usize {
        self.names.len()
    }

    fn of_mut(mut self) -> Vec<String> {
        self.names.push("mine".into());
        self.names
    }

    fn boxed<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if name.is_empty() {
                return Err("no name".into());
            }
            Ok(self.names.iter().any(|mine| mine == name))
        })
    }

    fn by_alias(&self) -> BoxFuture<'_, usize> {
        let count = self.names.len();
        Box::pin(async move { count })
    }

    fn hidden(&self, times: usize) -> impl Future<Output = String> + Send + use<'_> {
        let first = self.names[0].as_str();
        async move {
            tokio::task::yield_now().await;
            first.repeat(times)
        }
    }

    fn iterates(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn in_a_box(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        if self.names.is_empty() {
            return Box::new(std::iter::empty());
        }
        Box::new(self.names.iter().map(String::as_str))
    }
}

#[test]
fn methods_of_all_receivers_and_returns_work_as_before() {
    let store = || Store { names: vec!["a".into(), "bb".into()] };
    let (_, events) = record_async(async {
        let mut one = store();
        one.first_mut().push('x');
        assert_eq!(one.first(), Some("ax"));
        assert_eq!(one.longest("ccc"), "ccc");
        one.push_later("d").await.push_later(String::from("e")).await;
        assert_eq!(is_send(one.first_later()).await, Some("ax"));
        assert_eq!(Pin::new(&mut one).pinned(), 4);
        assert_eq!(is_send(one.boxed("e")).await, Ok(true));
        assert_eq!(one.boxed("").await, Err("no name".into()));
        assert_eq!(one.by_alias().await, 4);
        assert_eq!(is_send(one.hidden(2)).await, "axax");
        assert_eq!(one.iterates().count() + one.in_a_box().count(), 8);
        assert_eq!(one.of_mut().len(), 5);
        assert_eq!(Arc::new(store()).shared(), 1);
    });
    let starts = lines(&events).iter().filter(|line| line.starts_with("start")).count();
    let ends = lines(&events).iter().filter(|line| line.starts_with("end")).count();
    let errors: Vec<_> = lines(&events).into_iter().filter(|line| line.starts_with("error")).collect();
    assert_eq!((starts, ends), (15, 14));
    assert_eq!(errors, [r#"error boxed {"error_type":"Error","error_message":"no name"}"#]);
}

#[instrument]
async fn sums(depth: u32) -> u32 {
    if depth == 0 { 0 } else { depth + Box::pin(sums(depth - 1)).await }
}

#[instrument]
fn sums_now(depth: u32) -> u32 {
    if depth == 0 { 0 } else { depth + sums_now(depth - 1) }
}

#[instrument]
fn sums_boxed(depth: u32) -> BoxFuture<'static, u32> {
    Box::pin(async move { if depth == 0 { 0 } else { depth + sums_boxed(depth - 1).await } })
}

#[test]
fn recursion_nests_its_calls() {
    let (sum, events) = record_async(is_send(sums(3)));
    let (boxed, of_boxed) = record_async(sums_boxed(3));
    let (now, of_now) = record(|| sums_now(3));
    assert_eq!((sum, boxed, now), (6, 6, 6));
    for events in [events, of_boxed, of_now] {
        assert_eq!(events.len(), 8);
        for pair in events[..4].windows(2) {
            assert_eq!(pair[1]["parent_id"], pair[0]["span_id"]);
        }
    }
}

/// The whole future of each would hold the one below four times over, if it did not stand in a box.
#[instrument]
async fn level_0(bytes: [u8; 64]) -> usize {
    tokio::task::yield_now().await;
    bytes.len()
}
#[instrument]
async fn level_1(bytes: [u8; 64]) -> usize {
    level_0(bytes).await
}
#[instrument]
async fn level_2(bytes: [u8; 64]) -> usize {
    level_1(bytes).await
}
#[instrument]
async fn level_3(bytes: [u8; 64]) -> usize {
    level_2(bytes).await
}

#[test]
fn futures_do_not_grow_with_the_depth_of_calls() {
    let (shallow, deep) = (size_of_val(&level_0([0; 64])), size_of_val(&level_3([0; 64])));
    assert_eq!(shallow, deep);
    let (length, events) = record_async(level_3([0; 64]));
    assert_eq!((length, events.len()), (64, 8));
}

#[instrument]
async fn not_send(shared: Rc<u8>) -> Rc<u8> {
    tokio::task::yield_now().await;
    shared
}

#[test]
fn a_future_that_is_not_send_still_runs() {
    let (given, events) = record_async(not_send(Rc::new(7)));
    assert_eq!((*given, events.len()), (7, 2));
}

#[instrument]
async fn generic<'a, T, const N: usize>(items: &'a [T; N], other: impl Display + Send) -> Cow<'a, str>
where
    T: Debug + Sync,
{
    tokio::task::yield_now().await;
    Cow::Owned(format!("{items:?}{other}"))
}

#[instrument]
fn coerces(big: bool) -> Box<dyn Display> {
    if big {
        return Box::new(u64::MAX);
    }
    Box::new("small")
}

#[instrument]
async fn coerces_later(
    big: bool,
) -> Result<Box<dyn Display + Send>, Box<dyn std::error::Error + Send + Sync>> {
    if big {
        return Ok(Box::new(u64::MAX));
    }
    let parsed: u8 = "7".parse()?;
    Ok(Box::new(parsed))
}

#[instrument]
fn infers() -> Vec<u8> {
    let mut bytes = Default::default();
    if false {
        return bytes;
    }
    bytes.push(1);
    bytes
}

#[instrument]
async fn infers_later() -> Result<Vec<u8>, std::num::ParseIntError> {
    let all = ["1", "2"].iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    Ok(all)
}

#[instrument]
fn infers_items() -> impl Stream<Item = Result<u8, String>> {
    tokio_stream::empty()
}

#[instrument]
fn infers_the_error() -> impl Future<Output = Result<u8, String>> {
    async {
        let number = "7".parse::<u8>().map_err(|e| e.to_string())?;
        Ok(number)
    }
}

#[instrument]
fn infers_in_a_box() -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>>>> {
    Box::pin(async { Ok(Default::default()) })
}

#[instrument]
fn of_pointers(compare: fn(&u8, &u8) -> bool) -> impl Fn(u8) -> bool {
    move |x| compare(&x, &1)
}

#[instrument]
fn never(deep: bool) -> ! {
    panic!("never {deep}")
}

#[instrument]
async fn never_later() -> ! {
    tokio::task::yield_now().await;
    panic!("never")
}

#[instrument]
extern "C" fn of_c(x: i32) -> i32 {
    x + 1
}

/// It says so.
#[must_use]
#[inline]
#[instrument]
#[allow(clippy::let_and_return)]
pub(super) fn with_attributes(x: u8) -> u8 {
    #![allow(unused_parens)]
    let y = (x);
    y
}

#[instrument]
fn under_conditions(#[cfg(any())] gone: Gone, #[cfg(test)] there: u8, #[allow(unused)] other: u8) -> u8 {
    there
}

#[test]
fn an_argument_that_is_not_compiled_is_not_recorded() {
    let (given, events) = record(|| under_conditions(1, 2));
    assert_eq!(given, 1);
    assert_eq!(lines(&events)[0], r#"start under_conditions {"there":1,"other":2}"#);
}

trait Model {
    type Reply;

    async fn reply(&self, question: &str) -> Self::Reply;

    fn later(&self) -> impl Future<Output = u8> + Send;

    #[instrument]
    fn by_box(self: Box<Self>) -> u8 {
        9
    }
}

#[instrument(inputs = false)]
impl Model for Store {
    type Reply = String;

    async fn reply(&self, question: &str) -> Self::Reply {
        question.to_owned()
    }

    fn later(&self) -> impl Future<Output = u8> + Send {
        async { 8 }
    }
}

#[instrument]
async fn asks(answer: impl AsyncFn(u8) -> u8) -> Result<impl Iterator<Item = u8>, String> {
    let last = answer(2).await;
    if last == 0 {
        return Err("none".into());
    }
    Ok(0..last)
}

type Echo = Box<dyn Fn(&str) -> &str>;

#[instrument]
fn of_labels(n: u8) -> (impl Iterator<Item = u8>, Echo) {
    let first = 'first: {
        if n > 0 {
            break 'first n;
        }
        7
    };
    (first..3, Box::new(|text| text))
}

#[test]
fn futures_in_traits_closures_that_await_and_hidden_types_in_others_work_as_before() {
    let (_, events) = record_async(async {
        let store = Store { names: Vec::new() };
        assert_eq!((store.reply("why").await, is_send(store.later()).await), ("why".to_owned(), 8));
        assert_eq!(Box::new(store).by_box(), 9);
        assert_eq!(asks(async |x| x + 1).await.unwrap().count(), 3);
        let (numbers, echo) = of_labels(1);
        assert_eq!((numbers.count(), echo("x")), (2, "x"));
    });
    assert_eq!(events.len(), 10);
}

#[test]
fn generics_coercions_and_inference_are_unaffected() {
    let (_, events) = record_async(async {
        assert_eq!(is_send(generic(&[1, 2], "x")).await, "[1, 2]x");
        assert_eq!(coerces(false).to_string(), "small");
        assert_eq!(coerces(true).to_string(), u64::MAX.to_string());
        assert_eq!(coerces_later(false).await.unwrap().to_string(), "7");
        assert!(coerces_later(true).await.is_ok());
        assert_eq!(infers(), [1]);
        assert_eq!(infers_later().await.unwrap(), [1, 2]);
        assert_eq!(infers_items().collect::<Vec<_>>().await, []);
        assert_eq!((infers_the_error().await, infers_in_a_box().await), (Ok(7), Ok(Vec::new())));
        assert!(of_pointers(|a, b| a == b)(1));
        assert_eq!((of_c(1), with_attributes(3)), (2, 3));
    });
    assert_eq!(events.len(), 26);
}

#[test]
fn a_function_that_never_returns_ends_with_its_panic() {
    let (panicked, events) = record(|| std::panic::catch_unwind(|| never(true)).is_err());
    assert!(panicked && super::error(&events)["data"]["error_message"] == "never true");
    let (panicked, events) =
        record_async(async { tokio::spawn(streamll::carry(async { never_later().await })).await.is_err() });
    assert!(panicked && super::error(&events)["data"]["error_message"] == "never");
}
