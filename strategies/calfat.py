"""CalFAT (Chen et al. 2022)."""

from strategies.fedavg import FedAvg
from strategies.guard import Update


class CalFAT(FedAvg):
    """Calibrated federated adversarial training: calibrated local objectives, a plain mean on the server.

    w ← (1/K) Σ_k w_k, each client's softmax calibrated by its own class prior (`fedrobust.objectives`, "calfat").
    Chen, Liu, Ma, Lyu, NeurIPS 2022 (arXiv 2205.14926), with the unweighted mean of the official code.
    Clients must know their class counts, which never leave them. The objective belongs to the method.
    """

    objective = "calfat"
    fixed_objective = True

    def weight(self, update: Update) -> float:
        return 1.0
