//! The buffer under random actions, held against a simple account of every event by its number.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Map;

use super::super::policy::WhenFull;
use super::*;
use crate::event::{Class, Event, Origin, Step};

#[derive(Debug, Clone)]
enum Action {
    Push(Vec<(Class, usize)>),
    Offer(Class, usize),
    Alert,
    IngressGap,
    Lease(usize),
    /// For each event of the lease: 0 leaves it open, 1 is delivered, 2 is tried again.
    Complete(Vec<u8>),
    DeadLetter(usize),
    /// What was not sent.
    Release(Vec<bool>),
    Revoke(bool),
    Open(bool),
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![6 => Just(Class::Token), 3 => Just(Class::Lifecycle), 1 => Just(Class::Audit)]
}

fn action() -> impl Strategy<Value = Action> {
    let event = || (class(), prop_oneof![9 => 0_usize..200, 1 => 200_usize..4000]);
    prop_oneof![
        8 => proptest::collection::vec(event(), 1..6).prop_map(Action::Push),
        1 => event().prop_map(|(class, size)| Action::Offer(class, size)),
        1 => Just(Action::Alert),
        1 => Just(Action::IngressGap),
        3 => (1_usize..6).prop_map(Action::Lease),
        3 => proptest::collection::vec(0_u8..3, 6).prop_map(Action::Complete),
        1 => (0_usize..6).prop_map(Action::DeadLetter),
        2 => proptest::collection::vec(any::<bool>(), 0..20).prop_map(Action::Release),
        1 => any::<bool>().prop_map(Action::Revoke),
        1 => any::<bool>().prop_map(Action::Open),
    ]
}

fn policy() -> impl Strategy<Value = (BufferPolicy, OnOpen)> {
    let when_full = prop_oneof![3 => Just(WhenFull::ShedTokens), 1 => Just(WhenFull::DropNewest)];
    let on_open = prop_oneof![3 => Just(OnOpen::Buffer), 1 => Just(OnOpen::Drop)];
    (1_usize..40, 1_000_usize..20_000, when_full, on_open).prop_map(
        |(max_events, max_size, when_full, on_open)| {
            (BufferPolicy { max_events, max_size, when_full, disk: None }, on_open)
        },
    )
}

/// What is known of one event.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Known {
    attempts: u32,
    crashes: u32,
}

struct Model {
    buffer: Arc<Buffer>,
    step: Step,
    now: Instant,
    seq: u64,
    /// Pushed and, as far as the model knows, neither delivered nor dead-lettered nor shed.
    waiting: BTreeMap<u64, (Class, Known)>,
    delivered: BTreeSet<u64>,
    dead_lettered: u64,
    shed: u64,
    /// Events that markers which were delivered have told of, and that the ingress lost.
    reported: u64,
    lost_before: u64,
    lease: Option<(Lease, Vec<bool>)>,
    stale: Option<Lease>,
}

impl Model {
    fn new(policy: BufferPolicy, on_open: OnOpen) -> Model {
        Model {
            buffer: Buffer::new("model".into(), policy, on_open, Arc::default()),
            step: Step::new("M"),
            now: Instant::now(),
            seq: 0,
            waiting: BTreeMap::new(),
            delivered: BTreeSet::new(),
            dead_lettered: 0,
            shed: 0,
            reported: 0,
            lost_before: 0,
            lease: None,
            stale: None,
        }
    }

    fn delivery(&mut self, class: Class, size: usize) -> Delivery {
        self.seq += 1;
        let mut event = Event::new(&self.step, "e").with("text", "x".repeat(size));
        event.set_class(class);
        event.set_origin(Origin { source: "s".into(), seq: self.seq });
        self.waiting.insert(self.seq, (class, Known::default()));
        Delivery::new(event, "k".into())
    }

