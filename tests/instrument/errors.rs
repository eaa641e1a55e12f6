//! What an error is called, and what it says: its causes, whatever its type is able to do.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use streamll::{AsFault, instrument};
use tokio_stream::Stream;

use super::{error, record, record_async};

fn io() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "file not found")
}

#[derive(Debug, thiserror::Error)]
#[error("while loading")]
struct Loading(#[source] io::Error);

#[derive(Debug, thiserror::Error)]
#[error("while loading: {0}")]
struct Repeats(#[source] io::Error);

/// Can only be displayed.
struct Shown(u16);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

#[derive(Debug)]
struct Wrapper<T>(T);

impl<T> fmt::Display for Wrapper<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl<T: fmt::Debug> Error for Wrapper<T> {}

trait Refusal: Error {}
impl Refusal for Loading {}

/// The type and the message of what an instrumented function fails with.
#[track_caller]
fn told<T>(run: impl FnOnce() -> T) -> (String, String) {
    let (_, events) = record(run);
    let data = &error(&events)["data"];
    let text = |key: &str| data[key].as_str().unwrap().to_owned();
    (text("error_type"), text("error_message"))
}

macro_rules! fails {
    ($($name:ident: $error:ty = $value:expr => $kind:literal, $message:literal;)+) => {
        $(
            #[instrument]
            fn $name() -> Result<(), $error> {
                Err($value)
            }
        )+

        #[test]
        fn an_error_is_told_with_its_causes_and_by_the_name_of_its_type() {
            for (of, (error_type, message), expected) in
                [$((stringify!($name), told($name), ($kind, $message)),)+]
            {
                assert_eq!((error_type.as_str(), message.as_str()), expected, "{of}");
            }
        }
    };
}

fails! {
    plain: io::Error = io() => "io::Error", "file not found";
    with_a_source: Loading = Loading(io()) => "Loading", "while loading: file not found";
    that_repeats: Repeats = Repeats(io()) => "Repeats", "while loading: file not found";
    in_an_arc: Arc<Loading> = Arc::new(Loading(io())) => "Loading", "while loading: file not found";
    in_a_box: Box<Loading> = Box::new(Loading(io())) => "Loading", "while loading: file not found";
    as_a_reference: &'static Loading = Box::leak(Box::new(Loading(io()))) => "Loading", "while loading: file not found";
    in_any_box: Box<dyn Error> = Box::new(Loading(io())) => "Error", "while loading: file not found";
    in_any_box_to_send: Box<dyn Error + Send> = Box::new(Loading(io())) => "Error", "while loading: file not found";
    in_any_box_to_share: Box<dyn Error + Send + Sync + 'static> = Loading(io()).into() => "Error", "while loading: file not found";
    in_any_arc: Arc<dyn Error + Send + Sync> = Arc::new(Loading(io())) => "Error", "while loading: file not found";
    in_a_box_of_its_own_trait: Box<dyn Refusal + Send> = Box::new(Loading(io())) => "Refusal", "while loading: file not found";
    a_box_that_names_it: Box<dyn Error + Send + Sync> = "x".parse::<u8>().unwrap_err().into() => "ParseIntError", "invalid digit found in string";
    a_box_of_words: Box<dyn Error + Send + Sync> = "only words".into() => "Error", "only words";
    anyhow_with_a_cause: anyhow::Error = Err::<(), _>(io()).context("while loading").unwrap_err() => "io::Error", "while loading: file not found";
    anyhow_of_words: anyhow::Error = anyhow::anyhow!("only words") => "anyhow::Error", "only words";
    anyhow_in_an_arc: Arc<anyhow::Error> = Arc::new(anyhow::anyhow!("root").context("outer")) => "anyhow::Error", "outer: root";
    eyre_with_a_cause: eyre::Report = eyre::Report::new(io()).wrap_err("while loading") => "io::Error", "while loading: file not found";
    eyre_of_words: eyre::Report = eyre::eyre!("only words") => "eyre::Report", "only words";
    a_tuple: (Shown, String) = (Shown(404), "no such user".to_owned()) => "(Shown, String)", "(instrument::errors::Shown, alloc::string::String)";
    a_tuple_with_debug: (u16, String) = (404, "no such user".to_owned()) => "(u16, String)", "(404, \"no such user\")";
    only_displayed: Shown = Shown(503) => "Shown", "status 503";
    generic: Wrapper<Vec<Wrapper<u8>>> = Wrapper(vec![]) => "Wrapper", "wrapped";
    text: &'static str = "no" => "Error", "no";
    text_in_a_cow: Cow<'static, str> = "no".into() => "Error", "no";
    nothing: () = () => "()", "()";
}

#[instrument]
fn anonymous() -> Result<(), impl Error> {
    Err(Loading(io()))
}

#[instrument]
fn of_any_error<E: Error>(error: E) -> Result<(), E> {
    Err(error)
}

#[instrument(inputs = false)]
fn of_anything<E>(error: E) -> Result<(), E> {
    Err(error)
}

#[instrument]
fn borrowed<'a>(text: &'a str) -> Result<(), Box<dyn Error + Send + Sync + 'a>> {
    Err(text.into())
}

