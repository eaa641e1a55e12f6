//! A line of processors on its own thread. The events that it works on outlive that thread.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::hand::{Call, Hand, Method, Pulse};
use super::stage::lost;
use super::watch::{Record, Silence, Watched, named};
use super::{OnFailed, Output, ProcessorFactory, ProcessorStatus, Stage};
use crate::event::{Confirmation, Event};
use crate::ingress::Tally;
use crate::supervise::{Exit, Observer};

/// Where a line takes events from, and where it puts the results.
pub(crate) trait Source: Send + Sync + 'static {
    /// What the events belong to while they are processed.
    type Work: Send + 'static;

    /// Returns the next events, if there are some and there is room for the results.
    fn take(&self) -> Option<Taken<Self::Work>>;

    /// Waits until [`take`](Self::take) may return something.
    fn ready(&self) -> impl Future<Output = ()>;

    /// Whether there is room for the results of a timer.
    fn has_room(&self) -> bool;

    /// Sends on the results of some work, or of a timer. Never waits.
    fn hand_on(&self, work: Option<Self::Work>, events: Vec<Event>, tally: Tally);
}

/// Some events to process.
pub(crate) struct Taken<W> {
    pub(crate) work: W,
    pub(crate) events: Vec<Event>,
    /// No events follow: the processors finish.
    pub(crate) last: bool,
}

/// One line of processors, over all incarnations of the actor that works on it.
///
/// Every event that a processor is given stays here, at its stage of the line, until the results are here as well. So
/// if a call never returns, its thread can be left alone: the event goes to the dead letters, and a fresh line
/// continues with the rest. Later results of the stuck thread come from an earlier incarnation, and are ignored.
pub(crate) struct Line<S: Source> {
    sink: Option<Arc<str>>,
    parts: Vec<(ProcessorFactory, OnFailed)>,
    pub(super) source: S,
    state: Mutex<State<S::Work>>,
}

struct State<W> {
    incarnation: u64,
    pulse: Arc<Pulse>,
    hand: Option<Hand<W>>,
    call: Option<Call>,
    /// Numbers the calls.
    calls: u64,
    /// How long the current call has not moved.
    silence: Silence,
    /// How many events each processor holds, after the inputs that are done.
    held: Vec<u64>,
    records: Vec<Record>,
    /// Incarnations whose threads are stuck in a processor, and in which one.
    stuck: Vec<(u64, usize)>,
}

/// Another incarnation has taken over.
#[derive(Debug)]
pub(super) struct Superseded;

/// What to do next with the current events.
pub(super) enum Turn {
    Process { stage: usize, inputs: Arc<Vec<Event>>, next: usize, pulse: Arc<Pulse> },
    Finish { stage: usize },
    Through { last: bool },
}

impl<S: Source> Line<S> {
    pub(crate) fn new(
        sink: Option<Arc<str>>,
        processors: impl IntoIterator<Item = (Arc<str>, ProcessorFactory, OnFailed)>,
        source: S,
    ) -> Arc<Line<S>> {
        let named = processors.into_iter().map(|(name, make, on_failed)| (name, (make, on_failed)));
        let (names, parts): (Vec<_>, Vec<_>) = named.unzip();
        let state = State {
            incarnation: 0,
            pulse: Arc::default(),
            hand: None,
            call: None,
            calls: 0,
            silence: Silence::default(),
            held: vec![0; names.len()],
            records: names.into_iter().map(Record::new).collect(),
            stuck: Vec::new(),
        };
        Arc::new(Line { sink, parts, source, state: Mutex::new(state) })
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// Reads while no result is sent on.
    pub(crate) fn still<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        let _state = self.lock();
        read(&self.source)
    }

    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Makes the processor of a stage, or its replacement.
    pub(super) fn make(&self, incarnation: u64, stage: usize) -> Result<Option<Stage>, Superseded> {
        let (name, refuses) = {
            let mut state = self.current(incarnation)?;
            let Some(record) = state.records.get(stage) else { return Ok(None) };
            let made = (record.name().clone(), record.refuses());
            state.begin(stage, Method::Make);
            made
        };
        let made = match (refuses, self.parts.get(stage)) {
            (None, Some((factory, _))) => Some(Stage::make(name, factory)),
            (Some(why), _) => Some(Stage::refusing(name, why)),
            (None, None) => None,
        };
        self.end(incarnation)?;
        Ok(made)
    }

    /// Begins a call that takes and gives no events.
    pub(super) fn begin(&self, incarnation: u64, stage: usize, method: Method) -> Result<(), Superseded> {
        self.current(incarnation)?.begin(stage, method);
        Ok(())
    }

    pub(super) fn end(&self, incarnation: u64) -> Result<(), Superseded> {
        self.current(incarnation)?.call = None;
        Ok(())
    }

