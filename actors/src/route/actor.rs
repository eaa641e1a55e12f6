//! The end of the spine: names every event, and puts it into the buffers of the sinks that want it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, SpawnHandle};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Named, Route, Table, Taps};
use crate::event::{Class, Delivery, Event, Gap, Kind, Stamp, Step};
use crate::ingress::{Batch, Ingress, Tally};
use crate::process::Stage;
use crate::supervise::{DeathWatch, Exit};

/// How many steps the router knows the way of by heart.
const MEMO: usize = 256;
/// How many names it keeps beyond that; beyond this it starts afresh.
const NAMES: usize = 4096;

/// What the router shares with the rest of the graph.
#[derive(Clone)]
pub(crate) struct RouterParts {
    pub(crate) table: Arc<Table>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) seq: Arc<AtomicU64>,
    /// Told when the last batch is in the buffers.
    pub(crate) dry: Arc<Notify>,
}

pub(crate) struct RouterActor {
    parts: RouterParts,
    watch: DeathWatch,
    /// The table's routes as of the last look, each with its processors at work.
    seen: Arc<Vec<Arc<Route>>>,
    live: Vec<Live>,
    memo: Vec<Option<(Step, Kind, Arc<Way>)>>,
    names: HashMap<String, Arc<Way>>,
    name: String,
}

/// A route with its processors at work, and the batch that gathers for its buffer.
struct Live {
    route: Arc<Route>,
    stages: Vec<Stage>,
    timers: Vec<SpawnHandle>,
    gathered: Vec<Delivery>,
}

/// What all events of one name have in common.
struct Way {
    stamp: Arc<Stamp>,
    class: Option<Class>,
    /// Places in `live`, and the name of the event there.
    to: Vec<(usize, Name)>,
}

/// What names an event at a broker.
enum Name {
    /// Its topic.
    Topic,
    /// One key for all events of the way.
    Key(Arc<str>),
    /// A key of its own.
    Own,
}

impl RouterActor {
    pub(crate) fn new(parts: RouterParts, watch: DeathWatch) -> RouterActor {
        RouterActor {
            parts,
            watch,
            seen: Arc::default(),
            live: Vec::new(),
            memo: Vec::new(),
            names: HashMap::new(),
            name: String::new(),
        }
    }

