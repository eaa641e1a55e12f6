//! One event as a message: key, properties and headers, or why the event can never be a message.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use streamll_actors::event::Delivery;

/// Most bytes of all headers together. They must fit into one frame, which usually is 128 KiB.
const HEADERS: usize = 16 << 10;
/// More than all else in that frame takes.
const BESIDE: usize = 1024;
/// The `app_id` of events that name no service.
const APPLICATION: &str = "streamll";

/// How the broker keeps messages.
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// What the protocol wants to know of an event, beside its JSON.
pub(super) struct Message {
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
}

impl Message {
    /// The message of an event under this key, for frames of at most so many bytes. What a property or the headers have no
    /// room for is left out: the body has it whole.
    ///
    /// # Errors
    /// Why the event can never be sent.
    pub(super) fn of(delivery: &Delivery, key: &str, durable: bool, frame: u32) -> Result<Message, String> {
        let event = &delivery.event;
        let parts = event.step().parts();
        let event_type = event.kind().as_str();
        let texts = [
            ("event_type", Some(event_type)),
            ("operation", parts.operation.as_deref()),
            ("module_name", Some(&*parts.module_name)),
            ("traceparent", event.step().traceparent()),
        ];
        let mut room = room(frame);
        let mut headers = FieldTable::default();
        for (name, text) in texts {
            if let Some(text) = text.filter(|text| text.len() <= room) {
                room -= text.len();
                headers.insert(short("header", name)?, AMQPValue::LongString(text.into()));
            }
        }
        if delivery.attempt > 1 {
            headers.insert(short("header", "attempt")?, AMQPValue::LongUInt(delivery.attempt));
        }
        let service = event.tag("service").filter(|service| !service.is_empty() && service.len() < 256);
        let seconds = u64::try_from(event.timestamp().as_micros() / 1_000_000).unwrap_or(0);
        let mut properties = BasicProperties::default()
            .with_content_type(short("content_type", "application/json")?)
            .with_delivery_mode(if durable { PERSISTENT } else { TRANSIENT })
            .with_message_id(short("message_id", event.id().to_string())?)
            .with_timestamp(seconds)
            .with_app_id(short("app_id", service.unwrap_or(APPLICATION))?)
            .with_headers(headers);
        if let Ok(event_type) = short("type", event_type) {
            properties = properties.with_type(event_type);
        }
        Ok(Message { key: short("routing key", key)?, properties })
    }
}

/// Most bytes of headers in a frame of so many; zero says that it may be as large as it likes.
fn room(frame: u32) -> usize {
    match usize::try_from(frame).unwrap_or(usize::MAX) {
        0 => HEADERS,
        frame => HEADERS.min(frame.saturating_sub(BESIDE)),
    }
}

/// A text of at most 255 bytes: all that the protocol has room for.
fn short(what: &str, text: impl Into<String> + AsRef<str>) -> Result<ShortString, String> {
    let bytes = text.as_ref().len();
    ShortString::try_new(text).map_err(|_| format!("its {what} has {bytes} bytes; the protocol allows 255"))
}
