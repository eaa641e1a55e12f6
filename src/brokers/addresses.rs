//! Where the nodes of a broker are.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::value::SeqAccessDeserializer;
use serde::{Deserialize, Deserializer, de};

/// What an address begins with.
const SCHEMES: [&str; 4] = ["amqp://", "amqps://", "redis://", "rediss://"];

/// Addresses of a broker's nodes, with the passwords in them: shown nowhere. In YAML one, a list, or separated by commas.
#[derive(Clone, Default)]
pub struct Addresses(Vec<SecretString>);

impl Addresses {
    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(SecretString::expose_secret)
    }

    fn push(&mut self, text: &str) {
        // A comma may stand in a password: a separator has an address behind it.
        let mut rest = text.trim();
        while let Some(at) = rest.match_indices(',').map(|(at, _)| at).find(|at| {
            let next = rest.get(at + 1..).unwrap_or_default().trim_start();
            SCHEMES.iter().any(|scheme| next.starts_with(scheme))
        }) {
            let (one, others) = rest.split_at(at);
            self.0.push(one.trim_end().into());
            rest = others.get(1..).unwrap_or_default().trim_start();
        }
        self.0.push(rest.into());
    }
}

impl<T: AsRef<str>> From<T> for Addresses {
    fn from(text: T) -> Addresses {
        let mut addresses = Addresses::default();
        addresses.push(text.as_ref());
        addresses
    }
}

impl<T: AsRef<str>> FromIterator<T> for Addresses {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Addresses {
        let mut addresses = Addresses::default();
        texts.into_iter().for_each(|text| addresses.push(text.as_ref()));
        addresses
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} hidden]", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
        struct OneOrMore;
        impl<'de> de::Visitor<'de> for OneOrMore {
            type Value = Addresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as `scheme://user:password@host`, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
                Ok(text.into())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Addresses, A::Error> {
                let texts = Vec::<String>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(texts.into_iter().collect())
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

/// Whether this, between scheme and path, is more than one place: `h1:5672,h2:5672`. Then the others were no addresses.
pub(crate) fn is_several(authority: &str) -> bool {
    match authority.rsplit_once('@') {
        None => authority.contains(','),
        Some((user, place)) => {
            place.contains(',') || user.split_once('@').is_some_and(|(_, behind)| behind.contains(','))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn several_addresses_are_a_list_or_separated_by_commas() {
        let count = |url: Value| serde_json::from_value::<Addresses>(url).unwrap().0.len();
        assert_eq!(count(json!("amqp://a,amqps://b , amqp://c")), 3);
        assert_eq!(count(json!(["redis://a", "redis://b,rediss://c"])), 3);
        assert_eq!(count(json!("amqp://u:pass,word@a")), 1);
    }

    #[test]
    fn places_without_a_scheme_of_their_own_are_noticed() {
        for authority in ["h1:5672,h2:5672", "u:p@h1,h2", "u:p@h1:5672,u:p@h2:5672", "h1,"] {
            assert!(is_several(authority), "{authority}");
        }
        for authority in ["h1:5672", "u:pass,word@h1", "u:a@b@h", ""] {
            assert!(!is_several(authority), "{authority}");
        }
    }
}
