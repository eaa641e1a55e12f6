#![allow(unused)]

use streamll::instrument;

#[instrument(modul = "Chat")]
fn near() {}

#[instrument(colour = "red")]
fn far() {}

#[instrument(name = "llm_call")]
fn of_another_tool() {}

#[instrument(skip_all)]
fn of_another_tool_too() {}

fn main() {
    near();
    far();
    of_another_tool();
    of_another_tool_too();
}
