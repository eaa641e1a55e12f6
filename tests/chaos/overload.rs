//! Twenty times more than a sink takes, for a while: no lifecycle and no audit event is lost, every token that is missing
//! stands in a marker, and the numbers balance at any moment.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Deliveries, DeliveryError, Event, Sink, SinkContext};
use tokio::time::Instant;

/// How many events a second the sink takes.
const TAKES: u64 = 2_000;

/// Takes so many events a second, and writes them into a file.
struct Slow(std::path::PathBuf, Option<fs::File>);

#[derive(serde::Deserialize)]
struct SlowConfig {
    path: std::path::PathBuf,
}

impl Sink for Slow {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        self.1 = Some(fs::File::options().create(true).append(true).open(&self.0)?);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        use std::io::Write as _;
        let mut lines = Vec::new();
        for delivery in batch.iter() {
            lines.extend_from_slice(delivery.event.json());
            lines.push(b'\n');
        }
        tokio::time::sleep(Duration::from_secs_f64(batch.len() as f64 / TAKES as f64)).await;
        self.1.as_mut().ok_or_else(|| DeliveryError::fatal("not open"))?.write_all(&lines)?;
        Ok(())
    }
}

/// As long as the whole matrix wants it, or shorter.
fn span() -> Duration {
    let full = std::env::var_os("STREAMLL_TEST_FULL").is_some();
    Duration::from_secs(if full { 60 } else { 10 })
}

fn overloaded(buffer: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display();
    let yaml = format!(
        "service: chaos\ndata_dir: {path}/data\nclasses: {{ audit: [\"ai.*.payment\"] }}\nsinks:\n  slow:\n    type: slow\n    \
         path: {path}/arrived\n    buffer: {buffer}\n"
    );
    fs::write(folder.path().join("chaos.yaml"), yaml).expect("a file");
    let kinds = Registry::default().sink("slow", |config: SlowConfig| Slow(config.path, None));
    let topology = Topology::load_with(folder.path(), "chaos", &kinds, &LoadOptions::default());
    let handle = topology.unwrap_or_else(|error| panic!("{error}")).start().expect("it starts");
    let step = streamll::step("Overload");
    let (mut tokens, mut others, mut looks) = (0_u64, 0_u64, 0);
    let (began, mut due) = (Instant::now(), 0.0);
    while began.elapsed() < span() || looks < 20 {
        // Twenty times what it takes, in small portions; one in a hundred is no token.
        due += TAKES as f64 * 20.0 * 0.005;
        while (tokens + others) < due as u64 {
            let n = tokens + others;
            let event = match n % 200 {
                50 => Event::new(&step, "start").with("n", n),
                150 => Event::new(&step, "payment").with("n", n),
                _ => Event::token(&step, "answer", "token", n),
            };
            if matches!(n % 200, 50 | 150) {
                others += 1
            } else {
                tokens += 1
            }
            handle.emit(event);
        }
        if looks < 20 && began.elapsed() > span() * looks / 20 {
            looks += 1;
            let status = handle.status();
            assert!(status.balances(), "{status:#?}");
            let slow = status.sink("slow").expect("it is there").balance;
            assert_eq!(slow.accepted, slow.delivered + slow.shed + slow.dead_lettered + slow.waiting);
        }
        let next = Duration::from_secs_f64(due / (TAKES as f64 * 20.0));
        std::thread::sleep(next.saturating_sub(began.elapsed()));
    }
    assert_eq!(looks, 20);
    let drained = handle.shutdown_blocking(Duration::from_secs(600));
    let status = &drained.status;
    assert!(status.balances());
    let slow = status.sink("slow").expect("it is there").balance;
    assert_eq!(slow.waiting, 0);
    let lost_before = status.balance().shed;
    assert!(slow.shed + lost_before > tokens / 4, "it was no overload: {slow:?}");
    let arrived = fs::read_to_string(folder.path().join("arrived")).expect("it is there");
    let (mut arrived_tokens, mut arrived_others, mut told, mut last) = (0, 0, 0, 0);
    for line in arrived.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        if event["event_type"] == "gap" {
            let [count, from, to] =
                ["count", "from_seq", "to_seq"].map(|key| event["data"][key].as_u64().unwrap_or(0));
            told += count;
            // Each hole has its marker where it is.
            assert!(from > last && to >= from, "a marker from {from} to {to} behind {last}");
            last = to;
            continue;
        }
        let seq = event["seq"].as_u64().expect("a number");
        assert!(seq == last + 1, "{seq} follows {last}, and no marker says why");
        last = seq;
        if event["event_type"] == "token" { arrived_tokens += 1 } else { arrived_others += 1 }
    }
    assert_eq!(arrived_others, others, "lifecycle and audit events are all there");
    assert_eq!(told, slow.shed + lost_before, "markers tell of everything that is missing");
    assert_eq!(arrived_tokens + told, tokens);
}

#[test]
fn a_memory_buffer_keeps_what_matters_and_marks_what_it_sheds() {
    overloaded("{ max_events: 20000 }");
}

#[test]
fn a_disk_buffer_keeps_what_matters_and_marks_what_it_sheds() {
    overloaded("{ type: disk, max_size: 8MiB }");
}
