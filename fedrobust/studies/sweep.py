"""Carrying out a plan: several runs at once, each in a process of its own, so that a crash affects no other run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fedrobust.config import RunConfig, toml
from fedrobust.engines import pick_engine
from fedrobust.engines.plan import BYTES_PER_WORKER
from fedrobust.errors import ConfigError
from fedrobust.hardware.cgroup import asked_threads, available_cores, available_memory
from fedrobust.import_path import import_path
from fedrobust.storage.files import lock, write_atomically, writing
from fedrobust.studies.plan import PlannedRun

POLL = 0.5  # seconds
PATIENCE = 20.0  # seconds that a run has to save itself when the sweep is stopped; Slurm gives a sweep 30


@dataclass(frozen=True)
class Slots:
    """The number of runs at once, and their resources.

    `flags` are added to the command of each run; `devices`: the GPU that each running process sees, "" for all.
    """

    parallel: int
    engine: str
    flags: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("",)


@dataclass
class Outcome:
    """How a run ended: "completed", "failed" or "unreadable" with a line that says why, or "interrupted"."""

    run: PlannedRun
    state: str
    error: str = ""
    seconds: float = 0.0


@dataclass
class _Active:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    place: int
    started: float = field(default_factory=time.monotonic)


@contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Lock the folder, made if needed, for one sweep, as long as it or a run that it started lives.

    Yields the lock that its runs inherit.

    Raises:
        ConfigError: another sweep uses it, or it cannot be written.
    """
    with writing(folder, "name another --out", ConfigError):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = lock(folder / ".lock")
        except BlockingIOError:
            raise ConfigError(f"{folder}: another sweep, or a run that it started, uses this folder") from None
    with file:
        yield file.fileno()


class Sweep:
    """The runs of a plan that are not complete, in its order.

    Iterating yields an `Outcome` as each ends, and first one for each whose folder is damaged; those folders do not
    change. `watch` is called twice a second. After `stop`, nothing new starts, the current runs are stopped, keep their
    checkpoints, and are reported as "interrupted".
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        folder: Path,
        slots: Slots,
        *,
        claim: int,
        watch: Callable[[Sweep], None] = lambda _: None,
    ) -> None:
        """Take `claim` as `claimed` yields it."""
        self.folder, self.slots = folder, slots
        self._damaged = [Outcome(run, "unreadable", why) for run in runs if (why := run.damage)]
        damaged = {outcome.run.label for outcome in self._damaged}
        self.waiting = [run for run in runs if run.label not in damaged and not run.complete]
        self._claim, self._watch = claim, watch
        self._active: list[_Active] = []
        self._deadline: float | None = None  # of the runs at work, once the sweep is stopped

    def __iter__(self) -> Iterator[Outcome]:
        yield from self._damaged
        try:
            while self._active or (self.waiting and self._deadline is None):
                while self.waiting and self._deadline is None and len(self._active) < self.slots.parallel:
                    self._active.append(self._start(self.waiting.pop(0)))
                for active in [active for active in self._active if active.process.poll() is not None]:
                    self._active.remove(active)
                    yield self._outcome(active)
                self._watch(self)
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._kill()
                if self._active:
                    time.sleep(POLL)
        finally:
            self._kill()

    def stop(self) -> None:
        """Start no further run; stop the current runs, which keep their checkpoints."""
        self._deadline = time.monotonic() + PATIENCE
        for active in self._active:
            active.process.send_signal(signal.SIGTERM)

    def shares(self) -> dict[PlannedRun, float]:
        """Return the current runs, and the share of its rounds that each has done."""
        return {active.run: active.run.share_done for active in self._active}

    def _start(self, run: PlannedRun) -> _Active:
        place = min(set(range(self.slots.parallel)) - {active.place for active in self._active})
        if (run.folder.path / "config.toml").exists():
            command = ["run", "--resume", str(run.folder.path)]
        else:
            planned = self.folder / "planned" / f"{run.label}.toml"
            planned.parent.mkdir(exist_ok=True)
            write_atomically(planned, toml.dumps(run.cfg.replace(run_dir="").to_flat()).encode())
            command = ["run", str(planned), "--run-dir", str(run.folder.path)]
        command += ["--engine", self.slots.engine, *self.slots.flags]
        log = self.log_of(run)
        log.parent.mkdir(exist_ok=True)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedrobust", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(place),
                pass_fds=(self._claim,),
                start_new_session=True,  # Ctrl-C is the sweep's to pass on
            )
        return _Active(run, process, place)

    def log_of(self, run: PlannedRun) -> Path:
        """Return the file with the run's output."""
        return self.folder / "logs" / f"{run.label}.log"

    def _environment(self, place: int) -> Mapping[str, str]:
        device = self.slots.devices[place % len(self.slots.devices)]
        gpu = {"CUDA_VISIBLE_DEVICES": device} if device else {}
        return {**os.environ, "PYTHONPATH": import_path(), **gpu}

    def _outcome(self, active: _Active) -> Outcome:
        seconds = time.monotonic() - active.started
        if active.process.returncode == 0 and active.run.complete:
            return Outcome(active.run, "completed", seconds=seconds)
        if active.process.returncode == 130 or (self._deadline and not self._has_failed(active.run)):
            return Outcome(active.run, "interrupted", seconds=seconds)
        error = self._error(active)
        if active.run.folder.path.exists():
            active.run.folder.update_record(state="failed", error=error)  # also of one that was killed
        return Outcome(active.run, "failed", error, seconds)

    @staticmethod
    def _has_failed(run: PlannedRun) -> bool:
        """Return whether the run's record says that it failed: the exit code of one stopped while it starts varies."""
        return run.folder.record().get("state") == "failed"

    def _error(self, active: _Active) -> str:
        """Return the last line that begins with "error:", else the last line and the exit code."""
        lines = self.log_of(active.run).read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        if said:
            return said[-1].removeprefix("error: ")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"exit code {active.process.returncode}{': ' + last if last else ''}"

    def _kill(self) -> None:
        """Kill all remaining processes."""
        for active in self._active:
            if active.process.poll() is None:
                os.killpg(active.process.pid, signal.SIGKILL)
                active.process.wait()


