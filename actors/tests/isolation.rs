//! Promise 3: one sink's trouble is its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streamll_actors::graph::{Plan, SinkSpec};
use streamll_actors::sink::{Deliveries, DeliveryError, Placement, Sink};
use streamll_actors::testkit::{Journal, Rig, Scripted, run, settle};
use tokio::time::{Instant, sleep};

const EVENTS: u64 = 2000;
const TAKES: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    PanicsAtEveryHundredthDelivery,
    HangsAtEveryHundredthDelivery,
    IsAwayForThirtySeconds,
    IsSlow,
}

/// A sink in trouble, and the journal of what got through all the same.
struct Troubled {
    inner: Scripted,
    trouble: Trouble,
    deliveries: Arc<AtomicU64>,
    began: Instant,
}

impl Sink for Troubled {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let is_hundredth = self.deliveries.fetch_add(1, Ordering::Relaxed) % 100 == 99;
        match self.trouble {
            Trouble::PanicsAtEveryHundredthDelivery if is_hundredth => panic!("hundredth delivery"),
            Trouble::HangsAtEveryHundredthDelivery if is_hundredth => std::future::pending().await,
            Trouble::IsAwayForThirtySeconds if self.began.elapsed() < Duration::from_secs(30) => {
                return Err(DeliveryError::unavailable("connection refused"));
            }
            Trouble::IsSlow => sleep(Duration::from_millis(700)).await,
            _ => {}
        }
        self.inner.deliver(batch).await
    }
}

fn troubled(trouble: Trouble, journal: &Journal) -> SinkSpec {
    let (journal, deliveries, began) = (journal.clone(), Arc::default(), Instant::now());
    let mut spec = SinkSpec::new("troubled", move || {
        let (inner, deliveries) = (journal.sink(Duration::ZERO), Arc::clone(&deliveries));
        Troubled { inner, trouble, deliveries, began }
    });
    spec.placement = Placement::Spine;
    spec.deliver_timeout = Duration::from_secs(5);
    spec.batch.max_events = 4;
    spec
}

/// When each event arrived at the healthy sink.
async fn healthy_beside(trouble: Option<Trouble>) -> Vec<(Duration, Option<u64>)> {
    let (healthy, other) = (Journal::new([]), Journal::new([]));
    let mut plan = Plan::new("test").sink(healthy.spec("healthy", TAKES));
    // Alerts are for the healthy sink, too: they would make its batches others.
    plan.alert_after = Duration::from_secs(3600);
    if let Some(trouble) = trouble {
        plan = plan.sink(troubled(trouble, &other));
    }
    let rig = Rig::start(plan).await;
    settle().await;
    for chunk in 0..EVENTS / 20 {
        rig.emit_all(chunk * 20..chunk * 20 + 20);
        sleep(Duration::from_millis(7)).await;
    }
    sleep(Duration::from_secs(900)).await;
    let drained = rig.end().await;
    assert!(drained.complete, "{trouble:?}: {:#?}", drained.status);
    if trouble.is_some() {
        assert_eq!(other.numbers(), (0..EVENTS).collect::<Vec<_>>(), "{trouble:?}");
    }
    healthy.arrivals().iter().map(|arrival| (arrival.at, arrival.n())).collect()
}

#[test]
fn a_healthy_sink_feels_nothing_of_the_trouble_beside_it() {
    let alone = run(healthy_beside(None));
    assert_eq!(alone.len() as u64, EVENTS);
    for trouble in [
        Trouble::PanicsAtEveryHundredthDelivery,
        Trouble::HangsAtEveryHundredthDelivery,
        Trouble::IsAwayForThirtySeconds,
        Trouble::IsSlow,
    ] {
        let beside = run(healthy_beside(Some(trouble)));
        assert!(alone == beside, "{trouble:?} changed when events arrive elsewhere");
    }
}

#[test]
fn a_sink_that_hangs_for_ever_is_open_and_the_others_deliver() {
    run(async {
        let healthy = Journal::new([]);
        let mut hanging = Journal::new([])
            .whenever(|_| true, streamll_actors::testkit::Act::Hang)
            .spec("hanging", Duration::ZERO);
        hanging.deliver_timeout = Duration::from_secs(5);
        let rig = Rig::start(Plan::new("test").sink(healthy.spec("healthy", TAKES)).sink(hanging)).await;
        rig.emit_all(0..100);
        sleep(Duration::from_secs(20)).await;
        assert_eq!(healthy.numbers().len(), 100);
        let status = rig.graph.status();
        let hanging = status.sink("hanging").unwrap();
        assert!(hanging.circuit_open, "{hanging}");
        assert_eq!(hanging.reason.as_deref(), Some("no answer within 5s"));
        assert_eq!((hanging.balance.waiting, hanging.restarts), (100, 0));
        assert!(!rig.end().await.complete);
    });
}
