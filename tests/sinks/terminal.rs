//! What the terminal sink shows, and what it never lets through.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::json;
use streamll::sinks::terminal::{Color, Style, Target, Terminal, TerminalConfig};
use streamll_actors::event::{Context, Event, Step};
use streamll_actors::sink::{ErrorClass, Sink};

use crate::{at, batch, deliver, incoming, run, step};

const PIPE: Style = Style { color: false, flow: false };
const TTY: Style = Style { color: true, flow: true };
const PLAIN_TTY: Style = Style { color: false, flow: true };

/// Keeps what is written, until it is told to fail.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<(Vec<u8>, Option<io::ErrorKind>)>>);

impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let (written, failure) = &mut *self.0.lock().unwrap();
        if let Some(kind) = failure {
            return Err((*kind).into());
        }
        written.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }

    fn fail(&self, kind: Option<io::ErrorKind>) {
        self.0.lock().unwrap().1 = kind;
    }
}

fn shown(style: Style, events: impl IntoIterator<Item = Event>) -> String {
    let screen = Screen::default();
    let mut terminal = Terminal::to(screen.clone(), style);
    deliver(&mut terminal, events).unwrap();
    run(terminal.close());
    screen.text()
}

fn tokens(step: &Step, field: &str, texts: &[&str]) -> Vec<Event> {
    texts.iter().enumerate().map(|(i, text)| Event::token(step, field, *text, i as u64)).collect()
}

