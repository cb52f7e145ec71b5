"""Models to evaluate: a run's folder, a file of weights, or any PyTorch module by its import path."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fedrobust.config import Model, RunConfig
from fedrobust.config.registry import load_path
from fedrobust.data import Dataset, load
from fedrobust.data.split import make_split
from fedrobust.errors import ConfigError, DataError, RunFailed
from fedrobust.evaluation.weights import SUFFIXES, fitted, load_pickled
from fedrobust.models import ModelSpec, build_model
from fedrobust.storage.checkpoint import Arrays, load_checkpoint, load_model, weights_digest
from fedrobust.storage.run_folder import RunFolder, folder_of_run, model_facts
from partitions import class_counts

Which = Literal["best", "last"]
WEIGHTS = (".safetensors", *SUFFIXES)  # how files of weights end


@dataclass(frozen=True)
class EvaluatedModel:
    """A model on the CPU and its data set."""

    name: str
    """Name as the user gave it."""
    model: nn.Module
    dataset: Dataset
    digest: str
    """Digest of the weights and buffers: two models with the same digest are equal."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Known facts: model name, data, round ..."""
    cfg: RunConfig | None = None
    """Config of the run that the model comes from."""
    clients: np.ndarray | None = None
    """Training images of that run's clients by class, [clients, K]; None if it has none, or they are unknown."""
    notes: tuple[str, ...] = ()
    """Lines on assumptions and on unknown facts."""


def load_evaluated_model(
    name: str,
    *,
    which: Which = "best",
    model_name: str = "",
    data_name: str = "",
    classes: str = "",
    data_dir: str = "",
) -> EvaluatedModel:
    """Return the model called `name`.

    Args:
        name: a run's folder (also of an unfinished run: its checkpoint is read); a safetensors file, or one of
            `torch.save`; or "package.module:object", a `torch.nn.Module` or a function without arguments that returns
            one.
        which: "best" or "last" model of a run.
        model_name, data_name, classes: architecture, data set and classes; they replace those that a file names.
        data_dir: as the setting data.dir.

    Raises:
        ConfigError: there is no such model, or the weights do not fit it.
        RunFailed: a corrupt file.
    """
    path, notes, clients = Path(name), list[str](), None
    cfg, model, facts = None, None, {"which": which} if path.is_dir() else {}
    if path.is_dir() or path.suffix in WEIGHTS:
        cfg = RunFolder(path).read_config() if path.is_dir() else None
        arrays, found = load_weights(path, which)
        facts |= found
    elif re.fullmatch(r"[\w.]+:\w+", name):
        arrays, model = {}, _import(name)
    else:
        raise ConfigError(
            f"{name}: neither a run's folder, nor a .safetensors, .pt or .pth file, nor package.module:object"
        )
    told = {"model": model_name, "data": data_name, "classes": classes}
    facts |= {key: value for key, value in told.items() if value}
    if not facts.get("data") or (model is None and not facts.get("model")):
        raise ConfigError(f"{name}: does not name its data set; name it with --data" + " and --model" * (model is None))
    folder = data_dir or (cfg.data.dir if cfg else "")
    dataset = _dataset(str(facts["data"]), folder or None, str(facts.get("classes", "")))
    if model is None:
        model = _build(name, facts, dataset, arrays)
        if "mean" not in facts and not cfg:
            notes.append(f"{name}: has no mean and std; images are normalised by those of {dataset.name}")
    if cfg and cfg.kind == "federated":
        try:
            clients = _clients(RunFolder(path), cfg, dataset)
        except ConfigError as error:
            notes.append(f"{name}: no accuracy per client, {error}")
    return EvaluatedModel(name, model, dataset, weights_digest(model.state_dict()), facts, cfg, clients, tuple(notes))


