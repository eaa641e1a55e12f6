//! Disk buffers under random actions: pushed to, delivered from, killed, without power, with a disk that is full or fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::files::Files as _;
use super::handle::Hand;
use super::power::Power;
use super::writer::{Next, RETRY, Writer};
use crate::event::{Class, Confirmation, Delivery, Event, Origin, Receipt, Step};
use crate::sink::batch::Mark;
use crate::sink::{Buffer, BufferPolicy, Fsync, OnOpen, WhenFull};

#[derive(Debug, Clone)]
enum Action {
    Push(Vec<(Class, usize)>),
    /// Some turns of the disk.
    Turn(usize),
    /// Of the next so many events the first so many arrive.
    Deliver(usize, usize),
    Kill,
    LosePower(u64),
    /// So many bytes fit; none is no limit.
    Limit(Option<usize>),
    Fail(bool, bool),
    Close,
}

fn action() -> impl Strategy<Value = Action> {
    let class = prop_oneof![4 => Just(Class::Token), 2 => Just(Class::Lifecycle), 1 => Just(Class::Audit)];
    let limit = prop_oneof![Just(None), (1_000_usize..200_000).prop_map(Some)];
    prop_oneof![
        8 => proptest::collection::vec((class, 0_usize..4_000), 1..20).prop_map(Action::Push),
        8 => (1_usize..6).prop_map(Action::Turn),
        6 => (1_usize..40, 0_usize..40).prop_map(|(some, arrive)| Action::Deliver(some, arrive)),
        1 => Just(Action::Kill),
        1 => any::<u64>().prop_map(Action::LosePower),
        1 => limit.prop_map(Action::Limit),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(writes, syncs)| Action::Fail(writes, syncs)),
        1 => Just(Action::Close),
    ]
}

/// One event, and all that is known of it.
struct Known {
    json: Vec<u8>,
    confirmation: Option<oneshot::Receiver<Confirmation>>,
    held: bool,
    leased: bool,
    arrived: bool,
}

struct Model {
    files: Arc<Power>,
    policy: BufferPolicy,
    step: Step,
    buffer: Arc<Buffer>,
    writer: Writer,
    relief: Arc<Notify>,
    known: BTreeMap<u64, Known>,
    now: Instant,
    /// Shed by processes that are gone, and by this one.
    shed: u64,
    /// The next event to arrive for the first time has at least this number.
    first: u64,
    /// Power was lost, or a mark could not be written: repeats may come without theirs.
    is_inexact: bool,
    writes_fail: bool,
    /// Something may have failed in this process.
    is_limited: bool,
}

/// A buffer whose disk turns when it is told to.
pub(super) fn start(files: &Arc<Power>, policy: BufferPolicy) -> (Arc<Buffer>, Writer) {
    start_with(files, policy, Arc::default())
}

/// The same, with what is notified when waiting senders may look again.
pub(super) fn start_with(
    files: &Arc<Power>,
    policy: BufferPolicy,
    relief: Arc<Notify>,
) -> (Arc<Buffer>, Writer) {
    let buffer = Buffer::new("model".into(), policy, OnOpen::Buffer, relief);
    let (writer, attached) = Writer::open(&buffer, files.clone()).unwrap();
    buffer.put_on_disk(&attached.recovered, attached.disk(Hand::Thread(Arc::default())));
    (buffer, writer)
}

impl Model {
    fn new(policy: BufferPolicy) -> Model {
        let files = Arc::new(Power::default());
        let relief = Arc::new(Notify::new());
        let (buffer, writer) = start_with(&files, policy, relief.clone());
        Model {
            relief,
            files,
            policy,
            step: Step::new("M"),
            buffer,
            writer,
            known: BTreeMap::new(),
            now: Instant::now(),
            shed: 0,
            first: 0,
            is_inexact: false,
            writes_fail: false,
            is_limited: false,
        }
    }

    fn restart(&mut self) {
        self.note_held();
        self.shed += self.buffer.balance(self.now).shed;
        self.files.fail(false, false);
        self.files.limit(None);
        (self.writes_fail, self.is_limited) = (false, false);
        (self.buffer, self.writer) = start_with(&self.files, self.policy, self.relief.clone());
        assert_eq!(self.buffer.disk_damage().1, 0, "nothing is missing that was ever counted on");
        // What was never held may be gone with its process; what is there must have been pushed.
        self.now += RETRY;
    }

