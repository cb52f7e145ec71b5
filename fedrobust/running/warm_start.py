"""Initial weights from another run, as in federated training after central training (Zhao et al. 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.evaluation.evaluated_model import load_weights
from fedrobust.evaluation.weights import fitted
from fedrobust.storage.checkpoint import Arrays

SAME = ("model", "activation")


def initial_weights(cfg: RunConfig, untrained: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """Return the weights at `cfg.init`, and the facts in their file.

    Args:
        untrained: the model's own arrays, whose shapes must match; names and types are adapted.

    Raises:
        ConfigError: the weights do not fit the model.
        RunFailed: no such file, or a corrupt one.
    """
    arrays, found = load_weights(Path(cfg.init))
    wanted = {"model": cfg.model.name, "activation": cfg.model.activation}
    for key in SAME:
        if key in found and found[key] != wanted[key]:
            raise ConfigError(f"init = {cfg.init!r}: has {key} {found[key]!r}, the run {wanted[key]!r}")
    try:
        arrays = fitted(arrays, untrained)
    except ConfigError as error:
        line = f"init = {cfg.init!r}: not the weights of a {cfg.model.name} for {cfg.data.name}: {error}"
        raise ConfigError(line) from error
    return {key: value.astype(untrained[key].dtype, copy=False) for key, value in arrays.items()}, found
