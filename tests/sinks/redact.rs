//! What redaction takes out, wherever it stands, and what it leaves alone.

use serde_json::{Value, json};
use streamll::processors::RedactConfig;
use streamll_actors::event::{Context, Event};
use streamll_actors::testkit;

use crate::{incoming, step};

const GONE: &str = "[redacted]";

fn config(fields: &[&str]) -> RedactConfig {
    RedactConfig { fields: fields.iter().map(ToString::to_string).collect(), replacement: None }
}

#[track_caller]
fn redacted(fields: &[&str], event: Event) -> Event {
    let mut left = testkit::drive(config(fields).build().unwrap(), [event]);
    assert_eq!(left.len(), 1);
    left.remove(0)
}

fn data(event: &Event) -> Value {
    serde_json::from_slice::<Value>(event.json()).unwrap()["data"].take()
}

#[test]
fn each_kind_of_field_finds_its_values() {
    let before = json!({
        "api_key": "sk", "user": {"email": "e", "name": "n"},
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": {"api_key": "sk"}}]
    });
    for (field, pointers) in [
        ("data.api_key", vec!["/api_key"]),
        ("data.user.email", vec!["/user/email"]),
        ("data.user", vec!["/user"]),
        ("data.user.*", vec!["/user/email", "/user/name"]),
        ("data.messages.*.content", vec!["/messages/0/content", "/messages/1/content"]),
        ("data.messages.0.content", vec!["/messages/0/content"]),
        ("data.*.*.role", vec!["/messages/0/role", "/messages/1/role"]),
        ("api_key", vec!["/api_key", "/messages/1/content/api_key"]),
        ("data.user.phone", vec![]),
        ("data.api_key.inner", vec![]),
        ("email", vec!["/user/email"]),
    ] {
        let mut expected = before.clone();
        for pointer in pointers {
            *expected.pointer_mut(pointer).unwrap() = json!(GONE);
        }
        let made = Event::new(&step("x", "s"), "start").with_data(before.clone());
        assert_eq!(data(&redacted(&[field], made)), expected, "{field}");
        let came = incoming(&json!({"event_type": "x", "data": before}).to_string());
        assert_eq!(data(&redacted(&[field], came)), expected, "{field}, as JSON");
    }
}

#[test]
fn an_event_without_such_a_field_keeps_its_encoding() {
    let context = Context::empty().with("conversation_id", "c").tag("tenant", "acme");
    let call = step("x", "s").context(&context);
    for event in [
        Event::new(&call, "start").with("user", json!({"name": "ada"})),
        Event::token(&call, "answer", "hi", 0),
        incoming(r#"{"event_type":"x","data":{"user":{"name":"ada"}},"tags":{"tenant":"acme"}}"#),
    ] {
        let encoding = event.json().as_ptr();
        let after = redacted(&["data.api_key", "data.user.email", "password", "tags.key"], event);
        assert_eq!(after.json().as_ptr(), encoding, "{after:?}");
    }
}

#[test]
fn the_context_is_redacted_and_its_steps_are_shared() {
    let context = Context::empty()
        .with("user", json!({"email": "e"}))
        .with("api_key", "sk")
        .with("conversation_id", "c")
        .tag("api_key", "sk")
        .tag("mail", "e")
        .tag("tenant", "acme");
    let call = step("x", "s").context(&context);
    let events = [Event::token(&call, "answer", "a", 0), Event::token(&call, "answer", "b", 1)];
    let left = testkit::drive(config(&["data.user.email", "tags.mail", "api_key"]).build().unwrap(), events);
    for event in &left {
        let json: Value = serde_json::from_slice(event.json()).unwrap();
        assert_eq!(json["data"]["user"], json!({"email": GONE}));
        assert_eq!((&json["data"]["api_key"], &json["data"]["conversation_id"]), (&json!(GONE), &json!("c")));
        assert_eq!(json["tags"], json!({"api_key": GONE, "mail": GONE, "tenant": "acme"}));
    }
    assert!(left[0].step().same(left[1].step()), "one step for all its tokens");
    assert_eq!(left[0].step().parts().span_id, call.parts().span_id);
    assert_eq!(left[1].as_token().unwrap().text, "b");
}

#[test]
fn a_streamed_field_is_redacted_in_its_tokens_too() {
    let call = step("x", "s");
    for (fields, expected) in [
        (["data.answer"], GONE),
        (["answer"], GONE),
        (["data.token"], GONE),
        (["data.*"], GONE),
        (["data.reason"], "hi"),
        (["tags.answer"], "hi"),
    ] {
        let token = redacted(&fields, Event::token(&call, "answer", "hi", 3));
        assert_eq!(data(&token)["token"], expected, "{fields:?}");
        assert_eq!(data(&token)["token_index"], if fields == ["data.*"] { json!(GONE) } else { json!(3) });
        let came =
            r#"{"event_type":"token","data":{"field":"answer","token":"hi","token_index":3,"more":1}}"#;
        assert_eq!(data(&redacted(&fields, incoming(came)))["token"], expected, "{fields:?}, as JSON");
    }
}

#[test]
fn the_replacement_can_be_chosen() {
    let config: RedactConfig =
        serde_json::from_value(json!({"fields": ["data.n"], "replacement": "***"})).unwrap();
    let left = testkit::drive(config.build().unwrap(), [Event::new(&step("x", "s"), "start").with("n", 1)]);
    assert_eq!(data(&left[0]), json!({"n": "***"}));
}

#[test]
fn more_steps_than_are_remembered_are_all_redacted() {
    let context = Context::empty().with("api_key", "sk");
    let steps: Vec<_> = (0..200).map(|i| step("x", &i.to_string()).context(&context)).collect();
    let events =
        (0..3).flat_map(|round| steps.iter().map(move |step| Event::token(step, "answer", "a", round)));
    let left = testkit::drive(config(&["api_key"]).build().unwrap(), events);
    assert_eq!(left.len(), 600);
    assert!(left.iter().all(|event| data(event)["api_key"] == GONE));
}

#[test]
fn what_is_no_field_is_refused_with_a_way_out() {
    for (fields, reason) in [
        (&[][..], "fields: there is none"),
        (&["data..x"], "`data..x` has an empty part"),
        (&["data.messages[0].content"], "`data.messages.0.content`"),
        (&["data.**.k"], "a bare name for a key at any depth"),
        (&["data.auth.token "], "a blank beside a name"),
        (&[""], "`` has an empty part"),
        (&["data"], "write `data.*` for all of them"),
        (&["*"], "write `data.*` for all data"),
        (&["user.email"], "write `data.user.email`"),
    ] {
        let error = config(fields).build().unwrap_err();
        assert!(error.contains(reason), "{fields:?}: {error}");
    }
}

#[test]
fn a_bare_name_is_redacted_also_beside_the_data_of_an_incoming_line() {
    let line =
        br#"{"event_type":"start","data":{},"password":"hunter2","auth":{"password":"hunter3"},"kept":[1]}"#;
    let event = streamll_actors::event::Decoder::default().decode(line).unwrap();
    let text = String::from_utf8(redacted(&["password"], event).json().to_vec()).unwrap();
    assert!(!text.contains("hunter"), "{text}");
    assert!(
        text.ends_with(r#","password":"[redacted]","auth":{"password":"[redacted]"},"kept":[1]}"#),
        "{text}"
    );
}
