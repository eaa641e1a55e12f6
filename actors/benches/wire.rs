//! What it costs to take an event of another process in, to look at it, to change a field, and to write it out again.
//!
//! `cargo bench -p streamll-actors --bench wire`. Medians of several rounds, in each of which everything is measured in
//! turn; the machine is shared, so compare within one run.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use streamll_actors::event::{Decoder, Event};

/// The allocator of the command `streamll`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKEN: &str = r#"{"event_id":"e1","execution_id":"0123456789abcdef","span_id":"0123456789abcdef","parent_id":null,"timestamp":"2026-11-21T03:20:15.842142Z","module_name":"RagPipeline","event_type":"token","operation":"llm_call","data":{"field":"answer","token":" forty","token_index":17},"tags":{"tenant":"acme"}}"#;
const END: &str = r#"{"event_id":"e1","execution_id":"0123456789abcdef","span_id":"0123456789abcdef","parent_id":null,"timestamp":"2026-11-21T03:20:15.842142Z","module_name":"RagPipeline","event_type":"end","operation":"llm_call","data":{"answer":"forty two \"is\" it, said the caf\u00e9","points":[1046.8333333333335,1119.0714285714287],"usage":{"input_tokens":120,"output_tokens":64,"price":1.10},"api_key":"k","conversation_id":"conv_1"},"tags":{"tenant":"acme"}}"#;

fn nanoseconds(events: u32, mut each: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..events).for_each(|_| each());
    began.elapsed().as_nanos() as f64 / f64::from(events)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let thorough = std::env::args().any(|argument| argument == "--bench");
    let (rounds, events) = if thorough { (15, 50_000) } else { (1, 500) };
    let mut decoder = Decoder::default();
    let mut read = |line: &str| -> Event { decoder.decode(line.as_bytes()).expect("it is an event") };
    let mut figures = vec![Vec::new(); 5];
    for _ in 0..rounds {
        let all = [
            nanoseconds(events, || {
                black_box(read(TOKEN).json().len());
            }),
            nanoseconds(events, || {
                black_box(read(END).json().len());
            }),
            nanoseconds(events, || {
                let event = read(END);
                black_box(event.data("conversation_id").is_some());
                black_box(event.json().len());
            }),
            nanoseconds(events, || {
                let mut event = read(END);
                event.set_data("duration", 4.63);
                black_box(event.json().len());
            }),
            nanoseconds(events, || {
                let mut event = read(END);
                event.map_mut().insert("api_key".to_owned(), "[redacted]".into());
                black_box(event.json().len());
            }),
        ];
        figures.iter_mut().zip(all).for_each(|(figures, figure)| figures.push(figure));
    }
    let what = [
        "a token, in and out",
        "an end, in and out",
        "an end, of which one key is looked at",
        "an end, which gets one key more",
        "an end, of which one value is replaced",
    ];
    for (what, figures) in what.into_iter().zip(figures) {
        println!("{what:<58} {:>12.0} ns", median(figures));
    }
}
