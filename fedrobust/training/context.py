"""The context of a run in a process: model and data, built once and used for every client, round and evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from fedrobust.config import RunConfig
from fedrobust.config.registry import objective_of
from fedrobust.data import Dataset, load_data
from fedrobust.data.device import DeviceImages, on_device
from fedrobust.data.spec import SplitName
from fedrobust.hardware.process import keep_freed_memory, pick_device, pick_precision
from fedrobust.models import ModelSpec, build_model
from fedrobust.seeding import int_stream


@dataclass(frozen=True)
class RunContext:
    """A model, whose weights are replaced for each use, and the data on its device."""

    dataset: Dataset
    device: torch.device
    precision: torch.dtype
    model: nn.Module
    class_counts: Tensor  # int64 [K], written anew for each client that trains

    def images(self, split: SplitName) -> DeviceImages:
        """Return a split of the data on the device, one copy for all callers."""
        return on_device(self.dataset, split, self.device)

    def load(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the model with these weights."""
        self.model.load_state_dict(weights)
        return self.model

    def load_arrays(self, arrays: Mapping[str, np.ndarray]) -> nn.Module:
        """Return the model with these arrays as weights."""
        return self.load({key: as_tensor(value) for key, value in arrays.items()})

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights: on the CPU, contiguous, independent of later changes."""
        return {
            key: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
            for key, value in self.model.state_dict().items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model's weights as arrays."""
        return {key: value.numpy() for key, value in self.weights().items()}


def as_tensor(array: np.ndarray) -> Tensor:
    """Return a read-only tensor over the memory of an array, without torch's warning about read-only arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


@lru_cache(maxsize=1)
def run_context(cfg: RunConfig, own: Dataset | None = None) -> RunContext:
    """Return the context of a run, with its untrained model; kept for as long as the process lives.

    own: a client's own data, instead of the run's data set.
    """
    keep_freed_memory()
    device = pick_device(cfg.device)
    dataset = own or load_data(cfg.data)
    model = build_model(ModelSpec.of(cfg.model, dataset), generator_seed=int_stream(cfg.seed, "init"))
    precision = pick_precision(cfg.precision, cfg.model.name, objective_of(cfg), device)
    model.to(device).to(memory_format=torch.channels_last)
    class_counts = torch.zeros(dataset.num_classes, dtype=torch.int64, device=device)
    return RunContext(dataset, device, precision, model, class_counts)
