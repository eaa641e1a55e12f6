//! Maps an operation of the GenAI conventions to the types of its events.

use streamll_actors::event::Kind;

/// The operation of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    /// A model generates.
    Llm,
    /// A tool is called.
    Tool,
    /// Another call of a model or a store, by its name.
    Call(&'a str),
    /// An agent, a workflow, or anything else that runs.
    Run,
}

impl<'a> From<&'a str> for Operation<'a> {
    fn from(name: &'a str) -> Operation<'a> {
        match name {
            "chat" | "generate_content" | "text_completion" => Operation::Llm,
            "execute_tool" => Operation::Tool,
            "embeddings" | "retrieval" => Operation::Call(name),
            _ => Operation::Run,
        }
    }
}

impl Operation<'_> {
    /// Returns the types of the first and of the last event.
    pub(super) fn kinds(self) -> (Kind, Kind) {
        match self {
            Operation::Llm => (Kind::LlmStart, Kind::LlmEnd),
            Operation::Tool => (Kind::ToolStart, Kind::ToolEnd),
            Operation::Call(name) => {
                (Kind::from(&*format!("{name}_start")), Kind::from(&*format!("{name}_end")))
            }
            Operation::Run => (Kind::Start, Kind::End),
        }
    }

    /// Whether its first event needs the name of a model, which comes a moment later.
    pub(super) fn names_a_model(self) -> bool {
        matches!(self, Operation::Llm | Operation::Call("embeddings"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_events() {
        for (name, start, end) in [
            ("invoke_agent", "start", "end"),
            ("invoke_workflow", "start", "end"),
            ("create_agent", "start", "end"),
            ("chat", "llm_start", "llm_end"),
            ("generate_content", "llm_start", "llm_end"),
            ("text_completion", "llm_start", "llm_end"),
            ("execute_tool", "tool_start", "tool_end"),
            ("embeddings", "embeddings_start", "embeddings_end"),
            ("retrieval", "retrieval_start", "retrieval_end"),
        ] {
            let (first, last) = Operation::from(name).kinds();
            assert_eq!((first.as_str(), last.as_str()), (start, end), "{name}");
        }
    }
}
