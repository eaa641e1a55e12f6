#![allow(unused)]

use streamll::instrument;

#[instrument]
fn mismatched() -> u8 {
    "seven"
}

struct Wrong;

#[instrument]
async fn mismatched_later(text: &str) -> Result<u8, Wrong> {
    let number: u8 = text.parse()?;
    Ok(number)
}

#[instrument]
fn moved(text: String) -> (String, String) {
    (text, text)
}

fn main() {}
