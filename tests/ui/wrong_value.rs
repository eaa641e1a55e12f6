#![allow(unused)]

use streamll::instrument;

#[instrument(module = Chat)]
fn module_is_a_text() {}

#[instrument(operation = "")]
fn operation_is_not_empty() {}

#[instrument(module)]
fn module_has_a_value() {}

#[instrument(inputs = "no")]
fn inputs_is_a_switch() {}

#[instrument(outputs(false))]
fn outputs_is_a_switch() {}

#[instrument(emitter = "handle")]
fn emitter_is_an_expression() {}

#[instrument("llm_call")]
fn a_name_is_wanted() {}

fn main() {}