    fn seq_of(delivery: &Delivery) -> Option<u64> {
        delivery.event.origin().map(|origin| origin.seq)
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Push(events) => {
                for (class, size) in events {
                    let delivery = self.delivery(class, size);
                    self.buffer.push([delivery], now);
                    self.notice_shed();
                }
            }
            Action::Offer(class, size) => {
                let delivery = self.delivery(class, size);
                if !self.buffer.offer(delivery, now) {
                    self.waiting.remove(&self.seq);
                }
            }
            Action::Alert => {
                let event = Event::system("sink_open", Map::new());
                self.buffer.notice(Delivery::new(event, "k".into()), now);
            }
            Action::IngressGap => {
                self.lost_before += 2;
                self.buffer.gap(&Gap::ingress(1, 1, self.seq), now);
            }
            Action::Lease(max) => self.lease(max, now),
            Action::Complete(marks) => self.complete(&marks, now),
            Action::DeadLetter(i) => self.dead_letter(i),
            Action::Release(unsent) => {
                let Some((lease, mut marked)) = self.lease.take() else { return };
                let unsent = |i: usize| unsent.get(i).copied().unwrap_or(false);
                let marks = |i| if unsent(i) { Mark::Unsent } else { Mark::Open };
                self.buffer.release(&lease, &(0..lease.items.len()).map(marks).collect::<Vec<_>>());
                marked.iter_mut().enumerate().for_each(|(i, marked)| *marked |= unsent(i));
                self.grow_older(&lease, &marked, 1, 0);
            }
            Action::Revoke(crashed) => {
                self.buffer.revoke(if crashed { Ending::Crash } else { Ending::Other });
                if let Some((lease, marked)) = self.lease.take() {
                    let alone = marked.iter().filter(|marked| !**marked).count() == 1;
                    self.grow_older(&lease, &marked, 1, u32::from(crashed && alone));
                    self.stale = Some(lease);
                }
            }
            Action::Open(open) => {
                self.buffer.set_state(if open { SinkState::Open } else { SinkState::Closed });
            }
        }
    }

    fn lease(&mut self, max: usize, now: Instant) {
        if let Some((old, _)) = self.lease.take() {
            self.buffer.release(&old, &[]);
        }
        let incarnation = self.buffer.incarnation();
        let leased = self.buffer.lease(incarnation, max, 8_000, now);
        if let Some(lease) = &leased {
            let seqs: Vec<u64> = lease.items.iter().filter_map(Model::seq_of).collect();
            let oldest: Vec<u64> = self.waiting.keys().copied().take(seqs.len()).collect();
            assert_eq!(seqs, oldest, "the oldest first, in order, none left out");
            for delivery in &lease.items {
                if let Some(seq) = Model::seq_of(delivery) {
                    assert_eq!(delivery.attempt, self.waiting[&seq].1.attempts + 1);
                }
            }
        }
        assert_eq!(leased.is_none(), self.buffer.is_empty());
        self.lease = leased.map(|lease| (vec![false; lease.items.len()], lease)).map(|(m, l)| (l, m));
    }

    fn complete(&mut self, marks: &[u8], now: Instant) {
        let Some((lease, marked)) = &mut self.lease else { return };
        let mut arrived = 0;
        let mut given = Vec::new();
        for (i, delivery) in lease.items.iter().enumerate() {
            let mark = marks.get(i).copied().unwrap_or(0);
            given.push(match mark {
                1 => Mark::Delivered,
                2 => Mark::Retry,
                _ => Mark::Open,
            });
            if mark == 1 && !marked[i] {
                marked[i] = true;
                arrived += 1;
                match Model::seq_of(delivery) {
                    Some(seq) => {
                        assert!(self.waiting.remove(&seq).is_some());
                        assert!(self.delivered.insert(seq), "delivered twice");
                    }
                    None => self.reported += reported_by(delivery),
                }
            }
        }
        assert_eq!(self.buffer.complete(lease, &given, now), arrived);
    }

    fn dead_letter(&mut self, i: usize) {
        let Some((lease, marked)) = &mut self.lease else { return };
        if i < lease.items.len() {
            self.buffer.dead_letter(lease, i);
            if !std::mem::replace(&mut marked[i], true) {
                match Model::seq_of(&lease.items[i]) {
                    Some(seq) => {
                        self.waiting.remove(&seq);
                        self.dead_lettered += 1;
                    }
                    None => self.reported += reported_by(&lease.items[i]),
                }
            }
        }
    }

    fn grow_older(&mut self, lease: &Lease, marked: &[bool], attempts: u32, crashes: u32) {
        for (delivery, _) in lease.items.iter().zip(marked).filter(|(_, marked)| !**marked) {
            if let Some((_, known)) = Model::seq_of(delivery).and_then(|seq| self.waiting.get_mut(&seq)) {
                known.attempts += attempts;
                known.crashes += crashes;
            }
        }
    }

    fn idle_tokens(&self) -> usize {
        self.buffer.lock().counts.idle[Class::Token as usize]
    }

    /// What is not in the buffer any more was shed; by whose turn it was.
    fn notice_shed(&mut self) {
        let there: BTreeSet<u64> = {
            let queue = self.buffer.lock();
            let seq = |entry: &Entry| match &entry.item {
                Item::Event(delivery) => Model::seq_of(delivery),
                _ => None,
            };
            queue.window.entries.iter().filter_map(seq).collect()
        };
        let gone: Vec<(u64, Class)> = self
            .waiting
            .iter()
            .filter(|(seq, _)| !there.contains(seq))
            .map(|(seq, (class, _))| (*seq, *class))
            .collect();
        for (seq, _) in &gone {
            self.waiting.remove(seq);
            self.shed += 1;
        }
        let sheds_tokens_first =
            self.buffer.policy.when_full == WhenFull::ShedTokens && self.buffer.on_open != OnOpen::Drop;
        let small = self.buffer.policy.max_size >= 4_500;
        if sheds_tokens_first && small && gone.iter().any(|(_, class)| *class > Class::Token) {
            assert_eq!(self.idle_tokens(), 0, "dearer ones went before tokens");
        }
    }

    fn check(&self) {
        let balance = self.buffer.balance(self.now);
        assert!(balance.holds(), "{balance:?}");
        assert_eq!(balance.waiting, self.waiting.len() as u64);
        assert_eq!(balance.delivered, self.delivered.len() as u64);
        assert_eq!((balance.shed, balance.dead_lettered), (self.shed, self.dead_lettered));
        let queue = self.buffer.lock();
        let (mut events, mut bytes, mut idle, mut notices, mut reported) = (0, 0, [0; 3], 0, self.reported);
        let mut last_number = None;
        let mut after_gap = false;
        for (i, entry) in queue.window.entries.iter().enumerate() {
            assert!(last_number < Some(entry.number), "numbers rise");
            last_number = Some(entry.number);
            let is_gap = matches!(entry.item, Item::Gap(_));
            assert!(!(is_gap && after_gap), "two markers for one hole");
            after_gap = is_gap;
            match &entry.item {
                Item::Event(delivery) => {
                    events += 1;
                    bytes += entry.size as usize;
                    if i >= queue.window.leased {
                        idle[delivery.event.class() as usize] += 1;
                    }
                }
                Item::Notice(delivery) => {
                    notices += 1;
                    reported += reported_by(delivery);
                }
                Item::Gap(gap) => {
                    assert!(i >= queue.window.leased);
                    reported += reported_by(&gap.delivery("model"));
                }
                Item::Done => {
                    assert!(i > 0 && i < queue.window.leased, "a tombstone at {i} of {}", queue.window.leased)
                }
            }
        }
        assert_eq!(
            (events, bytes, idle, notices),
            (queue.counts.events, queue.counts.bytes, queue.counts.idle, queue.counts.notices)
        );
        assert_eq!(reported, self.shed + self.lost_before, "markers tell of every event that is missing");
        let policy = &self.buffer.policy;
        assert!(events <= policy.max_events.max(1), "{events} events");
        assert!(bytes <= policy.max_size || events == 1, "{bytes} bytes");
        let crashes = queue.window.entries.front().map(|entry| entry.crashes);
        if let Some(Entry { item: Item::Event(delivery), .. }) = queue.window.entries.front()
            && let Some(seq) = Model::seq_of(delivery)
        {
            assert_eq!(crashes, Some(self.waiting[&seq].1.crashes));
        }
    }
}

