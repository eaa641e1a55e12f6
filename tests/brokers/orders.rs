//! What an operator orders of a sink, and what becomes of events meanwhile, for either broker.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use streamll::{Emitted, Event, OnOpen, SinkSpec, SinkState, Step, Topology};

use crate::proxy::Proxy;
use support::wait_until;

fn event(number: u64) -> Event {
    Event::new(&Step::new("RagPipeline"), "start").with("number", number)
}

/// A broker that takes connections and ends them at once; says on which port, and counts them.
pub(crate) fn ends_every_connection() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, count) = (listener.local_addr().expect("its address").port(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(connection);
        }
    });
    (port, count)
}

/// Closed by hand, a sink tries again and again at a broker that is away, but not at once each time.
pub(crate) fn closed_by_hand_it_is_no_storm(spec: SinkSpec, connections: &AtomicUsize) {
    let handle = Topology::builder("orders").sink("live", spec).start().expect("it starts");
    handle.sink("live").expect("it is there").force_close();
    handle.emit(event(1));
    thread::sleep(Duration::from_secs(3));
    let live = handle.sink("live").expect("it is there").status();
    assert_eq!((live.state, live.balance.waiting), (SinkState::Closed, 1), "{live}");
    // Retries begin at 50 ms and double.
    let tries = connections.load(Ordering::SeqCst);
    assert!((2..=10).contains(&tries), "{tries} connections in three seconds");
    let ended = handle.shutdown_blocking(Duration::from_millis(100));
    assert!(ended.status.balances() && !ended.complete, "{:#?}", ended.status);
}

/// With `on_open: drop`, events that come while it is open are shed and marked; those before and after arrive.
pub(crate) fn while_open_events_are_shed(
    mut spec: SinkSpec,
    proxy: &Proxy,
    arrived: impl FnOnce() -> Vec<Value>,
) {
    spec.on_open = OnOpen::Drop;
    spec.breaker.recovery_timeout = Duration::from_millis(200);
    proxy.blackhole();
    let handle = Topology::builder("orders").sink("live", spec).start().expect("it starts");
    let live = || handle.sink("live").expect("it is there").status();
    let is = |state: SinkState| {
        wait_until(state.as_str(), || if live().state == state { Ok(()) } else { Err(live().to_string()) });
    };
    is(SinkState::Open);
    (0..10).for_each(|number| assert_eq!(handle.emit(event(number)), Emitted::Accepted));
    wait_until("they are shed", || if live().balance.shed == 10 { Ok(()) } else { Err(live().to_string()) });
    proxy.heal();
    is(SinkState::Closed);
    (10..15).for_each(|number| assert_eq!(handle.emit(event(number)), Emitted::Accepted));
    let ended = handle.shutdown_blocking(Duration::from_secs(60));
    let balance = ended.status.sink("live").expect("it is there").balance;
    assert!(ended.status.balances(), "{:#?}", ended.status);
    assert_eq!((balance.accepted, balance.shed, balance.delivered), (15, 10, 5));
    let arrived = arrived();
    assert_eq!((&arrived[0]["event_type"], &arrived[0]["data"]["count"]), (&"gap".into(), &10.into()));
    let numbers: Vec<_> = arrived[1..].iter().filter_map(|event| event["data"]["number"].as_u64()).collect();
    assert_eq!(numbers, (10..15).collect::<Vec<_>>());
}
