//! One chat completion as OpenAI writes it: whole, or in chunks.

use serde_json::{Value, json};

use crate::reply::{Reply, content, words};

/// A request that is answered.
pub(crate) struct Chat {
    id: String,
    model: Value,
    reply: Reply,
    usage: Value,
    /// Whether the stream is to end with the usage.
    with_usage: bool,
}

impl Chat {
    pub(crate) fn new(asked: &Value, number: u64) -> Chat {
        let reply = Reply::to(asked);
        // A word is a token here.
        let messages = asked["messages"].as_array().into_iter().flatten();
        let input: usize = messages.map(|message| words(&content(message)).count()).sum();
        let output = reply.pieces().len();
        Chat {
            id: format!("chatcmpl-{number}"),
            model: asked["model"].clone(),
            reply,
            usage: json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output }),
            with_usage: asked["stream_options"]["include_usage"] == true,
        }
    }

    pub(crate) fn whole(&self) -> Value {
        let text = self.reply.pieces().concat();
        let message = match &self.reply {
            Reply::Text(_) => json!({ "role": "assistant", "content": text }),
            Reply::Call { name, .. } => {
                let function = json!({ "name": name, "arguments": text });
                let call = json!({ "id": self.call_id(), "type": "function", "function": function });
                json!({ "role": "assistant", "content": null, "tool_calls": [call] })
            }
        };
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason() });
        let mut whole = self.object("chat.completion", json!([choice]));
        whole["usage"] = self.usage.clone();
        whole
    }

    pub(crate) fn chunks(&self) -> Vec<Value> {
        let choice = |delta: Value, finish_reason: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
            self.object("chat.completion.chunk", json!([choice]))
        };
        let first = match &self.reply {
            Reply::Text(_) => json!({ "role": "assistant", "content": "" }),
            Reply::Call { name, .. } => {
                let function = json!({ "name": name, "arguments": "" });
                let call =
                    json!({ "index": 0, "id": self.call_id(), "type": "function", "function": function });
                json!({ "role": "assistant", "content": null, "tool_calls": [call] })
            }
        };
        let piece = |text: &String| match &self.reply {
            Reply::Text(_) => json!({ "content": text }),
            Reply::Call { .. } => {
                json!({ "tool_calls": [{ "index": 0, "function": { "arguments": text } }] })
            }
        };
        let mut chunks = vec![choice(first, Value::Null)];
        chunks.extend(self.reply.pieces().iter().map(|text| choice(piece(text), Value::Null)));
        chunks.push(choice(json!({}), self.finish_reason().into()));
        if self.with_usage {
            let mut last = self.object("chat.completion.chunk", json!([]));
            last["usage"] = self.usage.clone();
            chunks.push(last);
        }
        chunks
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        // Always the same time, so that answers can be compared.
        json!({ "id": self.id, "object": object, "created": 1_760_000_000, "model": self.model, "choices": choices })
    }

    fn finish_reason(&self) -> &'static str {
        match self.reply {
            Reply::Text(_) => "stop",
            Reply::Call { .. } => "tool_calls",
        }
    }

    fn call_id(&self) -> String {
        self.id.replace("chatcmpl", "call")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(stream: bool) -> Value {
        json!({
            "model": "stub-1", "stream": stream, "stream_options": { "include_usage": true },
            "messages": [
                { "role": "system", "content": "The Moon makes the tides. The Sun warms the sea." },
                { "role": "user", "content": "What makes the tides?" },
            ],
        })
    }

    #[test]
    fn a_stream_says_what_the_whole_answer_says() {
        let chat = Chat::new(&asked(true), 1);
        let texts = chat.chunks();
        let texts = texts.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), "The Moon makes the tides.");
        assert_eq!(chat.whole()["choices"][0]["message"]["content"], "The Moon makes the tides.");
    }

    #[test]
    fn the_last_chunk_has_the_usage_where_it_is_wanted() {
        let chat = Chat::new(&asked(true), 1);
        let last = chat.chunks().pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &chat.whole()["usage"]));
        assert_eq!(last["usage"]["completion_tokens"], 5);
        let mut unwanted = asked(true);
        unwanted["stream_options"] = Value::Null;
        assert_eq!(Chat::new(&unwanted, 1).chunks().pop().unwrap().get("usage"), None);
    }
}
