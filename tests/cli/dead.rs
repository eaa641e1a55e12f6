//! `streamll dead`: what could never be delivered is listed, shown, sent once more, and thrown away.

use serde_json::Value;

use crate::{Folder, err, feed, out, streamll};

const TOPOLOGY: &str = "data_dir: '{dir}/data'\nsinks:\n  log: { type: file, path: '{dir}/log.ndjson' }\n";

/// A letter as the machine writes it.
fn letter(n: u32, class: &str, reason: &str) -> String {
    format!(
        r#"{{"sink":"log","class":"{class}","reason":"{reason}","attempts":{n},"first_attempt":"2026-11-21T03:20:15.000000Z","last_attempt":"2026-11-21T03:20:1{n}.000000Z","event":{{"event_id":"e{n}","event_type":"start","topic":"ai.rag.start","source":"rag-1","seq":{n},"data":{{"n":{n}, "kept": 1.50}},"tags":{{}}}}}}"#
    )
}

fn with_letters(letters: &[String]) -> Folder {
    let folder = Folder::with(TOPOLOGY);
    std::fs::create_dir_all(folder.path("data/dead")).expect("a folder");
    folder.write("data/dead/log.ndjson", &(letters.join("\n") + "\n"));
    folder
}

fn dead(folder: &Folder, args: &[&str]) -> (Option<i32>, String, String) {
    let output = feed(streamll(&folder.path(""), &[&["dead", "--env", "test"], args].concat()), b"");
    (output.status.code(), out(&output), err(&output))
}

