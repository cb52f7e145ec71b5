"""Values that turn off what a run is named after: allowed, for comparison, and said before the run begins."""

from __future__ import annotations

from fedrobust.config import RunConfig
from fedrobust.config.registry import objective_of


def limit_cases(cfg: RunConfig) -> list[str]:
    """Return a line for each setting of a run that makes it a simpler run than its names say."""
    objective, strategy = objective_of(cfg), cfg.strategy.name if cfg.kind == "federated" else ""
    return [
        f"{setting}: {meaning}"
        for holds, setting, meaning in (
            (
                not cfg.attack.epsilon,
                f"attack.epsilon = {cfg.attack.epsilon}",
                "nothing is attacked, in training or evaluation: robust accuracy is natural accuracy",
            ),
            (
                objective == "mixed" and not cfg.objective.adversarial_fraction,
                "objective.adversarial-fraction = 0",
                "nothing is attacked in training",
            ),
            (
                objective == "mixed" and cfg.objective.adversarial_fraction == 1,
                "objective.adversarial-fraction = 1",
                "all images are attacked in training: mixed is at",
            ),
            (
                objective == "trades" and not cfg.objective.trades_beta,
                "objective.trades-beta = 0",
                "the loss on adversarial images has no weight: trades is natural",
            ),
            (
                strategy == "fedprox" and not cfg.strategy.proximal_mu,
                "strategy.proximal-mu = 0",
                "nothing pulls on the clients' weights: fedprox is fedavg",
            ),
            (
                strategy == "trimmed-mean" and not cfg.strategy.trim_fraction,
                "strategy.trim-fraction = 0",
                "nothing is cut: trimmed-mean is the plain mean",
            ),
        )
        if holds
    ]