    /// Takes the next events. Returns `false` if there are none.
    pub(super) fn take(&self, incarnation: u64) -> Result<bool, Superseded> {
        let mut state = self.current(incarnation)?;
        if state.hand.is_none() {
            let Some(Taken { work, events, last }) = self.source.take() else { return Ok(false) };
            state.hand = Some(Hand::new(Some(work), 0, events, Tally::default(), last));
        }
        Ok(true)
    }

    /// Returns what to do next with the current events, if there are any.
    pub(super) fn turn(&self, incarnation: u64) -> Result<Option<Turn>, Superseded> {
        let mut state = self.current(incarnation)?;
        loop {
            let Some(hand) = &mut state.hand else { return Ok(None) };
            let stage = hand.stage;
            if stage >= self.len() {
                let last = hand.last;
                if let Some(hand) = state.hand.take() {
                    let events = Arc::try_unwrap(hand.inputs).unwrap_or_else(|inputs| (*inputs).clone());
                    self.source.hand_on(hand.work, events, hand.tally);
                }
                return Ok(Some(Turn::Through { last }));
            }
            if hand.next < hand.inputs.len() {
                let (inputs, next) = (hand.inputs.clone(), hand.next);
                let pulse = state.pulse.clone();
                pulse.at.store(next, Ordering::Relaxed);
                state.begin(stage, Method::Process);
                return Ok(Some(Turn::Process { stage, inputs, next, pulse }));
            }
            if hand.last && !hand.finished {
                hand.finished = true;
                state.begin(stage, Method::Finish);
                return Ok(Some(Turn::Finish { stage }));
            }
            hand.stage += 1;
            hand.inputs = Arc::new(std::mem::take(&mut hand.done));
            (hand.next, hand.finished) = (0, false);
        }
    }

    /// Gives the inputs to the processor, from `next` on.
    pub(super) fn process(
        &self,
        incarnation: u64,
        place: usize,
        stage: &mut Stage,
        inputs: &[Event],
        next: usize,
        pulse: &Pulse,
    ) -> Result<(), Superseded> {
        let mut out = Output { events: Vec::with_capacity(inputs.len() - next), ..Output::default() };
        let mut tally = Tally::default();
        for (at, event) in inputs.iter().enumerate().skip(next) {
            pulse.at.store(at, Ordering::Relaxed);
            match stage.process(event, &mut out, &mut tally) {
                Ok(()) if pulse.wanted.load(Ordering::Relaxed) => {
                    self.came_of(incarnation, stage, &mut out.events, &mut tally, at + 1)?;
                }
                Ok(()) => {}
                Err(why) => {
                    // Before its dead letter is written, so that it is written once.
                    self.came_of(incarnation, stage, &mut out.events, &mut tally, at + 1)?;
                    self.failed(place, event, &why);
                }
            }
        }
        self.came_of(incarnation, stage, &mut out.events, &mut tally, inputs.len())
    }

    /// The inputs before `next` are done. These are their results.
    fn came_of(
        &self,
        incarnation: u64,
        stage: &Stage,
        events: &mut Vec<Event>,
        tally: &mut Tally,
        next: usize,
    ) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        state.pulse.wanted.store(false, Ordering::Relaxed);
        let State { hand: Some(hand), held, .. } = &mut *state else { return Ok(()) };
        if hand.done.is_empty() {
            std::mem::swap(&mut hand.done, events);
        } else {
            hand.done.append(events);
        }
        hand.tally.add(&std::mem::take(tally));
        hand.next = next;
        if let Some(held) = held.get_mut(hand.stage) {
            *held = stage.held();
        }
        if next >= hand.inputs.len() {
            state.call = None;
        }
        Ok(())
    }

    /// These are the results of the timer of a stage, or of its end.
    pub(super) fn came_aside(
        &self,
        incarnation: u64,
        place: usize,
        stage: &Stage,
        events: Vec<Event>,
        tally: Tally,
    ) -> Result<(), Superseded> {
        let mut state = self.current(incarnation)?;
        state.call = None;
        if let Some(held) = state.held.get_mut(place) {
            *held = stage.held();
        }
        match &mut state.hand {
            Some(hand) => {
                hand.done.extend(events);
                hand.tally.add(&tally);
            }
            None if events.is_empty() && tally == Tally::default() => {}
            hand => *hand = Some(Hand::new(None, place + 1, events, tally, false)),
        }
        Ok(())
    }

    /// An incarnation has ended, and with it the thread that was stuck in it, if there was one.
    pub(super) fn gone(&self, incarnation: u64) {
        self.lock().stuck.retain(|(stuck, _)| *stuck != incarnation);
    }

    fn failed(&self, stage: usize, event: &Event, why: &str) {
        if let Some(receipt) = event.receipt() {
            receipt.answer(Confirmation::Lost);
        }
        if let Some((_, on_failed)) = self.parts.get(stage) {
            on_failed(event, why);
        }
    }

    /// Ignores everything that the current incarnation brings from now on. The events that its processors held are
    /// lost.
    fn disown(&self, state: &mut State<S::Work>) {
        state.incarnation += 1;
        std::mem::take(&mut state.pulse).wanted.store(true, Ordering::Relaxed);
        state.call = None;
        state.silence = Silence::default();
        let mut tally = Tally::default();
        for (held, record) in state.held.iter_mut().zip(&state.records) {
            lost(record.name(), std::mem::take(held), &mut tally);
        }
        match &mut state.hand {
            Some(hand) => hand.tally.add(&tally),
            None if tally != Tally::default() => self.source.hand_on(None, Vec::new(), tally),
            None => {}
        }
    }

    fn current(&self, incarnation: u64) -> Result<MutexGuard<'_, State<S::Work>>, Superseded> {
        let state = self.lock();
        if state.incarnation == incarnation { Ok(state) } else { Err(Superseded) }
    }

    fn lock(&self) -> MutexGuard<'_, State<S::Work>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A current call, how long it has not moved, and its event with its position.
