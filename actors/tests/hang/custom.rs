//! Actors of one's own: that hang their thread, that await for ever on one that moves, and that only wait for room.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Recipient, ResponseFuture,
    WrapFuture as _,
};
use streamll_actors::event::{Event, Step};
use streamll_actors::graph::Stage;
use streamll_actors::ingress::Batch;
use streamll_actors::testkit::Journal;
use tokio::time::sleep;

use super::{MINUTE, Trap, all_but, emit, end, letters, plan, real, start, until};

/// An actor of one's own that hangs its thread on an event `hang`, and panics on one `boom`.
struct Custom(Recipient<Batch>, Trap, Arc<Mutex<u64>>);

impl Actor for Custom {
    type Context = Context<Self>;
}

impl Handler<Batch> for Custom {
    type Result = ();

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        for event in batch.events() {
            match event.kind().as_str() {
                "hang" => self.1.hang(),
                "boom" => panic!("boom"),
                _ => *self.2.lock().unwrap() += 1,
            }
        }
        ctx.wait(self.0.send(batch).into_actor(self).map(|_, _, _| ()));
    }
}

#[test]
fn an_actor_of_ones_own_that_hangs_or_panics_costs_the_event() {
    real(async {
        let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
        let (hang, seen) = (trap.clone(), Arc::default());
        let custom = move |next| Custom(next, hang.clone(), Arc::clone(&seen)).start().recipient();
        let plan = plan(data.path())
            .stage(Stage::closure("before", Some))
            .stage(Stage::actor("usage", custom))
            .stage(Stage::closure("after", Some))
            .sink(journal.spec("live", Duration::ZERO));
        let graph = start(plan).await;
        for n in 0..1000 {
            let kind = match n {
                100 | 700 => "hang",
                101 | 400 | 401 => "boom",
                _ => "start",
            };
            emit(&graph, kind, n);
        }
        until(|| trap.caught() == 1 && !graph.status().processors().is_empty()).await;
        assert_eq!(&*graph.status().processors()[0].name, "usage");
        until(|| journal.numbers().len() == 995).await;
        trap.let_go().await;
        emit(&graph, "start", 1000);
        let drained = end(&graph, MINUTE).await;
        assert_eq!(journal.numbers(), all_but(0..1001, &[100, 101, 400, 401, 700]));
        let balance = drained.status.balance();
        assert_eq!((balance.received, balance.failed, balance.routed), (1001, 5, 996));
        let mut dead: Vec<_> = letters(data.path(), "processors")
            .iter()
            .filter_map(|l| l["event"]["data"]["n"].as_u64())
            .collect();
        dead.sort_unstable();
        assert_eq!(dead, [100, 101, 400, 401, 700]);
    });
}

/// Where an actor awaits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Awaits {
    /// In its handler, before it hands on.
    Before,
    /// In its handler, after it has handed on.
    After,
    /// In `ctx.wait`, when its handler has returned.
    Aside,
    /// There, and then it panics.
    Panics,
}

/// An actor of one's own that awaits on an event `hang`: its thread moves.
struct Waits(Recipient<Batch>, Trap, Awaits);

impl Actor for Waits {
    type Context = Context<Self>;
}

impl Handler<Batch> for Waits {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) -> Self::Result {
        let (next, trap, awaits) = (self.0.clone(), self.1.clone(), self.2);
        let hangs = batch.events().iter().any(|event| event.kind().as_str() == "hang");
        let work = async move {
            if hangs && awaits == Awaits::Panics {
                // The next one is in the mailbox by then.
                sleep(Duration::from_millis(200)).await;
                panic!("boom");
            }
            if hangs && awaits != Awaits::After {
                trap.held().await;
            }
            let _ = next.send(batch).await;
            if hangs && awaits == Awaits::After {
                trap.held().await;
            }
        };
        if matches!(awaits, Awaits::Aside | Awaits::Panics) {
            ctx.wait(work.into_actor(self));
            return Box::pin(async {});
        }
        Box::pin(work)
    }
}

