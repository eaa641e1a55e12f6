//! Reads usage by any of its names.

use std::borrow::Cow;

use streamll_actors::event::{Datum, View};

use super::names::{
    BESIDE_INPUT, BESIDE_OUTPUT, CACHE_CREATION, CACHE_READ, INPUT, MODEL, OUTPUT, PROVIDER, RESPONSE_MODEL,
    TOTAL, holds_usage, name_of,
};
use super::{Usage, total};

/// Reads the usage in the members of an object. Of two names for one number our own wins, and outer members win over
/// inner ones.
pub(super) fn usage<'a>(members: impl Iterator<Item = (Cow<'a, str>, Datum<'a>)>) -> Option<Usage> {
    let mut said = told(members);
    said.numbers().iter().any(|(_, tokens)| tokens.is_some()).then(|| {
        said.total_tokens = said.total_tokens.or(total(said.input_tokens, said.output_tokens));
        said
    })
}

fn told<'a>(members: impl Iterator<Item = (Cow<'a, str>, Datum<'a>)>) -> Usage {
    let [mut ours, mut others, mut inner] = [Usage::default(), Usage::default(), Usage::default()];
    // Whether two numbers are beside input and output, and not a part of them.
    let [mut beside_input, mut beside_output] = [false; 2];
    for (key, value) in members {
        match value.view() {
            View::Number(digits) => {
                let (Some(name), Ok(tokens)) = (name_of(&key), digits.parse()) else { continue };
                beside_input |= BESIDE_INPUT.contains(&&*key);
                beside_output |= key == BESIDE_OUTPUT;
                set(if key == name { &mut ours } else { &mut others }, name, tokens);
            }
            View::Text(text) => match &*key {
                PROVIDER => ours.provider = ours.provider.take().or(Some(text.into_owned())),
                MODEL => ours.model = ours.model.take().or(Some(text.into_owned())),
                RESPONSE_MODEL | "modelVersion" => others.model = Some(text.into_owned()),
                _ => {}
            },
            View::Object(members) if holds_usage(&key) => inner = inner.or(told(members)),
            _ => {}
        }
    }
    if beside_input && ours.total_tokens.is_none() {
        ours.input_tokens = ours.input_tokens.map(|input| {
            let cached = [others.cache_read_tokens, others.cache_creation_tokens];
            cached.into_iter().flatten().fold(input, u64::saturating_add)
        });
    }
    if beside_output {
        others.output_tokens = total(others.output_tokens, others.reasoning_tokens).or(others.output_tokens);
    }
    ours.or(others).or(inner)
}

