#![allow(unused)]

use streamll::instrument;

#[instrument]
struct Chat;

#[instrument]
trait Search {
    fn search(&self);
}

#[instrument]
enum Kind {}

#[instrument]
mod inner {}

#[instrument]
const fn constant() -> u8 {
    1
}

trait Model {
    #[instrument]
    fn complete(&self);
}

fn main() {
    constant();
}
