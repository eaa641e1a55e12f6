//! The enricher adds what the emitter does not know: tags of the topology, missing durations, and ids that a run gave
//! at its start.

mod actor;

pub(crate) use actor::EnricherActor;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::event::{Class, Context, Event, MACHINE, Stamp, Statics, Step, Timestamp, View};

/// How many open steps and runs are remembered: at least this many, at most twice as many.
const REMEMBERED: usize = 10_000;

/// Finds the class of events whose topic the router has not rendered yet. The routes implement it.
pub(crate) trait Classes: fmt::Debug {
    /// Returns the class that the topology gives this event, if it gives one.
    fn class_of(&self, event: &Event) -> Option<Class>;
}

/// Enriches events one by one. It remembers a limited number of open steps and runs.
#[derive(Debug)]
pub(crate) struct Enricher {
    /// The tags that each event gets. The router adds the topic.
    stamp: Arc<Stamp>,
    /// When each open step began.
    opened: Recent<Timestamp>,
    /// The ids and tags that other processes gave at the start of a run.
    runs: Recent<Context>,
    /// The last step of another process, before and after the change. A run of tokens shares one step.
    last: Option<(Step, Step)>,
    /// Set if processors need the class of an event before the router has seen it.
    classes: Option<Arc<dyn Classes>>,
}

impl Enricher {
    pub(crate) fn new(statics: Arc<Statics>, classes: Option<Arc<dyn Classes>>) -> Enricher {
        let stamp = Arc::new(Stamp { statics, topic: None });
        Enricher { stamp, opened: Recent::default(), runs: Recent::default(), last: None, classes }
    }

    pub(crate) fn enrich(&mut self, event: &mut Event) {
        if event.is_system() {
            return event.set_statics(&self.stamp.statics);
        }
        event.set_stamp(&self.stamp);
        if event.module_name().eq_ignore_ascii_case(MACHINE) {
            // Nobody else's event can be taken for a gap marker or an alert: their topics are the machine's own.
            let step = event.step().clone().module(format!("{MACHINE}_"));
            event.set_step(step);
        }
        if event.is_foreign() {
            self.remember_run(event);
        }
        if event.kind().opens() {
            self.opened.put(event.step().parts().span_id.clone(), event.timestamp());
        } else if event.kind().closes()
            && let Some(began) = self.opened.take(&event.step().parts().span_id)
            && event.look("duration").is_none()
        {
            event.set_data("duration", event.timestamp().since(began).as_secs_f64());
        }
        if let Some(class) = self.classes.as_ref().and_then(|classes| classes.class_of(event)) {
            event.set_class(class);
        }
    }

    /// A sender of JSON gives `conversation_id` (and any other key that ends in `_id`) and tags once, at the start of a
    /// run.
    fn remember_run(&mut self, event: &mut Event) {
        let parts = event.step().parts();
        if event.kind().opens() {
            let ids = event.body().members().filter(|(key, value)| {
                key.ends_with("_id") && matches!(value.view(), View::Text(_) | View::Number(_))
            });
            let said = ids.fold(parts.context.clone(), |said, (key, id)| said.with_datum(&key, id));
            if !said.is_empty() {
                let known = self.runs.get(&parts.execution_id).cloned().unwrap_or_default();
                self.runs.put(parts.execution_id.clone(), known.merged(&said));
                self.last = None;
            }
        }
        let step = event.step();
        if let Some((_, enriched)) = self.last.as_ref().filter(|(came, _)| came.same(step)) {
            let enriched = enriched.clone();
            return event.set_step(enriched);
        }
        let Some(known) = self.runs.get(&step.parts().execution_id) else { return };
        let mut parts = step.parts().clone();
        // The event's own words win over what was said at the start.
        parts.context = known.merged(&parts.context);
        let enriched = Step::from(parts);
        self.last = Some((step.clone(), enriched.clone()));
        event.set_step(enriched);
    }
}

/// A map that forgets its older half when it is full.
#[derive(Debug)]
struct Recent<V> {
    young: HashMap<Arc<str>, V>,
    old: HashMap<Arc<str>, V>,
}

impl<V> Default for Recent<V> {
    fn default() -> Recent<V> {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<V> Recent<V> {
    fn put(&mut self, key: Arc<str>, value: V) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn get(&self, key: &str) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn take(&mut self, key: &str) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Decoder;

    fn enricher() -> Enricher {
        let tags = [("service".into(), "rag-api".into())];
        Enricher::new(Arc::new(Statics::new("rag-api", "test", tags)), None)
    }

    fn json(event: &Event) -> serde_json::Value {
        serde_json::from_slice(event.json()).unwrap()
    }

    #[test]
    fn an_end_without_a_duration_gets_the_time_since_its_start() {
        let (mut enricher, step) = (enricher(), Step::new("M"));
        let mut start = Event::new(&step, "start").at(Timestamp::from_micros(1_000_000));
        let mut end = Event::new(&step, "end").at(Timestamp::from_micros(3_500_000));
        enricher.enrich(&mut start);
        enricher.enrich(&mut end);
        assert_eq!(json(&end)["data"]["duration"], 2.5);
        let mut given = Event::new(&step, "end").with("duration", 9.0);
        enricher.enrich(&mut start);
        enricher.enrich(&mut given);
        assert_eq!(json(&given)["data"]["duration"], 9.0);
    }

    #[test]
    fn a_conversation_id_given_once_reaches_every_later_event_of_its_run_and_no_other() {
        let (mut enricher, mut decoder) = (enricher(), Decoder::default());
        let mut seen = Vec::new();
        for line in [
            r#"{"event_type":"start","execution_id":"a","span_id":"1","data":{"conversation_id":"c1","question":"?"}}"#,
            r#"{"event_type":"start","execution_id":"b","span_id":"2","data":{"conversation_id":"c2"}}"#,
            r#"{"event_type":"token","execution_id":"a","span_id":"1","data":{"field":"f","token":"t","token_index":0}}"#,
            r#"{"event_type":"end","execution_id":"b","span_id":"3","data":{"conversation_id":"own"}}"#,
            r#"{"event_type":"end","execution_id":"c","span_id":"4"}"#,
        ] {
            let mut event = decoder.decode(line.as_bytes()).unwrap();
            enricher.enrich(&mut event);
            assert_eq!(json(&event)["tags"]["service"], "rag-api");
            seen.push(json(&event)["data"]["conversation_id"].as_str().map(str::to_owned));
        }
        let expected = [Some("c1"), Some("c2"), Some("c1"), Some("own"), None];
        assert_eq!(seen, expected.map(|id| id.map(str::to_owned)));
    }

    #[test]
    fn nobody_elses_event_bears_the_name_of_the_machine() {
        for name in ["streamll", "StreamLL", "STREAMLL"] {
            let mut forged = Event::new(&Step::new(name), "gap");
            enricher().enrich(&mut forged);
            assert_eq!(forged.module_name(), "streamll_");
        }
        let mut own = Event::system("gap", serde_json::Map::new());
        enricher().enrich(&mut own);
        assert_eq!(own.module_name(), "streamll");
    }

    #[test]
    fn memory_of_open_steps_is_bounded() {
        let mut enricher = enricher();
        for _ in 0..3 * REMEMBERED {
            enricher.enrich(&mut Event::new(&Step::new("M"), "start"));
        }
        assert!(enricher.opened.young.len() + enricher.opened.old.len() <= 2 * REMEMBERED);
    }
}
