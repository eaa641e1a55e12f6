//! The type of a secret in the configuration of a user's kind, and the values that were read as secrets.

use std::cell::RefCell;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// A text that is never shown: not in `Debug`, not in `streamll check --print`, and not in messages about a topology.
///
/// In the configuration of a kind of your own, a secret may have any key, and may be in a list, a map or an [`Option`].
/// Its memory is overwritten when it is dropped.
///
/// ```
/// use streamll::{ExposeSecret, Secret};
///
/// #[derive(Debug, serde::Deserialize)]
/// struct HookConfig {
///     pin: Secret,
/// }
///
/// let config = HookConfig { pin: Secret::from("4711") };
/// assert_eq!(format!("{config:?}"), "HookConfig { pin: *** }");
/// assert_eq!(config.pin.expose_secret(), "4711");
/// ```
#[derive(Clone, Default)]
pub struct Secret(SecretString);

impl ExposeSecret<str> for Secret {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        note(&text);
        Secret(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        text.to_owned().into()
    }
}

impl From<SecretString> for Secret {
    fn from(secret: SecretString) -> Secret {
        Secret(secret)
    }
}

impl From<Secret> for SecretString {
    fn from(secret: Secret) -> SecretString {
        secret.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// Takes a text, and notes what else stands there: a number in the place of a secret is one, too.
struct Text;

impl Text {
    fn refuse<E: de::Error>(found: impl Into<Value>) -> E {
        note_all(&found.into());
        E::custom("expected a text; put it in quotes")
    }
}

impl<'de> de::Visitor<'de> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(text.into())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, found: bool) -> Result<Secret, E> {
        Err(Text::refuse(found))
    }

    fn visit_i64<E: de::Error>(self, found: i64) -> Result<Secret, E> {
        Err(Text::refuse(found))
    }

    fn visit_u64<E: de::Error>(self, found: u64) -> Result<Secret, E> {
        Err(Text::refuse(found))
    }

    fn visit_f64<E: de::Error>(self, found: f64) -> Result<Secret, E> {
        Err(Text::refuse(found))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Secret, A::Error> {
        Err(Text::refuse(Value::deserialize(SeqAccessDeserializer::new(list))?))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
        Err(Text::refuse(Value::deserialize(MapAccessDeserializer::new(map))?))
    }
}

thread_local! {
    /// What was read as a secret while somebody wants to know; `None` while nobody does.
    static NOTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

fn note(text: &str) {
    NOTED.with_borrow_mut(|noted| noted.iter_mut().for_each(|noted| noted.push(text.to_owned())));
}

fn note_all(value: &Value) {
    match value {
        Value::Object(map) => map.values().for_each(note_all),
        Value::Array(items) => items.iter().for_each(note_all),
        Value::String(text) => note(text),
        Value::Null => {}
        other => note(&other.to_string()),
    }
}

/// What `read` gives, and the texts that it made secrets of. A type's own `Deserialize` says nothing of its types, least
/// of all through `flatten` and `untagged`: only the secrets themselves know where they are made.
pub(crate) fn noting<T>(read: impl FnOnce() -> T) -> (T, Vec<String>) {
    let outer = NOTED.replace(Some(Vec::new()));
    let result = read();
    (result, NOTED.replace(outer).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        #[allow(dead_code, reason = "only what was noted is looked at")]
        Pin { pin: Secret },
    }

    #[test]
    fn what_is_read_as_a_secret_is_noted_wherever_it_stands() {
        let ((), noted) = noting(|| {
            drop(serde_json::from_value::<Option<Vec<Secret>>>(json!(["a", "b"])).unwrap());
            drop(serde_json::from_value::<Either>(json!({ "pin": "c" })).unwrap());
            assert!(serde_json::from_value::<Vec<Secret>>(json!([7])).is_err());
        });
        assert_eq!(noted, ["a", "b", "c", "7"]);
        assert!(noting(|| ()).1.is_empty());
    }

    #[test]
    fn an_error_about_a_secret_quotes_nothing() {
        for value in [json!(4711), json!(4711.5), json!([4711]), json!({ "a": "hunter2" })] {
            let error = serde_json::from_value::<Secret>(value).unwrap_err().to_string();
            assert_eq!(error, "expected a text; put it in quotes");
        }
    }
}