#[test]
fn letters_are_counted_by_reason_and_shown() {
    let folder = with_letters(&[
        letter(1, "poison", "too large"),
        letter(2, "poison", "no queue takes it"),
        letter(3, "poison", "too large"),
    ]);
    let (code, list, _) = dead(&folder, &["list"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        list,
        "log: 3 (2026-11-21T03:20:11.000000Z to 2026-11-21T03:20:13.000000Z)\n  2 poison: too large\n  1 poison: no \
         queue takes it\n"
    );
    let (_, shown, _) = dead(&folder, &["show", "log"]);
    assert!(
        shown.starts_with("2026-11-21T03:20:11.000000Z ai.rag.start e1\n  poison after 1 attempts since"),
        "{shown}"
    );
    let (_, json, _) = dead(&folder, &["show", "log", "--json"]);
    assert_eq!(json, folder.read("data/dead/log.ndjson"));
    let (_, events, _) = dead(&folder, &["show", "log", "--events"]);
    assert_eq!(events.lines().count(), 3);
    assert!(events.starts_with(r#"{"event_id":"e1","#) && events.contains("1.50"), "{events}");
}

#[test]
fn replayed_letters_arrive_as_they_were_and_are_letters_no_more() {
    let folder = with_letters(&[letter(1, "poison", "too large"), letter(2, "panic", "crashed")]);
    let (code, _, said) = dead(&folder, &["replay", "log"]);
    assert_eq!((code, said.as_str()), (Some(0), "streamll: 2 of 2 dead letters of `log` arrived\n"));
    let arrived: Vec<_> = folder.read("log.ndjson").lines().map(str::to_owned).collect();
    for (n, line) in [1, 2].into_iter().zip(&arrived) {
        assert!(letter(n, "", "").ends_with(&format!("\"event\":{line}}}")), "to the letter: {line}");
    }
    assert_eq!(arrived.len(), 2);
    assert!(!folder.path("data/dead/log.ndjson").exists());
    let (code, _, said) = dead(&folder, &["replay", "log"]);
    assert_eq!((code, said.as_str()), (Some(1), "streamll: no dead letters to replay\n"));
}

#[test]
fn what_does_not_arrive_stays_a_letter() {
    let letters = [letter(1, "poison", "too large"), letter(2, "poison", "too large")];
    let folder = with_letters(&letters);
    folder.write(
        "test.yaml",
        "data_dir: '{dir}/data'\nshutdown: { timeout: 1s }\nsinks:\n  log: { type: file, path: '{dir}/no/such/log' }\n",
    );
    std::fs::write(folder.path("no"), "in the way").expect("a file");
    let (code, _, said) = dead(&folder, &["replay", "log"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\nstreamll: 0 of 2 dead letters of `log` arrived; 2 could not be sent"), "{said}");
    assert_eq!(folder.read("data/dead/log.ndjson"), letters.join("\n") + "\n");
    assert!(!folder.path("data/dead/log.replaying").exists());
}

#[test]
fn what_panicked_in_a_processor_is_not_sent_past_the_others() {
    let folder =
        with_letters(&[letter(1, "processor", "a processor panicked"), letter(2, "poison", "too large")]);
    let (code, _, said) = dead(&folder, &["replay", "log"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 of 2 dead letters") && said.contains("1 stay"), "{said}");
    assert_eq!(folder.read("data/dead/log.ndjson"), letter(1, "processor", "a processor panicked") + "\n");
}

#[test]
fn a_replay_that_was_cut_off_goes_on_where_it_was() {
    let folder = with_letters(&[letter(2, "poison", "too large")]);
    folder.write("data/dead/log.replaying", &(letter(1, "poison", "too large") + "\n"));
    assert_eq!(dead(&folder, &["replay", "log"]).0, Some(0));
    assert_eq!(dead(&folder, &["replay", "log"]).0, Some(0));
    let ids: Vec<_> = folder
        .read("log.ndjson")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an event")["event_id"].clone())
        .collect();
    assert_eq!(ids, ["e1", "e2"]);
}

#[test]
fn a_line_that_is_no_text_and_a_replay_that_was_cut_off_are_shown_as_such() {
    let folder = with_letters(&[letter(1, "poison", "too large")]);
    let mut bytes = std::fs::read(folder.path("data/dead/log.ndjson")).expect("letters");
    bytes.extend_from_slice(b"\xff\xfe half a li");
    std::fs::write(folder.path("data/dead/log.ndjson"), bytes).expect("letters");
    folder.write("data/dead/log.replaying", &(letter(2, "poison", "too large") + "\n"));
    let (code, list, _) = dead(&folder, &["list"]);
    assert_eq!(code, Some(0));
    assert!(list.contains("  1 lines that are no letters"), "{list}");
    assert!(list.contains("log (a replay that was cut off): 1 ("), "{list}");
}

#[test]
fn nothing_is_thrown_away_without_a_yes() {
    let folder = with_letters(&[letter(1, "poison", "too large")]);
    let (code, _, said) = dead(&folder, &["purge", "log"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("1 events of `log` for good; say --yes"), "{said}");
    assert!(folder.path("data/dead/log.ndjson").exists());
    assert_eq!(dead(&folder, &["purge", "log", "--yes"]).0, Some(0));
    assert!(!folder.path("data/dead/log.ndjson").exists());
}

#[test]
fn a_sink_that_is_not_there_is_told_of_those_that_are() {
    let folder = with_letters(&[]);
    let (code, _, said) = dead(&folder, &["replay", "lgo"]);
    assert_eq!((code, said.as_str()), (Some(1), "streamll: there is no sink `lgo`; there are log\n"));
    let (_, _, said) = dead(&folder, &["replay", "processors"]);
    assert!(said.contains("streamll dead show processors --events | streamll run"), "{said}");
}

#[test]
fn the_environment_may_be_named_before_or_behind_the_action() {
    let folder = with_letters(&[letter(1, "rejected", "bad")]);
    for args in [["dead", "--env", "test", "list"], ["dead", "list", "--env", "test"]] {
        let output = feed(streamll(&folder.path(""), &args), b"");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
        assert!(out(&output).contains("log: 1"), "{}", out(&output));
    }
}

#[test]
fn control_characters_of_letters_reach_no_terminal() {
    let folder = with_letters(&[letter(1, "rejected", "bad \u{9b}31m").replace("ai.rag", "ai.\u{9d}rag")]);
    for action in [&["list"][..], &["show", "log"]] {
        let args: Vec<&str> = ["dead", "--env", "test"].into_iter().chain(action.iter().copied()).collect();
        let text = out(&feed(streamll(&folder.path(""), &args), b""));
        assert!(text.contains("bad") && !text.contains(['\u{9b}', '\u{9d}']), "{text:?}");
    }
}
