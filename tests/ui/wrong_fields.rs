#![allow(unused)]

use streamll::instrument;

#[instrument(fields(tenant))]
fn without_value(tenant: u8) {}

#[instrument(fields())]
fn without_fields() {}

#[instrument(fields = "tenant")]
fn without_parentheses() {}

#[instrument(fields(user.id = 1))]
fn with_a_dot() {}

#[instrument(fields(tenant = %tenant))]
fn with_a_sigil(tenant: u8) {}

fn main() {}
