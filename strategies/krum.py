"""Krum (Blanchard et al. 2017)."""

from flwr.serverapp.strategy import Krum as FlowerKrum

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from strategies.flower import GuardedFlower


class Krum(GuardedFlower, FlowerKrum):
    """The one update nearest to its n − f − 2 neighbours, f = `strategy.num-malicious`.

    Blanchard et al. 2017 (arXiv 1703.02757), section 4; Flower's implementation. It needs n > f + 2 clients.
    """

    def __init__(self, cfg: RunConfig) -> None:
        asked = max(1, round(cfg.strategy.fraction_train * cfg.num_clients))
        if asked <= cfg.strategy.num_malicious + 2:
            raise ConfigError(
                f"strategy.num-malicious = {cfg.strategy.num_malicious}: krum needs more than "
                f"{cfg.strategy.num_malicious + 2} clients per round, {asked} are asked"
            )
        super().__init__(cfg, num_malicious_nodes=cfg.strategy.num_malicious)