    fn note_held(&mut self) {
        for known in self.known.values_mut() {
            if let Some(answer) = &mut known.confirmation
                && let Ok(answer) = answer.try_recv()
            {
                known.held = matches!(answer, Confirmation::Held(_));
                known.confirmation = None;
            }
        }
    }

    fn push(&mut self, class: Class, size: usize) {
        let seq = self.known.len() as u64;
        let mut event = match class {
            Class::Token => Event::token(&self.step, "answer", "x".repeat(size), seq),
            _ => Event::new(&self.step, "start").with("text", "x".repeat(size)),
        };
        event.set_class(class);
        event.set_origin(Origin { source: "s".into(), seq });
        let (receipt, answer) = Receipt::new();
        event.set_receipt(receipt.clone());
        let json = event.json().to_vec();
        self.buffer.push([Delivery::new(event, "k".into())], self.now);
        receipt.routed(1);
        self.known.insert(
            seq,
            Known { json, confirmation: Some(answer), held: false, leased: false, arrived: false },
        );
    }

    fn deliver(&mut self, some: usize, arrive: usize) {
        self.is_inexact |= self.writes_fail;
        let incarnation = self.buffer.incarnation();
        let Some(lease) = self.buffer.lease(incarnation, some, usize::MAX, self.now) else { return };
        let mut marks = Vec::new();
        for (i, delivery) in lease.items.iter().enumerate() {
            let arrives = i < arrive;
            marks.push(if arrives { Mark::Delivered } else { Mark::Retry });
            if delivery.event.is_system() {
                continue;
            }
            let seq = delivery.event.seq().unwrap();
            let known = self.known.get_mut(&seq).unwrap();
            assert_eq!(delivery.event.json(), &known.json, "an event was altered");
            assert_eq!(delivery.key(), "k");
            if known.leased && !self.is_inexact {
                assert!(delivery.attempt >= 2, "{seq} was sent before, and its repeat is not marked");
            }
            known.leased = true;
            if arrives && !std::mem::replace(&mut known.arrived, true) {
                // What was shed comes again after a crash, perhaps behind what arrived before it.
                assert!(seq >= self.first || self.shed > 0, "{seq} arrives behind {}", self.first);
                self.first = seq;
            }
        }
        self.buffer.complete(&lease, &marks, self.now);
        self.buffer.release(&lease, &marks);
    }

    fn turn(&mut self) -> Next {
        self.now += Duration::from_millis(1);
        self.writer.turn(&self.buffer, self.now)
    }

    /// Whoever waits for room is notified when there is some.
    fn act(&mut self, action: Action) {
        let (relief, buffer) = (self.relief.clone(), self.buffer.clone());
        let mut notified = Box::pin(relief.notified());
        notified.as_mut().enable();
        let was_pressed = buffer.is_pressed(0, 0);
        self.do_it(action);
        if was_pressed && Arc::ptr_eq(&buffer, &self.buffer) && !buffer.is_pressed(0, 0) {
            assert!(notified.now_or_never().is_some(), "room came free, and nobody was notified");
        }
    }

    fn do_it(&mut self, action: Action) {
        match action {
            Action::Push(events) => events.into_iter().for_each(|(class, size)| self.push(class, size)),
            Action::Turn(times) => (0..times).for_each(|_| {
                self.turn();
            }),
            Action::Deliver(some, arrive) => self.deliver(some, arrive),
            Action::Kill => self.restart(),
            Action::LosePower(seed) => {
                self.note_held();
                let mut random = fastrand::Rng::with_seed(seed);
                self.files.lose(|n| random.usize(..n));
                self.is_inexact = true;
                self.restart();
            }
            Action::Limit(limit) => {
                self.is_limited |= limit.is_some();
                self.files.limit(limit);
            }
            Action::Fail(writes, syncs) => {
                self.writes_fail = writes;
                self.is_limited |= writes || syncs;
                self.files.fail(writes, syncs);
            }
            Action::Close => {
                let unwritable = self.buffer.disk_trouble().is_some();
                self.buffer.close_backlog();
                let ended = (0..10_000).any(|_| self.turn() == Next::Ended);
                assert!(ended, "it does not close");
                let left = self.buffer.balance(self.now);
                // Without room what was shed cannot be taken out of its files.
                let (was, fails) = (left.waiting, self.is_limited);
                self.restart();
                let found = self.buffer.balance(self.now).recovered;
                if left.in_memory() == 0 && !unwritable && !fails {
                    assert_eq!(found, was, "what waits at the end is found at the next start");
                }
            }
        }
        let balance = self.buffer.balance(self.now);
        assert!(balance.holds(), "{balance:?}");
        assert!(balance.on_disk <= balance.waiting, "{balance:?}");
    }

