"""Checks before a run starts: if one of several runs cannot start, none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedrobust.config import WORST_CASE, RunConfig
from fedrobust.config.names import split_list
from fedrobust.config.registry import check_entries
from fedrobust.errors import ConfigError, UserError
from fedrobust.storage.run_folder import RunFolder

if TYPE_CHECKING:  # the command line checks before it computes, and PyTorch takes a second to import
    import torch


def check_run(cfg: RunConfig, engine: str = "auto") -> None:
    """Check all that is known beforehand: settings, folder, engine, and that the data can be read and split.

    Raises:
        ConfigError: one of them fails.
    """
    check_settings(cfg)
    check_folder(cfg)
    if cfg.kind == "federated":
        check_engine(cfg, engine)
    check_data(cfg)


def check_settings(cfg: RunConfig) -> None:
    """Check names, combinations of settings, device and workers, and that the initial weights exist.

    Raises:
        ConfigError: a name, a combination of settings, more than this machine has, a file of weights that is missing or
            corrupt.
    """
    from fedrobust.config.registry import resolve
    from fedrobust.data import DATASETS
    from fedrobust.engines import plan_workers
    from fedrobust.evaluation.evaluated_model import load_weights
    from fedrobust.hardware.process import pick_device
    from fedrobust.models import ModelSpec, check_model
    from fedrobust.objectives import check_start

    check_names(cfg)
    check_model(ModelSpec.of(cfg.model, DATASETS[cfg.data.name]))
    _check_polynomial(cfg, pick_device(cfg.device))
    if cfg.kind == "central":
        check_start(cfg.objective.name, cfg.attack.random_start)
        plan_workers(cfg, "local")
    else:
        resolve("strategies", cfg.strategy.name)(cfg)
        plan_workers(cfg, "ray")
    if cfg.init and not cfg.resume:
        with _typed():
            load_weights(Path(cfg.init))


def check_names(cfg: RunConfig) -> None:
    """Check that every name in the config is in its registry, evaluation attacks and classes of the data included.

    `evaluation.select-by` is checked here, too, after the attacks that it is one of.

    Raises:
        ConfigError: one line for the first unknown name.
        DataError: an unknown class.
    """
    from fedrobust.data import DATASETS, class_numbers
    from fedrobust.evaluation import parse_attack

    check_entries(cfg)
    class_numbers(cfg.data.classes, DATASETS[cfg.data.name].class_names)
    attacks = split_list(cfg.evaluation.attacks)
    for name in attacks:
        try:
            parse_attack(name)
        except ConfigError as error:
            raise ConfigError(f"evaluation.attacks: {error}") from error
    judges = ["natural", *([WORST_CASE] if len(set(attacks)) > 1 else [])]
    if cfg.evaluation.select_by not in (*judges, *attacks):
        raise ConfigError(
            f"evaluation.select-by = {cfg.evaluation.select_by!r}: must be {', '.join(judges)} "
            f"or one of evaluation.attacks ({', '.join(attacks)})"
        )


def check_folder(cfg: RunConfig) -> None:
    """Check that the run's folder can be made, or that no process writes it if the run is resumed.

    Raises:
        ConfigError: it is inside another run's folder, cannot be written, or is in use.
    """
    folder = RunFolder(cfg.run_dir)
    if cfg.resume:
        with folder.held():
            pass
    else:
        folder.check_outside_of_runs()
        folder.check_writable()


def check_engine(cfg: RunConfig, asked: str) -> None:
    """Check that the engine, requested or chosen, can start.

    Raises:
        ConfigError: the engine cannot start; the message says why.
    """
    from fedrobust.engines import check, pick_engine

    check(cfg, pick_engine(cfg, asked)[0])


def check_data(cfg: RunConfig) -> None:
    """Check that the data can be read and split, and that the initial weights fit the model.

    Raises:
        ConfigError: something is missing, or does not fit.
    """
    from fedrobust.data.split import split_of
    from fedrobust.running.rounds import initial_weights
    from fedrobust.training.context import run_context

    with _typed():
        split_of(cfg)
        if cfg.init and not cfg.resume:
            initial_weights(cfg, run_context(cfg).arrays())


@contextmanager
def _typed() -> Iterator[None]:
    """Turn errors inside the block into ConfigErrors: they are caused by the user's input."""
    try:
        yield
    except UserError as error:
        raise ConfigError(str(error)) from error


def _check_polynomial(cfg: RunConfig, device: torch.device) -> None:
    """Raise ConfigError for settings that need model polynomial, and for those that it does not allow."""
    from fedrobust.evaluation.suite import CERTIFIED

    convex, central = cfg.objective.name == "convex", cfg.kind == "central"
    if cfg.model.name != "polynomial" or cfg.attack.norm != "l2":
        for name, asked in (
            ("objective.name = 'convex'", convex),
            (f"evaluation.attacks has {CERTIFIED!r}", CERTIFIED in split_list(cfg.evaluation.attacks)),
        ):
            if asked:
                raise ConfigError(f"{name}: allowed only with model.name polynomial and attack.norm l2")
    if convex and cfg.objective.awp_gamma:
        raise ConfigError(f"objective.awp-gamma = {cfg.objective.awp_gamma:g}: must be 0 for objective convex")
    if cfg.model.name != "polynomial":
        return
    # each round takes the roots of (Z, Z′) anew: what is kept of the last round's roots belongs to others
    for refused, line in (
        (cfg.model.activation != "polynomial", f"model.activation = {cfg.model.activation!r}: must be polynomial"),
        (cfg.model.input_size, f"model.input-size = {cfg.model.input_size}: must be 0, because balls are in pixels"),
        (
            cfg.precision == "bfloat16",
            f"precision = {cfg.precision!r}: must be auto, because the model computes in float64",
        ),
        (device.type == "mps", f"device = {cfg.device!r}: has no float64; use cpu or cuda"),
        (central and cfg.local.momentum, f"local.momentum = {cfg.local.momentum:g}: must be 0 in a central run"),
        (central and cfg.central.average != "none", f"central.average = {cfg.central.average!r}: must be none"),
    ):
        if refused:
            raise ConfigError(f"{line} (model polynomial)")