#[test]
fn an_actor_of_ones_own_that_awaits_for_ever_costs_the_event_and_no_other() {
    for awaits in [Awaits::Before, Awaits::After, Awaits::Aside, Awaits::Panics] {
        real(async {
            let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
            let hold = trap.clone();
            let waits = move |next| Waits(next, hold.clone(), awaits).start().recipient();
            let plan = plan(data.path())
                .stage(Stage::actor("audit", waits))
                .sink(journal.spec("live", Duration::ZERO));
            let graph = start(plan).await;
            // Nothing comes behind the last one that panics.
            let hangs = [100, if awaits == Awaits::Panics { 999 } else { 700 }];
            (0..1000).for_each(|n| emit(&graph, if hangs.contains(&n) { "hang" } else { "start" }, n));
            if matches!(awaits, Awaits::Before | Awaits::After) {
                // It is seen before anything is done about it.
                until(|| !graph.status().processors().is_empty()).await;
                let seen = graph.status().processors()[0].clone();
                assert_eq!((&*seen.name, seen.hangs), ("audit", 0), "{awaits:?}");
            }
            let lost = if awaits == Awaits::After { &[][..] } else { &hangs[..] };
            let mut sent = 1000;
            if awaits == Awaits::Aside {
                // It may keep what its handler has returned from: something comes behind each of the two.
                until(|| trap.caught() == 1).await;
                emit(&graph, "start", 1000);
                until(|| trap.caught() == 1 && journal.numbers().contains(&101)).await;
                emit(&graph, "start", 1001);
                sent = 1002;
            }
            until(|| journal.numbers().len() as u64 == sent - lost.len() as u64).await;
            until(|| letters(data.path(), "processors").len() == lost.len()).await;
            // It may still be at the last of them, where that has come out already.
            emit(&graph, "start", sent);
            sent += 1;
            until(|| journal.numbers().len() as u64 == sent - lost.len() as u64).await;
            let drained = end(&graph, MINUTE).await;
            assert_eq!(journal.numbers(), all_but(0..sent, lost), "{awaits:?}");
            let balance = drained.status.balance();
            assert_eq!((balance.received, balance.failed), (sent, lost.len() as u64), "{awaits:?}");
            let letters = letters(data.path(), "processors");
            let dead: Vec<_> = letters.iter().filter_map(|l| l["event"]["data"]["n"].as_u64()).collect();
            assert_eq!(dead, lost, "{awaits:?}");
            until(|| trap.caught() == 0).await;
        });
    }
}

#[test]
fn the_report_of_the_end_names_an_actor_that_awaits_for_ever() {
    for (awaits, count) in [(Awaits::Before, 3), (Awaits::After, 3), (Awaits::Aside, 3), (Awaits::Aside, 1)] {
        real(async {
            let (data, journal, trap) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
            let hold = trap.clone();
            let waits = move |next| Waits(next, hold.clone(), awaits).start().recipient();
            let mut plan = plan(data.path())
                .stage(Stage::actor("audit", waits))
                .sink(journal.spec("live", Duration::ZERO));
            plan.watchdog = MINUTE;
            let graph = start(plan).await;
            for n in 0..count {
                emit(&graph, "hang", n);
            }
            until(|| trap.caught() == 1).await;
            let drained = end(&graph, Duration::from_secs(2)).await;
            let arrived = journal.numbers().len() as u64;
            assert_eq!(
                (drained.complete, arrived + drained.status.balance().failed),
                (arrived == count, count)
            );
            let seen = drained.status.processors();
            assert!(
                seen.len() == 1 && &*seen[0].name == "audit" && seen[0].hangs > 0,
                "{awaits:?}: {seen:?}"
            );
            trap.let_go().await;
            assert_eq!(graph.status().balance(), drained.status.balance(), "nobody hears it any more");
        });
    }
}

/// An actor that makes an event of its own for each batch, and waits for room for both.
struct Makes(Recipient<Batch>, bool);

impl Actor for Makes {
    type Context = Context<Self>;
}

impl Handler<Batch> for Makes {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, batch: Batch, ctx: &mut Context<Self>) -> Self::Result {
        let next = self.0.clone();
        let work = async move {
            let made = Batch::created(vec![Event::new(&Step::new("M"), "made")]);
            let _ = next.send(made).await;
            let _ = next.send(batch).await;
        };
        if self.1 {
            ctx.wait(work.into_actor(self));
            return Box::pin(async {});
        }
        Box::pin(work)
    }
}

#[test]
fn an_actor_that_waits_for_room_behind_it_does_not_hang() {
    for aside in [false, true] {
        real(async {
            let (data, journal, slow) = (tempfile::tempdir().unwrap(), Journal::new([]), Trap::default());
            let nap = slow.clone();
            let nap = move |event: Event| {
                if event.kind().as_str() == "start" && !nap.0.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_secs(1));
                }
                Some(event)
            };
            let plan = plan(data.path())
                .stage(Stage::actor("makes", move |next| Makes(next, aside).start().recipient()))
                .stage(Stage::closure("slow", nap))
                .sink(journal.spec("live", Duration::ZERO));
            let graph = start(plan).await;
            // Some batches of some events: each takes the next stage longer than the watchdog's time, and yet it moves.
            for batch in 0..8 {
                (0..6).for_each(|n| emit(&graph, "start", 6 * batch + n));
                sleep(Duration::from_millis(50)).await;
            }
            until(|| journal.numbers().len() >= 14).await;
            slow.0.store(true, Ordering::SeqCst);
            let drained = end(&graph, MINUTE).await;
            assert_eq!(drained.status.processors(), [], "aside {aside}");
            assert_eq!((journal.numbers(), drained.complete), (all_but(0..48, &[]), true));
        });
    }
}
