"""Faults of one line, each put into a copy of the project: the tests named beside it must fail.

`make mutants`, or `python tests/mutants.py WORD ...` for those of `mutants.toml` whose name holds one of the words. The
exit code is 1 if a fault survives, if its text is not found exactly once, or if a named test fails without any fault.
"""

from __future__ import annotations

import compileall
import multiprocessing
import os
import py_compile
import shutil
import sys
import tempfile
import tomllib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "mutants.toml"
PACKAGES = ("fedrobust", "clients", "strategies", "partitions")
WORKERS = 2
LIMIT = 600  # seconds for the tests of one fault; they take a few
PASSED, FAILED = 0, 1  # pytest's exit codes; any other says that it could not run the tests
# imported once, before processes are forked off: of the eight seconds that a test of one takes they are seven
SLOW_IMPORTS = (
    *("torch", "torchvision", "flwr.app", "flwr.clientapp", "flwr.serverapp.strategy"),
    *("pandas", "psutil", "pyarrow.parquet", "pydantic", "safetensors.numpy", "sklearn.datasets"),
)


@dataclass(frozen=True)
class Fault:
    """What is wrong in words, the file, the text that is right there once, what takes its place, and the tests."""

    what: str
    file: str
    text: str
    put: str
    tests: tuple[str, ...]

    def missing(self, root: Path = ROOT) -> str:
        """Return what this fault names and `root` does not have, "" if all is there."""
        count = (root / self.file).read_text().count(self.text) if (root / self.file).exists() else 0
        if count != 1:
            return f"{self.file}: {self.text!r} is there {count} times, not once"
        for test in self.tests:
            path, _, function = test.partition("::")
            if not (root / path).exists():
                return f"{path}: no such file"
            if f"def {function.partition('[')[0]}(" not in (root / path).read_text() and function:
                return f"{path}: no test {function}"
        return ""


def faults() -> list[Fault]:
    """Return all of the list."""
    rows = tomllib.loads(LIST.read_text())["fault"]
    return [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]


class Copy:
    """A copy of packages and tests in a folder of its own, where one fault at a time is put in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / "log"
        for name in (*PACKAGES, "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for name in PACKAGES:  # by content: two faults within a second may have the same size
            compileall.compile_dir(
                folder / name, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
            )

    def put(self, fault: Fault) -> None:
        """Put this fault in."""
        path = self.folder / fault.file
        self._right = path.read_text()
        path.write_text(self._right.replace(fault.text, fault.put))

    def take_out(self, fault: Fault) -> None:
        """Put right what was right."""
        (self.folder / fault.file).write_text(self._right)

    def start(self, tests: tuple[str, ...]) -> BaseProcess:
        """Return a process that runs these tests here, up to the first failure; its exit code is pytest's."""
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(tests,))
        process.start()
        return process

    def said(self) -> str:
        """Return the last line of the tests."""
        return (self._log.read_text(errors="replace").strip() or "nothing").splitlines()[-1]

    def _run(self, tests: tuple[str, ...]) -> None:
        with self._log.open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(self.folder)
        sys.path[0] = os.environ["PYTHONPATH"] = str(self.folder)
        for name in PACKAGES:
            spec = find_spec(name)
            if spec is None or not Path(str(spec.origin)).is_relative_to(self.folder):
                print(f"{name} would be imported from {spec and spec.origin}, not from {self.folder}", flush=True)
                sys.exit(pytest.ExitCode.INTERNAL_ERROR)
        sys.exit(pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:hypothesispytest", *tests]))


@dataclass(frozen=True)
class Outcome:
    """What became of the tests of a fault, or of tests without one."""

    fault: Fault | None
    code: int | None
    said: str
    seconds: float


def outcomes(copies: list[Copy], jobs: deque[tuple[Fault | None, tuple[str, ...]]]) -> Iterator[Outcome]:
    """Run each job, a fault and its tests, on the next copy that is free."""
    free, busy = deque(copies), dict[BaseProcess, tuple[Copy, Fault | None, float]]()
    while jobs or busy:
        while jobs and free:
            (fault, tests), copy = jobs.popleft(), free.popleft()
            if fault:
                copy.put(fault)
            busy[copy.start(tests)] = copy, fault, perf_counter()
        wait([process.sentinel for process in busy], timeout=1)
        for process, (copy, fault, began) in [*busy.items()]:
            seconds = perf_counter() - began
            if seconds > LIMIT:
                process.kill()
                process.join()
            if not process.is_alive():
                process.join()
                if fault:
                    copy.take_out(fault)
                del busy[process]
                free.append(copy)
                yield Outcome(fault, process.exitcode, copy.said(), seconds)


def main(words: list[str]) -> int:
    chosen = [fault for fault in faults() if not words or any(word in fault.what for word in words)]
    if wrong := [f"{fault.what}: {missing}" for fault in chosen if (missing := fault.missing())]:
        print(*wrong, sep="\n")
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in SLOW_IMPORTS:
        import_module(name)
    start, survived = perf_counter(), 0
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(WORKERS)]
        copies = [Copy(Path(folder).resolve()) for folder in folders]
        tests = sorted({test for fault in chosen for test in fault.tests})
        halves = [(None, tuple(tests[n::WORKERS])) for n in range(min(WORKERS, len(tests)))]
        for outcome in outcomes(copies, deque(halves)):
            print(f"without a fault: {outcome.said}", flush=True)
            if outcome.code != PASSED:
                return 1
        for outcome in outcomes(copies, deque((fault, fault.tests) for fault in chosen)):
            assert outcome.fault
            state = {FAILED: "killed", PASSED: "SURVIVED"}.get(outcome.code, f"UNCLEAR: {outcome.said}")  # type: ignore[arg-type]
            survived += outcome.code != FAILED
            print(f"{state:8} {outcome.seconds:5.1f} s  {outcome.fault.file:36} {outcome.fault.what}", flush=True)
    print(f"{len(chosen)} faults, {survived} not killed, {perf_counter() - start:.0f} s")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