    /// Takes in the routes that came, and lets go of those that went: what their processors held goes to their buffer.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let routes = self.parts.table.routes.load_full();
        if Arc::ptr_eq(&routes, &self.seen) && !self.memo.is_empty() {
            return;
        }
        let mut old = std::mem::take(&mut self.live);
        for route in routes.iter() {
            let kept = old.iter().position(|live| Arc::ptr_eq(&live.route, route));
            self.live.push(match kept {
                Some(place) => old.remove(place),
                None => Live::new(route.clone(), ctx),
            });
        }
        for mut gone in old {
            gone.timers.drain(..).for_each(|timer| {
                ctx.cancel_future(timer);
            });
            gone.finish(&self.parts);
            gone.push(Instant::now());
        }
        self.seen = routes;
        self.names.clear();
        self.memo = std::iter::repeat_with(|| None).take(MEMO).collect();
    }

    fn route(&mut self, mut event: Event, tally: &mut Tally) -> Option<(Event, usize)> {
        if event.is_system() {
            self.notice(&event);
            return None;
        }
        let way = self.way(&event);
        if let Some(class) = way.class {
            event.set_class(class);
        }
        event.set_stamp(&way.stamp);
        if event.seq().is_none() {
            // A processor made it.
            event.set_seq(self.parts.seq.fetch_add(1, Ordering::Relaxed));
        }
        if !self.parts.taps.is_empty() {
            self.parts.taps.offer(&event);
        }
        if way.to.is_empty() {
            tally.unrouted += 1;
            return None;
        }
        tally.routed += 1;
        for (place, key) in &way.to {
            if let Some(live) = self.live.get_mut(*place) {
                live.take(&event, key, &self.parts);
            }
        }
        let targets = way.to.len();
        event.receipt().is_some().then_some((event, targets))
    }

    /// A gap that the ingress left concerns whatever sink would have taken events.
    fn notice(&mut self, event: &Event) {
        let now = Instant::now();
        let Some(gap) = Gap::read(event) else { return };
        for live in self.live.iter_mut().filter(|live| live.route.topics.is_some()) {
            // In its place: behind what was gathered before it.
            live.push(now);
            live.route.buffer.gap(&gap, now);
        }
    }

    /// The way of an event, by its step where possible: all events of a step and type go the same way, unless a
    /// template asks for the event's own data.
    fn way(&mut self, event: &Event) -> Arc<Way> {
        let template = &self.parts.table.routing_key;
        if template.fields().any(|field| matches!(field, super::Field::Data(_))) {
            return Arc::new(self.find(event));
        }
        let place = event.step().address() % MEMO;
        if let Some(Some((step, kind, way))) = self.memo.get(place)
            && step.same(event.step())
            && kind == event.kind()
        {
            return way.clone();
        }
        let way = if template.is_static() { self.named(event) } else { Arc::new(self.find(event)) };
        if let Some(slot) = self.memo.get_mut(place) {
            *slot = Some((event.step().clone(), event.kind().clone(), way.clone()));
        }
        way
    }

    fn named(&mut self, event: &Event) -> Arc<Way> {
        let parts = event.step().parts();
        self.name.clear();
        let [operation, method] = [&parts.operation, &parts.method_name].map(|name| name.as_deref());
        for part in [Some(&*parts.module_name), Some(event.kind().as_str()), operation, method] {
            let part = part.unwrap_or_default();
            // With its length: a name may hold whatever could part it from the next.
            let _ = write!(self.name, "{}:", part.len());
            self.name.push_str(part);
        }
        if let Some(way) = self.names.get(&self.name) {
            return way.clone();
        }
        let way = Arc::new(self.find(event));
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(self.name.clone(), way.clone());
        way
    }

    fn find(&self, event: &Event) -> Way {
        let table = &self.parts.table;
        let topic = table.topic(event);
        let wanted = self.live.iter().enumerate().filter(|(_, live)| live.route.wants(&topic));
        let to = wanted.map(|(place, live)| {
            let name = match &live.route.routing_key {
                None => Name::Topic,
                Some(template) if template.is_static() => {
                    Name::Key(template.render(&Named(event, &table.statics)).into())
                }
                Some(_) => Name::Own,
            };
            (place, name)
        });
        let to = to.collect();
        let class = table.class(&topic);
        Way { stamp: Arc::new(Stamp { statics: table.statics.clone(), topic: Some(topic) }), class, to }
    }
}

impl Live {
    fn new(route: Arc<Route>, ctx: &mut Context<RouterActor>) -> Live {
        let make = |(name, factory): &(Arc<str>, crate::process::ProcessorFactory)| {
            Stage::make(name.clone(), factory, route.on_failed.clone())
        };
        let stages: Vec<Stage> = route.processors.iter().map(make).collect();
        let timers = stages.iter().enumerate().filter_map(|(place, stage)| Some((place, stage.interval()?)));
        let timers = timers.map(|(place, interval)| {
            let name = route.name.clone();
            ctx.run_interval(interval, move |router, _| {
                let parts = router.parts.clone();
                if let Some(live) = router.live.iter_mut().find(|live| live.route.name == name) {
                    live.tick(place, &parts);
                    live.push(Instant::now());
                }
            })
        });
        let timers = timers.collect();
        Live { route, stages, timers, gathered: Vec::new() }
    }

