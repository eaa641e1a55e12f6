//! Three sinks in trouble (one fails, one panics, one hangs), and a fourth beside them that does not notice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use streamll::{Deliveries, DeliveryError, Event, Sink, SinkSpec, StartFailure, Topology};

#[derive(Clone, Copy)]
enum Trouble {
    None,
    Fails,
    Panics,
    Hangs,
}

/// Is in trouble for its first deliveries, over all its incarnations; then all is well.
struct Moody {
    trouble: Trouble,
    deliveries: Arc<AtomicU32>,
}

impl Sink for Moody {
    async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
        match (self.trouble, self.deliveries.fetch_add(1, Ordering::Relaxed)) {
            (Trouble::Fails, 0..4) => Err(DeliveryError::unavailable("connection refused")),
            (Trouble::Panics, 0..2) => panic!("scripted panic"),
            (Trouble::Hangs, 0..3) => std::future::pending().await,
            _ => Ok(()), // whatever is not marked has arrived
        }
    }
}

fn moody(trouble: Trouble) -> SinkSpec {
    let deliveries = Arc::new(AtomicU32::new(0));
    let mut spec = SinkSpec::new("", move || Moody { trouble, deliveries: deliveries.clone() });
    // In real life these are seconds.
    spec.breaker.recovery_timeout = Duration::from_millis(200);
    spec.deliver_timeout = Duration::from_millis(100);
    spec
}

fn main() -> Result<(), StartFailure> {
    let handle = Topology::builder("rag-api")
        .sink("healthy", moody(Trouble::None))
        .sink("fails", moody(Trouble::Fails))
        .sink("panics", moody(Trouble::Panics))
        .sink("hangs", moody(Trouble::Hangs))
        .start()?;

    let step = streamll::step("RagPipeline");
    let mut said = HashMap::new();
    for n in 0..400 {
        handle.emit(Event::new(&step, "progress").with("n", n));
        for sink in handle.status().sinks() {
            let turn = (sink.state, sink.restarts);
            if said.insert(sink.name.clone(), turn) != Some(turn) {
                println!("after {n:>3} events  {:<8} restarts {}  {sink}", sink.name, sink.restarts);
            }
        }
        thread::sleep(Duration::from_millis(5));
    }

    let ended = handle.shutdown_blocking(Duration::from_secs(10));
    println!("\n{:<8} accepted delivered shed waiting restarts", "sink");
    for sink in ended.status.sinks() {
        let b = &sink.balance;
        println!(
            "{:<8} {:>8} {:>9} {:>4} {:>7} {:>8}",
            sink.name, b.accepted, b.delivered, b.shed, b.waiting, sink.restarts
        );
    }
    println!("the numbers balance: {}; everything arrived: {}", ended.status.balances(), ended.complete);
    Ok(())
}
