"""The server's side: a Flower ServerApp, and one strategy per file, one paper per strategy."""

from strategies.calfat import CalFAT
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.krum import Krum
from strategies.median import Median
from strategies.trimmed_mean import TrimmedMean

STRATEGIES = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "calfat": CalFAT,
    "trimmed-mean": TrimmedMean,
    "median": Median,
    "krum": Krum,
}

__all__ = ["STRATEGIES", "CalFAT", "FedAvg", "FedProx", "Krum", "Median", "TrimmedMean"]
