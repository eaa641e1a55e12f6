//! Issues events, remembers which were accepted, and holds against that what arrived.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use streamll::{Emitted, Emitter, Event, context};

/// How many conversations each producer tells of, in turn.
const KEYS: u64 = 8;

/// An event that the topology has accepted.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: String,
    pub producer: usize,
    pub n: u64,
    /// It can never arrive, and must be found among the dead letters.
    pub poison: bool,
}

/// How an event differs from the others.
#[derive(Debug, Default)]
pub struct Odd {
    pub kind: Option<String>,
    pub text: Option<String>,
    /// It can never arrive.
    pub poison: bool,
}

impl Odd {
    /// One with this text, which is too long.
    pub fn too_long(text: String) -> Odd {
        Odd { text: Some(text), poison: true, ..Odd::default() }
    }

    /// One with a name of 300 bytes for its type, and in its key.
    pub fn long_name() -> Odd {
        Odd { kind: Some("k".repeat(300)), ..Odd::default() }
    }
}

/// One copy of an event as the broker has it.
#[derive(Debug, Clone)]
pub struct Copy {
    pub json: Vec<u8>,
    /// 1 without a mark.
    pub attempt: u32,
}

/// Producers that go on emitting, each event numbered, until they are stopped.
#[derive(Debug)]
pub struct Load {
    issued: Arc<Mutex<Vec<Issued>>>,
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Two producers that pause after each event; `odd` says of a number how its event differs from the others.
    pub fn start(emitter: &Emitter, pause: Duration, odd: fn(u64) -> Option<Odd>) -> Load {
        let (issued, stop) = (Arc::<Mutex<Vec<Issued>>>::default(), Arc::<AtomicBool>::default());
        let producer = |producer: usize| {
            let (emitter, issued, stop) = (emitter.clone(), issued.clone(), stop.clone());
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                let runtime = runtime.expect("a runtime");
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let odd = odd(n);
                    let poison = odd.as_ref().is_some_and(|odd| odd.poison);
                    let event = numbered(producer, n, odd);
                    let id = event.id().to_string();
                    assert_eq!(runtime.block_on(emitter.send(event)), Emitted::Accepted);
                    lock(&issued).push(Issued { id, producer, n, poison });
                    thread::sleep(pause);
                }
            })
        };
        let producers = (0..2).map(producer).collect();
        Load { issued, stop, producers }
    }

    /// How many events were accepted so far.
    pub fn count(&self) -> u64 {
        lock(&self.issued).len() as u64
    }

    /// Ends it, and says what was accepted.
    pub fn stop(self) -> Vec<Issued> {
        self.stop.store(true, Ordering::SeqCst);
        for producer in self.producers {
            producer.join().expect("the producer does not panic");
        }
        lock(&self.issued).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event of about 330 bytes, whose data says by itself whether it is whole.
fn numbered(producer: usize, n: u64, odd: Option<Odd>) -> Event {
    let conversation = context! { conversation_id = format!("conv_{}", n % KEYS) };
    let step = streamll::step(format!("Producer{producer}").as_str()).context(&conversation);
    let odd = odd.unwrap_or_default();
    let text = odd.text.unwrap_or_else(|| text(producer, n));
    let kind = odd.kind.unwrap_or_else(|| "progress".to_owned());
    Event::new(&step, kind.as_str()).with("producer", producer).with("n", n).with("text", text)
}

fn text(producer: usize, n: u64) -> String {
    format!("{producer}:{n} \"é\\ {}", "x".repeat((n % 40) as usize))
}

/// What is held against what.
#[derive(Debug)]
pub struct Books<'a> {
    pub issued: &'a [Issued],
    /// What the broker has, in its order.
    pub arrived: &'a [Copy],
    /// The lines of the file beside, which has everything once.
    pub beside: &'a [Vec<u8>],
    /// The ids of the dead letters.
    pub dead: &'a [String],
    /// Most events of one connection whose outcome can be unknown at once.
    pub window: usize,
    /// How many connections were lost.
    pub losses: usize,
    /// Whether the broker refused nothing singly, so that first deliveries are in order.
    pub ordered: bool,
}