def module_to_evaluate(model: nn.Module, *, data_name: str, classes: str = "", data_dir: str = "") -> EvaluatedModel:
    """Return a module with its data set.

    Raises:
        ConfigError: no data set is named, or the module has lazy layers without weights.
        DataError: the data set is unknown or missing.
    """
    name = type(model).__name__
    if not data_name:
        raise ConfigError(f"{name}: a module does not name its data set; name one, such as cifar10")
    _check_lazy(name, model)
    dataset = _dataset(data_name, data_dir or None, classes)
    facts = {"data": data_name, "classes": classes}
    return EvaluatedModel(name, model, dataset, weights_digest(model.state_dict()), facts)


def _dataset(name: str, folder: str | None, classes: str) -> Dataset:
    """Return the data set, without its training images if only they are missing."""
    try:
        return load(name, data_dir=folder, classes=classes)
    except DataError as error:
        try:
            return load(name, data_dir=folder, classes=classes, test_only=True)
        except DataError:
            raise error from None


def _clients(folder: RunFolder, cfg: RunConfig, dataset: Dataset) -> np.ndarray:
    """Return `EvaluatedModel.clients` from the run's partition. Raises ConfigError if that cannot be computed again."""
    labels = dataset.train.labels
    if not len(labels):
        raise ConfigError("since the training images are missing")
    if folder.record().get("data_digest", dataset.digest) != dataset.digest:
        raise ConfigError("since these are not the data that the run was trained on")
    return class_counts(labels, [client.own for client in make_split(cfg, labels).clients], dataset.num_classes)


def load_weights(path: Path, which: Which = "best") -> tuple[Arrays, dict[str, Any]]:
    """Return the weights of a run's best or last model, or of a file, and the facts known about them.

    A file in a run's folder that holds no weights selects the run.

    Raises:
        ConfigError: a folder without a run, or a file that `load_pickled` refuses.
        RunFailed: no such file, or a corrupt one.
    """
    if path.is_file() and path.suffix not in WEIGHTS:
        path = folder_of_run(path)
    if path.suffix in SUFFIXES and not path.is_dir():
        return load_pickled(path), {}
    if not path.is_dir():
        return load_model(path, foreign=True)
    arrays, found = _of_run(RunFolder(path), which)
    return arrays, {**model_facts(RunFolder(path).read_config()), **found}


def _of_run(folder: RunFolder, which: Which) -> tuple[Arrays, dict[str, Any]]:
    path = folder.best if which == "best" else folder.last
    if path.exists():
        return load_model(path)
    if not folder.checkpoint.exists():
        raise RunFailed(f"{folder.path}: no model in it yet (neither {path.name} nor a checkpoint)")
    checkpoint = load_checkpoint(folder.checkpoint)
    progress = checkpoint.progress
    if which == "best":
        return checkpoint.best, {"round": progress.best_round}
    return checkpoint.last, {"round": progress.server_round}


def _build(name: str, facts: Mapping[str, Any], dataset: Dataset, arrays: Arrays) -> nn.Module:
    told = {key: facts[key] for key in Model.model_fields if key in facts}  # what others wrote says less
    settings = Model.model_validate({"name": facts["model"], **told})
    spec = ModelSpec.of(settings, dataset)
    spec = replace(spec, mean=facts.get("mean", spec.mean), std=facts.get("std", spec.std))
    try:
        model = build_model(spec, generator_seed=0)
        weights = fitted(arrays, model.state_dict())
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{name}: not the weights of a {facts['model']} for {dataset.name}: {error}") from error
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in weights.items()})
    return model.eval()


def _import(name: str) -> nn.Module:
    sys.path.insert(0, "")  # as `python -m` does: what lies in the current folder can be named
    try:
        found = load_path(name)
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise ConfigError(f"{name}: cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove("")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name}: is a {type(model).__name__}, not a torch.nn.Module or a function that returns one")
    _check_lazy(name, model)
    return model


def _check_lazy(name: str, model: nn.Module) -> None:
    """Raise ConfigError for layers whose shapes are still unknown."""
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        raise ConfigError(f"{name}: has lazy layers without weights; run the model on some images first")
