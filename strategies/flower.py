"""Flower's own robust aggregation rules behind the project's guard."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedrobust.engines.arrays import from_record, to_record
from strategies.base import FederatedStrategy
from strategies.fedavg import to_dtype
from strategies.guard import WEIGHT_KEY, Update


class FlowerStrategy(FederatedStrategy):
    """A mixin before a Flower strategy: its `aggregate_train` gets only accepted replies, ordered by partition.

    A median needs all updates at once, so unlike FedAvg these hold a round's replies in memory.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        accepted = [self._uniform(update) for update in self.accepted_updates(server_round, replies)]
        arrays, _ = super().aggregate_train(server_round, accepted)
        if arrays is None:
            return None, None
        kept = {key: to_dtype(array, self.reference[key].dtype) for key, array in from_record(arrays).items()}
        return to_record(kept), MetricRecord({**self.means()})

    def _uniform(self, update: Update) -> Message:
        """Return the reply with names and order of its records as in all others, as Flower requires."""
        (record,) = update.reply.content.array_records.values()
        update.reply.content = RecordDict(
            {
                "arrays": ArrayRecord({key: record[key] for key in self.reference}),
                "metrics": MetricRecord({WEIGHT_KEY: update.num_examples}),
            }
        )
        return update.reply
