"""Consumes a queue bound with `ai.*.error`, as anybody's alerting would, with pika."""

import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
# As the sink declares it, in case it comes later.
channel.exchange_declare("ai_events", exchange_type="topic", durable=True)
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, "ai_events", routing_key="ai.*.error")
print("ready", flush=True)

errors = []
for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=30):
    assert method is not None, f"nothing came within 30 s, after {len(errors)} events"
    event = json.loads(body)
    assert method.exchange == "ai_events" and method.routing_key == event["topic"], method
    assert properties.content_type == "application/json", properties
    assert properties.message_id == event["event_id"], properties
    assert properties.type == event["event_type"] == "error", properties
    assert properties.app_id == "rag-api", properties
    assert properties.delivery_mode == 2, properties
    assert properties.timestamp > 1_700_000_000, properties
    assert properties.headers == {
        "event_type": "error",
        "operation": "llm_call",
        "module_name": event["module_name"],
        "traceparent": f"00-{event['execution_id']}-{event['span_id']}-01",
    }, properties
    errors.append(event)
    if event["module_name"] == "Last":
        break

assert [event["module_name"] for event in errors] == ["RagPipeline", "Last"], errors
assert errors[0]["data"]["conversation_id"] == "conv_123"
connection.close()
print(f"{len(errors)} errors")
