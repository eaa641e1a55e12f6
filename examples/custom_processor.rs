//! A processor with state and a timer: it merges the tokens of a step for a moment, for readers who like fewer events.

use std::thread;
use std::time::Duration;

use streamll::{Event, Output, Processor, StartFailure, Topology, sinks};

/// Holds the tokens of each step and field until the window is over, or until the step says something else.
struct Merge {
    window: Duration,
    /// The first token of each step and field, with the text of those that came after it.
    open: Vec<Event>,
}

impl Processor for Merge {
    fn process(&mut self, event: Event, out: &mut Output) {
        let Some(token) = event.as_token() else {
            // What came before it leaves before it.
            self.release(out, |open| open.step().same(event.step()));
            return out.push(event);
        };
        let fits = |open: &&mut Event| {
            open.step().same(event.step()) && open.as_token().is_some_and(|first| first.field == token.field)
        };
        match self.open.iter_mut().find(fits) {
            Some(first) => {
                let text = first.as_token().map_or("", |first| &*first.text).to_owned() + &token.text;
                first.set_merged(first.merged() + 1, text);
            }
            None => self.open.push(event),
        }
        out.hold(); // the books know that it is owed
    }

    fn interval(&self) -> Option<Duration> {
        Some(self.window)
    }

    fn tick(&mut self, out: &mut Output) {
        self.release(out, |_| true);
    }

    fn finish(&mut self, out: &mut Output) {
        self.release(out, |_| true);
    }
}

impl Merge {
    fn release(&mut self, out: &mut Output, which: impl Fn(&Event) -> bool) {
        self.open.extract_if(.., |open| which(open)).for_each(|merged| out.release(merged));
    }
}

fn main() -> Result<(), StartFailure> {
    let merge = || Merge { window: Duration::from_millis(100), open: Vec::new() };
    let handle =
        Topology::builder("rag-api").processor("merge", merge).sink("console", sinks::terminal()).start()?;

    let step = streamll::step("RagPipeline").operation("llm_call");
    handle.emit(Event::new(&step, "start"));
    let poem = "Tyger Tyger, burning bright, in the forests of the night";
    for (index, word) in (0..).zip(poem.split_inclusive(' ')) {
        handle.emit(Event::token(&step, "answer", word, index));
        thread::sleep(Duration::from_millis(15));
    }
    handle.emit(Event::new(&step, "end"));

    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    let numbers = ended.status.balance();
    println!("{} received = {} merged + {} routed", numbers.received, numbers.merged, numbers.routed);
    assert!(ended.status.balances());
    Ok(())
}
