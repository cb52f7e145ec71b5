"""The Python interface: `import fedrobust as fr`, then `fr.run`, `fr.evaluate`, `fr.sweep`, `fr.report`, `fr.load_run`.

Settings are keyword arguments, a section and its setting joined by two underscores: `pool__fraction=0.1` is the flag
`--pool.fraction 0.1`, `num_rounds=10` is `--num-rounds 10`. A mistake is a `ConfigError` with the command line's text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from fedrobust.config import RunConfig
from fedrobust.config.effects import refuse_unused
from fedrobust.config.flat import Ratio
from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.presets import Preset, load_preset
from fedrobust.storage.run_folder import RunFolder, folder_of_run, new_run_dir, why_no_run, with_absolute_paths

if TYPE_CHECKING:
    from torch import nn

    from fedrobust.evaluation.evaluated_model import EvaluatedModel
    from fedrobust.reports.results import Overview

__all__ = ["Evaluation", "Report", "Run", "evaluate", "load_run", "report", "run", "sweep"]

logger = logging.getLogger(__name__)

Engine = Literal["auto", "local", "processes", "ray", "flwr"]
ATTACKS = ("fgsm", "pgd-20", "autoattack")


@dataclass(frozen=True, eq=False)
class Run:
    """A run, read from its folder: settings, metrics as pandas tables, models.

    Attributes:
        folder: the folder of the run; `fedrobust run --resume FOLDER` takes it, too.
    """

    folder: Path

    def __repr__(self) -> str:
        here = Path.cwd()
        folder = self.folder.relative_to(here) if self.folder.is_relative_to(here) else self.folder
        return f"Run({str(folder)!r}, state={self.record.get('state', 'not started')!r})"

    @cached_property
    def config(self) -> RunConfig:
        """The run's complete settings."""
        return RunFolder(self.folder).read_config()

    @property
    def record(self) -> dict[str, Any]:
        """The run's record.json as it is now: state, command, commit, hardware, accuracies of both models."""
        return RunFolder(self.folder).record()

    @property
    def rounds(self) -> pd.DataFrame:
        """A row per round, with the columns of rounds.jsonl (docs/metrics.md)."""
        return self._table("rounds.jsonl")

    @property
    def clients(self) -> pd.DataFrame:
        """A row per client, round and phase, with the columns of clients.jsonl; empty for a central run."""
        return self._table("clients.jsonl")

    @property
    def partition(self) -> pd.DataFrame:
        """Training images per client and class, as the run recorded them; empty if it did not come to round 1."""
        path = RunFolder(self.folder).partition
        return pd.read_csv(path) if path.exists() else pd.DataFrame()

    @property
    def best(self) -> Path:
        """The file of the model that did best on the validation slice (safetensors)."""
        return RunFolder(self.folder).best

    @property
    def last(self) -> Path:
        """The file of the model after the last round (safetensors)."""
        return RunFolder(self.folder).last

    def _table(self, log: str) -> pd.DataFrame:
        return pd.DataFrame(RunFolder(self.folder).read(log))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        record: the content of evaluation.json: model, threat, accuracies with intervals, flags, checks.
        images: a row per image: its index in the test set, its label, and whether it is classified correctly without an
            attack ("natural"), under each attack, and under all of them ("worst-case").
        examples: adversarial images of the suite, float32 [n, C, H, W] in [0, 1], in the order of `images`.
        folder: the folder of the evaluation; None if `out` was not given.
    """

    record: dict[str, Any]
    images: pd.DataFrame
    examples: np.ndarray
    folder: Path | None

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.accuracy.items())
        return f"Evaluation({shares}, flags={self.flags})"

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of images that are classified correctly: "natural", under each attack, and "worst-case"."""
        return {name: row["accuracy"] for name, row in self.record["accuracy"].items()}

    @property
    def table(self) -> pd.DataFrame:
        """A row per attack: accuracy, its 95 % Wilson interval (low, high), seconds."""
        columns = ["accuracy", "low", "high", "seconds"]
        return pd.DataFrame.from_dict(self.record["accuracy"], orient="index").reindex(columns=columns)

    @property
    def flags(self) -> list[str]:
        """The names of the warnings raised; docs/evaluation-flags.md explains each."""
        return [flag["name"] for flag in self.record["flags"]]


@dataclass(frozen=True, eq=False)
class Report:
    """The result of `report`.

    Attributes:
        results: a row per run and model ("best", "last"): settings, accuracies on the test set, costs.
        summary: a row per setting and model: mean and standard deviation over seeds.
        page: the page that was written; None if `out` was not given.
    """

    results: pd.DataFrame
    summary: pd.DataFrame
    page: Path | None


