//! Inputs: what is recorded of them, and `inputs = false`.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::rc::Rc;

use serde::{Serialize, Serializer};
use serde_json::json;
use streamll::instrument;

use super::{record, start};

#[derive(Serialize)]
struct Question {
    text: String,
    tags: Vec<&'static str>,
}

#[derive(Debug)]
struct Printed {
    top_k: u8,
}

struct Mute;

/// What cannot be JSON.
struct Fails;

impl Serialize for Fails {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("scripted"))
    }
}

struct Panics;

impl Debug for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("scripted")
    }
}

#[instrument]
fn each_way(question: &Question, printed: Printed, mute: &mut Mute, unit: (), none: Option<u8>, not: f64) {}

#[instrument]
fn patterns(
    (a, mut b): (u8, u8),
    Printed { top_k: k }: Printed,
    [first, .., last]: [u8; 3],
    _: u8,
    mut c: u8,
) -> u8 {
    b += 1;
    c += 1;
    a + b + k + first + last + c
}

#[instrument]
fn of_generics<'a, T, D: Debug, S: Serialize + ?Sized>(
    plain: T,
    printed: D,
    written: &'a S,
    anything: impl Sized,
) -> &'a S {
    let _ = (plain, printed, anything);
    written
}

#[instrument]
fn unsized_ones(
    text: &str,
    slice: &[u8],
    object: &dyn Debug,
    closure: &dyn Fn(u8) -> u8,
    shared: Rc<str>,
) -> u8 {
    let _ = (text, object, shared);
    closure(slice[0])
}

#[instrument]
fn broken(fails: Fails, panics: Panics) {}

#[instrument]
fn keyword(r#type: u8, r#match: &str) {}

#[instrument]
fn large(text: &str, list: Vec<u32>, small: u8, printed: &HashMap<u8, Box<dyn Debug>>) {}

#[instrument(inputs = false)]
fn silent(secret: &str) -> usize {
    secret.len()
}

#[instrument(inputs = true)]
fn loud(open: &str) {}

struct Holder {
    #[expect(dead_code, reason = "it must not be recorded")]
    key: &'static str,
}

impl Holder {
    #[instrument]
    #[expect(clippy::boxed_local, reason = "every form of `self` is shown")]
    fn keeps(self: Box<Self>) {}
}

#[track_caller]
fn inputs_of<T>(run: impl FnOnce() -> T) -> serde_json::Value {
    start(&record(run).1)["data"].clone()
}

#[test]
fn an_input_is_written_by_serde_else_printed_else_named() {
    let question = Question { text: "why".into(), tags: vec!["a"] };
    let inputs = inputs_of(|| each_way(&question, Printed { top_k: 3 }, &mut Mute, (), None, f64::NAN));
    assert_eq!(
        inputs,
        json!({
            "question": { "text": "why", "tags": ["a"] },
            "printed": "Printed { top_k: 3 }",
            "mute": "instrument::inputs::Mute",
            "none": null,
            "not": null,
        })
    );
}

#[test]
fn the_names_in_a_pattern_are_inputs() {
    let mut given = 0;
    let inputs = inputs_of(|| given = patterns((1, 2), Printed { top_k: 3 }, [4, 5, 6], 7, 8));
    assert_eq!(given, 1 + 3 + 3 + 4 + 6 + 9);
    assert_eq!(inputs, json!({ "a": 1, "b": 2, "k": 3, "first": 4, "last": 6, "c": 8 }));
}

#[test]
fn inside_of_generics_the_written_bounds_decide() {
    let inputs = inputs_of(|| of_generics(1_u8, 2_u8, "three", 4_u8).len());
    assert_eq!(inputs, json!({ "plain": "u8", "printed": "2", "written": "three", "anything": "u8" }));
}

#[test]
fn values_without_a_size_are_inputs_too() {
    let inputs = inputs_of(|| unsized_ones("a", &[1, 2], &"b", &|x| x + 1, "c".into()));
    assert_eq!(inputs["text"], "a");
    assert_eq!(inputs["slice"], json!([1, 2]));
    assert_eq!(inputs["object"], "\"b\"");
    assert!(inputs["closure"].as_str().unwrap().starts_with("dyn "), "{inputs}");
    assert_eq!(inputs["shared"], "c");
}

#[test]
fn an_input_that_cannot_be_shown_is_named_and_hurts_nobody() {
    let inputs = inputs_of(|| broken(Fails, Panics));
    assert_eq!(
        inputs,
        json!({ "fails": "instrument::inputs::Fails", "panics": "instrument::inputs::Panics" })
    );
}

#[test]
fn a_raw_name_is_written_plainly() {
    assert_eq!(inputs_of(|| keyword(1, "x")), json!({ "type": 1, "match": "x" }));
}

#[test]
fn what_is_too_large_is_cut_and_listed() {
    let text = "é".repeat(100_000);
    let printed: HashMap<u8, Box<dyn Debug>> = HashMap::from([(1, Box::new("x".repeat(9_000)) as _)]);
    let inputs = inputs_of(|| large(&text, (0..100_000).collect(), 7, &printed));
    assert_eq!(inputs["truncated"], json!(["text", "list", "printed"]));
    let cut = inputs["text"].as_str().unwrap();
    assert!(text.starts_with(cut) && (4000..=4096).contains(&cut.len()), "{} bytes", cut.len());
    let list = inputs["list"].as_str().unwrap();
    assert!(list.starts_with("[0,1,2,") && list.len() == 4096, "{list}");
    assert_eq!(inputs["printed"].as_str().unwrap().len(), 4096);
    assert_eq!(inputs["small"], 7);
}

#[test]
fn inputs_false_records_none_and_self_is_never_one() {
    assert_eq!(inputs_of(|| silent("hush")), json!({}));
    assert_eq!(inputs_of(|| loud("open")), json!({ "open": "open" }));
    assert_eq!(inputs_of(|| Box::new(Holder { key: "hush" }).keeps()), json!({}));
}
