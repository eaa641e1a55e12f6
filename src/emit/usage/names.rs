//! The names of usage: ours, and all others with the same meaning.

pub(in crate::emit) const PROVIDER: &str = "provider";
pub(in crate::emit) const MODEL: &str = "model";
/// The model that answered, if it is reported apart from the model that was asked.
pub(in crate::emit) const RESPONSE_MODEL: &str = "response_model";
pub(in crate::emit) const INPUT: &str = "input_tokens";
pub(in crate::emit) const OUTPUT: &str = "output_tokens";
pub(in crate::emit) const TOTAL: &str = "total_tokens";
pub(super) const CACHE_READ: &str = "cache_read_tokens";
pub(super) const CACHE_CREATION: &str = "cache_creation_tokens";
pub(super) const REASONING: &str = "reasoning_tokens";

/// Names of Anthropic. Its `input_tokens` do not include these two, the tokens that came from a cache or went into one.
pub(super) const BESIDE_INPUT: [&str; 2] = ["cache_read_input_tokens", "cache_creation_input_tokens"];

/// A name of Gemini. Its `candidatesTokenCount` does not include this number.
pub(super) const BESIDE_OUTPUT: &str = "thoughtsTokenCount";

/// Returns our name for a number of tokens, from the name below `gen_ai.usage.` in spans or in the objects of
/// providers.
pub(in crate::emit) fn name_of(name: &str) -> Option<&'static str> {
    Some(match name {
        // OpenAI's chats and who speaks like them; Gemini.
        "input_tokens" | "prompt_tokens" | "promptTokenCount" => INPUT,
        "output_tokens" | "completion_tokens" | "candidatesTokenCount" => OUTPUT,
        "total_tokens" | "totalTokenCount" => TOTAL,
        // In the details of OpenAI; GenAI; Anthropic, and GenAI as it was; rig; Gemini; DeepSeek.
        "cache_read_tokens"
        | "cached_tokens"
        | "cache_read.input_tokens"
        | "cache_read_input_tokens"
        | "cached_input_tokens"
        | "cachedContentTokenCount"
        | "prompt_cache_hit_tokens" => CACHE_READ,
        "cache_creation_tokens" | "cache_creation.input_tokens" | "cache_creation_input_tokens" => {
            CACHE_CREATION
        }
        "reasoning_tokens" | "reasoning.output_tokens" | "thinking_tokens" | "thoughtsTokenCount" => {
            REASONING
        }
        _ => return None,
    })
}

/// Whether an object of that name reports the usage of the object around it.
pub(super) fn holds_usage(name: &str) -> bool {
    name.ends_with("_tokens_details") || matches!(name, "usage" | "usageMetadata" | "message" | "response")
}