def plan_slots(configs: Sequence[RunConfig], engine: str, parallel: int) -> tuple[Slots, str]:
    """Return slots for runs with these configs, and why.

    On a CPU: one run per core as far as memory allows, each with one thread under `local`: runs share nothing, so that
    this beats one run with as many workers. With CUDA: one run per GPU, which sees only that one, under the engine that
    a single run would take. On a Ray cluster (`workers.address`): one. `engine` other than "auto" and `parallel` other
    than 0 win.
    """
    if not configs:
        return Slots(1, engine), "nothing to run"
    cfg, cores = configs[0], available_cores()
    if cfg.kind == "central":  # no messages to carry: one process
        engine = "local"
    gpus = _visible_gpus() if cfg.device == "auto" or cfg.device.startswith("cuda") else []
    if cfg.workers.address:
        return Slots(parallel or 1, "ray"), "workers.address names a cluster"
    if gpus:
        at_once = min(parallel or len(gpus), len(configs))
        chosen = pick_engine(cfg, engine)[0]
        return Slots(at_once, chosen, devices=tuple(gpus) if at_once > 1 else ("",)), f"{len(gpus)} GPUs"
    memory = max(1, available_memory() // BYTES_PER_WORKER)
    at_once = min(parallel or min(cores, memory), len(configs))
    if engine == "auto" and at_once == 1 and cores > 1:
        return Slots(1, pick_engine(cfg, engine)[0]), "one run"
    each = max(1, min(asked_threads() or cores, cores // at_once))
    threads = () if cfg.workers.threads else ("--workers.threads", str(each))
    workers = () if cfg.workers.num else ("--workers.num", str(max(1, cores // at_once)))
    if engine in ("auto", "local"):
        return Slots(at_once, "local", threads), f"{cores} cores"
    return Slots(at_once, engine, (*workers, "--workers.threads", "1")), f"{cores} cores"


def _visible_gpus() -> list[str]:
    """Return the CUDA devices of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named if len(named) == count else [str(number) for number in range(count)]
