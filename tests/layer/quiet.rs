//! What the layer makes nothing of, and that it makes nothing of itself.

use std::io::Write;
use std::sync::{Arc, Mutex};

use streamll::LayerExt as _;
use tracing::{error, info, info_span, trace, trace_span};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use super::{again, chat, names, seen, seen_by};

#[test]
fn a_flood_of_other_spans_and_events_produces_nothing_and_costs_nothing() {
    let events = seen_by(
        |layer| layer.targets(["my_app"]),
        |_| {
            let _chat = chat!().entered();
            for n in 0..10_000 {
                let span = trace_span!(target: "hyper::proto", "poll", n);
                assert!(span.is_disabled(), "it was made");
                let _inside = span.enter();
                trace!(target: "hyper::client", n, "flushed");
                info!(target: "h2", "frame");
                error!(target: "redis", error = "refused", "connection lost");
            }
        },
    );
    assert_eq!(names(&events), ["llm llm_start chat", "llm llm_end chat"]);
}

#[test]
fn nothing_of_ours_feeds_back() {
    let events = seen_by(
        |layer| layer.targets(["streamll", "streamll_actors", ""]),
        |_| {
            for _ in 0..10 {
                drop(info_span!(target: "streamll::sinks::redis", "deliver", gen_ai.operation.name = "chat"));
                drop(info_span!(target: "streamll_actors", "deliver"));
                error!(target: "streamll_actors::sink", error = "refused", "breaker opened");
            }
            drop(info_span!(target: "streamll_demo", "chat", gen_ai.operation.name = "chat"));
        },
    );
    assert_eq!(names(&events), ["llm llm_start chat", "llm llm_end chat"], "only the program of a like name");
}

#[test]
fn other_layers_see_what_they_would_see_without() {
    let log = |with: bool| {
        let lines = Lines::default();
        let log = lines.layer().with_filter(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(log).with(with.then(streamll::layer));
        tracing::subscriber::with_default(subscriber, || {
            let _chat = chat!().entered();
            let _other = info_span!("other", n = 1).entered();
            info!("said");
            trace!("not said");
        });
        lines.text()
    };
    let without = log(false);
    assert!(without.contains("said") && without.contains("other{n=1}"), "{without}");
    assert_eq!(log(true), without);
}

#[test]
fn without_a_topology_events_are_counted_and_nothing_is_logged() {
    // A subscriber for one thread never hears what is said inside of itself; one for all threads would.
    if std::env::var_os("STREAMLL_TEST_ALONE").is_none() {
        return again(
            "quiet::without_a_topology_events_are_counted_and_nothing_is_logged",
            "STREAMLL_TEST_ALONE",
        );
    }
    let lines = Lines::default();
    tracing_subscriber::registry()
        .with(lines.layer().with_filter(LevelFilter::WARN))
        .with(streamll::layer())
        .init();
    drop(chat!());
    assert_eq!((streamll::shed_before_install(), lines.text()), (2, String::new()));
}

/// A log in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn layer<S>(&self) -> impl Layer<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let lines = self.clone();
        tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_writer(move || lines.clone())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_value_that_opens_spans_while_it_is_written_does_no_harm() {
    struct Busy;
    impl std::fmt::Debug for Busy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            drop(chat!());
            f.write_str("busy")
        }
    }
    let events = seen(|_| {
        let outer =
            info_span!("c", gen_ai.operation.name = "chat", gen_ai.request.model = tracing::field::Empty);
        outer.in_scope(|| outer.record("gen_ai.request.model", tracing::field::debug(Busy)).is_disabled());
    });
    assert_eq!(events.len(), 4);
}
