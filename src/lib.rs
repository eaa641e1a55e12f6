//! See your AI application work: its steps, tokens, tool calls and errors, streamed in real time through a supervised
//! graph of actors to terminals, files and brokers.
//!
//! ```
//! use streamll::{Event, Topology, sinks};
//!
//! let handle = Topology::builder("rag-api").sink("console", sinks::terminal()).start()?;
//! streamll::install(&handle);
//!
//! let call = streamll::step("RagPipeline").operation("llm_call");
//! streamll::emit(Event::new(&call, "start").with("question", "What is 6 × 7?"));
//! for (index, text) in ["forty", " two"].into_iter().enumerate() {
//!     streamll::emit(Event::token(&call, "answer", text, index as u64));
//! }
//! streamll::emit(Event::new(&call, "end").with("total_tokens", 9));
//!
//! let drained = handle.shutdown_blocking(handle.shutdown_timeout());
//! assert!(drained.complete);
//! # Ok::<(), streamll::StartFailure>(())
//! ```
//!
//! * Emit: [`emit`](crate::emit()), [`step`], [`with_context`], [`context!`], [`TokenStream::tokens`].
//! * Run: [`Topology`] (YAML or [builder](Topology::builder)), [`Handle`] (status, subscribe, flush, shutdown).
//! * Extend: [`Sink`], [`Processor`], actors that take a [`Batch`], and the [`Registry`] that gives them names in YAML.
//! * Test what you wrote: [`testkit`].
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `cli` | yes | the command `streamll`, and [`cli::main`] for a command with kinds of your own |
//! | `testkit` | no | [`testkit::run`]: whole graphs on virtual time |
//!
//! # What it does not do
//!
//! A memory buffer dies with its process. Nothing is delivered exactly once: a retry may repeat events, with the same
//! `event_id`. There are no sinks for brokers yet.

pub mod emit;
pub mod processors;
mod runtime;
pub mod sinks;
pub mod topology;

#[cfg(feature = "cli")]
pub mod cli;

#[doc(hidden)]
pub use emit::__value;
pub use emit::{
    TokenStream, current_context, emit, installed, shed_before_install, step, with_context, with_context_sync,
};
pub use runtime::{Handle, StartFailure, install, start};
pub use topology::{Registry, Topology, TopologyError};

pub use secrecy::{ExposeSecret, SecretString as Secret};
pub use streamll_actors::event::{
    Class, Confirmation, Context, Delivery, Event, Kind, Step, StepParts, Timestamp,
};
pub use streamll_actors::graph::{Drained, GraphStatus, Plan, SinkHandle, SinkSpec, Stage, StartError};
pub use streamll_actors::ingress::{Batch, Emitted, Emitter, Patience};
pub use streamll_actors::process::{Output, Processor, ProcessorFactory};
pub use streamll_actors::route::{Subscription, Template, TopicPattern};
pub use streamll_actors::sink::breaker::BreakerPolicy;
pub use streamll_actors::sink::{
    BatchPolicy, BufferPolicy, Deliveries, DeliveryError, ErrorClass, OnOpen, Placement, Sink, SinkContext,
    SinkState, SinkStatus, WhenFull,
};
pub use streamll_actors::supervise::RestartPolicy;
pub use streamll_actors::testkit;
