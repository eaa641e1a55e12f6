//! Promise 1: emitting never hurts the application.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use streamll_actors::event::{Confirmation, Event, Step};
use streamll_actors::graph::{GraphHandle, Plan, SinkSpec, Stage, Threads};
use streamll_actors::ingress::{Emitted, Emitter, Patience};
use streamll_actors::sink::{Deliveries, DeliveryError, Sink};
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};
use tokio::time::{Instant, timeout};

const THREADS: u64 = 8;

/// Runs a graph on real threads, on real time.
fn on_threads<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    actix_rt::System::new().block_on(test())
}

/// Writes down which number of which thread arrived.
#[derive(Clone, Default)]
struct Lanes(Arc<Mutex<Vec<Vec<u64>>>>);

impl Lanes {
    fn spec(&self, name: &str) -> SinkSpec {
        let lanes = self.clone();
        SinkSpec::new(name, move || lanes.clone())
    }

    fn total(&self) -> usize {
        self.0.lock().unwrap().iter().map(Vec::len).sum()
    }

    #[track_caller]
    fn keep_their_order(&self) {
        for lane in &*self.0.lock().unwrap() {
            assert!(lane.is_sorted_by(|a, b| a < b), "an event overtook another of its thread");
        }
    }
}

impl Sink for Lanes {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let mut lanes = self.0.lock().unwrap();
        lanes.resize(THREADS as usize, Vec::new());
        for token in batch.iter().filter_map(|delivery| delivery.event.as_token()) {
            lanes[token.index as usize >> 32].push(token.index & 0xffff_ffff);
        }
        Ok(())
    }
}

/// A token that says from which thread it is, and as the how-manieth.
fn lane_token(step: &Step, lane: u64, n: u64) -> Event {
    Event::token(step, "answer", " forty", lane << 32 | n)
}

/// Runs `work` on so many threads, without blocking this one.
async fn in_parallel(emitter: &Emitter, work: impl Fn(&Emitter, u64) + Send + Sync + 'static) {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..THREADS)
        .map(|lane| {
            let (emitter, work) = (emitter.clone(), work.clone());
            thread::spawn(move || work(&emitter, lane))
        })
        .collect();
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap()))
        .await
        .unwrap();
}

#[test]
fn it_works_from_a_thread_without_a_runtime_as_from_a_task() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", Duration::ZERO))).await;
        rig.emit_all(0..10);
        thread::spawn({
            let rig = rig.clone();
            move || rig.emit_all(10..20)
        })
        .join()
        .unwrap();
        actix_rt::spawn({
            let rig = rig.clone();
            async move { rig.emit_all(20..30) }
        })
        .await
        .unwrap();
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..30).collect::<Vec<_>>());
    });
}

#[test]
fn with_every_sink_dead_it_returns_as_always_and_counts_what_it_sheds() {
    run(async {
        let data = tempfile::tempdir().unwrap();
        let mut plan = Plan::new("test");
        plan.data_dir = data.path().into();
        let scripts = [[Act::Hang; 100], [Act::Panic(0); 100], [Act::Misconfigured; 100], [Act::Fatal; 100]];
        for (n, script) in scripts.into_iter().enumerate() {
            plan = plan.sink(Journal::new(script).spec(&format!("dead{n}"), Duration::ZERO));
        }
        let rig = Rig::start(plan).await;
        let (mut accepted, mut shed) = (0, 0);
        for n in 0..300_000 {
            let event = match n % 10 {
                0 => Event::new(&rig.step, "start"),
                _ => Event::token(&rig.step, "answer", "a", n),
            };
            match rig.graph.emitter().emit(event) {
                Emitted::Accepted => accepted += 1,
                Emitted::Shed => shed += 1,
                Emitted::Closed => unreachable!(),
            }
            if n % 100_000 == 0 {
                tokio::time::sleep(Duration::from_secs(300)).await;
            }
        }
        rig.graph.flush().await;
        let balance = rig.graph.status().balance();
        assert_eq!((balance.received, balance.shed), (300_000, shed));
        assert_eq!(balance.routed, accepted);
        assert!(shed > 0, "the test did not reach the bound");
        rig.end().await;
    });
}

