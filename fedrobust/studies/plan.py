"""A study's runs in a folder: what each is called, what it costs, and which are there already."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedrobust.config import Data, Model, RunConfig
from fedrobust.data import DATASETS, class_numbers, load_data
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.models import build_model
from fedrobust.naming import split_list, unknown
from fedrobust.records import RunFolder, with_absolute_paths
from fedrobust.split import make_split
from fedrobust.studies import Point, Study

NOT_THE_RESULT = ("run-dir", "resume", "device", "data.dir", "workers.")
"""Settings that say where and how fast, not what: a run that differs in these alone is the same run."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep. `cost`: FLOPs of its training, about; `cfg` has its folder."""

    label: str
    point: Point = field(compare=False)
    cfg: RunConfig
    cost: float

    @property
    def folder(self) -> RunFolder:
        """Where it lies, or will."""
        return RunFolder(self.cfg.run_dir)

    @property
    def damage(self) -> str:
        """A line on the damage in its folder; "" if there is none."""
        try:
            self.folder.check_readable()
        except RunFailed as error:
            return str(error)
        return ""

    @property
    def complete(self) -> bool:
        """Whether all its rounds are done."""
        return not self.damage and self.folder.complete(self.cfg.num_rounds)


def plan_sweep(study: Study, folder: Path, overrides: Mapping[str, Any]) -> list[PlannedRun]:
    """All runs of a study, the most expensive first; `overrides` win over the study.

    Raises:
        ConfigError: a setting, a partition that cannot be had, two cells that are the same run, or a run in the folder
            that was made with other settings.
    """
    runs: list[PlannedRun] = []
    seen: dict[RunConfig, str] = {}
    for point, settings in study.cells():
        label = label_of(point)
        cfg = with_absolute_paths(RunConfig.from_flat({**settings, **overrides, "run-dir": str(folder / label)}))
        same = cfg.replace(run_dir="")
        if same in seen:
            raise ConfigError(f"{study.name}: {label} and {seen[same]} are the same run: skip one in the study")
        seen[same] = label
        runs.append(PlannedRun(label, point, cfg, training_flops(cfg)))
    if not runs:
        raise ConfigError(f"{study.name}: has no run: its skip rules leave none")
    for run in runs:
        _agrees(run)
    return sorted(runs, key=lambda run: -run.cost)


def select(runs: Sequence[PlannedRun], only: str) -> list[PlannedRun]:
    """The runs at these values of some axes: "method=calfat,pool.fraction=0.1"; all where `only` is empty.

    Raises:
        ConfigError: an axis or a value that the study has not.
    """
    for part in split_list(only):
        axis, _, value = part.partition("=")
        axes = runs[0].point
        if axis not in axes:
            raise ConfigError(f"--only {part}: {unknown('axis', axis, axes)}")
        values = dict.fromkeys(run.point[axis] for run in runs)
        if value not in values:
            raise ConfigError(f"--only {part}: {unknown(f'value of {axis}', value, values)}")
        runs = [run for run in runs if run.point[axis] == value]
    return list(runs)


def label_of(point: Point) -> str:
    """A folder's name: "method=calfat,fraction=0.1,seed=0"."""
    shortened = {axis: axis.rsplit(".", 1)[-1] for axis in point}
    names = list(shortened.values())
    parts = [f"{short if names.count(short) == 1 else axis}={point[axis]}" for axis, short in shortened.items()]
    return ",".join(re.sub(r"[^\w.,=+-]+", "", part) for part in parts)


def training_flops(cfg: RunConfig) -> float:
    """Forward FLOPs of an image, times the passes of an adversarial step (2 k + 3), times images, times rounds.

    Raises:
        ConfigError: the partition or the pool cannot be had.
    """
    split = make_split(cfg, load_data(cfg.data).train.labels)
    if cfg.local.steps:
        images = cfg.local.steps * cfg.local.batch_size * len(split.clients)
    else:
        images = cfg.local.epochs * sum(len(client.train) for client in split.clients)
    steps = 1 if cfg.attack.name == "fgsm" else cfg.attack.steps * cfg.attack.restarts
    passes = 3 if cfg.objective.name == "natural" else 2 * steps + 3
    return forward_flops(cfg.model, cfg.data) * passes * images * cfg.strategy.fraction_train * cfg.num_rounds


@lru_cache
def forward_flops(model: Model, data: Data) -> float:
    """Of one image."""
    spec = DATASETS[data.name]
    height, width, channels = spec.shape
    shape = (channels, height, width)
    network = build_model(
        model.name,
        num_classes=len(class_numbers(data.classes, spec.class_names)),
        image_shape=shape,
        mean=spec.mean,
        std=spec.std,
        generator_seed=0,
        **model.shape(),
    ).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    return float(counter.get_total_flops())


def _agrees(run: PlannedRun) -> None:
    """Raises ConfigError where the folder holds a run with other settings."""
    if not (run.folder.path / "config.toml").exists() or run.damage:
        return
    found, wanted = run.folder.read_config().to_flat(), run.cfg.to_flat()
    for key, value in wanted.items():
        if found[key] != value and not key.startswith(NOT_THE_RESULT):
            raise ConfigError(
                f"{run.folder.path}: was run with {key} = {found[key]!r}, the study asks for {value!r}: "
                "name another --out, or remove it"
            )
