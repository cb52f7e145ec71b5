"""What came back: replies in a fixed order, and what is wrong with one that has no content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message

from strategies.guard import Rejected


def in_order(asked: Mapping[int, Message], replies: Iterable[Message]) -> Iterator[tuple[int, Message | None]]:
    """(partition, reply) of all that were asked, in ascending order of partition; None where no reply came.

    Our engines answer in this order, so nothing waits; Flower's answer in any order. A reply to no question
    of this phase, or a second one, is dropped: nothing counts twice.
    """
    partition_of = {message.metadata.message_id: partition for partition, message in asked.items()}
    waiting = sorted(asked)
    early: dict[int, Message] = {}
    for reply in replies:
        partition = partition_of.pop(reply.metadata.reply_to_message_id, None)
        if partition is None:
            continue
        early[partition] = reply
        while waiting and waiting[0] in early:
            yield waiting[0], early.pop(waiting.pop(0))
    for partition in waiting:
        yield partition, early.pop(partition, None)


def content_of(reply: Message | None) -> Message:
    """A reply that has content. Raises Rejected with the reason where it has none."""
    if reply is None:
        raise Rejected("no reply in time")
    if reply.has_error():
        raise Rejected(reply.error.reason or f"error {reply.error.code}")
    return reply


def status_of(reply: Message | None) -> str:
    """What became of a reply that is not used."""
    if reply is None:
        return "missing"
    return "failed" if reply.has_error() else "rejected"
