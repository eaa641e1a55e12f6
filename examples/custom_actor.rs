//! An actor of your own in the path: it totals token usage per tenant, and says so in an event every ten seconds.
//!
//! Where a processor is a function, an actor has a life of its own: it can await, hold a timer, talk to other actors.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;
use serde::Deserialize;
use streamll::topology::{LoadOptions, Period};
use streamll::{Batch, Event, Kind, Registry, Step, Topology, Usage};

#[derive(Deserialize)]
#[serde(default)]
struct TotalsConfig {
    every: Period,
}

impl Default for TotalsConfig {
    fn default() -> TotalsConfig {
        TotalsConfig { every: Period(Duration::from_secs(10)) }
    }
}

struct Totals {
    next: Recipient<Batch>,
    every: Duration,
    tokens: BTreeMap<String, u64>,
}

impl Totals {
    fn new(next: Recipient<Batch>, config: TotalsConfig) -> Totals {
        Totals { next, every: config.every.0, tokens: BTreeMap::new() }
    }

    fn count(&mut self, event: &Event) {
        let tokens = Usage::of(event).and_then(|usage| usage.total_tokens);
        if let (Kind::LlmEnd, Some(tokens)) = (event.kind(), tokens) {
            *self.tokens.entry(event.tag("tenant").unwrap_or("none").to_owned()).or_default() += tokens;
        }
    }

    /// One event for each tenant that used something since the last time.
    fn totals(&mut self) -> Vec<Event> {
        let event = |(tenant, tokens): (String, u64)| {
            let step = Step::new("Usage").context(&streamll::context! { tags.tenant = tenant });
            Event::new(&step, "usage").with("total_tokens", tokens)
        };
        std::mem::take(&mut self.tokens).into_iter().map(event).collect()
    }

    /// Batches leave in the order they came: no other message is handled before the next stage has this one.
    fn hand_on(&mut self, batch: Batch, ctx: &mut Context<Totals>) {
        ctx.wait(self.next.send(batch).into_actor(self).map(|_, _, _| ()));
    }
}

impl Actor for Totals {
    type Context = Context<Totals>;

    fn started(&mut self, ctx: &mut Context<Totals>) {
        ctx.run_interval(self.every, |usage, ctx| {
            let totals = usage.totals();
            if !totals.is_empty() {
                usage.hand_on(Batch::created(totals), ctx);
            }
        });
    }
}

impl Handler<Batch> for Totals {
    type Result = ();

    fn handle(&mut self, mut batch: Batch, ctx: &mut Context<Totals>) {
        batch.events().iter().for_each(|event| self.count(event));
        if batch.is_last() {
            self.totals().into_iter().for_each(|event| batch.push(event));
        }
        self.hand_on(batch, ctx);
    }
}

// Ten seconds are the default; this example does not want to take that long.
const TOPOLOGY: &str = "
service: rag-api
processors:
  - usage: { every: 200ms }
sinks:
  console: { type: terminal, topics: ['ai.usage.#'] }
  bills: { type: file, path: '${BILLS}', topics: ['ai.usage.usage'] }
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kinds = Registry::default().actor("usage", Totals::new);
    let folder = tempfile::tempdir()?;
    let bills = folder.path().join("bills.ndjson");
    std::fs::write(folder.path().join("development.yaml"), TOPOLOGY)?;
    let vars = [("BILLS".to_owned(), bills.display().to_string())].into();
    let options = LoadOptions { vars, allow_unset: false };
    let handle = Topology::load_with(folder.path(), "development", &kinds, &options)?.start()?;

    for call in 0..100_u64 {
        let tenant = ["acme", "globex"][usize::from(call % 4 == 0)];
        let step = streamll::step("Chat").context(&streamll::context! { tags.tenant = tenant });
        handle.emit(Usage::new(10, call).model("demo-1").on(Event::new(&step, "llm_end")));
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    assert!(ended.status.balances());

    let mut sums = BTreeMap::<String, u64>::new();
    for line in std::fs::read_to_string(bills)?.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let tenant = event["tags"]["tenant"].as_str().unwrap_or_default().to_owned();
        *sums.entry(tenant).or_default() += event["data"]["total_tokens"].as_u64().unwrap_or_default();
    }
    println!("tokens by tenant: {sums:?}");
    Ok(())
}
