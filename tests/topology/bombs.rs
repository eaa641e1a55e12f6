//! Files made to exhaust memory or time are refused at once, and cheaply.

#[cfg(target_os = "linux")]
use std::time::Duration;

use super::errors;

/// Names the folder that the child process loads, which measures its memory.
const FOLDER: &str = "STREAMLL_TEST_BOMB";

fn laughs() -> String {
    let mut text = String::from("a: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
    for n in 1..9 {
        let line = vec![format!("*a{}", n - 1); 10].join(",");
        text += &format!("b{n}: &a{n} [{line}]\n");
    }
    text
}

fn deep_map() -> String {
    (0..1_400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()
}

/// Name, file, and what must be said of it.
fn bombs() -> Vec<(&'static str, String, &'static str)> {
    let mib = 1 << 20;
    vec![
        ("brackets", "[".repeat(mib - 1), "nested deeper than 32 levels"),
        ("brackets_in_a_key", format!("a: {}", "[".repeat(mib - 4)), "nested deeper than 32 levels"),
        ("braces", "{".repeat(mib - 1), "nested deeper than 32 levels"),
        ("laughs", laughs(), "anchors are not allowed"),
        ("deep_map", deep_map(), "nested deeper than 32 levels"),
        ("nodes", format!("a: [{}]", "1,".repeat(60_000)), "more than 50000 keys and values"),
        ("keys", (0..60_000).map(|n| format!("k{n}: 1\n")).collect(), "more than 50000 keys and values"),
        ("fifty_megabytes", format!("a: \"{}\"", "x".repeat(50_000_000)), "a topology has at most 1 MiB"),
        ("one_long_word", format!("a: {}", "x".repeat(mib - 4)), "unknown key `a`"),
        ("one_long_key", format!("{}: 1", "x".repeat(mib - 4)), "a topology is a map of keys"),
        ("quotes", format!("a: {}", "\"\" ".repeat(300_000)), "error"),
        ("dashes", "- ".repeat(mib / 2), "a topology is a map of keys, not a list"),
        ("dashes_in_a_key", format!("a:\n{}", "- ".repeat(mib / 2 - 2)), "nested deeper than 32 levels"),
        ("question_marks", "? ".repeat(mib / 2), "error"),
        ("colons", ": ".repeat(mib / 2), "error"),
        ("duplicates", "a: 1\n".repeat(60_000), "stands twice"),
    ]
}

#[test]
#[cfg(target_os = "linux")]
fn every_bomb_is_refused_within_a_second() {
    for (name, text, says) in bombs() {
        let began = processor_time();
        let error = errors(&text, &[]);
        assert!(error.contains(says), "{name}: {}", error.chars().take(400).collect::<String>());
        let took = processor_time() - began;
        assert!(took < Duration::from_secs(1), "{name} took {took:?}");
    }
}

/// What this thread has used of a processor: unlike the time of day, the same however busy the machine is.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

#[test]
fn a_message_about_a_huge_line_stays_small() {
    let huge = errors(&format!("a: {}", "x".repeat((1 << 20) - 4)), &[]);
    assert!(huge.len() < 4_096, "{} bytes", huge.len());
}

#[test]
#[cfg(target_os = "linux")]
fn no_bomb_needs_64_megabytes() {
    let program = std::env::current_exe().expect("this program");
    for (name, text, _) in bombs() {
        let dir = super::folder(&[("env", &text)]);
        let child = std::process::Command::new(&program)
            .args(["--exact", "bombs::in_a_process_of_its_own", "--nocapture", "--test-threads", "1"])
            .env(FOLDER, dir.path())
            .output()
            .expect("a child");
        let output = String::from_utf8_lossy(&child.stdout);
        let peak = output
            .split_once("peak ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
        let peak = peak.unwrap_or_else(|| panic!("{name}: {output}"));
        assert!(peak < 64 * 1024, "{name}: {peak} KB");
    }
}

/// Not a test by itself: the child of the one above.
#[test]
fn in_a_process_of_its_own() {
    let Ok(dir) = std::env::var(FOLDER) else { return };
    let refused = super::load(dir.as_ref(), "env", &[]).expect_err("refused");
    drop(refused.to_string());
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("peak");
    println!("peak {}", peak.trim());
}
