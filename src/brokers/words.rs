//! Words that brokers share: what to encode in an address, and what of a broker's own words is shown.

/// What in a password would end it.
pub(crate) const ENCODE: &str =
    "in the password write `#` as `%23`, `/` as `%2F`, `?` as `%3F`, `@` as `%40` and `%` as `%25`";

/// A broker's words, as far as they may stand in a line: what is longer than the longest of AMQP is cut.
pub(crate) fn quote(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(255).collect()
}