impl Books<'_> {
    /// Everything that is wrong. Right is: nothing missing, nothing that nobody sent, each payload as it was sent, repeats
    /// within a window for each lost connection and marked, first deliveries in order.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let beside: HashMap<String, &[u8]> =
            self.beside.iter().map(|line| (id_of(line), line.as_slice())).collect();
        if beside.len() != self.beside.len() {
            wrong.push(format!("the file beside has {} repeats", self.beside.len() - beside.len()));
        }
        let known: HashMap<&str, &Issued> =
            self.issued.iter().map(|issued| (issued.id.as_str(), issued)).collect();
        let mut copies: HashMap<String, usize> = HashMap::new();
        let (mut repeats, mut last) = (0, HashMap::new());
        for copy in self.arrived {
            let id = id_of(&copy.json);
            let Some(issued) = known.get(id.as_str()) else {
                wrong.push(format!("{id} arrived, and nobody sent it"));
                continue;
            };
            if beside.get(&id).is_none_or(|line| *line != copy.json) {
                wrong.push(format!("{} differs from what the file beside has", name(issued)));
            }
            let json: Value = serde_json::from_slice(&copy.json).unwrap_or_default();
            if json["data"]["text"] != text(issued.producer, issued.n).as_str() && !issued.poison {
                wrong.push(format!("{} is not what was sent", name(issued)));
            }
            let times = copies.entry(id).or_default();
            *times += 1;
            if *times > 1 {
                repeats += 1;
                if copy.attempt < 2 {
                    wrong.push(format!("copy {times} of {} is not marked", name(issued)));
                }
            } else if let Some(before) = last.insert(issued.producer, issued.n)
                && before > issued.n
            {
                if self.ordered {
                    wrong.push(format!("{} came after number {before}", name(issued)));
                }
                last.insert(issued.producer, before);
            }
        }
        for issued in self.issued {
            let dead = self.dead.iter().filter(|id| **id == issued.id).count();
            let right = match issued.poison {
                true => !copies.contains_key(&issued.id) && dead == 1,
                false => copies.contains_key(&issued.id) && dead == 0,
            };
            if !right {
                let (arrived, what) =
                    (copies.get(&issued.id).unwrap_or(&0), if issued.poison { "poison" } else { "good" });
                wrong.push(format!("{} ({what}) arrived {arrived} times, died {dead} times", name(issued)));
            }
            if !beside.contains_key(&issued.id) {
                wrong.push(format!("{} is missing beside", name(issued)));
            }
        }
        let bound = self.window * self.losses;
        if repeats > bound {
            wrong.push(format!("{repeats} repeats are more than {bound}, {} lost connections", self.losses));
        }
        wrong
    }
}

fn name(issued: &Issued) -> String {
    format!("number {} of producer {} ({})", issued.n, issued.producer, issued.id)
}

/// The `event_id` of a line; empty where there is none.
pub fn id_of(json: &[u8]) -> String {
    let json: Value = serde_json::from_slice(json).unwrap_or_default();
    json["event_id"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of changing one thing in books that are right.
    fn complaints(change: impl Fn(&mut Vec<Issued>, &mut Vec<Copy>, &mut Vec<String>)) -> Vec<String> {
        let events: Vec<_> = (0..10).map(|n| numbered(0, n, None)).collect();
        let issued =
            |(n, event): (u64, &Event)| Issued { id: event.id().to_string(), producer: 0, n, poison: false };
        let mut issued: Vec<_> = (0..).zip(&events).map(issued).collect();
        let beside: Vec<_> = events.iter().map(|event| event.json().to_vec()).collect();
        let mut arrived: Vec<_> = beside.iter().map(|json| Copy { json: json.clone(), attempt: 1 }).collect();
        let mut dead = Vec::new();
        change(&mut issued, &mut arrived, &mut dead);
        let (issued, arrived, dead) = (&issued, &arrived, &dead);
        let beside = &beside;
        Books { issued, arrived, beside, dead, window: 2, losses: 1, ordered: true }.audit()
    }

    #[test]
    fn books_that_are_right_have_no_complaint() {
        assert_eq!(complaints(|_, _, _| {}), Vec::<String>::new());
        let repeated = complaints(|_, arrived, _| {
            let again = [3, 4].map(|i| Copy { attempt: 2, ..arrived[i].clone() });
            arrived.splice(5..5, again);
        });
        assert_eq!(repeated, Vec::<String>::new(), "a window may come again");
    }

    #[track_caller]
    fn finds(complaint: &str, change: impl Fn(&mut Vec<Issued>, &mut Vec<Copy>, &mut Vec<String>)) {
        let found = complaints(change);
        assert!(found.len() == 1 && found[0].contains(complaint), "{found:?}");
    }

    #[test]
    fn every_kind_of_mistake_is_found() {
        finds("(good) arrived 0 times, died 0 times", |_, arrived, _| {
            arrived.remove(4);
        });
        finds("(good) arrived 0 times, died 1 times", |issued, arrived, dead| {
            arrived.remove(4);
            dead.push(issued[4].id.clone());
        });
        finds("(poison) arrived 1 times, died 0 times", |issued, _, _| issued[4].poison = true);
        finds("nobody sent it", |_, arrived, _| {
            let json = numbered(0, 99, None).json().to_vec();
            arrived.push(Copy { json, attempt: 1 });
        });
        finds("differs from what the file beside has", |_, arrived, _| arrived[4].json.push(b' '));
        finds("is not marked", |_, arrived, _| arrived.push(arrived[9].clone()));
        finds("3 repeats are more than 2", |_, arrived, _| {
            let again = [3, 4, 5].map(|i| Copy { attempt: 2, ..arrived[i].clone() });
            arrived.extend(again);
        });
        finds("came after number 5", |_, arrived, _| arrived.swap(4, 5));
        let late = complaints(|_, arrived, _| {
            let first = arrived.remove(0);
            arrived.push(first);
        });
        assert!(late.len() == 1 && late[0].contains("number 0 of producer 0"), "{late:?}");
    }
}
