//! Ids and tags that every event of a request carries: an immutable snapshot.

use std::sync::Arc;

use serde_json::Value;

use super::Datum;

/// Ids (`conversation_id`, `request_id`, any key) and tags that are written into every event inside.
///
/// A snapshot never changes. Adding to a snapshot makes a new one, so data of one request can never reach another
/// request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context(Option<Arc<Entries>>);

#[derive(Debug, Clone, Default, PartialEq)]
struct Entries {
    data: Vec<(Arc<str>, Value)>,
    tags: Vec<(Arc<str>, Arc<str>)>,
    /// The JSON of those values of `data` that came in written in another way than `Value` writes them.
    written: Vec<(Arc<str>, Arc<str>)>,
}

impl Context {
    /// Makes a context that adds nothing.
    #[must_use]
    pub const fn empty() -> Context {
        Context(None)
    }

    /// Returns this context with one more key of `data`. An older value of that key is replaced.
    #[must_use]
    pub fn with(mut self, key: impl Into<Arc<str>>, value: impl Into<Value>) -> Context {
        self.entries().put(key.into(), value.into(), None);
        self
    }

    /// This context and one more key of `data`, which keeps the digits that it came with.
    pub(crate) fn with_datum(mut self, key: &str, datum: Datum<'_>) -> Context {
        let (value, mut json) = (datum.value().into_owned(), Vec::new());
        datum.write(&mut json);
        let plain = value.to_string();
        let written = String::from_utf8(json).ok().filter(|json| *json != plain);
        self.entries().put(key.into(), value, written.map(Arc::from));
        self
    }

    /// Returns this context with one more tag. An older value of that tag is replaced.
    #[must_use]
    pub fn tag(mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Context {
        put(&mut self.entries().tags, key.into(), value.into());
        self
    }

    /// Returns this context with only the keys of `data` for which `stays` returns `true`. All tags stay.
    #[must_use]
    pub fn with_only(mut self, stays: impl Fn(&str, Datum<'_>) -> bool) -> Context {
        let gone = self.members().filter(|(key, value)| !stays(key, *value));
        let gone: Vec<String> = gone.map(|(key, _)| key.to_owned()).collect();
        if !gone.is_empty() {
            let entries = self.entries();
            entries.data.retain(|(key, _)| !gone.iter().any(|gone| **gone == **key));
            entries.written.retain(|(key, _)| !gone.iter().any(|gone| **gone == **key));
        }
        self
    }

    /// Returns this context with all of `inner` added. Values of `inner` win.
    #[must_use]
    pub fn merged(&self, inner: &Context) -> Context {
        if self.0.is_none() {
            return inner.clone();
        }
        if inner.is_empty() || self.same(inner) {
            return self.clone();
        }
        let mut merged = self.clone();
        for (key, value) in inner.data() {
            merged.entries().put(key.clone(), value.clone(), inner.written(key).cloned());
        }
        for (key, value) in inner.tags() {
            put(&mut merged.entries().tags, key.clone(), value.clone());
        }
        merged
    }

    /// Returns whether both are the same snapshot in memory.
    #[must_use]
    pub fn same(&self, other: &Context) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }

    /// Returns the keys of `data` and their values, in the order in which they were added.
    #[must_use]
    pub fn data(&self) -> &[(Arc<str>, Value)] {
        self.0.as_ref().map_or(&[], |entries| &entries.data)
    }

    /// Returns the tags, in the order in which they were added.
    #[must_use]
    pub fn tags(&self) -> &[(Arc<str>, Arc<str>)] {
        self.0.as_ref().map_or(&[], |entries| &entries.tags)
    }

    /// Returns the value of one key of `data`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.data().iter().find(|(k, _)| &**k == key).map(|(_, value)| value)
    }

    /// Returns the value of one key of `data`, as it is written in events.
    #[must_use]
    pub fn look(&self, key: &str) -> Option<Datum<'_>> {
        self.members().find(|(its, _)| *its == key).map(|(_, value)| value)
    }

    /// Returns the keys of `data` and their values, as they are written in events.
    pub fn members(&self) -> impl Iterator<Item = (&str, Datum<'_>)> {
        let datum = |key, value| self.written(key).map_or(Datum::from(value), |json| Datum::json(json));
        self.data().iter().map(move |(key, value)| (&**key, datum(key, value)))
    }

    fn written(&self, key: &str) -> Option<&Arc<str>> {
        self.0.as_ref()?.written.iter().find(|(k, _)| &**k == key).map(|(_, json)| json)
    }

    /// Returns the value of one tag.
    #[must_use]
    pub fn get_tag(&self, key: &str) -> Option<&str> {
        self.tags().iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }

    /// Returns whether this context adds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data().is_empty() && self.tags().is_empty()
    }

    fn entries(&mut self) -> &mut Entries {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl Entries {
    fn put(&mut self, key: Arc<str>, value: Value, written: Option<Arc<str>>) {
        self.written.retain(|(k, _)| *k != key);
        self.written.extend(written.map(|json| (key.clone(), json)));
        put(&mut self.data, key, value);
    }
}

fn put<V>(entries: &mut Vec<(Arc<str>, V)>, key: Arc<str>, value: V) {
    match entries.iter_mut().find(|(k, _)| *k == key) {
        Some(entry) => entry.1 = value,
        None => entries.push((key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_never_changes_under_its_holder() {
        let outer = Context::empty().with("conversation_id", "conv_1").tag("tenant", "acme");
        let inner = outer.clone().with("conversation_id", "conv_2");
        assert_eq!(outer.get("conversation_id"), Some(&Value::from("conv_1")));
        assert_eq!(inner.get("conversation_id"), Some(&Value::from("conv_2")));
        assert_eq!(inner.get_tag("tenant"), Some("acme"));
    }

    #[test]
    fn what_stays_of_a_context_keeps_its_digits_and_its_tags() {
        let id = Datum::json("18446744073709551617");
        let context = Context::empty().with_datum("user_id", id).with("text", "long").tag("tenant", "acme");
        let left = context.clone().with_only(|key, _| key.ends_with("_id"));
        assert_eq!(left.look("user_id").map(|id| id.text()).as_deref(), Some("18446744073709551617"));
        assert_eq!((left.get("text"), left.get_tag("tenant")), (None, Some("acme")));
        assert!(
            context.clone().with_only(|_, _| true).same(&context),
            "nothing is copied where all of it stays"
        );
    }

    #[test]
    fn an_inner_context_wins_over_the_outer_one() {
        let outer = Context::empty().with("a", 1).with("b", 2);
        let merged = outer.merged(&Context::empty().with("b", 3));
        assert_eq!((merged.get("a"), merged.get("b")), (Some(&Value::from(1)), Some(&Value::from(3))));
    }
}