#[test]
fn the_lines_of_the_sample_come_out_exactly() {
    let call = step("llm_call", "a1b2c3d4e5f60718");
    let events = [
        Event::new(&call, "start").at(at("16:31:42.156")),
        Event::token(&call, "answer", "The answer is", 0).at(at("16:31:43.156")),
        Event::new(&call, "end").at(at("16:31:46.782")).with("total_tokens", 287).with("duration", 4.626),
        Event::new(&call, "error")
            .at(at("16:31:46.790"))
            .with("error_type", "Timeout")
            .with("error_message", "upstream took 30 s")
            .with("duration", 30.0),
    ];
    let expected = "\
[16:31:42.156] ▶ llm_call (a1b2c3d4)
[16:31:43.156] • llm_call (a1b2c3d4) 'The answer is'
[16:31:46.782] ■ llm_call (a1b2c3d4) 4.63s {\"total_tokens\": 287}
[16:31:46.790] ✖ llm_call (a1b2c3d4) Timeout: upstream took 30 s
";
    assert_eq!(shown(PIPE, events), expected);
}

#[test]
fn a_whole_chat_reads_like_this_in_a_pipe() {
    let chat = Context::empty().with("conversation_id", "conv_1").with("question", "shadowed");
    let root = step("forward", "aaaaaaaaaaaaaaaa").context(&chat);
    let tool = root.child().operation("search");
    let mut tool = tool.parts().clone();
    tool.span_id = "bbbbbbbbbbbbbbbb".into();
    let tool = Step::from(tool);
    let mut call = tool.parts().clone();
    (call.span_id, call.operation) = ("cccccccccccccccc".into(), Some("llm_call".into()));
    let call = Step::from(call);
    let machine = Step::new("streamll");
    let events = [
        Event::new(&root, "start").at(at("16:00:00.000")).with("question", "what is \"it\"?\n").with("top_k", 3),
        Event::new(&tool, "tool_start").at(at("16:00:00.100")).with("query", "it"),
        Event::new(&tool, "docs_found").at(at("16:00:00.200")).with("count", 3).with("ids", json!([1, null, {}])),
        Event::new(&tool, "tool_end").at(at("16:00:00.530")),
        Event::new(&call, "llm_start").at(at("16:00:01.000")).with("model", "small"),
        Event::token(&call, "answer", "Forty", 0).at(at("16:00:01.250")),
        Event::token(&call, "reason", "it is\nknown", 0).at(at("16:00:01.500")),
        Event::token(&call, "answer", " two", 1).at(at("16:00:02.250")),
        Event::new(&machine, "gap").at(at("16:00:02.300")).with_data(json!({
            "sink": "screen", "count": 120, "from_seq": 7, "to_seq": 126, "reason": "buffer full", "classes": { "token": 120 }
        })),
        Event::new(&machine, "sink_open").at(at("16:00:02.400")).with_data(json!({
            "sink": "live", "reason": "connection refused", "since": "2026-11-21T15:59:00Z"
        })),
        Event::new(&machine, "sink_recovered").at(at("16:00:02.500")).with("sink", "live"),
        Event::new(&call, "llm_end")
            .at(at("16:00:03.000"))
            .with("answer", "Forty two")
            .with("reason", "it is\nknown")
            .with("score", 0.5),
        Event::new(&root, "end").at(at("16:00:03.004")).with("duration", 3.004).with("answer", "Forty two"),
    ];
    let expected = "\
[16:00:00.000] ▶ forward (aaaaaaaa) {\"question\": \"what is \\\"it\\\"?\\n\", \"top_k\": 3, \"conversation_id\": \"conv_1\"}
[16:00:00.100] ⚙ search (bbbbbbbb) {\"query\": \"it\"}
[16:00:00.200] ◆ docs_found (bbbbbbbb) {\"count\": 3, \"ids\": [1, null, {}]}
[16:00:00.530] ⚙ search (bbbbbbbb) done 430ms
[16:00:01.000] ▷ llm_call (cccccccc) {\"model\": \"small\"}
[16:00:01.250] • llm_call (cccccccc) 'Forty'
[16:00:01.500] • llm_call (cccccccc) reason 'it is␊known'
[16:00:02.250] • llm_call (cccccccc) ' two'
[16:00:02.300] ⋯ 120 token events were not kept (buffer full)
[16:00:02.400] ▲ sink_open live: connection refused, since 2026-11-21T15:59:00Z
[16:00:02.500] ▲ sink_recovered live
[16:00:03.000] □ llm_call (cccccccc) 2.00s first token 250ms, 2.0 tokens/s {\"score\": 0.5}
[16:00:03.004] ■ forward (aaaaaaaa) 3.00s {\"answer\": \"Forty two\"}
";
    assert_eq!(shown(PIPE, events), expected);
}

#[test]
fn the_ends_own_numbers_win_and_stand_only_once() {
    let call = step("llm_call", "s");
    let start = Event::new(&call, "start").at(at("10:00:00"));
    let end = Event::new(&call, "end").at(at("10:00:09")).with_data(json!({
        "duration": 1.5, "time_to_first_token": 0.25, "tokens_per_second": 80, "ok": true
    }));
    let text = shown(PIPE, [start, end]);
    assert!(
        text.ends_with("■ llm_call (s) 1.50s first token 250ms, 80.0 tokens/s {\"ok\": true}\n"),
        "{text}"
    );
}

#[test]
fn a_duration_that_is_none_stays_among_the_data() {
    for value in [json!("soon"), json!(-1), json!(1e300)] {
        let end = Event::new(&step("x", "s"), "end").with("duration", value.clone());
        let text = shown(PIPE, [end]);
        assert!(text.ends_with(&format!("■ x (s) {{\"duration\": {value}}}\n")), "{text}");
    }
}

#[test]
fn text_that_was_streamed_with_a_hole_is_shown_whole_at_the_end() {
    let call = step("llm_call", "s");
    let with_hole = [
        Event::token(&call, "answer", "a", 0),
        Event::token(&call, "answer", "c", 2),
        Event::new(&call, "end").with("answer", "abc"),
    ];
    assert!(shown(PIPE, with_hole).ends_with("{\"answer\": \"abc\"}\n"));
}

#[test]
fn tokens_that_came_in_with_further_keys_are_tokens_all_the_same() {
    let line = r#"{"event_type":"token","module_name":"M","span_id":"s","timestamp":"2026-11-21T10:00:00Z",
        "data":{"field":"answer","token":"it's","token_index":0,"conversation_id":"c"}}"#;
    assert_eq!(shown(PIPE, [incoming(line)]), "[10:00:00.000] • M (s) 'it's'\n");
}

#[test]
fn a_gap_says_what_is_missing_and_why() {
    for (data, expected) in [
        (json!({"count": 1}), "1 event was not kept"),
        (json!({"count": 1, "classes": {"audit": 1}}), "1 audit event was not kept"),
        (
            json!({"count": 12, "classes": {"token": 9, "lifecycle": 3}, "reason": "ingress full"}),
            "9 token and 3 lifecycle events were not kept (ingress full)",
        ),
    ] {
        let gap = Event::new(&Step::new("streamll"), "gap").at(at("10:00:00")).with_data(data);
        assert_eq!(shown(PIPE, [gap]), format!("[10:00:00.000] ⋯ {expected}\n"));
    }
}

#[test]
fn the_name_is_the_operation_else_the_method_else_the_module() {
    let bare = Step::new("Rag");
    let names = [bare.clone(), bare.clone().method("forward"), bare.method("forward").operation("llm_call")]
        .map(|step| shown(PIPE, [Event::new(&step, "start")]).split(' ').nth(2).unwrap().to_owned());
    assert_eq!(names, ["Rag", "forward", "llm_call"]);
}

#[test]
fn long_data_is_cut_and_long_tokens_are_not() {
    let long = "x".repeat(5000);
    let call = step("x", "s");
    let data = shown(PIPE, [Event::new(&call, "start").with("q", long.as_str())]);
    assert!(data.chars().count() < 300 && data.ends_with("x…\n"), "{data}");
    let wide = shown(PIPE, [Event::new(&call, "error").with("error_message", "你".repeat(5000))]);
    assert_eq!(
        wide.matches('你').count(),
        119,
        "a wide character takes two columns, and a blank stands before"
    );
    let token = shown(PIPE, [Event::token(&call, "answer", long.as_str(), 0)]);
    assert!(token.contains(&long));
}

#[test]
fn on_a_terminal_tokens_flow_until_another_event_closes_the_line() {
    let (one, two) = (step("one", "1"), step("two", "2"));
    let noon = |event: Event| event.at(at("12:00:00"));
    let mut events = tokens(&one, "answer", &["It", " is", "\nso.\t!"]);
    events.extend(tokens(&two, "answer", &["No"]));
    events.push(Event::token(&one, "answer", "it is", 3));
    events.push(Event::token(&one, "reason", "why", 0));
    events.push(Event::new(&one, "end").with("answer", "It is\nso.it is"));
    let expected = "\
[12:00:00.000] • one (1) It is
    so.    !
[12:00:00.000] • two (2) No
[12:00:00.000] • one (1) it is
[12:00:00.000] • one (1) reason why
[12:00:00.000] ■ one (1)
";
    assert_eq!(shown(PLAIN_TTY, events.into_iter().map(noon)), expected);
}

#[test]
fn colour_is_laid_around_our_own_signs_only() {
    let call = step("x", "s");
    let events = [Event::token(&call, "answer", "a", 0), Event::token(&call, "answer", "b", 1)];
    let text = shown(TTY, events.map(|event| event.at(at("12:00:00"))));
    assert_eq!(text, "\x1b[2m[12:00:00.000]\x1b[0m \x1b[34m•\x1b[0m x \x1b[2m(s)\x1b[0m ab\n");
}

#[test]
fn a_line_that_flows_is_written_at_once_and_goes_on_in_the_next_batch() {
    let screen = Screen::default();
    let mut terminal = Terminal::to(screen.clone(), PLAIN_TTY);
    for (event, end) in tokens(&step("x", "s"), "answer", &["a", "b"]).into_iter().zip([" a", " ab"]) {
        deliver(&mut terminal, [event]).unwrap();
        assert!(screen.text().ends_with(end), "{}", screen.text());
    }
}

#[test]
fn sequences_are_inert_wherever_tokens_split_them() {
    for attack in ["\u{1b}]52;c;aGk=\u{7}", "\u{1b}[8m", "\u{9b}2J", "\u{1b}]8;;http://x\u{1b}\\", "\u{1b}c"]
    {
        for cut in (0..=attack.len()).filter(|cut| attack.is_char_boundary(*cut)) {
            let (head, tail) = attack.split_at(cut);
            for style in [PIPE, PLAIN_TTY] {
                let text = shown(style, tokens(&step("x", "s"), "answer", &[head, tail]));
                assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
        }
    }
}

#[test]
fn after_a_failed_write_the_next_line_begins_anew() {
    let screen = Screen::default();
    let mut terminal = Terminal::to(screen.clone(), PLAIN_TTY);
    let events = tokens(&step("x", "s"), "answer", &["a", "b", "c"]);
    deliver(&mut terminal, events[..1].to_vec()).unwrap();
    screen.fail(Some(io::ErrorKind::WouldBlock));
    let error = deliver(&mut terminal, events[1..].to_vec()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    screen.fail(None);
    deliver(&mut terminal, events[1..].to_vec()).unwrap();
    let text = screen.text();
    assert!(text.contains(" a\n[") && text.ends_with(" bc"), "{text}");
}

#[test]
fn a_reader_that_went_away_is_the_end_of_the_sink() {
    let screen = Screen::default();
    screen.fail(Some(io::ErrorKind::BrokenPipe));
    let error = deliver(&mut Terminal::to(screen, PIPE), [Event::new(&step("x", "s"), "start")]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert!(error.to_string().contains("closed by its reader"), "{error}");
}

#[test]
fn a_large_batch_is_written_in_pieces_and_in_order() {
    let call = step("x", "s");
    let texts: Vec<String> = (0..2000).map(|i| format!("<{i}>")).collect();
    let events: Vec<Event> =
        (0..).zip(&texts).map(|(i, text)| Event::token(&call, "f", text.as_str(), i)).collect();
    let screen = Screen::default();
    let mut all = batch(events);
    run(Terminal::to(screen.clone(), PIPE).deliver(&mut all)).unwrap();
    let lines: Vec<String> =
        screen.text().lines().map(|line| line.split('\'').nth(1).unwrap().to_owned()).collect();
    assert_eq!(lines, texts);
}

#[test]
fn the_configuration_is_two_keys_with_defaults() {
    let read = |text| serde_json::from_str::<TerminalConfig>(text).unwrap();
    assert_eq!(read("{}"), TerminalConfig { color: Color::Auto, target: Target::Stdout });
    assert_eq!(
        read(r#"{"color":"never","target":"stderr"}"#),
        streamll::sinks::terminal().color(Color::Never).target(Target::Stderr)
    );
    assert!(serde_json::from_str::<TerminalConfig>(r#"{"color":"sometimes"}"#).is_err());
}

/// Any text, but with the dangerous characters as often as the others.
fn nasty() -> impl Strategy<Value = String> {
    let c = prop_oneof![
        any::<char>(),
        prop::char::range('\0', '\u{a0}'),
        prop::char::range('\u{200b}', '\u{206f}'),
        prop::sample::select(vec!['\u{1b}', '\n', '\r', '\u{9b}', '\u{feff}', '\u{e0001}', '"', '\\', '\'']),
    ];
    prop::collection::vec(c, 0..24).prop_map(String::from_iter)
}

/// An event with foreign text in every place that takes text.
fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![
        "start",
        "end",
        "error",
        "token",
        "llm_start",
        "llm_end",
        "tool_start",
        "tool_end",
        "custom",
        "gap",
        "sink_open",
    ]);
    (kind, nasty(), nasty(), nasty(), nasty(), any::<i64>()).prop_map(|(kind, a, b, c, d, micros)| {
        let module = if ["gap", "sink_open"].contains(&kind) { "streamll" } else { &a };
        let step =
            Step::new(module).operation(b.as_str()).context(&Context::empty().with(c.as_str(), d.as_str()));
        let mut parts = step.parts().clone();
        parts.span_id = d.as_str().into();
        let step = Step::from(parts);
        let event = match kind {
            "token" => Event::token(&step, a.as_str(), c.as_str(), 0),
            "custom" => Event::new(&step, a.as_str()),
            kind => Event::new(&step, kind),
        };
        let event = if kind == "token" {
            event
        } else {
            event
                .with("error_type", a)
                .with("error_message", b.as_str())
                .with("count", 3)
                .with("classes", json!({ b.as_str(): 3, c.as_str(): d.as_str() }))
                .with("reason", c.as_str())
                .with("since", d.as_str())
                .with(c, json!([d, { b: null }]))
        };
        event.at(streamll_actors::event::Timestamp::from_micros(micros))
    })
}

fn harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

proptest! {
    #[test]
    fn one_event_is_one_line_in_a_pipe_whatever_it_holds(events in prop::collection::vec(event(), 1..8)) {
        let text = shown(PIPE, events.clone());
        prop_assert!(text.ends_with('\n'));
        prop_assert_eq!(text.split('\n').count() - 1, events.len());
        prop_assert!(text.lines().all(|line| line.starts_with('[') && line.chars().all(harmless)), "{:?}", text);
    }

    #[test]
    fn a_terminal_gets_no_control_character_but_our_colours(events in prop::collection::vec(event(), 1..8)) {
        let mut text = shown(TTY, events);
        for ours in ["2m", "31m", "32m", "33m", "34m", "35m", "36m", "0m"] {
            text = text.replace(&format!("\x1b[{ours}"), "");
        }
        prop_assert!(text.chars().all(|c| c == '\n' || harmless(c)), "{:?}", text);
        // Foreign text never begins a line, where it could pass for one of ours.
        prop_assert!(text.lines().all(|line| line.starts_with('[') || line.starts_with("    ")), "{:?}", text);
    }
}
