#![allow(unused)]

use streamll::instrument;

struct Chat;

#[instrument]
impl Chat {
    const fn limit() -> u8 {
        1
    }

    #[streamll(operation = "llm_call")]
    fn ask(&self) {}
}

#[instrument(operation = "llm_call")]
impl Chat {
    fn a(&self) {}
}

#[instrument(stream_fields(answer))]
impl Chat {
    fn b(&self) {}
}

fn main() {}
