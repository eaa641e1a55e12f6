//! The end of the spine: gives every event its topic, and puts it into the buffers of the sinks that want it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::{Actor, ActorContext as _, Context, Handler};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Named, Route, Table, Taps};
use crate::event::{Class, Delivery, Event, Gap, Kind, Stamp, Step};
use crate::ingress::{Batch, Ingress, Tally};
use crate::supervise::{DeathWatch, Exit};

/// How many ways the router keeps by their step.
const MEMO: usize = 256;
/// How many ways it keeps by their name. Beyond this, it starts with an empty map again.
const NAMES: usize = 4096;

/// The values that the router shares with the rest of the graph.
#[derive(Clone)]
pub(crate) struct RouterParts {
    pub(crate) table: Arc<Table>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) seq: Arc<AtomicU64>,
    /// Notified when the last batch is in the buffers.
    pub(crate) dry: Arc<Notify>,
}

pub(crate) struct RouterActor {
    parts: RouterParts,
    watch: DeathWatch,
    /// The routes of the table at the last look.
    seen: Arc<Vec<Arc<Route>>>,
    live: Vec<Live>,
    memo: Vec<Option<(Step, Kind, Arc<Way>)>>,
    names: HashMap<String, Arc<Way>>,
    name: String,
}

/// A route, and the batch that is collected for its buffer.
struct Live {
    route: Arc<Route>,
    gathered: Vec<Delivery>,
}

/// The values that all events of one name have in common.
struct Way {
    stamp: Arc<Stamp>,
    class: Option<Class>,
    /// Positions in `live`, and the key of the event there.
    to: Vec<(usize, Name)>,
}

/// The key of an event at a broker.
enum Name {
    /// Its topic.
    Topic,
    /// One key for all events of the way.
    Key(Arc<str>),
    /// A different key for each event.
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

    /// Adds the new routes, and drops the routes that were removed.
    fn look(&mut self) {
        let routes = self.parts.table.routes.load_full();
        if Arc::ptr_eq(&routes, &self.seen) && !self.memo.is_empty() {
            return;
        }
        let live = |route: &Arc<Route>| Live { route: route.clone(), gathered: Vec::new() };
        self.live = routes.iter().map(live).collect();
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
                live.take(event.clone(), key, &self.parts);
            }
        }
        let targets = way.to.len();
        event.receipt().is_some().then_some((event, targets))
    }

    /// Gives a gap of the ingress to every sink that would have taken the missing events.
    fn notice(&mut self, event: &Event) {
        let now = Instant::now();
        let Some(gap) = Gap::read(event) else { return };
        for live in self.live.iter_mut().filter(|live| live.route.topics.is_some()) {
            // In its place: behind what was gathered before it.
            live.push(now);
            live.route.entry().gap(&gap, now);
        }
    }

    /// Returns the way of an event, by its step if possible: all events of a step and type go the same way, unless a
    /// template reads the event's own data.
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
    fn take(&mut self, event: Event, name: &Name, parts: &RouterParts) {
        let delivery = match (name, &self.route.routing_key) {
            (Name::Key(key), _) => Delivery::new(event, key.clone()),
            (Name::Own, Some(template)) => {
                let key = template.render(&Named(&event, &parts.table.statics));
                Delivery::new(event, key.into())
            }
            (Name::Topic, _) | (Name::Own, None) => Delivery::by_topic(event),
        };
        self.gathered.push(delivery);
    }

    fn push(&mut self, now: Instant) {
        if !self.gathered.is_empty() {
            self.route.entry().push(self.gathered.drain(..), now);
        }
    }
}

impl Actor for RouterActor {
    type Context = Context<Self>;
}

impl Handler<Batch> for RouterActor {
    type Result = ();

    fn handle(&mut self, mut batch: Batch, ctx: &mut Context<Self>) {
        self.look();
        let mut receipts = Vec::new();
        let mut tally = std::mem::take(&mut batch.tally);
        for event in std::mem::take(&mut batch.events) {
            receipts.extend(self.route(event, &mut tally));
        }
        let last = batch.is_last();
        let now = Instant::now();
        self.live.iter_mut().for_each(|live| live.push(now));
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
