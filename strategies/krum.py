"""Krum (Blanchard et al. 2017)."""

from flwr.serverapp.strategy import Krum as FlowerKrum

from fedrobust.config import RunConfig
from strategies.flower import FlowerStrategy


class Krum(FlowerStrategy, FlowerKrum):
    """Krum: the one update nearest to its n − f − 2 neighbours, f = `strategy.num-malicious`.

    Blanchard et al. 2017 (arXiv 1703.02757), section 4; Flower's implementation. It needs n > f + 2 updates.
    """

    settings = frozenset({"num_malicious"})

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__(cfg, num_malicious_nodes=cfg.strategy.num_malicious)

    @classmethod
    def least_updates(cls, cfg: RunConfig) -> int:
        return cfg.strategy.num_malicious + 3
