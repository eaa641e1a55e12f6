//! The spans of rig and of genai, in the order and with the fields that a run of theirs was seen to have.

use serde_json::json;
use tracing::field::Empty;
use tracing::{Span, debug, info, info_span, trace};

use super::{data, names, only, seen, seen_by};
use streamll::LayerExt as _;

/// A `chat` span of rig: the fields are declared, and recorded one by one.
fn rig_chat() -> Span {
    let span = info_span!(
        target: "rig::agent_chat",
        "chat",
        gen_ai.operation.name = "chat",
        gen_ai.agent.name = "calc",
        gen_ai.system_instructions = Empty,
        gen_ai.provider.name = Empty,
        gen_ai.request.model = Empty,
        gen_ai.request.stream = Empty,
        gen_ai.response.id = Empty,
        gen_ai.response.model = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        gen_ai.usage.reasoning_tokens = Empty,
        gen_ai.usage.cache_read.input_tokens = Empty,
        gen_ai.usage.tool_use_prompt_tokens = Empty,
        gen_ai.input.messages = Empty,
        gen_ai.output.messages = Empty,
        rig.completion_parent = true,
    );
    span.record("gen_ai.input.messages", r#"[{"role":"user","parts":[{"type":"text","content":"1+2?"}]}]"#);
    span.record("gen_ai.operation.name", "chat");
    span.record("gen_ai.provider.name", "mock");
    span.record("gen_ai.request.model", "mock-model");
    span.record("gen_ai.request.stream", true);
    span
}

fn rig_reply(span: &Span) {
    span.in_scope(|| trace!(target: "rig::completions", "reply: {{ usage … }}"));
    span.record("gen_ai.usage.input_tokens", 3_u64);
    span.record("gen_ai.usage.output_tokens", 4_u64);
    span.record("gen_ai.usage.reasoning_tokens", 2_u64);
    span.record("gen_ai.output.messages", r#"[{"role":"assistant","parts":[]}]"#);
}

fn rig_tool(parent: &Span) {
    let tool = info_span!(
        target: "rig_agent::agent::telemetry",
        parent: parent,
        "execute_tool",
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.type = "function",
        gen_ai.tool.name = Empty,
        gen_ai.tool.call.id = Empty,
        gen_ai.tool.call.arguments = Empty,
        gen_ai.tool.call.result = Empty,
        gen_ai.tool.call.outcome = Empty,
        gen_ai.tool.error.type = Empty,
    );
    tool.in_scope(|| {
        tool.record("gen_ai.tool.name", "add");
        tool.record("gen_ai.tool.call.id", "call_1");
        tool.record("gen_ai.tool.call.arguments", r#"{"x":1,"y":2}"#);
    });
    tool.record("gen_ai.tool.call.outcome", "success");
    tool.record("gen_ai.tool.call.result", "3");
}

/// A run of rig's agent with one tool call.
fn rig_agent() {
    let agent = info_span!(
        target: "rig_agent::agent::telemetry",
        "invoke_agent",
        gen_ai.operation.name = "invoke_agent",
        gen_ai.agent.name = "calc",
        gen_ai.usage.input_tokens = Empty,
    );
    let _inside = agent.enter();
    info!(target: "rig_agent::agent::engine", "Current conversation Turns: 1/3");
    let first = rig_chat();
    rig_reply(&first);
    drop(first);
    rig_tool(&agent);
    info!(target: "rig_agent::agent::engine", "Current conversation Turns: 2/3");
    let second = rig_chat();
    rig_reply(&second);
    drop(second);
    info!(target: "rig_agent::agent::engine", max_turns = 3, turn = 2, "Agent run finished");
}

#[test]
fn a_run_of_rig_is_told_from_start_to_end() {
    let events = seen(|_| rig_agent());
    assert_eq!(
        names(&events),
        [
            "calc start invoke_agent",
            "calc llm_start chat",
            "calc llm_end chat",
            "calc tool_start execute_tool",
            "calc tool_end execute_tool",
            "calc llm_start chat",
            "calc llm_end chat",
            "calc end invoke_agent",
        ]
    );
    assert_eq!(data(&events[1]), json!({"provider": "mock", "model": "mock-model"}));
    let answer = json!({
        "provider": "mock", "model": "mock-model", "stream": true,
        "input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 2, "total_tokens": 7,
    });
    assert_eq!((data(&events[2]), data(&events[6])), (answer.clone(), answer));
    let call = json!({"tool_type": "function", "tool": "add", "tool_call_id": "call_1"});
    assert_eq!(data(&events[3]), call);
    let mut result = call;
    result["outcome"] = json!("success");
    assert_eq!(data(&events[4]), result);

    let run = &events[0].json;
    for event in &events[1..7] {
        assert_eq!(
            (&event.json["execution_id"], &event.json["parent_id"]),
            (&run["execution_id"], &run["span_id"])
        );
    }
    for (first, last) in [(0, 7), (1, 2), (3, 4), (5, 6)] {
        assert_eq!(events[first].json["span_id"], events[last].json["span_id"]);
    }
    assert_ne!(events[1].json["span_id"], events[5].json["span_id"]);
}

#[test]
fn inside_of_an_ambient_span_of_the_application_rig_still_names_its_agent() {
    let events = seen(|_| {
        let app = info_span!("my_app_span");
        app.in_scope(|| {
            rig_reply(&rig_chat());
            rig_tool(&app);
        });
    });
    let expected = [
        "calc llm_start chat",
        "calc llm_end chat",
        "llm tool_start execute_tool",
        "llm tool_end execute_tool",
    ];
    assert_eq!(names(&events), expected);
}

#[test]
fn what_was_said_comes_with_rig_where_it_is_asked_for() {
    let events = seen_by(|layer| layer.capture_content(true), |_| rig_agent());
    let first = data(&events[1]);
    assert_eq!(first["input_messages"][0]["parts"][0]["content"], "1+2?");
    assert_eq!(data(&events[2])["output_messages"][0]["role"], "assistant");
    assert_eq!(data(&events[2]).get("input_messages"), None, "said once");
    assert_eq!(data(only(&events, "tool_start"))["arguments"], json!({"x": 1, "y": 2}));
    assert_eq!(data(only(&events, "tool_end"))["result"], "3");
}

/// A `chat` span of genai: what it asks for is there from the start.
fn genai_chat() -> Span {
    let span = info_span!(
        target: "genai::otel::span",
        "genai.chat",
        otel.name = "chat gpt-test",
        otel.kind = "client",
        otel.status_code = Empty,
        error.type = Empty,
        gen_ai.operation.name = "chat",
        gen_ai.provider.name = "openai",
        gen_ai.request.model = "gpt-test",
        gen_ai.request.stream = true,
        gen_ai.request.temperature = Empty,
        gen_ai.response.finish_reasons = Empty,
        gen_ai.response.time_to_first_chunk = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        gen_ai.usage.reasoning.output_tokens = Empty,
        gen_ai.input.messages = Empty,
        server.address = Empty,
        server.port = Empty,
    );
    span.record("server.address", "127.0.0.1");
    span.record("server.port", 18978);
    span
}

#[test]
fn a_stream_of_genai_is_told_with_its_usage() {
    let events = seen(|_| {
        let chat = genai_chat();
        chat.in_scope(|| {
            trace!(target: "hyper_util::client::legacy::pool", "checkout waiting for idle connection");
            debug!(target: "log", "starting new connection");
        });
        chat.record("gen_ai.response.time_to_first_chunk", 0.25);
        chat.record("gen_ai.response.finish_reasons", r#"["stop"]"#);
        chat.record("gen_ai.usage.input_tokens", 10_i64);
        chat.record("gen_ai.usage.output_tokens", 18_i64);
        chat.record("gen_ai.usage.reasoning.output_tokens", 5_i64);
    });
    assert_eq!(names(&events), ["openai llm_start chat", "openai llm_end chat"]);
    assert_eq!(data(&events[0]), json!({"provider": "openai", "model": "gpt-test", "stream": true}));
    assert_eq!(
        data(&events[1]),
        json!({
            "provider": "openai", "model": "gpt-test", "stream": true, "time_to_first_token": 0.25,
            "finish_reasons": ["stop"], "input_tokens": 10, "output_tokens": 18, "reasoning_tokens": 5,
            "total_tokens": 28,
        })
    );
}

#[test]
fn an_error_of_genai_is_an_error() {
    let events = seen(|_| {
        let chat = genai_chat();
        chat.record("otel.status_code", "error");
        chat.record("error.type", "500");
    });
    assert_eq!(names(&events), ["openai llm_start chat", "openai error chat"]);
    let said = data(&events[1]);
    assert_eq!((&said["error_type"], &said["error_message"]), (&json!("500"), &json!("chat failed")));
}

#[test]
fn other_operations_have_their_own_events() {
    let events = seen(|_| {
        let workflow =
            info_span!("w", gen_ai.operation.name = "invoke_workflow", gen_ai.workflow.name = "Nightly");
        let _inside = workflow.enter();
        drop(info_span!("r", gen_ai.operation.name = "retrieval", gen_ai.data_source.id = "docs"));
        drop(info_span!(
            "e",
            gen_ai.operation.name = "embeddings",
            gen_ai.system = "openai",
            gen_ai.request.model = "small"
        ));
    });
    assert_eq!(
        names(&events),
        [
            "Nightly start invoke_workflow",
            "Nightly retrieval_start retrieval",
            "Nightly retrieval_end retrieval",
            "Nightly embeddings_start embeddings",
            "Nightly embeddings_end embeddings",
            "Nightly end invoke_workflow",
        ]
    );
    assert_eq!(data(&events[3]), json!({"provider": "openai", "model": "small"}));
}