#[test]
fn counts_are_exact_when_eight_threads_emit_at_full_speed() {
    on_threads(|| async {
        let lanes = Lanes::default();
        let graph =
            GraphHandle::start(Plan::new("test").sink(lanes.spec("live")), Threads::Several).await.unwrap();
        let (accepted, shed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (accepted.clone(), shed.clone());
        in_parallel(graph.emitter(), move |emitter, lane| {
            let step = Step::new("Lane");
            for n in 0..50_000 {
                let counter = match emitter.emit(lane_token(&step, lane, n)) {
                    Emitted::Accepted => &counters.0,
                    Emitted::Shed => &counters.1,
                    Emitted::Closed => unreachable!(),
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        let drained = graph.drain(Duration::from_secs(60)).await;
        let balance = drained.status.balance();
        let (accepted, shed) = (accepted.load(Ordering::Relaxed), shed.load(Ordering::Relaxed));
        assert_eq!((balance.received, balance.shed), (THREADS * 50_000, shed));
        assert_eq!(accepted + shed, THREADS * 50_000);
        let sink = drained.status.sink("live").unwrap().balance;
        assert_eq!(sink.delivered + sink.shed, accepted);
        assert_eq!(lanes.total() as u64, sink.delivered);
        assert!(drained.status.balances(), "{:#?}", drained.status);
        lanes.keep_their_order();
    });
}

#[test]
fn a_million_events_sent_from_eight_threads_all_arrive_in_the_order_of_their_thread() {
    on_threads(|| async {
        let lanes = Lanes::default();
        let graph =
            GraphHandle::start(Plan::new("test").sink(lanes.spec("live")), Threads::Several).await.unwrap();
        in_parallel(graph.emitter(), |emitter, lane| {
            let step = Step::new("Lane");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for n in 0..125_000 {
                    assert_eq!(emitter.send(lane_token(&step, lane, n)).await, Emitted::Accepted);
                }
            });
        })
        .await;
        let drained = graph.drain(Duration::from_secs(60)).await;
        assert!(drained.complete && drained.status.balances(), "{:#?}", drained.status);
        assert_eq!(lanes.total(), 1_000_000);
        lanes.keep_their_order();
    });
}

#[test]
fn whatever_is_emitted_while_the_graph_ends_is_counted() {
    for _ in 0..20 {
        on_threads(|| async {
            let graph =
                GraphHandle::start(Plan::new("test").sink(Lanes::default().spec("live")), Threads::Several);
            let graph = graph.await.unwrap();
            let emitted = Arc::new(AtomicU64::new(0));
            let all = tokio::spawn({
                let (emitter, emitted) = (graph.emitter().clone(), emitted.clone());
                async move {
                    in_parallel(&emitter, move |emitter, lane| {
                        let step = Step::new("Lane");
                        for n in 0.. {
                            let done = emitter.emit(lane_token(&step, lane, n));
                            emitted.fetch_add(1, Ordering::Relaxed);
                            if done == Emitted::Closed {
                                break;
                            }
                        }
                    })
                    .await;
                }
            });
            tokio::time::sleep(Duration::from_millis(3)).await;
            graph.drain(Duration::from_secs(60)).await;
            all.await.unwrap();
            let status = graph.status();
            assert!(status.balances(), "{status:#?}");
            assert_eq!(status.balance().received, emitted.load(Ordering::Relaxed));
        });
    }
}

#[test]
fn after_the_end_events_are_refused_and_counted() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", Duration::ZERO))).await;
        rig.emit_all(0..3);
        rig.end().await;
        let emitter = rig.graph.emitter();
        let event = || Event::new(&rig.step, "start");
        assert_eq!(emitter.emit(event()), Emitted::Closed);
        assert_eq!(emitter.send(event()).await, Emitted::Closed);
        assert_eq!(emitter.send_confirmed(event()).await, Confirmation::Lost);
        assert!(emitter.is_closed());
        let balance = rig.graph.status().balance();
        assert_eq!((balance.received, balance.shed, balance.holds()), (6, 3, true));
        assert_eq!(journal.numbers(), [0, 1, 2]);
    });
}

fn small(journal: &Journal, takes: Duration) -> SinkSpec {
    let mut spec = journal.spec("live", takes);
    spec.buffer.max_events = 16;
    spec.batch.max_events = 2;
    spec
}

#[test]
fn whoever_sends_waits_for_a_slow_sink_and_loses_nothing() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(small(&journal, Duration::from_millis(10)))).await;
        let began = Instant::now();
        for n in 0..1000 {
            let event = Event::new(&rig.step, "start").with("n", n);
            assert_eq!(rig.graph.emitter().send(event).await, Emitted::Accepted);
        }
        assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..1000).collect::<Vec<_>>());
    });
}

