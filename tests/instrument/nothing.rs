//! Nothing is installed: calls are counted as shed, and their inputs and outputs are not even looked at.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use streamll::{instrument, shed_before_install};

static LOOKS: AtomicUsize = AtomicUsize::new(0);

struct Watched;

impl fmt::Debug for Watched {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        LOOKS.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[instrument]
fn passes(watched: Watched) -> Watched {
    watched
}

#[test]
fn a_call_that_nobody_hears_is_shed_without_looking_at_its_values() {
    let before = shed_before_install();
    let watched = passes(Watched);
    assert_eq!(LOOKS.load(Ordering::SeqCst), 0);
    assert_eq!(shed_before_install() - before, 2);

    // The same call, heard.
    super::record(|| passes(watched));
    assert_eq!(LOOKS.load(Ordering::SeqCst), 2);
}

#[test]
fn a_call_after_the_end_of_its_topology_looks_at_nothing() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    struct Watched;
    impl fmt::Debug for Watched {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            LOOKS.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }
    #[instrument(emitter = handle, skip(handle))]
    fn late(handle: &streamll::Handle, watched: Watched) {}

    let recorder = super::Recorder::new();
    let handle = recorder.handle.clone();
    recorder.events();
    late(&handle, Watched);
    assert_eq!(LOOKS.load(Ordering::SeqCst), 0);
    assert!(handle.status().balances());
}
