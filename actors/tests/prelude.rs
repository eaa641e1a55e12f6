//! Whoever globs `actix::prelude` and our modules can use all names of both, but for one: `event::Context` must be
//! imported by name.

#![allow(unused_imports, reason = "that they can stand side by side is the test")]

use actix::prelude::*;
use streamll_actors::event::*;
use streamll_actors::graph::*;
use streamll_actors::ingress::*;
use streamll_actors::process::*;
use streamll_actors::route::*;
use streamll_actors::sink::breaker::*;
use streamll_actors::sink::*;
use streamll_actors::supervise::*;
use streamll_actors::testkit::*;

/// Naming a type that two globs bring in does not compile.
macro_rules! named {
    ($($name:ty),* $(,)?) => { &[$(std::any::type_name::<$name>()),*] };
}

#[test]
fn our_names_and_those_of_actix_can_be_used_side_by_side() {
    let ours: &[&str] = named![
        // event
        Body,
        Class,
        Confirmation,
        Decoder,
        Delivery,
        Event,
        EventId,
        Key,
        Kind,
        Origin,
        Receipt,
        Statics,
        Step,
        StepParts,
        Timestamp,
        Token,
        WireError,
        // graph
        Drained,
        GraphHandle,
        GraphStatus,
        Plan,
        SinkHandle,
        SinkSpec,
        Stage,
        StartError,
        Threads,
        // ingress
        Batch,
        Emitted,
        Emitter,
        GraphBalance,
        Ledger,
        Patience,
        // process
        Output,
        ProcessorFactory,
        // route
        Field,
        PatternError,
        Subscription,
        Template,
        TemplateError,
        TopicPattern,
        // sink
        Balance,
        BatchPolicy,
        Buffer,
        BufferPolicy,
        DeadLetter,
        DeadLetters,
        Deliveries,
        DeliveryError,
        ErrorClass,
        OnOpen,
        Placement,
        SinkContext,
        SinkFactory,
        SinkState,
        SinkStatus,
        WhenFull,
        // sink::breaker
        Breaker,
        BreakerPolicy,
        Circuit,
        CircuitState,
        Closed,
        Force,
        HalfOpen,
        Open,
        Outcome,
        Permit,
        Transition,
        // supervise
        Backoff,
        Exit,
        RestartPolicy,
        RestartTracker,
        Verdict,
        // testkit
        Act,
        Arrival,
        Journal,
        Rig,
        Scripted,
    ];
    let theirs: &[&str] = named![Addr<Nobody>, Arbiter, Recipient<Batch>, Running, System];
    assert!(ours.len() > 70 && theirs.len() == 5);
    fn both<S: Sink, P: Processor, A: Actor, M: Message>() {}
    let _ = both::<Scripted, fn(Event) -> Option<Event>, Nobody, Batch>;
}

struct Nobody;

impl Actor for Nobody {
    type Context = actix::Context<Self>;
}
