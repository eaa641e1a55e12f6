//! The shortest way in: one sink, one step with its tokens, and an orderly end.

use std::time::Duration;
use streamll::{Event, StartFailure, Topology, sinks};

fn main() -> Result<(), StartFailure> {
    let handle = Topology::builder("rag-api").sink("console", sinks::terminal()).start()?;
    let step = streamll::step("RagPipeline").operation("llm_call");
    handle.emit(Event::new(&step, "start").with("question", "What is six times seven?"));
    for (index, token) in (0..).zip(["The answer", " is", " forty", "-two."]) {
        handle.emit(Event::token(&step, "answer", token, index));
        std::thread::sleep(Duration::from_millis(60));
    }
    handle.emit(Event::new(&step, "end").with("total_tokens", 287));
    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    println!("everything arrived: {}", ended.complete);
    Ok(())
}
