"""Publishes a conversation to a topic exchange as a service in Python would, with pika."""

import json
import sys

import pika

url, exchange = sys.argv[1], sys.argv[2]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare(exchange, "topic", durable=True)
channel.confirm_delivery()


def publish(event_type, **data):
    event = {
        "execution_id": "run-1",
        "timestamp": "2026-11-21T03:20:03.287476+00:00",
        "module_name": "RagPipeline",
        "event_type": event_type,
        "data": {"conversation_id": "conv_123", **data},
    }
    body = json.dumps(event, ensure_ascii=event_type != "token")
    channel.basic_publish(exchange, f"ai.rag_pipeline.{event_type}", body.encode())


publish("start")
for i in range(20):
    publish("token", field="answer", token=f"«{i}» ", token_index=i)
publish("end")
connection.close()
