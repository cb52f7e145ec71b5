"""Trimmed mean (Yin et al. 2018)."""

from flwr.serverapp.strategy import FedTrimmedAvg

from fedrobust.config import RunConfig
from strategies.flower import FlowerStrategy


class TrimmedMean(FlowerStrategy, FedTrimmedAvg):
    """Coordinate-wise mean without the `strategy.trim-fraction` smallest and largest values.

    Yin et al. 2018 (arXiv 1803.01498), definition 2; Flower's implementation. With 0 it is the unweighted mean.
    """

    settings = frozenset({"trim_fraction"})

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__(cfg, beta=cfg.strategy.trim_fraction)