/// The first value wins: the event's own data comes before its context.
fn set(usage: &mut Usage, name: &str, tokens: u64) {
    let field = match name {
        INPUT => &mut usage.input_tokens,
        OUTPUT => &mut usage.output_tokens,
        TOTAL => &mut usage.total_tokens,
        CACHE_READ => &mut usage.cache_read_tokens,
        CACHE_CREATION => &mut usage.cache_creation_tokens,
        _ => &mut usage.reasoning_tokens,
    };
    field.get_or_insert(tokens);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use streamll_actors::event::{Decoder, Event, Step};

    use super::*;

    /// What providers and applications send, and what it says.
    fn known() -> Vec<(&'static str, Value, Usage)> {
        let openai = json!({
            "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
            "prompt_tokens_details": { "cached_tokens": 64, "audio_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 7, "accepted_prediction_tokens": 0 },
        });
        let of_openai = Usage::new(100, 20).cache_read(64).reasoning(7);
        let responses = json!({
            "input_tokens": 100, "input_tokens_details": { "cached_tokens": 64 },
            "output_tokens": 20, "output_tokens_details": { "reasoning_tokens": 7 }, "total_tokens": 120,
        });
        let anthropic = json!({
            "input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60, "output_tokens": 20,
            "cache_creation": { "ephemeral_5m_input_tokens": 30 }, "service_tier": "standard",
        });
        let of_anthropic = Usage::new(100, 20).cache_read(60).cache_creation(30);
        let gemini = json!({
            "promptTokenCount": 100, "candidatesTokenCount": 13, "thoughtsTokenCount": 7, "totalTokenCount": 120,
            "cachedContentTokenCount": 64, "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 100 }],
        });
        vec![
            ("OpenAI", openai.clone(), of_openai.clone()),
            ("OpenAI's responses", responses.clone(), of_openai.clone()),
            (
                "a whole chunk of OpenAI",
                json!({ "model": "m", "choices": [], "usage": openai }),
                of_openai.clone().model("m"),
            ),
            (
                "the last event of OpenAI's responses",
                json!({ "type": "response.completed", "response": { "model": "m", "usage": responses } }),
                of_openai.clone().model("m"),
            ),
            ("Anthropic", anthropic.clone(), of_anthropic.clone()),
            (
                "the first event of Anthropic",
                json!({ "type": "message_start", "message": { "model": "m", "usage": anthropic } }),
                of_anthropic.model("m"),
            ),
            (
                "the last event of Anthropic",
                json!({ "type": "message_delta", "usage": { "output_tokens": 20 } }),
                Usage::default().output(20),
            ),
            ("Gemini", gemini.clone(), of_openai.clone()),
            (
                "a whole chunk of Gemini",
                json!({ "usageMetadata": gemini, "modelVersion": "m" }),
                of_openai.model("m"),
            ),
            (
                "rig",
                json!({ "input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "cached_input_tokens": 64 }),
                Usage::new(100, 20).cache_read(64),
            ),
            (
                "ours",
                json!({
                    "provider": "p", "model": "m", "input_tokens": 100, "output_tokens": 20, "total_tokens": 130,
                    "cache_read_tokens": 64, "cache_creation_tokens": 3, "reasoning_tokens": 7,
                }),
                Usage::new(100, 20)
                    .provider("p")
                    .model("m")
                    .total(130)
                    .cache_read(64)
                    .cache_creation(3)
                    .reasoning(7),
            ),
            (
                "the model that answered, where nobody says which was asked",
                json!({ "response_model": "m", "prompt_tokens": 1 }),
                Usage::default().input(1).model("m"),
            ),
            (
                "ours before others', and these before what is deeper inside",
                json!({
                    "prompt_tokens": 1, "input_tokens": 2, "completion_tokens": 3, "response_model": "n", "model": "m",
                    "usage": { "output_tokens": 4, "reasoning_tokens": 5 },
                }),
                Usage::new(2, 3).reasoning(5).model("m"),
            ),
            ("a number alone", json!({ "usage": { "total_tokens": 7 } }), Usage::default().total(7)),
        ]
    }

    #[test]
    fn usage_is_read_whatever_names_it_comes_by() {
        for (what, said, expected) in known() {
            assert_eq!(Usage::read(&said), Some(expected.clone()), "{what}");
            let step = Step::new("Chat");
            assert_eq!(
                Usage::of(&Event::new(&step, "end").with_data(said.clone())),
                Some(expected.clone()),
                "{what}"
            );
            let line = json!({ "event_type": "end", "data": said }).to_string();
            let foreign = Decoder::default().decode(line.as_bytes()).expect("an event");
            assert_eq!(Usage::of(&foreign), Some(expected.clone()), "{what}");
            assert_eq!(foreign.data("usage").is_some(), said.get("usage").is_some(), "{what}");
            // What is written is read again.
            assert_eq!(Usage::of(&expected.on(Event::new(&step, "end"))), Some(expected), "{what}");
        }
    }

    #[test]
    fn where_no_number_of_tokens_is_told_there_is_no_usage() {
        for said in [
            json!({}),
            json!(null),
            json!([{ "input_tokens": 1 }]),
            json!({ "model": "m", "usage": null }),
            json!({ "usage": { "input_tokens": null } }),
            json!({ "usage": { "input_tokens": -1, "output_tokens": 1.5, "total_tokens": "7" } }),
            json!({ "tokens": 3, "max_tokens": 4096, "prompt": "x", "reasoning": 5, "message": "usage" }),
            json!({ "documents": { "input_tokens": 1 } }),
        ] {
            assert_eq!(Usage::read(&said), None, "{said}");
        }
        assert_eq!(Usage::of(&Event::token(&Step::new("Chat"), "input_tokens", "7", 0)), None);
    }

    #[test]
    fn the_context_of_an_event_names_its_model_where_it_does_not() {
        let context = crate::context! { model = "m", tags.tenant = "acme" };
        let step = Step::new("Chat").context(&context);
        let end = |usage: Usage| Usage::of(&usage.on(Event::new(&step, "end")));
        assert_eq!(end(Usage::new(1, 2)), Some(Usage::new(1, 2).model("m")));
        assert_eq!(end(Usage::new(1, 2).model("n")), Some(Usage::new(1, 2).model("n")));
        assert_eq!(end(Usage::default()), None);
    }

    #[test]
    fn what_comes_later_counts_and_a_total_is_of_the_numbers_that_it_came_with() {
        let first = Usage::new(25, 1).model("m").cache_read(10);
        let merged = first.clone().merged(Usage::default().output(15));
        assert_eq!(merged, Usage::new(25, 15).model("m").cache_read(10));
        assert_eq!(merged.total_tokens, Some(40));
        assert_eq!(first.clone().merged(Usage::new(25, 15).total(50)).total_tokens, Some(50));
        assert_eq!(first.clone().total(99).merged(Usage::default().reasoning(3)).total_tokens, Some(99));
        assert_eq!(first.clone().merged(Usage::default()), first);
        assert_eq!(Usage::new(u64::MAX, 1).total_tokens, Some(u64::MAX));
    }
}
