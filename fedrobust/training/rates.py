"""Learning rates over a run: factors by the share of it that is done."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedrobust.config import Central
from fedrobust.config.names import split_list

Factor = Callable[[float], float]


def rate_factor(settings: Central) -> Factor:
    """What the learning rate is multiplied by when the share t in [0, 1] of all steps is done.

    - constant: 1.
    - piecewise: decay^m, m the number of milestones ≤ t (Rice et al. 2020: 0.1 at 0.5 and 0.75).
    - cosine: (1 + cos πt) / 2 (Loshchilov and Hutter 2017, without restarts).
    - cyclic: t / peak up to the peak, then (1 − t) / (1 − peak): a single triangle (Wong et al. 2020: peak 0.4).

    The formulas of torch's MultiStepLR, CosineAnnealingLR and CyclicLR, without their state: a run that goes on needs
    the number of its step only.
    """
    milestones = [float(share) for share in split_list(settings.milestones)]
    factors: dict[str, Factor] = {
        "constant": lambda t: 1.0,
        "piecewise": lambda t: settings.decay ** sum(t >= milestone for milestone in milestones),
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "cyclic": lambda t: min(t / settings.peak, (1 - t) / (1 - settings.peak)),
    }
    return factors[settings.schedule]