    /// The disk and the broker are back, and nothing waits: no trouble is left, senders go on, the disk's thread sleeps, and
    /// every sender that waited has its answer.
    fn is_at_rest(&mut self) {
        assert_eq!(self.buffer.disk_trouble(), None);
        assert!(!self.buffer.is_pressed(1, 1), "a sender would wait for ever");
        assert_eq!(self.turn(), Next::Wait(None), "the disk's thread has nothing to do");
        for (seq, known) in &mut self.known {
            let answered = known
                .confirmation
                .as_mut()
                .is_none_or(|answer| !matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
            assert!(answered, "the sender of {seq} waits for ever");
        }
    }

    /// Everything that is there arrives; what was held and is not shed has arrived then.
    fn end(mut self) {
        self.files.fail(false, false);
        self.files.limit(None);
        self.writes_fail = false;
        self.note_held();
        let mut idle = 0;
        while idle < 3 {
            self.now += RETRY;
            while self.turn() == Next::Again {}
            let before = self.buffer.balance(self.now).delivered;
            self.deliver(usize::MAX, usize::MAX);
            idle = if self.buffer.balance(self.now).delivered == before { idle + 1 } else { 0 };
        }
        let balance = self.buffer.balance(self.now);
        assert_eq!(balance.waiting, 0, "{balance:?}");
        assert!(balance.holds(), "{balance:?}");
        self.is_at_rest();
        let lost: BTreeSet<u64> = self
            .known
            .iter()
            .filter(|(_, known)| known.held && !known.arrived)
            .map(|(seq, _)| *seq)
            .collect();
        let shed = self.shed + balance.shed;
        assert!(
            lost.len() as u64 <= shed,
            "{} were held and never arrived, {shed} were shed: {lost:?}",
            lost.len()
        );
        // All is done, so nothing is left but marks.
        self.buffer.close_backlog();
        while self.turn() != Next::Ended {}
        let left: Vec<_> =
            self.files.list().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(super) fn policy(max_size: usize, fsync: Fsync) -> BufferPolicy {
    BufferPolicy { max_events: usize::MAX, max_size, when_full: WhenFull::ShedTokens, disk: Some(fsync) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 20_000 }))]

    /// With room for everything, what was held is never lost.
    #[test]
    fn what_is_held_arrives_whatever_happens(actions in proptest::collection::vec(action(), 1..60)) {
        let mut model = Model::new(policy(64 << 20, Fsync::Group));
        actions.into_iter().for_each(|action| model.act(action));
        prop_assert_eq!(model.shed + model.buffer.balance(model.now).shed, 0);
        model.end();
    }

    /// With too little room, what is lost is counted.
    #[test]
    fn what_is_shed_is_counted(
        actions in proptest::collection::vec(action(), 1..60),
        max_size in (64_usize << 10)..(1 << 20),
    ) {
        let mut model = Model::new(policy(max_size, Fsync::Group));
        actions.into_iter().for_each(|action| model.act(action));
        model.end();
    }

    /// Without syncs a kill costs nothing that was held; only a loss of power does.
    #[test]
    fn without_syncs_a_kill_costs_nothing(actions in proptest::collection::vec(action(), 1..60)) {
        let mut model = Model::new(policy(64 << 20, Fsync::Never));
        let kills = |action: &Action| !matches!(action, Action::LosePower(_));
        actions.into_iter().filter(kills).for_each(|action| model.act(action));
        model.end();
    }
}