#[test]
fn many_tasks_that_send_at_once_share_the_room_that_there_is() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(small(&journal, Duration::from_millis(10)))).await;
        let tasks: Vec<_> = (0..500)
            .map(|n| {
                let rig = rig.clone();
                actix_rt::spawn(async move {
                    rig.graph.emitter().send(Event::new(&rig.step, "start").with("n", n)).await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Emitted::Accepted);
        }
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers().len(), 500);
    });
}

#[test]
fn a_clone_that_was_encoded_meanwhile_does_not_spoil_the_account_of_waiting_senders() {
    run(async {
        let journal = Journal::new([]);
        let mut spec = small(&journal, Duration::from_millis(1));
        spec.buffer.max_size = 64_000;
        let rig = Rig::start(Plan::new("test").sink(spec)).await;
        for n in 0..200 {
            let event = Event::new(&rig.step, "start").with("n", n).with("text", "\n".repeat(1000));
            let clone = event.clone();
            let sent = timeout(Duration::from_secs(60), rig.graph.emitter().send(event));
            let encoded = async { clone.json().len() };
            let (sent, size) = tokio::join!(sent, encoded);
            assert!(size > 2000);
            assert_eq!(sent, Ok(Emitted::Accepted));
        }
        assert!(rig.end().await.complete);
    });
}

#[test]
fn whoever_sends_waits_neither_for_an_open_sink_nor_for_a_failed_one() {
    for act in [Act::Misconfigured, Act::Fatal] {
        run(async {
            let data = tempfile::tempdir().unwrap();
            let journal = Journal::new([]).opening([act; 1000]);
            let mut plan = Plan::new("test").sink(small(&journal, Duration::ZERO));
            plan.data_dir = data.path().into();
            let rig = Rig::start(plan).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            let began = Instant::now();
            for n in 0..100 {
                let event = Event::new(&rig.step, "start").with("n", n);
                assert_eq!(rig.graph.emitter().send(event).await, Emitted::Accepted);
                settle().await;
            }
            assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
            rig.end().await;
        });
    }
}

#[test]
fn with_patience_it_waits_for_an_open_sink_too_but_never_for_a_failed_one() {
    run(async {
        let journal = Journal::new([]).opening([Act::Misconfigured; 3]);
        let rig = Rig::start(Plan::new("test").sink(small(&journal, Duration::ZERO))).await;
        let began = Instant::now();
        for n in 0..100 {
            let event = Event::new(&rig.step, "start").with("n", n);
            let sent = rig.graph.emitter().send_patiently(event, Patience::Open).await;
            assert_eq!(sent, Emitted::Accepted);
        }
        assert!(began.elapsed() > Duration::from_secs(60), "{:?}", began.elapsed());
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..100).collect::<Vec<_>>());
    });
    run(async {
        let journal = Journal::new([]).opening([Act::Fatal; 100]);
        let rig = Rig::start(Plan::new("test").sink(small(&journal, Duration::ZERO))).await;
        let began = Instant::now();
        for n in 0..100 {
            let event = Event::new(&rig.step, "start").with("n", n);
            rig.graph.emitter().send_patiently(event, Patience::Open).await;
        }
        // Until it was given up.
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        rig.end().await;
    });
}

#[test]
fn a_sender_that_waits_for_the_way_in_goes_on_although_no_sink_wants_anything() {
    run(async {
        let mut plan = Plan::new("test").stage(Stage::closure("none", |_| None));
        plan.ingress_capacity = 8;
        let rig = Rig::start(plan).await;
        rig.emit_all(0..8);
        let sent = rig.graph.emitter().send(Event::new(&rig.step, "start"));
        assert_eq!(timeout(Duration::from_secs(5), sent).await, Ok(Emitted::Accepted));
        rig.end().await;
        assert_eq!(rig.graph.status().balance().filtered, 9);
    });
}

#[test]
fn a_send_that_is_cancelled_while_it_waits_leaves_the_event_out() {
    run(async {
        let journal = Journal::new([Act::Hang]);
        let rig = Rig::start(Plan::new("test").sink(small(&journal, Duration::ZERO))).await;
        settle().await;
        rig.emit_all(0..14);
        settle().await;
        let sent = rig.graph.emitter().send(Event::new(&rig.step, "start").with("n", 99));
        assert!(timeout(Duration::from_secs(1), sent).await.is_err());
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..14).collect::<Vec<_>>());
    });
}
