"""FedAvg (McMahan et al. 2017), and with adversarial clients FAT (Zizzo et al. 2020)."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord

from fedrobust.engines.arrays import to_record
from strategies.averaging import WeightedMean
from strategies.base import Guarded
from strategies.guard import Update


class FedAvg(Guarded):
    """w ← Σ_k n_k w_k / Σ_k n_k over the admitted clients, n_k the images client k trained on.

    McMahan et al. 2017 (arXiv 1602.05629), algorithm 1. With the objective `at` (the default here) it is FAT,
    Zizzo et al. 2020 (arXiv 2012.01791). With one client that holds all data it is centralised training.
    Deviation: summed in float64 as the replies come in, in ascending order of partition.
    """

    averages = True

    def weight(self, update: Update) -> float:
        return update.num_examples

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        mean = WeightedMean(self.reference)
        for update in self.admitted(server_round, replies):
            mean.add(update.arrays, self.weight(update))
        if not mean.total:
            return None, None
        return to_record(mean.result()), MetricRecord({**self.means()})
