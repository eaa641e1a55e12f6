"""Writes a conversation into a stream as a service in Python would, with redis-py."""

import json
import sys

import redis

port, stream = int(sys.argv[1]), sys.argv[2]
client = redis.Redis(port=port)


def add(event_type, conversation="conv_123", into="event", **data):
    event = {
        "event_id": f"py-{client.incr('ids')}",
        "execution_id": "run-1",
        "span_id": "span-1",
        "timestamp": "2026-11-21 03:20:03.287476+00:00",
        "module_name": "RagPipeline",
        "event_type": event_type,
        "operation": "llm_call",
        "data": {"conversation_id": conversation, **data},
    }
    client.xadd(stream, {into: json.dumps(event)})


add("start", question="why?")
for i in range(20):
    add("token", into="message" if i % 2 else "event", field="answer", token=f"«{i}» ", token_index=i)
add("token", conversation="conv_999", token="another conversation", token_index=0)
add("score", value=float("nan"))
add("end", duration=1.5)