fn reported_by(marker: &Delivery) -> u64 {
    marker.event.data("count").and_then(|count| count.as_u64()).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn it_agrees_with_a_simple_account_of_every_event(
        (policy, on_open) in policy(),
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut model = Model::new(policy, on_open);
        for action in actions {
            model.act(action);
            model.check();
            if let Some(stale) = &model.stale {
                let before = model.buffer.balance(model.now);
                model.buffer.complete(stale, &vec![Mark::Delivered; stale.items.len()], model.now);
                model.buffer.dead_letter(stale, 0);
                model.buffer.release(stale, &vec![Mark::Open; stale.items.len()]);
                prop_assert_eq!(before, model.buffer.balance(model.now), "a stale lease changed something");
            }
        }
    }
}

#[test]
fn a_flush_is_done_when_what_it_waited_for_was_shed_meanwhile() {
    let policy = BufferPolicy { max_events: 16, ..BufferPolicy::default() };
    let mut model = Model::new(policy, OnOpen::Buffer);
    model.act(Action::Push(vec![(Class::Token, 1); 15]));
    let tail = model.buffer.tail();
    model.act(Action::Push(vec![(Class::Lifecycle, 1); 16]));
    assert!(model.shed >= 15);
    while !model.buffer.has_passed(tail) {
        assert!(!model.buffer.is_empty());
        model.act(Action::Lease(1));
        model.act(Action::Complete(vec![1]));
    }
    assert_eq!(model.buffer.balance(model.now).waiting, 16, "only the marker had to go");
}

#[test]
fn a_buffer_that_nobody_empties_holds_no_more_markers_than_events() {
    let mut model = Model::new(BufferPolicy { max_events: 4, ..BufferPolicy::default() }, OnOpen::Buffer);
    for _ in 0..10_000 {
        model.act(Action::IngressGap);
        model.act(Action::Push(vec![(Class::Lifecycle, 1)]));
        model.act(Action::Alert);
    }
    model.check();
    let entries = model.buffer.lock().window.entries.len();
    assert!(entries <= 2 * (4 + MAX_NOTICES) + 1, "{entries} entries");
}
