"""fedrobust: federated adversarial training under label skew, on Flower."""

__version__ = "0.1.0"
