//! One value of an event's data, read where it is written.

use std::borrow::Cow;
use std::slice;

use serde_json::Value;

use super::fields::Fields;
use super::json;

/// One value of an event's data, exactly as it is written: a number that came in keeps its digits.
///
/// ```
/// use streamll_actors::event::{Decoder, View};
///
/// let line = br#"{"event_type":"x","data":{"price":1.10,"user":{"id":18446744073709551617}}}"#;
/// let event = Decoder::default().decode(line).unwrap();
/// assert_eq!(event.look("price").unwrap().text(), "1.10");
/// let id = event.look("user").unwrap().get("id").unwrap();
/// assert!(matches!(id.view(), View::Number(digits) if digits == "18446744073709551617"));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Datum<'a>(Form<'a>);

#[derive(Debug, Clone, Copy)]
enum Form<'a> {
    Value(&'a Value),
    /// Well-formed JSON.
    Json(&'a str),
    /// A string.
    Text(&'a str),
    Index(u64),
}

/// The kinds of values.
#[derive(Debug, Clone)]
pub enum View<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(Cow<'a, str>),
    /// A string.
    Text(Cow<'a, str>),
    /// A list.
    List(Items<'a>),
    /// An object.
    Object(Members<'a>),
}

impl<'a> Datum<'a> {
    pub(super) fn json(json: &'a str) -> Datum<'a> {
        Datum(Form::Json(json))
    }

    pub(super) fn string(text: &'a str) -> Datum<'a> {
        Datum(Form::Text(text))
    }

    pub(super) fn index(index: u64) -> Datum<'a> {
        Datum(Form::Index(index))
    }

    /// Returns the value by its kind.
    #[must_use]
    pub fn view(self) -> View<'a> {
        match self.0 {
            Form::Text(text) => View::Text(Cow::Borrowed(text)),
            Form::Index(index) => View::Number(index.to_string().into()),
            Form::Value(Value::Null) => View::Null,
            Form::Value(Value::Bool(is)) => View::Bool(*is),
            Form::Value(Value::Number(number)) => View::Number(number.to_string().into()),
            Form::Value(Value::String(text)) => View::Text(Cow::Borrowed(text)),
            Form::Value(Value::Array(items)) => View::List(Items(ItemsOf::Values(items.iter()))),
            Form::Value(Value::Object(map)) => View::Object(Members::of_map(map)),
            Form::Json(json) => match json.as_bytes().first() {
                Some(b'{') => View::Object(Members::of_json(json)),
                Some(b'[') => View::List(Items(ItemsOf::Json(json::items(json)))),
                Some(b'"') => View::Text(json::unquoted(json)),
                Some(b't' | b'f') => View::Bool(json == "true"),
                Some(b'n') | None => View::Null,
                _ => View::Number(Cow::Borrowed(json)),
            },
        }
    }

    /// Returns one member of an object. `None` if there is no such member, or if the value is not an object.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Datum<'a>> {
        match self.0 {
            Form::Value(value) => value.get(key).map(Datum::from),
            Form::Json(json) => Members::of_json(json).find_key(key),
            Form::Text(_) | Form::Index(_) => None,
        }
    }

    /// Returns one item of a list, counted from 0. `None` if there is no such item, or if the value is not a list.
    #[must_use]
    pub fn item(self, index: usize) -> Option<Datum<'a>> {
        match self.0 {
            Form::Value(value) => value.get(index).map(Datum::from),
            Form::Json(json) => json::items(json).nth(index).map(Datum::json),
            Form::Text(_) | Form::Index(_) => None,
        }
    }

    /// Returns the text of a string. For any other value, returns its JSON without spaces.
    #[must_use]
    pub fn text(self) -> Cow<'a, str> {
        match self.0 {
            Form::Text(text) => Cow::Borrowed(text),
            Form::Index(index) => index.to_string().into(),
            Form::Value(Value::String(text)) => Cow::Borrowed(text),
            Form::Value(value) => value.to_string().into(),
            Form::Json(json) if json.starts_with('"') => json::unquoted(json),
            Form::Json(json) => json::compact(json),
        }
    }

    /// Returns the value as a value of `serde_json`. A number becomes a whole number of 64 bits, or else the nearest
    /// double.
    #[must_use]
    pub fn value(self) -> Cow<'a, Value> {
        match self.0 {
            Form::Value(value) => Cow::Borrowed(value),
            Form::Json(json) => Cow::Owned(json::value(json)),
            Form::Text(text) => Cow::Owned(text.into()),
            Form::Index(index) => Cow::Owned(index.into()),
        }
    }

    /// Returns whether it equals a value of `serde_json`. As in JSON, `1` is neither `"1"` nor `1.0`. `wanted` may give
    /// whole numbers from 2^63 on as doubles.
    #[must_use]
    pub fn is(self, wanted: &Value) -> bool {
        match (self.0, wanted) {
            (Form::Value(value), _) => value == wanted,
            (Form::Text(text), Value::String(wanted)) => text == wanted,
            (Form::Json(json), Value::String(wanted)) => {
                json.starts_with('"') && json::unquoted(json) == *wanted
            }
            _ => *self.value() == *wanted || self.is_large_and(wanted),
        }
    }

    /// Whole numbers from 2^63 on are doubles in YAML, and so are those that they are compared with.
    fn is_large_and(self, wanted: &Value) -> bool {
        let (value, large) = (self.value(), i64::MAX.unsigned_abs());
        wanted.is_f64() && value.as_u64().is_some_and(|n| n > large) && value.as_f64() == wanted.as_f64()
    }

    /// Returns whether it reads like this text, as in a command, where every value is a text. Numbers are compared to
    /// the last digit, however they are written.
    #[must_use]
    pub fn reads(self, wanted: &str) -> bool {
        self.text() == wanted
            || matches!(self.view(), View::Number(digits) if json::is_same_number(&digits, wanted))
    }

    /// Appends its JSON, to the letter.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self.0 {
            Form::Json(json) => out.extend_from_slice(json.as_bytes()),
            _ => super::write::write(&*self.value(), out),
        }
    }
}

