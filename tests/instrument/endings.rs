//! How a call ends: well, with an error, with a panic, or not at all.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use streamll::instrument;

use super::{end, error, lines, record, record_async};

#[derive(Debug)]
struct Upstream(u16);

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream said {}", self.0)
    }
}

impl Error for Upstream {}

#[derive(Debug)]
struct Undisplayed {
    #[expect(dead_code, reason = "read by Debug")]
    code: u8,
}

struct Mute;

fn upstream(fails: bool) -> Result<u8, Upstream> {
    if fails { Err(Upstream(503)) } else { Ok(7) }
}

#[instrument]
fn by_question_mark(fails: bool) -> Result<u8, Box<dyn Error + Send + Sync>> {
    let value = upstream(fails)?;
    Ok(value + 1)
}

#[instrument]
async fn later(fails: bool) -> Result<u8, Upstream> {
    tokio::task::yield_now().await;
    let value = upstream(fails)?;
    tokio::task::yield_now().await;
    Ok(value + 1)
}

type Answer<T> = Result<T, Upstream>;

#[instrument]
fn of_an_alias() -> Answer<()> {
    Err(Upstream(500))
}

#[instrument]
fn without_display() -> Result<(), Undisplayed> {
    Err(Undisplayed { code: 3 })
}

#[instrument]
fn without_anything() -> Result<(), Mute> {
    Err(Mute)
}

#[instrument]
fn long_message() -> Result<(), String> {
    Err("é".repeat(10_000))
}

#[instrument]
fn panics(how: u8) -> u8 {
    match how {
        0 => panic!("plain"),
        1 => panic!("with {how} value"),
        _ => std::panic::panic_any(how),
    }
}

#[instrument]
async fn panics_later() -> u8 {
    tokio::task::yield_now().await;
    panic!("later")
}

#[instrument]
async fn forever() {
    inner_forever().await;
}

#[instrument]
async fn inner_forever() {
    std::future::pending::<()>().await;
}

#[test]
fn a_value_ends_it_well_and_an_err_with_its_type_and_message() {
    let (given, events) = record(|| (by_question_mark(false), by_question_mark(true)));
    assert_eq!(given.0.unwrap(), 8);
    assert_eq!(given.1.unwrap_err().to_string(), "upstream said 503");
    assert_eq!(
        lines(&events),
        [
            r#"start by_question_mark {"fails":false}"#,
            r#"end by_question_mark {"output":8}"#,
            r#"start by_question_mark {"fails":true}"#,
            r#"error by_question_mark {"error_type":"Error","error_message":"upstream said 503"}"#,
        ]
    );
}

#[test]
fn an_async_err_ends_it_with_its_type_and_message() {
    let (given, events) = record_async(async { (later(false).await, later(true).await.is_err()) });
    assert_eq!((given.0.unwrap(), given.1), (8, true));
    assert_eq!(end(&events)["data"]["output"], 8);
    let error = &error(&events)["data"];
    assert_eq!(error["error_type"], "Upstream");
    assert_eq!(error["error_message"], "upstream said 503");
    assert!(error["duration"].is_number() && error["output"].is_null());
}

#[test]
fn an_error_is_told_as_well_as_its_type_can() {
    let (_, events) = record(|| {
        (
            of_an_alias().is_err(),
            without_display().is_err(),
            without_anything().is_err(),
            long_message().is_err(),
        )
    });
    let errors: Vec<_> = events.iter().filter(|event| event["event_type"] == "error").collect();
    let told: Vec<_> =
        errors.iter().map(|e| (&e["data"]["error_type"], &e["data"]["error_message"])).collect();
    assert_eq!((told[0].0, told[0].1), (&"Upstream".into(), &"upstream said 500".into()));
    assert_eq!((told[1].0, told[1].1), (&"Undisplayed".into(), &"Undisplayed { code: 3 }".into()));
    assert_eq!((told[2].0, told[2].1), (&"Mute".into(), &"instrument::endings::Mute".into()));
    let long = told[3].1.as_str().unwrap();
    assert!(long.len() < 5000 && long.ends_with("é…"), "{} bytes", long.len());
}

#[test]
fn a_panic_ends_it_with_an_error_and_goes_on_as_it_was() {
    let (panics, events) =
        record(|| [0, 1, 2].map(|how| catch_unwind(|| panics(how)).expect_err("it panics")));
    assert_eq!(panics[0].downcast_ref::<&str>(), Some(&"plain"));
    assert_eq!(panics[1].downcast_ref::<String>().unwrap(), "with 1 value");
    assert_eq!(panics[2].downcast_ref::<u8>(), Some(&2));
    let errors: Vec<_> = lines(&events).into_iter().filter(|line| line.starts_with("error")).collect();
    assert_eq!(
        errors,
        [
            r#"error panics {"error_type":"Panic","error_message":"plain"}"#,
            r#"error panics {"error_type":"Panic","error_message":"with 1 value"}"#,
            r#"error panics {"error_type":"Panic","error_message":"the code panicked"}"#,
        ]
    );
}

#[test]
fn an_async_panic_ends_it_with_an_error_and_goes_on() {
    let (panic, events) = record_async(async {
        tokio::spawn(streamll::carry(async { panics_later().await }))
            .await
            .expect_err("it panics")
            .into_panic()
    });
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"later"));
    assert_eq!(error(&events)["data"]["error_type"], "Panic");
    assert_eq!(error(&events)["data"]["error_message"], "later");
}

#[test]
fn a_future_that_is_dropped_ends_with_cancelled_the_innermost_first() {
    let (_, events) = record_async(async { tokio::time::timeout(Duration::from_millis(1), forever()).await });
    let cancelled = r#"{"error_type":"Cancelled","error_message":"dropped before it was done"}"#;
    assert_eq!(
        lines(&events),
        [
            "start forever {}".to_owned(),
            "start inner_forever {}".to_owned(),
            format!("error inner_forever {cancelled}"),
            format!("error forever {cancelled}"),
        ]
    );
}

#[test]
fn a_future_that_is_never_polled_is_no_call() {
    let ((), events) = record(|| drop(forever()));
    assert_eq!(lines(&events), [""; 0]);
}

#[test]
fn the_outer_surroundings_are_back_after_a_panic() {
    let (_, events) = record(|| {
        let _ = catch_unwind(AssertUnwindSafe(|| panics(0)));
        streamll::emit(streamll::Event::new(&streamll::step("After").operation("after"), "start"));
    });
    let (call, after) = (&events[0], &events[2]);
    assert_eq!(after["operation"], "after");
    assert_eq!(after["parent_id"], call["parent_id"], "it is a child of the same scope");
}
