#![allow(unused)]

use streamll::instrument;

struct Chat;

#[instrument(skip(questoin))]
fn misspelt(question: &str) {}

#[instrument(skip(question))]
fn there_are_none() {}

#[instrument(skip)]
fn without_names() {}

impl Chat {
    #[instrument(skip(self))]
    fn of_self(&self) {}
}

#[instrument(skip(answer))]
impl Chat {
    fn a(&self, question: &str) {}
    fn b(&self, history: &str) {}
}

fn main() {}
