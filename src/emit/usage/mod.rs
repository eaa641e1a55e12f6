//! The usage of a model call: one set of names for all code that reports it, and for all code that reads it.

pub(super) mod names;
mod read;

use serde_json::Value;
use streamll_actors::event::{Datum, Event, View};

use names::{CACHE_CREATION, CACHE_READ, INPUT, MODEL, OUTPUT, PROVIDER, REASONING, TOTAL};

/// The tokens that a call of a model used, and the name of the model. On the wire, each field is a key of `data` with
/// the same name, on the event that closes the step.
///
/// ```
/// use streamll::Usage;
///
/// let usage = Usage::new(412, 27).provider("openai").model("gpt-test").cache_read(400);
/// assert_eq!(usage.total_tokens, Some(439));
/// let scope = streamll::trace("llm_call").enter();
/// scope.usage(usage);
/// ```
///
/// The last value wins: [`merged`](Usage::merged) replaces values key by key. `total_tokens` is the sum of input and
/// output, unless a total is set together with them or after them.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The company or service that runs the model, for example `openai`.
    pub provider: Option<String>,
    /// The name of the model.
    pub model: Option<String>,
    /// All tokens that the model read, including those that came from a cache or went into one.
    pub input_tokens: Option<u64>,
    /// All tokens that the model wrote, including its reasoning.
    pub output_tokens: Option<u64>,
    /// The sum of input and output, or the total that the provider reports instead.
    pub total_tokens: Option<u64>,
    /// The part of the input that came from a cache of the provider.
    pub cache_read_tokens: Option<u64>,
    /// The part of the input that went into a cache of the provider.
    pub cache_creation_tokens: Option<u64>,
    /// The part of the output that was reasoning.
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Makes a usage with `input` tokens read and `output` tokens written.
    #[must_use]
    pub fn new(input: u64, output: u64) -> Usage {
        Usage::default().input(input).output(output)
    }

    /// Reads the usage in an event: by our own names, in an object `usage`, or by the names of a provider. Returns
    /// `None` if the event has no number of tokens.
    ///
    /// ```
    /// use streamll::{Event, Usage, step};
    ///
    /// let said = serde_json::json!({ "prompt_tokens": 412, "completion_tokens": 27 });
    /// let event = Event::new(&step("Chat"), "end").with("usage", said);
    /// assert_eq!(Usage::of(&event), Some(Usage::new(412, 27)));
    /// ```
    #[must_use]
    pub fn of(event: &Event) -> Option<Usage> {
        if event.as_token().is_some() {
            return None;
        }
        let context = event.step().parts().context.members().map(|(key, value)| (key.into(), value));
        read::usage(event.body().members().chain(context))
    }

    /// Reads the usage in the answer of a provider: the usage object itself, or the whole answer or chunk that contains
    /// it. The [guide](crate::guide::usage) lists the accepted names. Returns `None` if there is no number of tokens.
    ///
    /// ```
    /// use streamll::Usage;
    ///
    /// let chunk = serde_json::json!({
    ///     "model": "gpt-test", "choices": [],
    ///     "usage": { "prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8 },
    /// });
    /// assert_eq!(Usage::read(&chunk), Some(Usage::new(6, 2).model("gpt-test")));
    /// ```
    #[must_use]
    pub fn read(said: &Value) -> Option<Usage> {
        match Datum::from(said).view() {
            View::Object(members) => read::usage(members),
            _ => None,
        }
    }

    /// Sets the company or service that runs the model.
    #[must_use]
    pub fn provider(mut self, name: impl Into<String>) -> Usage {
        self.provider = Some(name.into());
        self
    }

    /// Sets the name of the model.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Usage {
        self.model = Some(name.into());
        self
    }

    /// Sets how many tokens the model read.
    #[must_use]
    pub fn input(self, tokens: u64) -> Usage {
        self.merged(Usage { input_tokens: Some(tokens), ..Usage::default() })
    }

    /// Sets how many tokens the model wrote.
    #[must_use]
    pub fn output(self, tokens: u64) -> Usage {
        self.merged(Usage { output_tokens: Some(tokens), ..Usage::default() })
    }

    /// Sets the total, if it is not the sum of input and output. It holds until another input or output is set.
    #[must_use]
    pub fn total(mut self, tokens: u64) -> Usage {
        self.total_tokens = Some(tokens);
        self
    }

    /// Sets the part of the input that came from a cache.
    #[must_use]
    pub fn cache_read(mut self, tokens: u64) -> Usage {
        self.cache_read_tokens = Some(tokens);
        self
    }

    /// Sets the part of the input that went into a cache.
    #[must_use]
    pub fn cache_creation(mut self, tokens: u64) -> Usage {
        self.cache_creation_tokens = Some(tokens);
        self
    }

    /// Sets the part of the output that was reasoning.
    #[must_use]
    pub fn reasoning(mut self, tokens: u64) -> Usage {
        self.reasoning_tokens = Some(tokens);
        self
    }

    /// Returns this usage, with every value that `later` has in its place. Streams report their usage several times,
    /// each time for all items so far.
    #[must_use]
    pub fn merged(mut self, later: Usage) -> Usage {
        if later.input_tokens.or(later.output_tokens).is_some() {
            self.total_tokens = None;
        }
        let mut merged = later.or(self);
        merged.total_tokens = merged.total_tokens.or(total(merged.input_tokens, merged.output_tokens));
        merged
    }

    /// Returns this usage, with the values of `other` that it lacks.
    fn or(self, other: Usage) -> Usage {
        Usage {
            provider: self.provider.or(other.provider),
            model: self.model.or(other.model),
            input_tokens: self.input_tokens.or(other.input_tokens),
            output_tokens: self.output_tokens.or(other.output_tokens),
            total_tokens: self.total_tokens.or(other.total_tokens),
            cache_read_tokens: self.cache_read_tokens.or(other.cache_read_tokens),
            cache_creation_tokens: self.cache_creation_tokens.or(other.cache_creation_tokens),
            reasoning_tokens: self.reasoning_tokens.or(other.reasoning_tokens),
        }
    }

    /// Adds the usage to an event that is made by hand: `usage.on(Event::new(&step, "llm_end"))`.
    #[must_use]
    pub fn on(&self, mut event: Event) -> Event {
        self.each(|key, value| event.set_data(key, value));
        event
    }

    /// Calls `put` with every known value, by its key on the wire.
    pub(super) fn each(&self, mut put: impl FnMut(&'static str, Value)) {
        self.names(&mut put);
        for (key, tokens) in self.numbers() {
            if let Some(tokens) = tokens {
                put(key, tokens.into());
            }
        }
    }

    /// Calls `put` with the provider and the model.
    pub(super) fn names(&self, mut put: impl FnMut(&'static str, Value)) {
        for (key, name) in [(PROVIDER, &self.provider), (MODEL, &self.model)] {
            if let Some(name) = name {
                put(key, name.as_str().into());
            }
        }
    }

    fn numbers(&self) -> [(&'static str, Option<u64>); 6] {
        [
            (INPUT, self.input_tokens),
            (OUTPUT, self.output_tokens),
            (TOTAL, self.total_tokens),
            (CACHE_READ, self.cache_read_tokens),
            (CACHE_CREATION, self.cache_creation_tokens),
            (REASONING, self.reasoning_tokens),
        ]
    }
}

/// Returns the total, if no other total is reported.
pub(super) fn total(input: Option<u64>, output: Option<u64>) -> Option<u64> {
    Some(input?.saturating_add(output?))
}
