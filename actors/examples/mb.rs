#![allow(missing_docs, clippy::disallowed_methods)]
#[global_allocator] static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
use std::{hint::black_box, time::Instant, sync::Arc};
use streamll_actors::{event::*, graph::*, testkit::*, sink::*};
struct Null; impl Sink for Null { async fn deliver(&mut self, b: &mut Deliveries) -> Result<(), DeliveryError> { for d in b.iter() { black_box(d.event.json().len()); } Ok(()) } }
fn main() {
    let context = Context::empty().with("conversation_id", "conv_123").tag("tenant", "acme");
    let step = Step::new("RagPipeline").method("forward").operation("llm_call").context(&context);
    let field: Arc<str> = "answer".into();
    const N: usize = 1_000_000;
    for _ in 0..3 {
        let t = Instant::now();
        let evs: Vec<Event> = (0..N).map(|i| Event::token(&step, field.clone(), " forty", i as u64)).collect();
        let a = t.elapsed().as_nanos() / N as u128;
        let t = Instant::now();
        for e in &evs { black_box(e.json().len()); }
        let b = t.elapsed().as_nanos() / N as u128;
        let t = Instant::now();
        drop(evs);
        let c = t.elapsed().as_nanos() / N as u128;
        let t = Instant::now();
        for _ in 0..N { black_box(Timestamp::now()); }
        let d = t.elapsed().as_nanos() / N as u128;
        let t = Instant::now();
        for _ in 0..N { black_box(EventId::generate(12345)); }
        let e = t.elapsed().as_nanos() / N as u128;
        println!("make {a} encode {b} drop {c}; now {d} id {e}");
    }
    // one thread graph
    actix_rt::System::new().block_on(async {
        let mut spec = SinkSpec::new("null", || Null); spec.placement = Placement::Spine;
        let g = GraphHandle::start(Plan::new("x").sink(spec), Threads::One).await.unwrap();
        for _ in 0..3 {
        let evs: Vec<Event> = (0..N).map(|i| Event::token(&step, field.clone(), " forty", i as u64)).collect();
        let t = Instant::now();
        for (i, e) in evs.into_iter().enumerate() { g.emitter().emit(e); if i % 8192 == 8191 { g.flush().await; } }
        g.flush().await;
        println!("graph on one thread, without making: {}", t.elapsed().as_nanos() / N as u128);
        }
        println!("{:?}", g.status().sinks()[0].balance);
    });
    let _ = settle;
}
