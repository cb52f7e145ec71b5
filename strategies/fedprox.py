"""FedProx (Li et al. 2020)."""

from strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """FedAvg whose clients add μ/2 ‖w − w_global‖² to their loss; μ is `strategy.proximal-mu`.

    Li et al. 2020 (arXiv 1812.06127), equation 2. With μ = 0 it is FedAvg, bit for bit.
    Clients must apply "proximal-mu" of the instructions.
    """

    settings = frozenset({"proximal_mu"})

    def instructions(self, server_round: int) -> dict[str, str | float]:
        return super().instructions(server_round) | {"proximal-mu": self.cfg.strategy.proximal_mu}
