//! `streamll demo`: a simulated RAG chat, at human speed, with nothing installed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use streamll_actors::graph::SinkSpec;
use streamll_actors::sink::breaker::BreakerPolicy;
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::signals::Signals;
use super::{Format, report};
use crate::topology::{Registry, Topology, environments};
use crate::{
    Context, Deliveries, DeliveryError, Event, Handle, Sink, SinkContext, Step, Usage, context, sinks,
};

/// Between two tokens: about as fast as people read.
const TOKEN: Duration = Duration::from_millis(45);
/// The moments at which the simulated broker goes away and comes back.
const OUTAGE: [Duration; 2] = [Duration::from_millis(2500), Duration::from_millis(7000)];

/// The arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The folder that contains the topologies; without a development.yaml in it, only the terminal is used
    #[arg(long, value_name = "DIR", env = "STREAMLL_TOPOLOGIES", default_value = "topologies")]
    topologies: PathBuf,
    /// Add a simulated broker that goes down and comes back: its circuit opens, its events wait, and all of them arrive
    /// in the end
    #[arg(long)]
    outage: bool,
    /// Run without pauses, for scripts
    #[arg(long, hide = true)]
    fast: bool,
}

impl Demo {
    pub(super) fn run(&self, kinds: &Registry) -> ExitCode {
        let broker = Broker::default();
        let topology = if self.outage {
            Topology::builder("demo")
                .alert_after(Duration::from_secs(1))
                .sink("console", sinks::terminal())
                .sink("broker", broker.spec())
                .build()
        } else if environments(&self.topologies).iter().any(|name| name == "development") {
            Topology::load(&self.topologies, "development", kinds)
        } else {
            Topology::builder("demo").sink("console", sinks::terminal()).build()
        };
        let topology = match topology {
            Ok(topology) => topology,
            Err(error) => return super::refuse(&error),
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let played = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            let mut signals = Signals::new(&runtime).map_err(|error| error.to_string())?;
            let handle = topology.start().map_err(|error| error.to_string())?;
            Ok(runtime.block_on(async {
                tokio::select! {
                    () = self.play(&handle, &broker) => {}
                    _ = signals.next() => {}
                }
                signals.drain(&handle, || {}).await
            }))
        });
        match played {
            Ok((drained, ended)) => {
                report::say(&drained, Format::Text, None);
                ended.map_or_else(|| super::code(&drained), ExitCode::from)
            }
            Err(why) => super::fail(&why, super::INCOMPLETE),
        }
    }

    async fn play(&self, handle: &Handle, broker: &Broker) {
        let chat = Chat { handle, pace: u32::from(!self.fast) };
        if !self.outage {
            return chat.play().await;
        }
        let outage = async {
            for (at, down) in OUTAGE.into_iter().zip([true, false]) {
                sleep(at.saturating_sub(if down { Duration::ZERO } else { OUTAGE[0] }) * chat.pace).await;
                broker.down.store(down, Ordering::SeqCst);
                say(handle, if down { "the broker goes down" } else { "the broker is back" });
            }
            // The next probe finds it.
            while handle.status().sink("broker").is_some_and(|sink| sink.balance.waiting > 0) {
                sleep(Duration::from_millis(50)).await;
            }
            // The console hears that it delivers again within a quarter of `alert_after`.
            sleep(Duration::from_millis(600)).await;
            say(handle, &format!("the broker holds {} events, in order", broker.held.load(Ordering::SeqCst)));
        };
        tokio::join!(chat.play(), outage);
    }
}

/// One line between the events, on the way that they take.
fn say(handle: &Handle, what: &str) {
    handle.emit(Event::new(&Step::new("demo"), "note").with("note", what));
}

/// A chat of two questions, as an instrumented application would emit it.
struct Chat<'a> {
    handle: &'a Handle,
    /// 1, or 0 for no pauses.
    pace: u32,
}

impl Chat<'_> {
    async fn play(&self) {
        let context = context! { conversation_id = "conv_42", tags.tenant = "acme" };
        self.answer(
            &context,
            "Why do the tides come twice a day?",
            &["tides.md#2", "moon.md#1"],
            "The Moon pulls harder on the near side of the Earth than on the far side. The water bulges on both, and as \
             the Earth turns, every coast passes through two bulges a day.",
        )
        .await;
        self.failing_tool(&context).await;
        self.answer(
            &context,
            "And why are some tides higher?",
            &["tides.md#5"],
            "When Sun and Moon line up, their pulls add: that is a spring tide. At half moon they work against each \
             other, and the tide is neap.",
        )
        .await;
    }

    async fn answer(&self, context: &Context, question: &str, documents: &[&str], answer: &str) {
        let run = Step::new("RagPipeline").method("forward").operation("answer").context(context);
        self.emit(Event::new(&run, "start").with("question", question));

        let retrieval = run.child().module("Retriever").operation("retrieval");
        self.emit(Event::new(&retrieval, "start"));
        self.pause(Duration::from_millis(350)).await;
        self.emit(Event::new(&retrieval, "docs_found").with("count", documents.len()).with("ids", documents));
        self.emit(Event::new(&retrieval, "end"));

        let call = run.child().operation("llm_call");
        self.emit(Event::new(&call, "start").with("provider", "demo").with("model", "demo-1"));
        self.pause(Duration::from_millis(400)).await;
        let tokens: Vec<&str> = answer.split_inclusive(' ').collect();
        for (index, token) in tokens.iter().enumerate() {
            self.emit(Event::token(&call, "answer", *token, index as u64));
            self.pause(TOKEN).await;
        }
        let usage = Usage::new(412, tokens.len() as u64).provider("demo").model("demo-1");
        self.emit(usage.on(Event::new(&call, "end").with("answer", answer)));
        self.emit(Event::new(&run, "end"));
    }

    async fn failing_tool(&self, context: &Context) {
        let tool = Step::new("Calculator").operation("tide_table").context(context);
        self.emit(Event::new(&tool, "tool_start").with("port", "Brest"));
        self.pause(Duration::from_millis(600)).await;
        let error = Event::new(&tool, "error").with("error_type", "Timeout");
        self.emit(error.with("error_message", "upstream took 30 s"));
        self.pause(Duration::from_millis(400)).await;
    }

    fn emit(&self, event: Event) {
        self.handle.emit(event);
    }

    async fn pause(&self, time: Duration) {
        sleep(time * self.pace).await;
    }
}

/// A broker that can be taken down, and counts what it holds.
#[derive(Debug, Clone, Default)]
struct Broker {
    down: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
}

impl Broker {
    fn spec(&self) -> SinkSpec {
        let broker = self.clone();
        let mut spec = SinkSpec::new("broker", move || broker.clone());
        let (short, longer) = (Duration::from_millis(800), Duration::from_secs(2));
        spec.breaker = BreakerPolicy { failure_threshold: 3, recovery_timeout: short, recovery_max: longer };
        spec
    }

    fn reach(&self) -> Result<(), DeliveryError> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(DeliveryError::unavailable("connection refused")),
            false => Ok(()),
        }
    }
}

impl Sink for Broker {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        self.reach()
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        self.reach()?;
        self.held.fetch_add(batch.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}