def run(
    preset: str | Path | RunConfig = "",
    *,
    variant: str = "",
    engine: Engine = "auto",
    resume: str | Path = "",
    on_round: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Run:
    """Carry out a run in this process and return it.

    Args:
        preset: a preset's name (`fedrobust list presets`), the path of a TOML file, or a complete config.
        variant: one of the preset's variants; needed if it has several.
        engine: how the clients of a federation run: "local" one after another, "processes" in a pool of processes
            on this machine, "ray" under Ray, on this machine or a cluster, "flwr" under Flower's own simulation, "auto"
            whichever fits the machine. A central run has none.
        resume: the folder of an interrupted run, in place of a preset; of the settings only those may be given that a
            resumed run can change, such as `num_rounds`.
        on_round: called with each row of rounds.jsonl as it is written, in a thread of its own.
        settings: override the preset's, such as `num_rounds=10, pool__fraction=0.1`. `run_dir` names the run's folder;
            if it is left out, that is a new one below runs/ in the current folder.

    Raises:
        ConfigError: a setting is unknown, out of range or without an effect, or the data are not there. Nothing has
            been started then.
        RunFailed: the run ended early; its folder holds the results up to then.
    """
    from fedrobust.running.follow import Following
    from fedrobust.running.launch import carry_out, planned, quiet_flower_and_ray, resumed_runs
    from fedrobust.running.preflight import check_run
    from fedrobust.storage.provenance import provenance

    given = flat_settings(settings)
    if resume:
        if preset or variant:
            raise ConfigError("run: a resumed run keeps its settings; give only resume, without a preset or a variant")
        runs = resumed_runs(Path(resume), given)
        if len(runs) > 1:
            raise ConfigError(f"resume = {str(resume)!r}: holds several runs ({', '.join(runs)}); name one of them")
        ((label, cfg),) = runs.items()
        if RunFolder(cfg.run_dir).complete(cfg.num_rounds):
            return Run(Path(cfg.run_dir))
    else:
        label, cfg = _one_config(preset, variant, given, engine)
    check_run(cfg, engine)
    if not resume:
        folder = Path(cfg.run_dir) if cfg.run_dir else new_run_dir(label)
        RunFolder(folder).check_new()
        cfg = with_absolute_paths(cfg.replace(run_dir=str(folder)))
    plan = planned(cfg, engine)
    if not resume:
        facts = {"name": label, "kind": cfg.kind, "engine": plan.engine, **provenance()}
        RunFolder.create(plan.cfg).update_record(**facts)
    quiet_flower_and_ray()
    watchers = [_OnRound(on_round)] if on_round else []
    with Following(RunFolder(cfg.run_dir), watchers, logger.warning):
        carry_out(plan.cfg.replace(resume=True), plan.engine)
    return Run(Path(cfg.run_dir))


def load_run(folder: str | Path) -> Run:
    """Return the run in a folder, complete or not.

    Args:
        folder: the run's folder, or a file in it.

    Raises:
        ConfigError: no run is in it, or runs that are packed: `report` reads those.
        RunFailed: its config or its record is damaged.
    """
    path = folder_of_run(Path(folder))
    found = RunFolder(path)
    if not (path / "config.toml").is_file() and not (path / "record.json").is_file():
        raise ConfigError(why_no_run(Path(folder)))
    found.check_readable()
    return Run(path.absolute())


def evaluate(
    model: str | Path | Run | nn.Module | EvaluatedModel,
    *,
    attacks: str | Sequence[str] = ATTACKS,
    epsilon: str | float | None = None,
    norm: Literal["linf", "l2"] | None = None,
    step_size: str | float | None = None,
    num_images: int = 1000,
    which: Literal["best", "last"] = "best",
    source: str | Path | Run | nn.Module | EvaluatedModel | None = None,
    architecture: str = "",
    data: str = "",
    classes: str = "",
    data_dir: str | Path = "",
    seed: int = 0,
    batch_size: int = 0,
    device: str = "auto",
    checks: bool = True,
    out: str | Path | None = None,
    watch: Callable[[str, float], None] = lambda attack, share: None,
) -> Evaluation:
    """Attack a model and return its accuracies, with warnings if they should not be believed.

    Args:
        model: a run, its folder, a file of weights (.safetensors, .pt, .pth), "package.module:object", or a
            `torch.nn.Module` from pixels in [0, 1], [B, C, H, W], to logits, [B, K], in eval mode.
        attacks: the suite by name: see `fedrobust list suite`.
        epsilon: radius in pixel units, such as "8/255"; the run's, or 8/255 without a run.
        norm: norm that bounds the perturbation; the run's, or "linf" without a run.
        step_size: step of PGD, BIM and MIM in pixel units; epsilon / 4 if it is left out.
        num_images: class-balanced number of test images; 0 takes all.
        which: a run's best or last model.
        source: the model on which the examples are made, for a transfer attack.
        architecture: model by name, for weights that do not say.
        data: data set by name, for weights or a module that do not say.
        classes: classes of the data set that are kept, by name or number, comma-separated.
        data_dir: folder of the data in the Hub's parquet layout.
        seed: seed for the choice of images and for random starts.
        batch_size: images per batch; 0 takes the largest number that fits the device.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        checks: also run the probes that most warnings need.
        out: folder for the evaluation's files; an interrupted one resumes there. None writes none.
        watch: called with the running attack's name and its completed share, 0 to 1.

    Raises:
        ConfigError: an unknown attack, a radius out of range, a model that does not fit the data or takes no gradients.
        RunFailed: a file is corrupt, or `out` cannot be written.
    """
    from fedrobust.evaluation.assessment import assess
    from fedrobust.evaluation.attack_run import AttackRun, Request
    from fedrobust.evaluation.evaluation_folder import EvaluationFolder
    from fedrobust.evaluation.suite import parse_attack
    from fedrobust.evaluation.summary import record_of, verdicts_by_name
    from fedrobust.hardware.process import exact_products, pick_device
    from fedrobust.reports.evaluation import write_evaluation

    names = tuple(dict.fromkeys(split_list(attacks) if isinstance(attacks, str) else map(str, attacks)))
    if not names:
        raise ConfigError("attacks: no attack is given")
    for name in names:
        parse_attack(name)
    where = pick_device(device)
    described = {"architecture": architecture, "data": data, "classes": classes, "data_dir": str(data_dir)}
    evaluated = _evaluated_model(model, which, **described)
    other = None if source is None else _evaluated_model(source, which, **described)
    request = Request(
        attacks=names,
        threat=threat_of(evaluated.cfg, epsilon, norm),
        num_images=num_images,
        seed=seed,
        batch_size=batch_size,
        step_size=None if step_size is None else _ratio("step_size", step_size),
        checks=checks,
    )
    with _folder_for(out) as folder, exact_products():
        attack_run = AttackRun(
            evaluated,
            request,
            lambda *opened: EvaluationFolder(folder, *opened),
            device=where,
            source=other,
            watch=watch,
        )
        result = assess(attack_run)
        record = record_of(result, evaluated, other, attack_run.request, where)
        if out is not None:
            write_evaluation(folder, record, result, evaluated, request.threat)
        images = pd.DataFrame({"image": result.index, "label": result.labels, **verdicts_by_name(result)})
        examples = np.load(folder / "examples.npy")
    return Evaluation(record, images, examples, None if out is None else folder)


def sweep(
    study: str | Path,
    *,
    seeds: Iterable[int] | None = None,
    only: Sequence[str] = (),
    out: str | Path | None = None,
    engine: Engine = "auto",
    parallel: int = 0,
    **settings: Any,
) -> list[Run]:
    """Carry out the runs of a study that are not complete, several at once, and return all of them.

    Args:
        study: a study's name (`fedrobust list studies`) or the path of a TOML file.
        seeds: seeds to use instead of the study's.
        only: select runs, each selection written "axis=value,...".
        out: folder of the runs; sweeps/STUDY in the current folder if it is left out. An interrupted sweep resumes.
        engine: as in `run`.
        parallel: runs at once; 0 takes one per core, or one per GPU.
        settings: override those of every run, as in `run`.

    Raises:
        ConfigError: a setting, the engine or the data; nothing has been started then.
        RunFailed: a run failed or is unreadable, after all others have ended; the line names each.
    """
    from fedrobust.running.sweeping import begun, planned_sweep

    plan = planned_sweep(
        str(study),
        flat_settings(settings),
        seeds=None if seeds is None else ",".join(map(str, seeds)),
        only=only,
        folder=None if out is None else Path(out),
        engine=engine,
        parallel=parallel,
    )
    with begun(plan) as work:
        try:
            problems = [f"{outcome.run.label}: {outcome.error}" for outcome in work if outcome.state != "completed"]
        except KeyboardInterrupt:
            work.stop()
            for _ in work:  # each keeps its checkpoint
                pass
            raise
    if problems:
        raise RunFailed("\n".join(problems))
    return [Run(planned.folder.path.absolute()) for planned in plan.runs]


def report(
    runs: str | Path | Run | Iterable[str | Path | Run],
    *,
    out: str | Path | None = None,
    target_robust: float | None = None,
) -> Report:
    """Return tables of runs and of their mean and spread over seeds; write them with figures and a page into a folder.

    Args:
        runs: a run, its folder, a folder with runs below it, or several of these.
        out: folder for the tables, the figures and report.html. None writes none.
        target_robust: also count the rounds to this robust accuracy on the validation slice, between 0 and 1.

    Raises:
        ConfigError: a path holds no run.
    """
    from fedrobust.reports.results import Overview

    several = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    found: Overview = Overview.of([one.folder if isinstance(one, Run) else Path(one) for one in several], target_robust)
    page = None
    if out is not None:
        from fedrobust.reports.page import write_report

        page = write_report(found, Path(out))
    return Report(found.results, found.summary, page)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments as flat keys: `pool__fraction` is "pool.fraction", `num_rounds` is "num-rounds"."""
    return {key.replace("__", ".").replace("_", "-"): _flat(value) for key, value in settings.items()}


def threat_of(cfg: RunConfig | None, epsilon: str | float | None, norm: str | None) -> Any:
    """Return the requested threat; by default the one that a run was trained for, else 8/255 in l∞.

    Raises:
        ConfigError: a radius that is not a number, not above 0, or above 1 in l∞.
    """
    from fedrobust.evaluation.suite import Threat

    radius = (cfg.attack.epsilon if cfg else Ratio("8/255")) if epsilon is None else _ratio("epsilon", epsilon)
    bound = norm or (cfg.attack.norm if cfg else "linf")
    if bound not in ("linf", "l2"):
        raise ConfigError(f"norm = {bound!r}: must be linf or l2")
    if radius <= 0 or (bound == "linf" and radius > 1):
        raise ConfigError(f"epsilon = {radius}: must be above 0, and at most 1 for linf (write 8/255, not 8)")
    return Threat(radius, bound)


class _OnRound:
    """A watcher of a run that calls a function with each row."""

    name = "on_round"

    def __init__(self, function: Callable[[dict[str, Any]], None]) -> None:
        self._function = function

    def begin(self, rows: Sequence[dict[str, Any]]) -> None:
        """Do nothing: rows of an earlier process are not passed on again."""

    def round(self, row: dict[str, Any]) -> None:
        """Pass the row on."""
        self._function(row)

    def end(self) -> None:
        """Do nothing."""


def _one_config(
    preset: str | Path | RunConfig, variant: str, given: Mapping[str, Any], engine: str
) -> tuple[str, RunConfig]:
    """Return label and config of the one requested run.

    Raises:
        ConfigError: there are several, or none; or a setting that is given has no effect.
    """
    if isinstance(preset, RunConfig):
        if variant:
            raise ConfigError(f"variant = {variant!r}: a config has no variants; give a preset by name")
        cfg = RunConfig.from_flat({**preset.to_flat(), **given})
        refuse_unused({"run": cfg}, {*preset.given, *given}, engine=engine)
        return "run", cfg
    if not str(preset):
        raise ConfigError(
            "run: no preset is given; give a name, the path of a TOML file, a RunConfig, or resume=FOLDER"
        )
    named: Preset = load_preset(str(preset))
    configs = named.configs(given, variant)
    if len(configs) > 1:
        raise ConfigError(f"{named.name}: has several variants; give variant = one of {', '.join(configs)}")
    ((label, cfg),) = configs.items()
    refuse_unused({label or named.name: cfg}, given.keys() | named.typed, engine=engine)
    return label or named.name, cfg


def _evaluated_model(
    model: str | Path | Run | nn.Module | EvaluatedModel,
    which: Literal["best", "last"],
    *,
    architecture: str,
    data: str,
    classes: str,
    data_dir: str,
) -> EvaluatedModel:
    from torch import nn

    from fedrobust.evaluation.evaluated_model import EvaluatedModel, load_evaluated_model, module_to_evaluate

    if isinstance(model, EvaluatedModel):
        return model
    if isinstance(model, nn.Module):
        return module_to_evaluate(model, data_name=data, classes=classes, data_dir=data_dir)
    name = str(model.folder if isinstance(model, Run) else model)
    return load_evaluated_model(
        name, which=which, model_name=architecture, data_name=data, classes=classes, data_dir=data_dir
    )


@contextmanager
def _folder_for(out: str | Path | None) -> Iterator[Path]:
    """Yield the folder `out`, or a temporary one that is deleted after the block."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="fedrobust-") as folder:
        yield Path(folder) / "evaluation"


def _ratio(name: str, value: str | float) -> Ratio:
    try:
        return Ratio(value)
    except ValueError as error:
        raise ConfigError(f"{name} = {value!r}: {error}") from error


def _flat(value: Any) -> Any:
    """Return a value as flags write it: lists are comma-separated, paths are text."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value
