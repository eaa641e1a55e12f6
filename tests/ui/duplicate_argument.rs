#![allow(unused)]

use streamll::instrument;

#[instrument(inputs = false, inputs = true)]
fn twice(_x: u8) {}

#[instrument(skip(a, a))]
fn skipped_twice(a: u8) {}

#[instrument(fields(tenant = 1, tags.a = 2, tenant = 3))]
fn field_twice() {}

fn main() {}
