//! The wire format: one JSON object for each event. The keys are public. `tests/path/wire.rs` checks them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use super::step::Fragments;
use super::write::{write, write_inner, write_optional};
use super::{Body, Context, Event, Statics};
use bytes::Bytes;

/// A scratch buffer that one huge event made larger than this is given back.
const SCRATCH_KEPT: usize = 64 << 10;

/// Encodes into a scratch buffer of the thread, and copies that into `Bytes` of exactly this event: a slice of a batch
/// would keep the whole batch alive while one event waits.
pub(super) fn encode(event: &Event) -> Bytes {
    thread_local! { static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) } }
    SCRATCH.with_borrow_mut(|out| {
        out.clear();
        write_event(event, out);
        let encoded = Bytes::copy_from_slice(out);
        if out.capacity() > SCRATCH_KEPT {
            *out = Vec::new();
        }
        encoded
    })
}

fn write_event(event: &Event, out: &mut Vec<u8>) {
    let fragments = event.step().fragments();
    out.extend_from_slice(b"{\"event_id\":\"");
    event.id().write_json(out);
    out.extend_from_slice(&fragments.ids);
    event.timestamp().write(out);
    out.extend_from_slice(&fragments.names);
    write_inner(event.kind().as_str(), out);
    out.extend_from_slice(&fragments.operation);
    write_optional(event.topic().map(|topic| &**topic), out);
    out.extend_from_slice(b",\"source\":");
    write_optional(event.source(), out);
    out.extend_from_slice(b",\"seq\":");
    write(&event.seq(), out);
    out.extend_from_slice(b",\"data\":");
    write_data(event, fragments, out);
    out.extend_from_slice(b",\"tags\":{");
    write_tags(event, fragments, out);
    out.push(b'}');
    out.extend_from_slice(event.0.extra.as_deref().unwrap_or_default().as_bytes());
    out.push(b'}');
}

fn write_data(event: &Event, fragments: &Fragments, out: &mut Vec<u8>) {
    let context = &event.step().parts().context;
    match event.body() {
        Body::Token(token) => {
            out.extend_from_slice(b"{\"field\":");
            write(&*token.field, out);
            out.extend_from_slice(b",\"token\":");
            write(&*token.text, out);
            out.extend_from_slice(b",\"token_index\":");
            write(&token.index, out);
            if event.merged() > 1 {
                out.extend_from_slice(b",\"merged\":");
                write(&event.merged(), out);
            }
            out.extend_from_slice(&fragments.token_context);
            out.push(b'}');
        }
        Body::Map(map) => {
            write(map, out);
            let own = |key: &str| map.contains_key(key);
            append(map.is_empty(), context, own, event.merged(), out);
        }
        Body::Fields(fields) => {
            write(fields, out);
            let own = |key: &str| fields.get(key).is_some();
            append(fields.iter().next().is_none(), context, own, event.merged(), out);
        }
        Body::Raw(raw) => {
            out.extend_from_slice(raw.json().as_bytes());
            let own = |key: &str| raw.look(key).is_some();
            append(raw.members().next().is_none(), context, own, event.merged(), out);
        }
    }
}

/// Reopens the object that `out` ends with and adds what the context has and the event has not.
fn append(mut empty: bool, context: &Context, own: impl Fn(&str) -> bool, merged: u32, out: &mut Vec<u8>) {
    let mut add = |key: &str, value: &dyn Fn(&mut Vec<u8>)| {
        out.pop();
        if !empty {
            out.push(b',');
        }
        empty = false;
        write(key, out);
        out.push(b':');
        value(out);
        out.push(b'}');
    };
    for (key, value) in context.members().filter(|(key, _)| !own(key)) {
        add(key, &|out| value.write(out));
    }
    if merged > 1 && !own("merged") {
        add("merged", &|out| write(&merged, out));
    }
}

fn write_tags(event: &Event, fragments: &Fragments, out: &mut Vec<u8>) {
    let context = &event.step().parts().context;
    out.extend_from_slice(&fragments.tags);
    let mut first = fragments.tags.is_empty();
    let statics: &Statics = match event.statics() {
        Some(statics) => statics,
        None => return,
    };
    for ((key, _), encoded) in statics.tags().iter().zip(&statics.encoded) {
        if context.get_tag(key).is_none() {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(encoded);
        }
    }
}

/// Keys beside ours, as they stand at the end of an event: `,"key":value` each.
pub(super) fn extra(members: &[(&str, Cow<'_, str>)]) -> Option<Arc<str>> {
    let mut out = String::new();
    for (key, value) in members {
        out.extend([",", &serde_json::Value::from(*key).to_string(), ":", value]);
    }
    (!out.is_empty()).then(|| out.into())
}
