//! How a topology ends: from anywhere, once, and with nothing left behind.

use std::time::Duration;

use streamll::{Event, SinkSpec};

use crate::{Kept, block_on, topology};

#[test]
fn it_ends_without_a_deadline_too() {
    let (handle, kept) = topology();
    handle.emit(Event::new(&streamll::step("M"), "start").with("n", 1));
    assert!(handle.shutdown_blocking(Duration::MAX).complete);
    assert_eq!(kept.numbers(), [1]);
}

#[test]
fn code_inside_a_runtime_may_block_on_the_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (handle, _kept) = topology();
        assert!(handle.shutdown_blocking(Duration::from_secs(30)).complete);
    });
}

#[test]
fn whoever_ends_it_again_hears_how_it_ended() {
    let (handle, _kept) = topology();
    handle.emit(Event::new(&streamll::step("M"), "start").with("n", 1));
    assert!(handle.shutdown_blocking(Duration::from_secs(30)).complete);
    let again = handle.clone().shutdown_blocking(Duration::from_secs(30));
    assert!(again.complete, "{:#?}", again.status);
}

#[test]
fn a_sink_that_comes_and_goes_leaves_one_status_and_all_its_numbers() {
    let (handle, _kept) = topology();
    let guest = Kept::default();
    let long = Duration::from_secs(30);
    for n in 0..20 {
        block_on(handle.add_sink(SinkSpec { name: "guest".to_owned(), ..guest.spec() })).unwrap();
        handle.emit(Event::new(&streamll::step("M"), "start").with("n", n));
        let last = block_on(handle.remove_sink("guest", long)).unwrap();
        assert_eq!((last.balance.accepted, last.balance.delivered), (1, 1));
    }
    let drained = handle.shutdown_blocking(long);
    assert!(drained.complete && drained.status.balances());
    let [removed] = drained.status.removed() else { panic!("one name: {:#?}", drained.status.removed()) };
    assert_eq!((removed.balance.accepted, removed.balance.delivered), (20, 20));
    assert_eq!(guest.numbers(), (0..20).collect::<Vec<_>>());
}