#[test]
fn inside_of_generics_the_bounds_that_are_written_there_count() {
    let loading = ("Loading".to_owned(), "while loading: file not found".to_owned());
    assert_eq!(told(anonymous), loading);
    assert_eq!(told(|| of_any_error(Loading(io()))), loading);
    assert_eq!(
        told(|| of_anything(Loading(io()))),
        ("Loading".to_owned(), "instrument::errors::Loading".to_owned())
    );
    let words = "of some lifetime".to_owned();
    assert_eq!(told(|| borrowed(&words).is_err()), ("Error".to_owned(), words.clone()));
}

#[instrument]
async fn later() -> anyhow::Result<()> {
    tokio::task::yield_now().await;
    Err(io()).context("while loading")
}

#[instrument]
fn in_the_middle() -> impl Stream<Item = anyhow::Result<u8>> {
    tokio_stream::iter([Ok(1), Err(io()).context("while loading")])
}

#[instrument]
fn before_the_stream() -> anyhow::Result<impl Stream<Item = u8>> {
    Err(io()).context("while loading")?;
    Ok(tokio_stream::iter([1]))
}

#[test]
fn futures_and_streams_fail_with_all_causes_too() {
    use tokio_stream::StreamExt as _;
    let all: [fn() -> Vec<serde_json::Value>; 3] = [
        || record_async(later()).1,
        || record_async(async { in_the_middle().collect::<Vec<_>>().await.len() }).1,
        || record(|| before_the_stream().is_err()).1,
    ];
    for run in all {
        let events = run();
        let data = &error(&events)["data"];
        assert_eq!(
            (&data["error_type"], &data["error_message"]),
            (&"io::Error".into(), &"while loading: file not found".into())
        );
    }
}

#[track_caller]
fn tried<E: AsFault<How>, How>(error: E) -> (String, String) {
    let run = streamll::trace("tried").try_run(async move |_| Err::<(), _>(error));
    told(|| tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run).is_err())
}

#[test]
fn a_scope_that_is_tried_fails_with_all_causes_too() {
    let all = |error_type: &str| (error_type.to_owned(), "while loading: file not found".to_owned());
    assert_eq!(tried(Loading(io())), all("Loading"));
    assert_eq!(tried(Repeats(io())), all("Repeats"));
    assert_eq!(tried(Arc::new(Loading(io()))), all("Loading"));
    assert_eq!(tried(anyhow::Error::new(io()).context("while loading")), all("io::Error"));
    assert_eq!(tried(Arc::new(anyhow::Error::new(io()).context("while loading"))), all("io::Error"));
    assert_eq!(tried(eyre::Report::new(io()).wrap_err("while loading")), all("io::Error"));
    assert_eq!(tried(Box::<dyn Error + Send + Sync>::from(Loading(io()))), all("Error"));
    assert_eq!(tried::<Box<dyn Error>, _>(Box::new(Loading(io()))), all("Error"));
    assert_eq!(tried::<Arc<dyn Error + Send + Sync>, _>(Arc::new(Loading(io()))), all("Error"));
    assert_eq!(tried("only words"), ("Error".to_owned(), "only words".to_owned()));
    assert_eq!(tried(Cow::from("only words")), ("Error".to_owned(), "only words".to_owned()));
    let (_, events) = record(|| {
        let scope = streamll::trace("said").enter();
        scope.fail("Loading", anyhow::Error::new(io()).context("while loading"));
    });
    assert_eq!(error(&events)["data"]["error_message"], "while loading: file not found");
}

#[test]
fn items_of_a_stream_that_are_errors_are_told_with_all_causes() {
    use streamll::TokenStream as _;
    use tokio_stream::StreamExt as _;
    let items = || tokio_stream::iter([Ok("a"), Err(Loading(io()))]);
    let (error_type, message) = told(|| {
        let mut tokens = items()
            .tokens("answer", |item: &Result<&'static str, Loading>| item.as_ref().ok().copied())
            .errors(|item| item.as_ref().err());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { while tokens.next().await.is_some() {} });
    });
    assert_eq!((&*error_type, &*message), ("Loading", "while loading: file not found"));
}
