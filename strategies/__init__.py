"""The server's side: a Flower ServerApp (`app`), the rounds of a federation (`federation`), the base of all strategies
(`base`), and one strategy per file, one paper per strategy. Only Flower and the engines load it, by name; no package
imports it.
"""

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
