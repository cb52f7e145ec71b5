"""Weights from other programs: files of `torch.save`, and names that differ by the prefixes of wrappers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.data.spec import one_line
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.checkpoint import Arrays, as_array

SUFFIXES = (".pt", ".pth", ".ckpt", ".tar")
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which a file may keep the state dict; the first that exists counts."""
AROUND = ("module.", "model.", "_orig_mod.", "net.", "network.")
"""Prefixes that wrappers put before all names: DataParallel, torch.compile, a normalising model, Lightning."""
COUNTERS = "num_batches_tracked"  # older files have none, and in eval mode none matters
NOT_THE_MODELS = ("n_averaged",)  # AveragedModel's


def load_pickled(path: Path) -> Arrays:
    """Return the state dict in a file of `torch.save`, read with weights_only: nothing in it is executed.

    Raises:
        ConfigError: it holds more than tensors and plain values, or no state dict.
        RunFailed: it is missing or corrupt.
    """
    if not path.exists():
        raise RunFailed(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the reader raise nearly anything
        if told := re.search(r"GLOBAL ([\w.]+)|TorchScript", str(error)):
            raise ConfigError(
                f"{path}: holds more than weights ({told[1] or told[0]}); not loaded, since that could execute code: "
                "save only model.state_dict()"
            ) from error
        raise RunFailed(f"{path}: corrupt or not a file of torch.save ({one_line(error)}); not loaded") from error
    return {name: as_array(value) for name, value in _state_dict(path, found).items()}


def _state_dict(path: Path, found: Any) -> Mapping[str, Tensor]:
    """Return the first state dict at or below `found`."""
    inside = found
    while isinstance(inside, Mapping):
        if inside and all(isinstance(value, Tensor) for value in inside.values()):
            return inside
        inside = next((inside[key] for key in NESTED if isinstance(inside.get(key), Mapping)), None)
    keys = ", ".join(map(str, found)) if isinstance(found, Mapping) else f"a {type(found).__name__}"
    raise ConfigError(f"{path}: no state dict in it, but {keys}; save only model.state_dict()")


def fitted(arrays: Arrays, own: Mapping[str, np.ndarray | Tensor]) -> Arrays:
    """Return `arrays` under the names of `own`, a model's state dict: the names may differ by the prefixes in `AROUND`.

    So torchvision's names are found, too. Missing counters of batch norm are taken from `own`.

    Raises:
        ConfigError: the arrays do not fit the model; the message has the first three names of each kind, and their
            number.
    """
    bare = _bare({name: value for name, value in arrays.items() if name not in NOT_THE_MODELS})
    wanted = _bare(own)
    missing = [name for name in wanted if name not in bare and not name.endswith(COUNTERS)]
    unknown = [name for name in bare if name not in wanted]
    other = [
        f"{name} {_shape(bare[name])} for {_shape(wanted[name])}"
        for name in wanted
        if name in bare and tuple(bare[name].shape) != tuple(wanted[name].shape)
    ]
    problems = (("missing", missing), ("unknown", unknown), ("of another shape", other))
    if said := [f"{len(names)} {kind} ({_first(names)})" for kind, names in problems if names]:
        raise ConfigError(f"of its {len(bare)} tensors and the model's {len(wanted)}, {'; '.join(said)}")
    whole = wanted | bare
    return {name: as_array(whole[short]) for name, short in zip(own, wanted, strict=True)}


def _bare(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by their names without the prefixes of wrappers."""
    found = dict(named)
    while around := next((a for a in AROUND if found and all(name.startswith(a) for name in found)), ""):
        found = {name.removeprefix(around): value for name, value in found.items()}
    return found


def _shape(value: np.ndarray | Tensor) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