impl<'a> From<&'a Value> for Datum<'a> {
    fn from(value: &'a Value) -> Datum<'a> {
        Datum(Form::Value(value))
    }
}

/// The items of a list.
#[derive(Debug, Clone)]
pub struct Items<'a>(ItemsOf<'a>);

#[derive(Debug, Clone)]
enum ItemsOf<'a> {
    Values(slice::Iter<'a, Value>),
    Json(json::Items<'a>),
}

impl<'a> Iterator for Items<'a> {
    type Item = Datum<'a>;

    fn next(&mut self) -> Option<Datum<'a>> {
        match &mut self.0 {
            ItemsOf::Values(values) => values.next().map(Datum::from),
            ItemsOf::Json(items) => items.next().map(Datum::json),
        }
    }
}

/// The members of an object: keys and values, in their order.
#[derive(Debug, Clone)]
pub struct Members<'a>(MembersOf<'a>);

#[derive(Debug, Clone)]
enum MembersOf<'a> {
    Map(serde_json::map::Iter<'a>),
    Fields(slice::Iter<'a, (Cow<'static, str>, Value)>),
    Json(json::Members<'a>),
    Few(std::array::IntoIter<(&'static str, Datum<'a>), 3>),
}

impl<'a> Members<'a> {
    pub(super) fn of_map(map: &'a serde_json::Map<String, Value>) -> Members<'a> {
        Members(MembersOf::Map(map.iter()))
    }

    pub(super) fn of_fields(fields: &'a Fields) -> Members<'a> {
        Members(MembersOf::Fields(fields.entries().iter()))
    }

    pub(super) fn of_json(json: &'a str) -> Members<'a> {
        Members(MembersOf::Json(json::members(json)))
    }

    pub(super) fn of_few(members: [(&'static str, Datum<'a>); 3]) -> Members<'a> {
        Members(MembersOf::Few(members.into_iter()))
    }

    pub(super) fn find_key(mut self, key: &str) -> Option<Datum<'a>> {
        self.find(|(its, _)| its == key).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Datum<'a>);

    fn next(&mut self) -> Option<(Cow<'a, str>, Datum<'a>)> {
        match &mut self.0 {
            MembersOf::Map(map) => map.next().map(|(key, value)| (Cow::Borrowed(&**key), value.into())),
            MembersOf::Fields(fields) => {
                fields.next().map(|(key, value)| (Cow::Borrowed(&**key), value.into()))
            }
            MembersOf::Json(members) => {
                members.next().map(|(key, value)| (json::unquoted(key), Datum::json(value)))
            }
            MembersOf::Few(members) => members.next().map(|(key, value)| (Cow::Borrowed(key), value)),
        }
    }
}
