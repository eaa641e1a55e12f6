#![allow(unused)]

use streamll::instrument;
use tokio_stream::Stream;

struct Chunk;

#[instrument(stream_fields(answer))]
fn no_stream() -> String {
    String::new()
}

#[instrument(stream_fields(answer, reasoning))]
fn two_names() -> impl Stream<Item = String> {
    tokio_stream::empty()
}

#[instrument(stream_fields)]
fn no_name() -> impl Stream<Item = String> {
    tokio_stream::empty()
}

#[instrument(stream_fields(answer))]
fn no_tokens() -> impl Stream<Item = Chunk> {
    tokio_stream::empty()
}

fn main() {}
