"""A study's runs in a folder: their names, their costs, and their progress."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedrobust.config import Data, Model, RunConfig
from fedrobust.config.names import split_list, unknown
from fedrobust.data import DATASETS, class_numbers, known_labels
from fedrobust.data.split import make_split
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.models import ModelSpec, build_model
from fedrobust.storage.run_folder import ROUNDS, RunFolder, with_absolute_paths
from fedrobust.studies import Point, Study
from fedrobust.training.loop import SGDSettings

NOT_THE_RESULT = ("run-dir", "resume", "device", "data.dir", "workers.")
"""Settings that do not change the result, only its place and speed: runs that differ only in these are the same run."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep. `images`: number of images it trains on, passes counted; `cost`: its approximate FLOPs; `cfg`
    has its folder.

    With `strategy.fraction-train` below 1 the images are those of an average draw of clients.
    """

    label: str
    point: Point = field(compare=False)
    cfg: RunConfig
    images: int
    cost: float

    @property
    def folder(self) -> RunFolder:
        """The run's folder, which may not exist yet."""
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
        """True if all its rounds are done."""
        return not self.damage and self.folder.complete(self.cfg.num_rounds)

    @property
    def share_done(self) -> float:
        """The completed share of its rounds."""
        path = self.folder.path / ROUNDS
        return path.read_bytes().count(b"\n") / self.cfg.num_rounds if path.exists() else 0.0


def plan_sweep(study: Study, folder: Path, overrides: Mapping[str, Any]) -> list[PlannedRun]:
    """Return all runs of a study, the most expensive first; `overrides` win over the study. No data are read.

    Raises:
        ConfigError: a setting, a partition that cannot be made, two cells that are the same run, or a run in the folder
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
        if label in seen.values():
            raise ConfigError(f"{study.name}: two runs would lie in {label}: call the values of its axes differently")
        seen[same] = label
        images = training_images(cfg)
        runs.append(PlannedRun(label, point, cfg, images, images * training_flops(cfg)))
    if not runs:
        raise ConfigError(f"{study.name}: has no run: its skip rules leave none")
    for run in runs:
        _agrees(run)
    return sorted(runs, key=lambda run: -run.cost)


def select(runs: Sequence[PlannedRun], only: Sequence[str]) -> list[PlannedRun]:
    """Return the runs at these values of some axes: ["method=calfat,fraction=0.1", "fraction=0.4"]; all if there are
    none.

    A run is selected if it has one of the given values on each given axis. Axes and values may be written
    as in the study or as in the runs' labels; "fraction=0.1,0.4" names two values.

    Raises:
        ConfigError: an axis or a value that the study does not have, or values that no run has together.
    """
    short = {name: axis for axis, name in _short_axes(runs[0].point).items()}
    axes = {axis: axis for axis in runs[0].point} | short
    asked: dict[str, set[str]] = {}
    for part in (part.strip() for text in only for part in re.split(r",(?=[^,=]*=)", text)):
        name, equals, value = map(str.strip, part.partition("="))
        if not equals:
            raise ConfigError(f"--only {part}: must be AXIS=VALUE; axes: {', '.join(short)}")
        if name not in axes:
            raise ConfigError(f"--only {part}: {unknown('axis', name, axes)}")
        axis = axes[name]
        known = list(dict.fromkeys(run.point[axis] for run in runs))
        whole = [each for each in known if _is_value(value, each)]
        for wanted in [value] if whole else split_list(value) or [value]:
            if not (found := [each for each in known if _is_value(wanted, each)]):
                raise ConfigError(f"--only {part}: {unknown(f'value of {name}', wanted, known)}")
            asked.setdefault(axis, set()).update(found)
    chosen = [run for run in runs if all(run.point[axis] in values for axis, values in asked.items())]
    if not chosen:
        raise ConfigError(f"--only {' --only '.join(only)}: no run of the study has these values together")
    return chosen


def label_of(point: Point) -> str:
    """Return a folder's name: "method=calfat,fraction=0.1,seed=0"."""
    return ",".join(f"{_shown(name)}={_shown(point[axis])}" for axis, name in _short_axes(point).items())


def _short_axes(point: Point) -> dict[str, str]:
    """Return axis → the last part of its name, if no other axis ends in that, else its name."""
    last = {axis: axis.rsplit(".", 1)[-1] for axis in point}
    names = list(last.values())
    return {axis: name if names.count(name) == 1 else axis for axis, name in last.items()}


def _shown(text: str) -> str:
    return re.sub(r"[^\w.,=+-]+", "", text)


def _is_value(typed: str, value: str) -> bool:
    """Return whether a value is written as in the study, as in labels, or as another form of its number."""
    if typed in (value, _shown(value)):
        return True
    try:
        return float(typed) == float(value)
    except ValueError:
        return False


def training_images(cfg: RunConfig) -> int:
    """Return the number of images that the clients of a run train on, over all passes and rounds.

    Raises:
        ConfigError: the partition or the pool cannot be made.
    """
    schedule = SGDSettings(cfg.local.epochs, cfg.local.steps, cfg.local.batch_size)
    clients = make_split(cfg, known_labels(cfg.data)).clients
    images = sum(schedule.num_images(len(client.train)) for client in clients)
    return round(images * (cfg.strategy.fraction_train if cfg.kind == "federated" else 1) * cfg.num_rounds)


def training_flops(cfg: RunConfig) -> float:
    """Compute the FLOPs of training on an image once: its forward pass, times the passes of a step (2 k + 3)."""
    steps = 1 if cfg.attack.name == "fgsm" else cfg.attack.steps * cfg.attack.restarts
    passes = 3 if cfg.objective.name == "natural" else 2 * steps + 3
    return forward_flops(cfg.model, cfg.data) * passes


@lru_cache
def forward_flops(model: Model, data: Data) -> float:
    """Return the FLOPs of one image's forward pass."""
    whole = DATASETS[data.name]
    spec = replace(ModelSpec.of(model, whole), num_classes=len(class_numbers(data.classes, whole.class_names)))
    network = build_model(spec, generator_seed=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *spec.image_shape))
    return float(counter.get_total_flops())


def _agrees(run: PlannedRun) -> None:
    """Raise ConfigError if the folder holds a run with other settings."""
    if not (run.folder.path / "config.toml").exists() or run.damage:
        return
    found, wanted = run.folder.read_config().to_flat(), run.cfg.to_flat()
    for key, value in wanted.items():
        if found[key] != value and not key.startswith(NOT_THE_RESULT):
            raise ConfigError(
                f"{run.folder.path}: was run with {key} = {found[key]!r}, the study asks for {value!r}: "
                "name another --out, or remove it"
            )
