"""What several test files share: one thread, a cache of the session's own, and short federations on the digits."""

import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.app import app
from fedrobust.config import RunConfig
from fedrobust.engines.local import LocalGrid
from fedrobust.hardware.cgroup import available_cores
from fedrobust.storage.run_folder import RunFolder
from strategies.federation import Federation

QUICK = RunConfig.from_flat(
    {
        "num-clients": 3,
        "num-rounds": 2,
        "device": "cpu",
        "data.train-images": 400,
        "data.test-images": 100,
        "attack.epsilon": "0.1",
        "attack.step-size": "0.05",
        "attack.steps": 2,
        "local.batch-size": 32,
        "local.learning-rate": 0.05,
        "evaluation.attacks": "fgsm",
        "evaluation.select-by": "natural",
        "evaluation.clients-every": 1,
        "workers.num": 2,
        "workers.threads": 1,
    }
)


# those that take longest, longest first
LONGEST = (
    "deployment/test_deployed.py",
    "engines/test_flwr_runtime.py",
    "cli/test_cli.py",
    "studies/test_sweep.py",
    "engines/test_grids.py",
    "test_wiring.py",
    "test_python.py",
    "federation/test_resume.py",
    "convex/test_convex_command.py",
    "report/test_packed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let workers that run side by side begin with the longest files: otherwise one would wait for the other's last."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Path(__file__).parent
        first = {tests / name: place for place, name in enumerate(LONGEST)}
        assert all(path.exists() for path in first), "LONGEST names a file that is not there"
        items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache_and_one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Numbers depend on the number of threads; processes that a test starts inherit both settings."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose own folder is one below that of all workers
        session = session.parent
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        if not os.environ.get("FEDROBUST_CACHE"):
            patch.setenv("FEDROBUST_CACHE", str(session / "cache"))
        yield


def slowness() -> float:
    """How many times as long something takes here as on a machine that has nothing else to do."""
    return max(1.0, os.getloadavg()[0] / available_cores()) if hasattr(os, "getloadavg") else 1.0


@pytest.fixture(scope="session", name="slowness")
def _slowness() -> Callable[[], float]:
    """The factor by which a time measured in a test may be longer."""
    return slowness


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for something that a process brings about; a deadline that is missed, or a process that ends, is named."""

    def wait(
        what: str, reached: Callable[[], Any], *, process: subprocess.Popen[Any] | None = None, seconds: float = 60
    ) -> None:
        left, pause = seconds, 0.1
        while not reached():
            assert process is None or process.poll() is None, f"ended with {process.returncode} before: {what}"
            assert left > 0, f"not within {seconds:.0f} s of an idle machine: {what}"
            time.sleep(pause)
            left -= pause / slowness()

    return wait


@pytest.fixture(scope="session")
def output_at_end() -> Callable[..., str]:
    """Wait for a process to end; what it printed."""

    def read(process: subprocess.Popen[str], *, seconds: float = 60) -> str:
        limit = seconds * slowness()
        try:
            return process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"still there after {limit:.0f} s; it printed: {process.communicate()[0]}") from None

    return read


@pytest.fixture(scope="session")
def put_namesakes() -> Callable[[Path], None]:
    """Lay files of a user's own into a folder whose names are those of our packages."""

    def put(folder: Path) -> None:
        for name in ("clients", "partitions", "fedrobust"):
            (folder / f"{name}.py").write_text("raise ImportError('the file of a user')")
        (folder / "strategies").mkdir()
        (folder / "strategies" / "__init__.py").write_text("raise ImportError('the folder of a user')")

    return put


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """The config of a run of seconds, with a folder of its own; arguments as of `RunConfig.replace`."""
    runs, numbers = tmp_path_factory.mktemp("runs"), count()

    def make(**changes: Any) -> RunConfig:
        return QUICK.replace(**{"run_dir": str(runs / str(next(numbers))), **changes})

    return make


@pytest.fixture(scope="session")
def federate() -> Callable[..., RunFolder]:
    """Run a federation in this process, with another ClientApp if one is given; its folder."""

    def run(cfg: RunConfig, client_app: Callable[..., Any] = app) -> RunFolder:
        Federation(cfg, LocalGrid(cfg, client_app)).run()  # type: ignore[arg-type]
        return RunFolder(cfg.run_dir)

    return run


@pytest.fixture(scope="session")
def metrics_of() -> Callable[[RunFolder | Path], list[dict[str, Any]]]:
    """All rows that a run wrote, of rounds and of clients, but for the seconds."""

    def read(folder: RunFolder | Path) -> list[dict[str, Any]]:
        path = folder.path if isinstance(folder, RunFolder) else folder
        lines = [line for log in ("rounds", "clients") for line in (path / f"{log}.jsonl").read_text().splitlines()]
        return [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]

    return read
