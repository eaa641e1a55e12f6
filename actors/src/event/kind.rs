//! The type of an event, and its class, which decides how early it is shed under overload.

use std::fmt;
use std::sync::Arc;

/// The type of an event (`event_type` on the wire).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A step begins.
    Start,
    /// A step is done.
    End,
    /// A step failed.
    Error,
    /// A piece of streamed text.
    Token,
    /// A call of a language model begins.
    LlmStart,
    /// A call of a language model is done.
    LlmEnd,
    /// A tool call begins.
    ToolStart,
    /// A tool call is done.
    ToolEnd,
    /// Any other type, by its name.
    Custom(Arc<str>),
}

impl Kind {
    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Kind::Start => "start",
            Kind::End => "end",
            Kind::Error => "error",
            Kind::Token => "token",
            Kind::LlmStart => "llm_start",
            Kind::LlmEnd => "llm_end",
            Kind::ToolStart => "tool_start",
            Kind::ToolEnd => "tool_end",
            Kind::Custom(name) => name,
        }
    }

    /// Returns whether a step begins with this type.
    #[must_use]
    pub fn opens(&self) -> bool {
        matches!(self, Kind::Start | Kind::LlmStart | Kind::ToolStart)
    }

    /// Returns whether a step ends with this type.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(self, Kind::End | Kind::Error | Kind::LlmEnd | Kind::ToolEnd)
    }

    /// Returns the class of events of this type, unless the topology's `classes` say otherwise.
    #[must_use]
    pub fn class(&self) -> Class {
        if matches!(self, Kind::Token) { Class::Token } else { Class::Lifecycle }
    }
}

impl From<&str> for Kind {
    fn from(name: &str) -> Kind {
        match name {
            "start" => Kind::Start,
            "end" => Kind::End,
            "error" => Kind::Error,
            "token" => Kind::Token,
            "llm_start" => Kind::LlmStart,
            "llm_end" => Kind::LlmEnd,
            "tool_start" => Kind::ToolStart,
            "tool_end" => Kind::ToolEnd,
            other => Kind::Custom(other.into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How important an event is when a buffer is full. Lower classes are shed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Tokens. They are shed first, because the `end` of their step carries the whole text.
    Token,
    /// Starts, ends, errors and all other events. They are shed when no token is left.
    Lifecycle,
    /// Events that the topology's `classes: { audit: … }` names. They are shed last.
    Audit,
}

impl Class {
    /// Returns the name in YAML and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Token => "token",
            Class::Lifecycle => "lifecycle",
            Class::Audit => "audit",
        }
    }
}

/// All classes, from the one that goes first.
pub(crate) const CLASSES: [Class; 3] = [Class::Token, Class::Lifecycle, Class::Audit];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_way_there_and_back() {
        for name in
            ["start", "end", "error", "token", "llm_start", "llm_end", "tool_start", "tool_end", "docs_found"]
        {
            assert_eq!(Kind::from(name).as_str(), name);
        }
    }

    #[test]
    fn only_tokens_are_of_the_class_that_goes_first() {
        assert_eq!(Kind::Token.class(), Class::Token);
        assert_eq!(Kind::from("docs_found").class(), Class::Lifecycle);
        assert!(Class::Token < Class::Lifecycle && Class::Lifecycle < Class::Audit);
    }
}
