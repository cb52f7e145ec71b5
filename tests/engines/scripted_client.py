"""A ClientApp that does what its message says, for test_grids.py; workers import it by name.

The record "config" holds a folder and, by partition, what that client does before it answers. Each call leaves a line
in the folder; the answer says how many messages the client's state has seen.
"""

import os
import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict


def app(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    calls = Path(str(message.content["config"]["folder"])) / f"{partition}.calls"
    with open(calls, "a") as file:
        file.write(f"{os.getpid()}\n")
    match message.content["config"].get(str(partition), ""):
        case "dies":
            os._exit(1)
        case "dies once" if len(calls.read_text().splitlines()) == 1:
            os._exit(1)
        case "hangs":
            time.sleep(3600)
        case "raises":
            raise ValueError("no such luck")
        case "empties its message":
            for record in message.content.array_records.values():
                record.clear()
            for name in list(message.content):
                del message.content[name]
    seen = int(context.state["memory"]["messages"]) if "memory" in context.state else 0
    context.state["memory"] = MetricRecord({"messages": seen + 1})
    arrays = message.content.array_records.get("arrays", {})
    total = sum(float(array.numpy().sum()) for array in arrays.values())
    answer = {"partition": partition, "messages": seen + 1, "sum": total}
    return Message(RecordDict({"answer": MetricRecord(answer)}), reply_to=message)
