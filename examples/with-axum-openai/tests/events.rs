//! What the visits of the chat look like from outside: each conversation by itself, event by event.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn every_token_has_its_conversation() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-axum-openai");
    let mut chat = Command::new(env!("CARGO_BIN_EXE_with-axum-openai"));
    // Slow enough for a reader to leave in the middle of an answer, also on a busy machine.
    let events = golden::events(chat.env("OPENAI_STUB_DELAY_MS", "20"), &scratch);
    let of = |who: &str| -> Vec<Value> {
        events.iter().filter(|event| event["data"]["conversation_id"] == who).cloned().collect()
    };
    for who in ["ada", "ben", "cleo"] {
        insta::with_settings!({ snapshot_path => ".", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(who, golden::story(&of(who)));
        });
    }

    // How much of an answer is under way when its reader leaves is not the same in every run.
    let left = of("dan");
    let last = left.last().expect("his visit");
    assert_eq!((&last["event_type"], &last["data"]["error_type"]), (&"error".into(), &"Cancelled".into()));
    let tokens = |events: &[Value]| events.iter().filter(|event| event["event_type"] == "token").count();
    assert!(tokens(&left) < tokens(&of("ada")), "{}", golden::story(&left));

    let all = ["ada", "ben", "cleo", "dan"].map(|who| of(who).len()).iter().sum::<usize>();
    assert_eq!(all, events.len(), "no event is without its conversation");
}
