"""Reads a stream as anybody's dashboard would, with redis-py: live by XREAD, and afterwards by XRANGE."""

import json
import sys

import redis

port, stream = int(sys.argv[1]), sys.argv[2]
client = redis.Redis(port=port, socket_timeout=60)
print("ready", flush=True)

live, last = [], "0-0"
while not live or live[-1]["event_type"] != "end":
    for _, entries in client.xread({stream: last}, block=30_000) or sys.exit("nothing came within 30 s"):
        for last, fields in entries:
            assert set(fields) == {b"event"}, fields
            live.append(json.loads(fields[b"event"]))

assert [event["event_type"] for event in live] == ["start"] + ["token"] * 20 + ["error", "end"], live
assert "".join(event["data"]["token"] for event in live[1:21]) == "".join(f"«{i}» " for i in range(20))
assert {event["operation"] for event in live} == {"llm_call"}
assert {event["data"]["conversation_id"] for event in live} == {"conv_123"}
assert live[21]["data"]["error_type"] == "Timeout"
assert live[21]["topic"] == "ai.rag_pipeline.error"
assert len({event["event_id"] for event in live}) == len(live)

kept = [json.loads(fields[b"event"]) for _, fields in client.xrange(stream)]
assert kept == live
print(f"{len(live)} events")
