//! The switch `content`: whether what was said comes to all sinks, or to one sink.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};
use streamll_actors::process::ProcessorFactory;

use crate::processors::WithoutContent;

/// The name of the step that takes content out, in logs and in the status.
pub(crate) const STEP: &str = "content";

/// Makes the step that takes content out.
pub(crate) fn step() -> ProcessorFactory {
    Arc::new(|| Box::new(WithoutContent::default()))
}

/// Whether what was said comes through: inputs, outputs, text of tokens, messages, tool data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// It does.
    #[default]
    On,
    /// It is taken out.
    Off,
}

/// `on` and `off` are texts for some readers of YAML, and `true` and `false` for others.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(true) => Ok(Content::On),
            serde_json::Value::Bool(false) => Ok(Content::Off),
            serde_json::Value::String(text) if is_any(&text, ["on", "true"]) => Ok(Content::On),
            serde_json::Value::String(text) if is_any(&text, ["off", "false"]) => Ok(Content::Off),
            // Without the word that is nearest: of `of` that might be `on`.
            _ => Err(de::Error::custom(
                "must be `on` or `off`; write `content: off` to take out what was said",
            )),
        }
    }
}

fn is_any(text: &str, words: [&str; 2]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}
