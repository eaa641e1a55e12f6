//! What the stub says: it understands nothing, but it answers from what it was given, always in the same way.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// An answer, in the pieces in which it is streamed.
pub(crate) enum Reply {
    Text(Vec<String>),
    /// A tool is to be called; the pieces are its arguments, as JSON.
    Call {
        name: String,
        arguments: Vec<String>,
    },
}

impl Reply {
    pub(crate) fn to(asked: &Value) -> Reply {
        let messages = asked["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let last = messages.last().unwrap_or(&Value::Null);
        if last["role"] == "tool" {
            return said(&format!("According to {}: {}", called(messages), content(last)));
        }
        let question = content(last);
        if let Some(function) = asked["tools"].get(0).map(|tool| &tool["function"]) {
            let arguments = Value::Object(arguments(function, &question)).to_string();
            let name = function["name"].as_str().unwrap_or_default().to_owned();
            return Reply::Call { name, arguments: pieces(&arguments, [':', ',']) };
        }
        let notes = messages.iter().filter(|message| message["role"] == "system").map(content);
        said(&found(&notes.collect::<Vec<_>>().join("\n"), &question))
    }

    pub(crate) fn pieces(&self) -> &[String] {
        match self {
            Reply::Text(pieces) | Reply::Call { arguments: pieces, .. } => pieces,
        }
    }
}

/// The words of a text, in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn said(text: &str) -> Reply {
    Reply::Text(pieces(text, [' ', '\n']))
}

fn pieces(text: &str, ends: [char; 2]) -> Vec<String> {
    text.split_inclusive(ends).map(str::to_owned).collect()
}

/// The text of a message, which may come in parts.
pub(crate) fn content(message: &Value) -> String {
    match &message["content"] {
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        text => text.as_str().unwrap_or_default().to_owned(),
    }
}

/// The two sentences of the notes that have most words in common with the question, as they stand there.
fn found(notes: &str, question: &str) -> String {
    // Short words stand in every sentence.
    let asked: HashSet<_> = words(question).filter(|word| word.len() > 3).collect();
    let sentences = notes.lines().flat_map(|line| line.split_inclusive(". ")).map(str::trim);
    let in_common = |sentence: &str| words(sentence).filter(|word| asked.contains(word)).count();
    let mut best: Vec<_> = sentences.enumerate().map(|(at, text)| (in_common(text), at, text)).collect();
    best.retain(|(in_common, ..)| *in_common > 0);
    best.sort_by_key(|(in_common, at, _)| (usize::MAX - in_common, *at));
    best.truncate(2);
    best.sort_by_key(|(_, at, _)| *at);
    match best.is_empty() {
        true => "My notes say nothing about that.".to_owned(),
        false => best.into_iter().map(|(.., text)| text).collect::<Vec<_>>().join(" "),
    }
}

/// The arguments of a tool: numbers are those of the question, in their order; a text is its last word.
fn arguments(function: &Value, question: &str) -> Map<String, Value> {
    let mut numbers = words(question).filter_map(|word| word.parse::<i64>().ok());
    let last =
        question.trim_end_matches(|c: char| !c.is_alphanumeric()).rsplit(' ').next().unwrap_or_default();
    let argument = |(name, schema): (&String, &Value)| {
        let is_text = schema["type"] == "string";
        let value = if is_text { Value::from(last) } else { numbers.next().unwrap_or(0).into() };
        (name.clone(), value)
    };
    let properties = function["parameters"]["properties"].as_object();
    properties.map(|properties| properties.iter().map(argument).collect()).unwrap_or_default()
}

/// The tool that was called last.
fn called(messages: &[Value]) -> &str {
    let calls = messages.iter().rev().find_map(|message| message["tool_calls"].get(0));
    calls.and_then(|call| call["function"]["name"].as_str()).unwrap_or("the tool")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(properties: Value) -> Value {
        json!([{ "type": "function", "function": { "name": "tide_table", "parameters": { "properties": properties } } }])
    }

    #[test]
    fn a_tool_is_called_with_what_the_question_says() {
        let properties = json!({ "port": { "type": "string" }, "day": { "type": "integer" } });
        let asked = json!({
            "tools": tool(properties), "messages": [{ "role": "user", "content": "When is high water on day 3 in Brest?" }],
        });
        let Reply::Call { name, arguments } = Reply::to(&asked) else { panic!("no call") };
        assert_eq!((&*name, &*arguments.concat()), ("tide_table", r#"{"port":"Brest","day":3}"#));
        assert!(arguments.len() > 1, "streamed in pieces");
    }

    #[test]
    fn what_a_tool_says_is_passed_on() {
        let call = json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "tide_table" } }] });
        let asked = json!({
            "tools": tool(json!({})), "messages": [call, { "role": "tool", "content": "high water at 04:12" }],
        });
        assert_eq!(Reply::to(&asked).pieces().concat(), "According to tide_table: high water at 04:12");
    }

    #[test]
    fn without_notes_it_knows_nothing() {
        let asked =
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Why?" }] }] });
        assert_eq!(Reply::to(&asked).pieces().concat(), "My notes say nothing about that.");
    }
}
