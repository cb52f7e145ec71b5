"""A run that begins with another's weights, as federated training after central training does (Zhao et al. 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedrobust.checkpoint import Arrays
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.evaluation.subjects import load_weights

SAME = ("model", "activation")


def initial_weights(cfg: RunConfig, untrained: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """The weights at `cfg.init`, and what their file says of itself.

    Args:
        untrained: the model's own arrays, whose names, shapes and types they must have.

    Raises:
        ConfigError: they are another model's.
        RunFailed: no such file, or a corrupt one.
    """
    arrays, found = load_weights(Path(cfg.init))
    wanted = {"model": cfg.model.name, "activation": cfg.model.activation}
    for key in SAME:
        if key in found and found[key] != wanted[key]:
            raise ConfigError(f"init = {cfg.init!r}: has {key} {found[key]!r}, the run {wanted[key]!r}")
    if _shapes(arrays) != _shapes(untrained):
        raise ConfigError(f"init = {cfg.init!r}: not the weights of a {cfg.model.name} for {cfg.data.name}")
    return arrays, found


def _shapes(arrays: Arrays) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {key: (array.shape, array.dtype) for key, array in arrays.items()}
