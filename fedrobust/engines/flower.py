"""The only file that uses Flower's private parts; `tests/engines/test_flower_private.py` fails if they change."""

from __future__ import annotations

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_APP_FAILED",
    "Run",
    "records_from_bytes",
    "records_to_bytes",
    "set_message_id",
    "take_identity",
]

SUPERLINK_NODE_ID = 1  # Flower's own id for the server's side
CLIENT_APP_FAILED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def take_identity(run_id: int) -> Run:
    """Make this process the server's side of a run, without which Flower builds no Message outside its runtime."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = run_id
    return Run.create_empty(run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message the id that a SuperLink would have assigned; replies refer to it."""
    message.metadata.__dict__["_message_id"] = message_id


def records_to_bytes(records: RecordDict) -> bytes:
    """Return a RecordDict as protobuf (no pickle: nothing in it can be executed)."""
    return recorddict_to_proto(records).SerializeToString(deterministic=True)


def records_from_bytes(data: bytes) -> RecordDict:
    """Return the RecordDict of `records_to_bytes`."""
    return recorddict_from_proto(RecordDictProto.FromString(data))
