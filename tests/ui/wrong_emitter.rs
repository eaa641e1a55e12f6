#![allow(unused)]

use streamll::instrument;

#[instrument(emitter = url)]
fn url_is_no_emitter(url: &str) {}

fn main() {}
