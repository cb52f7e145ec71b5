"""`fedrobust evaluate`: measure how robust a model is, and warn if that number should not be believed."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedrobust.cli.arguments import count, device, ratio
from fedrobust.cli.console import new_console, shown
from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError, UserError

if TYPE_CHECKING:  # help is there before PyTorch is
    from fedrobust.evaluation import Threat

ATTACKS = "fgsm,pgd-20,autoattack"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust evaluate`."""
    add = parser.add_argument
    add(
        "models",
        metavar="RUN_OR_CHECKPOINT",
        nargs="+",
        help="a run's folder, one with completed runs below it, a .safetensors, .pt or .pth file, or "
        "package.module:object",
    )
    add(
        "--attacks",
        default=ATTACKS,
        help=f"attacks of the suite, separated by commas: see `fedrobust list suite` [{ATTACKS}]",
    )
    add("--epsilon", type=ratio, help="radius of the perturbation, such as 8/255 [the run's; 8/255 without a run]")
    add("--norm", choices=("linf", "l2"), help="norm that bounds the perturbation [the run's; linf without a run]")
    add("--step-size", type=ratio, help="step size of PGD, BIM and MIM [epsilon / 4]")
    add("--num-images", type=count, default=1000, help="number of test images, class-balanced; 0: all [1000]")
    add("--which", choices=("best", "last"), default="best", help="best or last model of a run [best]")
    add("--source", metavar="RUN_OR_CHECKPOINT", help="make the adversarial examples on this model: a transfer attack")
    add("--model", default="", help="architecture, for a file that does not name it: see `fedrobust list models`")
    add("--data", default="", help="data set, for a file that does not name it: see `fedrobust list datasets`")
    add("--classes", default="", help="classes to keep, by name or number [the run's; all]")
    add("--data-dir", default="", help="folder of the data in the Hub's parquet layout")
    add("--seed", type=count, default=0, help="seed of the choice of images and of random starts [0]")
    add(
        "--batch-size",
        type=count,
        default=0,
        help="evaluation batch size in images; 0: the largest that fits the device [0]",
    )
    add("--device", type=device, default="auto", help="device: auto, cpu, cuda, cuda:N or mps [auto]")
    add("--threads", type=count, default=0, help="CPU threads [all cores]")
    add(
        "--no-checks", action="store_true", help="run only the suite: flags then come only from rescoring and the suite"
    )
    add(
        "--out",
        type=Path,
        help="folder of one model's evaluation [evaluations/ in the run's folder, or in the current one]",
    )


def main(arguments: argparse.Namespace) -> int:
    """Evaluate one model after another; print the table of each and write its folder."""
    import torch

    from fedrobust.evaluation.suite import parse_attack
    from fedrobust.hardware.process import keep_freed_memory, pick_device

    attacks = tuple(dict.fromkeys(split_list(arguments.attacks)))
    if not attacks:
        raise ConfigError("--attacks: no attack is given")
    for name in attacks:
        parse_attack(name)
    pick_device(arguments.device)
    console = new_console()
    models = list(dict.fromkeys(each for name in arguments.models for each in _below(name, console)))
    if not models:
        raise ConfigError(f"{', '.join(arguments.models)}: no completed run")
    if arguments.out and len(models) > 1:
        raise ConfigError(f"--out {arguments.out}: is the folder of one evaluation; {len(models)} models are given")
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    for number, name in enumerate(models, 1):
        if len(models) > 1:
            console.print(f"{number} of {len(models)}: {name}")
        try:
            _evaluate(name, attacks, arguments, console)
        except KeyboardInterrupt:
            console.print("interrupted; resume with the same command")
            return 130
        except UserError as error:
            if len(models) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
    return code


def _below(name: str, console: Console) -> Iterator[str]:
    """Yield the given model; for a folder that is not a run's, yield the completed runs below it and print why others
    are skipped.

    Raises:
        ConfigError: `name` is a folder of packed runs, or one of these.

    A file in a run's folder that holds no weights stands for the run.
    """
    from fedrobust.evaluation.evaluated_model import WEIGHTS
    from fedrobust.reports.runs import find_runs, packed_at
    from fedrobust.storage.run_folder import PACKED, RunFolder, folder_of_run, why_no_run

    path = Path(name)
    if path.suffix not in WEIGHTS and path.is_file():
        path = folder_of_run(path)
        name = str(shown(path))
    if (path / PACKED).is_file() or packed_at(path):
        raise ConfigError(why_no_run(path))
    if not path.is_dir() or (path / "record.json").exists() or (path / "config.toml").exists():
        yield name
        return
    for run in find_runs([path]):
        if not isinstance(run.folder, RunFolder):
            console.print(f"{shown(run.folder.path)}: packed, without its models, left out")
        elif run.state == "completed":
            yield str(shown(run.folder.path))
        else:
            why = f": {run.problem}" if run.unreadable else ""
            console.print(f"{shown(run.folder.path)}: {run.state}, left out{why}")


def _evaluate(name: str, attacks: tuple[str, ...], arguments: argparse.Namespace, console: Console) -> None:
    from fedrobust.api import evaluate, threat_of
    from fedrobust.evaluation.evaluated_model import load_evaluated_model

    settings = {
        "which": arguments.which,
        "model_name": arguments.model,
        "data_name": arguments.data,
        "classes": arguments.classes,
        "data_dir": arguments.data_dir,
    }
    evaluated = load_evaluated_model(name, **settings)
    source = load_evaluated_model(arguments.source, **settings) if arguments.source else None
    for note in [*evaluated.notes, *(source.notes if source else ())]:
        console.print(note)
    threat = threat_of(evaluated.cfg, arguments.epsilon, arguments.norm)
    folder = arguments.out or _folder(name, arguments, threat)
    with _Bars(console) as bars:
        evaluation = evaluate(
            evaluated,
            attacks=attacks,
            epsilon=threat.epsilon,
            norm=threat.norm,
            step_size=arguments.step_size,
            num_images=arguments.num_images,
            source=source,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            device=arguments.device,
            checks=not arguments.no_checks,
            out=folder,
            watch=bars.show,
        )
    _print(console, evaluation.record, folder)


def _folder(name: str, arguments: argparse.Namespace, threat: Threat) -> Path:
    """Return the folder of the evaluation: one per model, threat and source."""
    evaluated = Path(name)
    parts = [arguments.which if evaluated.is_dir() else re.sub(r"\W+", "-", evaluated.stem).strip("-")]
    parts += [threat.norm, str(threat.epsilon).replace("/", "of")]
    if arguments.source:
        parts.append("from-" + re.sub(r"\W+", "-", Path(arguments.source).stem).strip("-"))
    return (evaluated if evaluated.is_dir() else Path()) / "evaluations" / "-".join(parts)


def _print(console: Console, record: dict[str, Any], folder: Path) -> None:
    from fedrobust.reports.evaluation import clients_line, flag_lines, rows, title

    table = Table("", "accuracy", "95 %", "seconds", "flags", title=title(record), title_justify="left")
    for row in rows(record):
        table.add_row(*row)
    console.print(table)
    for line in [*clients_line(record), *flag_lines(record)]:
        console.print(line)
    console.print(str(shown(folder)))


class _Bars:
    """A progress bar per attack with the time left; if the output is not a terminal, a line when an attack begins."""

    def __init__(self, console: Console) -> None:
        self._console, self._tasks = console, {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, name: str, share: float) -> None:
        """Show that the attack `name` is done to this share."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1.0)
            if not self._console.is_terminal:
                self._console.print(name)
        self._progress.update(self._tasks[name], completed=share)