    /// Puts a copy through the processors, and gathers what is left of it.
    fn take(&mut self, event: &Event, name: &Name, parts: &RouterParts) {
        let named = |live: &Live, event: Event| match name {
            Name::Topic => Delivery::by_topic(event),
            Name::Key(key) => Delivery::new(event, key.clone()),
            Name::Own => live.named(event, parts),
        };
        if self.stages.is_empty() {
            let delivery = named(self, event.clone());
            return self.gathered.push(delivery);
        }
        let mut tally = Tally::default();
        let events = self.through(0, vec![event.clone()], &mut tally);
        self.book(&tally);
        for out in events {
            // An unchanged event keeps its encoding and its key; a changed one is named again.
            let delivery = if out.same(event) { named(self, out) } else { self.named(out, parts) };
            self.gathered.push(delivery);
        }
    }

    fn tick(&mut self, place: usize, parts: &RouterParts) {
        let mut tally = Tally::default();
        let events = self.stages.get_mut(place).map(|stage| stage.tick(&mut tally)).unwrap_or_default();
        self.rest(place, events, tally, parts);
    }

    fn finish(&mut self, parts: &RouterParts) {
        for place in 0..self.stages.len() {
            let mut tally = Tally::default();
            let events = self.stages.get_mut(place).map(|stage| stage.finish(&mut tally)).unwrap_or_default();
            self.rest(place, events, tally, parts);
        }
    }

    /// What one stage let go of by itself goes through those behind it.
    fn rest(&mut self, place: usize, events: Vec<Event>, mut tally: Tally, parts: &RouterParts) {
        let events = self.through(place + 1, events, &mut tally);
        self.book(&tally);
        for mut event in events {
            if event.topic().is_none() {
                let (statics, topic) = (parts.table.statics.clone(), Some(parts.table.topic(&event)));
                event.set_stamp(&Arc::new(Stamp { statics, topic }));
                event.set_seq(parts.seq.fetch_add(1, Ordering::Relaxed));
            }
            self.gathered.push(self.named(event, parts));
        }
    }

    fn through(&mut self, from: usize, mut events: Vec<Event>, tally: &mut Tally) -> Vec<Event> {
        for stage in self.stages.iter_mut().skip(from) {
            if events.is_empty() {
                break;
            }
            events = stage.run(events, tally);
        }
        events
    }

    fn book(&self, tally: &Tally) {
        if *tally != Tally::default() {
            self.route.cell.processed(|processed| {
                processed.filtered += tally.filtered;
                processed.merged += tally.merged;
                processed.created += tally.created;
                processed.failed += tally.failed;
            });
        }
    }

    fn named(&self, event: Event, parts: &RouterParts) -> Delivery {
        match &self.route.routing_key {
            None => Delivery::by_topic(event),
            Some(template) => {
                let key = template.render(&Named(&event, &parts.table.statics));
                Delivery::new(event, key.into())
            }
        }
    }

    fn push(&mut self, now: Instant) {
        if !self.gathered.is_empty() {
            self.route.buffer.push(self.gathered.drain(..), now);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut tally = Tally::default();
        self.stages.iter_mut().for_each(|stage| stage.abandon(&mut tally));
        self.book(&tally);
    }
}

impl Actor for RouterActor {
    type Context = Context<Self>;
}

impl Handler<Batch> for RouterActor {
    type Result = ();

    fn handle(&mut self, mut batch: Batch, ctx: &mut Context<Self>) {
        self.look(ctx);
        let mut receipts = Vec::new();
        let mut tally = std::mem::take(&mut batch.tally);
        for event in std::mem::take(&mut batch.events) {
            receipts.extend(self.route(event, &mut tally));
        }
        let last = batch.is_last();
        let now = Instant::now();
        for live in &mut self.live {
            if last {
                live.finish(&self.parts);
            }
            live.push(now);
        }
        // Those that were shed on their way in have been answered: the first answer counts.
        for (event, targets) in receipts {
            if let Some(receipt) = event.receipt() {
                receipt.routed(targets);
            }
        }
        batch.tally = tally;
        batch.close(&self.parts.ingress);
        if last {
            self.parts.taps.close();
            self.parts.dry.notify_one();
            self.watch.because(Exit::Stopped);
            ctx.stop();
        }
    }
}
