//! `streamll demo`: the main job, with nothing installed.

use std::path::Path;

use crate::{err, feed, out, streamll};

fn demo(args: &[&str], folder: &Path) -> std::process::Output {
    let args: Vec<&str> = ["demo", "--fast"].into_iter().chain(args.iter().copied()).collect();
    feed(streamll(folder, &args), b"")
}

#[test]
fn it_shows_a_chat_with_every_token_and_everything_arrives() {
    let nothing = tempfile::tempdir().unwrap();
    for folder in [Path::new("topologies"), nothing.path()] {
        let output = demo(&[], folder);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let text = out(&output);
        assert!(
            text.contains("▶ answer") && text.contains("'Moon '") && text.contains("◆ docs_found"),
            "{text}"
        );
        assert!(text.contains("✖ tide_table") && text.contains("Timeout: upstream took 30 s"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("■ llm_call")).count(), 2, "{text}");
        assert!(err(&output).contains("everything arrived: received 77, routed 77"), "{}", err(&output));
    }
}

#[test]
fn an_outage_delays_events_and_loses_none() {
    let output = feed(streamll(Path::new("topologies"), &["demo", "--outage"]), b"");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("▲ sink_open broker: connection refused"), "{text}");
    assert!(text.contains("the broker is back"), "{text}");
    assert!(err(&output).contains("broker: accepted 80, delivered 80\n"), "{}", err(&output));
}
