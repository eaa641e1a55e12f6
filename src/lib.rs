//! streamll shows what an AI application does while it does it. It streams steps, tokens, tool calls and errors in real
//! time through a supervised graph of actors to terminals, files and brokers.
//!
//! ```
//! use streamll::{TokenStream as _, Topology, sinks, trace};
//! use tokio_stream::StreamExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), streamll::StartFailure> {
//! let handle = Topology::builder("rag-api").sink("console", sinks::terminal()).start()?;
//! streamll::install(&handle);
//!
//! trace("answer")
//!     .module("RagPipeline")
//!     .run(|scope| async move {
//!         scope.emit("docs_found", serde_json::json!({ "count": 3 }));
//!         let model = tokio_stream::iter(["forty", "-two"]);
//!         let mut tokens = model.tokens("answer", |text| Some(*text)).operation("llm_call");
//!         while let Some(_for_the_user) = tokens.next().await {}
//!     })
//!     .await;
//!
//! let drained = streamll::shutdown().await;
//! assert!(drained.is_some_and(|drained| drained.complete));
//! # Ok(())
//! # }
//! ```
//!
//! * Instrument functions: [`#[instrument]`](macro@instrument).
//! * Emit events: [`trace`], [`TokenStream::tokens`], [`Usage`], [`with_context`], [`context!`]. The basic functions
//!   are [`emit`](crate::emit()) and [`step`].
//! * Run a topology: [`init`], or [`Topology`] (YAML or [builder](Topology::builder)) and [`install`]. A [`Handle`]
//!   gives status, subscriptions, flush and shutdown. Without [`drain_on_signals`], SIGTERM ends a program without
//!   draining.
//! * Read events: [`consume`], on the other side of a broker.
//! * Extend: [`Sink`], [`Processor`], actors that take a [`Batch`], and the [`Registry`] that gives them names in YAML.
//! * Test your code: [`testing`] for code that emits and for topologies, [`testkit`] for sinks and processors.
//! * Look up: [events on the wire](guide::events), key by key, and our [words](guide::words) beside those of other
//!   systems.
//! * Read the guides: [sinks](guide::sinks), [delivery](guide::delivery), [consumers](guide::consumers),
//!   [signals](guide::signals), [running it](guide::running), [privacy](guide::privacy), [testing](guide::testing),
//!   [usage and cost](guide::usage), [through several services](guide::traces), and [past one machine](guide::scaling).
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `redis` | yes | the sink [`type: redis`](mod@sinks::redis), and consumers of streams |
//! | `rabbitmq` | yes | the sink [`type: rabbitmq`](mod@sinks::rabbitmq), and consumers of queues |
//! | `cli` | yes | the command `streamll`, and [`cli::main`] for a command with kinds of your own |
//! | `tracing` | yes | [`layer()`](crate::layer()): makes events from spans of LLM libraries |
//! | `all` | no | all of the above |
//! | `testkit` | no | `testkit::run`: whole graphs on virtual time |
//!
//! # Logs
//!
//! streamll logs through `tracing`: one line for each change of a sink or a consumer. The client of RabbitMQ also logs
//! an error at each attempt to connect. Hide these lines with the filter `info,lapin=off`, as the
//! [guide](guide::sinks#what-brokers-log) shows.
//!
//! # What it does not do
//!
//! A memory buffer is lost with its process. A [disk buffer](BufferPolicy::disk) is not. Nothing is delivered exactly
//! once: a retry may repeat events, with the same `event_id`.

#[cfg(any(feature = "rabbitmq", feature = "redis"))]
mod brokers;
#[cfg(any(feature = "redis", feature = "rabbitmq"))]
pub mod consume;
pub mod emit;
mod fault;
#[cfg(doc)]
pub mod guide;
mod pipes;
pub mod processors;
mod runtime;
mod secret;
pub mod sinks;
pub mod testing;
pub mod topology;
mod units;

#[cfg(feature = "cli")]
pub mod cli;

#[doc(hidden)]
pub use emit::__value;
#[doc(hidden)]
pub use emit::instrumented as __private;
pub use emit::{
    AsToken, Captured, Guard, Scope, TokenStream, Trace, Usage, capture, carry, current_context, emit,
    installed, set_context, shed_before_install, step, trace, traceparent, usage, with_context,
    with_context_sync,
};
#[cfg(feature = "tracing")]
pub use emit::{LayerExt, SpanLayer, layer};
pub use fault::AsFault;
#[cfg(unix)]
pub use runtime::drain_on_signals;
pub use runtime::{
    DrainGuard, Handle, StartFailure, flush, init, init_with, install, shutdown, shutdown_blocking, start,
};
pub use topology::{Registry, Topology, TopologyError};

pub use streamll_macros::instrument;

pub use secrecy::ExposeSecret;
pub use secret::Secret;
pub use streamll_actors::event::{
    Class, Confirmation, Context, Datum, Delivery, Event, Kind, Step, StepParts, Timestamp, View,
};
pub use streamll_actors::graph::{Drained, GraphStatus, Plan, SinkHandle, SinkSpec, Stage, StartError};
pub use streamll_actors::ingress::{Batch, Emitted, Emitter, Patience};
pub use streamll_actors::process::{Output, Processor, ProcessorFactory, ProcessorState, ProcessorStatus};
pub use streamll_actors::route::{Subscription, Template, TopicPattern};
pub use streamll_actors::sink::breaker::BreakerPolicy;
pub use streamll_actors::sink::{
    BatchPolicy, BufferPolicy, Deliveries, DeliveryError, ErrorClass, FolderError, Fsync, OnOpen, Placement,
    Sink, SinkContext, SinkState, SinkStatus, WhenFull,
};
pub use streamll_actors::supervise::RestartPolicy;
pub use streamll_actors::testkit;
