"""The start of a sweep: its runs checked, the runs that are left, and the number of runs at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust.config.effects import limit_cases, refuse_unused
from fedrobust.errors import ConfigError
from fedrobust.running.preflight import check_data, check_settings
from fedrobust.storage.files import write_atomically
from fedrobust.storage.provenance import provenance
from fedrobust.studies import Study, load_study
from fedrobust.studies.plan import PlannedRun, plan_sweep, select
from fedrobust.studies.sweep import Slots, Sweep, claimed, plan_slots

SWEEPS = "sweeps"  # the folder of sweeps that were given none


@dataclass(frozen=True)
class PlannedSweep:
    """A study's runs in a folder, ready to begin or to resume."""

    study: Study
    overrides: Mapping[str, Any]
    folder: Path
    runs: Sequence[PlannedRun]
    left: Sequence[PlannedRun]
    """Runs that are neither complete nor damaged."""
    slots: Slots
    why: str
    """Reason for the number of runs at once."""
    unused: Sequence[str]
    """Settings of the study that none of its runs uses."""

    @property
    def complete(self) -> int:
        """The number of runs that are already complete."""
        return sum(run.complete for run in self.runs)

    @property
    def limit_cases(self) -> Counter[str]:
        """Lines on values that disable the method that a run is named after, with the number of runs that have each."""
        return Counter(line for run in self.runs for line in limit_cases(run.cfg))


def planned_sweep(
    study: str,
    overrides: Mapping[str, Any],
    *,
    seeds: str | None = None,
    only: Sequence[str] = (),
    folder: Path | None = None,
    engine: str = "auto",
    parallel: int = 0,
    dry_run: bool = False,
) -> PlannedSweep:
    """Return a study's runs with these settings over it, all of them checked.

    Args:
        study: its name, or the path of a TOML file.
        overrides: flat key → value, over the settings of every run.
        seeds: seeds to use instead of the study's, such as "0,1,2".
        only: select runs, each selection written "axis=value,...".
        folder: the folder of the runs; sweeps/STUDY if it is left out.
        parallel: runs at once; 0 takes one per core, or one per GPU.
        dry_run: plan only; the data need not be there.

    Raises:
        ConfigError: a setting, the engine or the data; nothing has been started then.
    """
    for key, instead in (("run-dir", "out"), ("seed", "seeds")):
        if key in overrides:
            raise ConfigError(f"--{key}: a sweep has several; use --{instead}")
    grid = load_study(study)
    if seeds is not None:
        grid = grid.with_seeds(seeds)
    folder = folder or Path(SWEEPS) / grid.name
    runs = select(plan_sweep(grid, folder, overrides), only)
    typed = overrides.keys() | (grid.typed if not only else set())
    found = refuse_unused({run.label: run.cfg for run in runs}, typed, engine=engine)
    for run in runs:
        check_settings(run.cfg)
        if not dry_run:
            run.folder.check_outside_of_runs()
            check_data(run.cfg)
    left = [run for run in runs if not run.complete and not run.damage]
    slots, why = plan_slots([run.cfg for run in left], engine, parallel)
    unused = [key for key in grid.settings if all(key in reasons for reasons in found.values())]
    return PlannedSweep(grid, overrides, folder, runs, left, slots, why, unused)


@contextmanager
def begun(plan: PlannedSweep, watch: Callable[[Sweep], None] = lambda _: None) -> Iterator[Sweep]:
    """Lock the sweep's folder, and write the request there; iterating over the sweep carries it out.

    Raises:
        ConfigError: another sweep uses the folder, or it cannot be written.
    """
    facts = {
        **provenance(),
        "study": plan.study.name,
        "description": plan.study.description,
        "overrides": dict(plan.overrides),
    }
    with claimed(plan.folder) as claim:
        write_atomically(plan.folder / "sweep.json", (json.dumps(facts, indent=2) + "\n").encode())
        yield Sweep(plan.runs, plan.folder, plan.slots, claim=claim, watch=watch)