struct Silent {
    call: Call,
    silence: Duration,
    at: usize,
    event: Option<Event>,
}

impl<W> State<W> {
    fn begin(&mut self, stage: usize, method: Method) {
        self.calls += 1;
        self.call = Some(Call { stage, method });
    }

    fn silent(&mut self, now: Instant) -> Option<Silent> {
        let call = self.call?;
        let at = if call.method == Method::Process { self.pulse.at.load(Ordering::Relaxed) } else { 0 };
        let silence = self.silence.look((self.calls, at), now);
        let event = self.hand.as_ref().filter(|_| call.method == Method::Process);
        let event = event.and_then(|hand| hand.inputs.get(at)).cloned();
        Some(Silent { call, silence, at, event })
    }
}

impl<S: Source> Watched for Line<S> {
    fn condemn(&self, patience: Duration, now: Instant) -> bool {
        let mut letter = None;
        {
            let mut state = self.lock();
            let Some(Silent { call, silence, at, event }) = state.silent(now) else { return false };
            if silence <= patience {
                if silence.is_zero() {
                    state.pulse.wanted.store(true, Ordering::Relaxed);
                }
                return false;
            }
            let incarnation = state.incarnation;
            state.stuck.push((incarnation, call.stage));
            let stuck = state.stuck.iter().filter(|(_, stage)| *stage == call.stage).count();
            let about = event.as_ref().map(named);
            let Some(record) = state.records.get_mut(call.stage) else { return false };
            let why = record.hung(call.method.as_str(), about, silence, stuck, now);
            if let (Some(event), Some(hand)) = (event, &mut state.hand) {
                hand.take_out(at);
                letter = Some((call.stage, event, why));
            }
            self.disown(&mut state);
        }
        if let Some((stage, event, why)) = letter {
            self.failed(stage, &event, &why);
        }
        true
    }

    fn troubles(&self, now: Instant) -> Vec<ProcessorStatus> {
        let mut state = self.lock();
        let busy = state.silent(now);
        let status = |(stage, record): (usize, &Record)| {
            let busy = busy.as_ref().filter(|silent| silent.call.stage == stage);
            let busy = busy.map(|silent| (silent.silence, silent.event.as_ref().map(named)));
            record.status(self.sink.as_ref(), busy)
        };
        state.records.iter().enumerate().filter_map(status).collect()
    }

    fn close(&self) {
        let mut letter = None;
        {
            let mut state = self.lock();
            let under_way = state.silent(Instant::now());
            // What has just begun did not hang.
            if let Some(Silent { call, silence, event, .. }) = under_way.filter(|it| !it.silence.is_zero()) {
                let about = event.as_ref().map(named);
                let stuck = state.stuck.len();
                let record = state.records.get_mut(call.stage);
                let why = record
                    .map(|record| record.hung(call.method.as_str(), about, silence, stuck, Instant::now()));
                letter = event.zip(why).map(|(event, why)| (call.stage, event, why));
            }
            self.disown(&mut state);
            if let Some(mut hand) = state.hand.take() {
                let left = hand.inputs.iter().skip(hand.next).chain(&hand.done);
                for event in left.filter(|event| !event.is_system()) {
                    hand.tally.failed += 1;
                    if let Some(receipt) = event.receipt() {
                        receipt.answer(Confirmation::Lost);
                    }
                }
                self.source.hand_on(hand.work, Vec::new(), hand.tally);
            }
        }
        if let Some((stage, event, why)) = letter {
            self.failed(stage, &event, &why);
        }
    }
}

impl<S: Source> Observer for Line<S> {
    fn ended(&self, exit: &Exit) {
        if *exit != Exit::Stopped {
            self.disown(&mut self.lock());
        }
    }

    /// What hangs has a budget of its own.
    fn progressed(&self) -> bool {
        true
    }

    fn restarting(&self) {}

    fn gave_up(&self, _: &Exit) {}
}
