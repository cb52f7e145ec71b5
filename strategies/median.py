"""Coordinate-wise median (Yin et al. 2018)."""

from flwr.serverapp.strategy import FedMedian

from strategies.flower import FlowerStrategy


class Median(FlowerStrategy, FedMedian):
    """Coordinate-wise median. Yin et al. 2018 (arXiv 1803.01498), definition 1; Flower's implementation."""
