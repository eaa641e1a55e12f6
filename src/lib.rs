//! See your AI application work: its steps, tokens, tool calls and errors, streamed in real time through a supervised
//! graph of actors to terminals, files and brokers.

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
    TokenStream, current_context, emit, install, installed, shed_before_install, step, with_context, with_context_sync,
};
pub use runtime::{Handle, StartFailure, start};
pub use topology::{Registry, Topology, TopologyError};

pub use streamll_actors::event::{Class, Confirmation, Context, Delivery, Event, Kind, Step, Timestamp};
pub use streamll_actors::graph::{Drained, GraphStatus, Plan, SinkHandle, SinkSpec, Stage, StartError};
pub use streamll_actors::ingress::{Batch, Emitted, Emitter, Patience};
pub use streamll_actors::process::{Output, Processor};
pub use streamll_actors::route::{Subscription, Template, TopicPattern};
pub use streamll_actors::sink::{Deliveries, DeliveryError, ErrorClass, Sink, SinkContext, SinkState, SinkStatus};
pub use streamll_actors::testkit;
