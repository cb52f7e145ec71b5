"""The `flwr` engine against Flower itself: same numbers as the local engine, true errors, and no process left."""

import os
import signal
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest

from fedrobust.config import RunConfig
from fedrobust.engines import run, superlink
from fedrobust.engines.flwr_runtime import launch
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder

SMALL = {
    "num-clients": 3,
    "num-rounds": 1,
    "data.train-images": 300,
    "data.test-images": 60,
    "attack.steps": 2,
    "evaluation.attacks": "pgd-2",
    "evaluation.select-by": "pgd-2",
    "workers.num": 1,
    "workers.threads": 1,
}
NOTES_IMPORTS = """
import os, sys
def note(event, arguments):
    if event == "exec" and arguments[0].co_filename.endswith(("clients/app.py", "strategies/app.py")):
        with open(os.environ["NOTED_IMPORTS"], "a") as file:
            print(os.getpid(), arguments[0].co_filename, file=file)
sys.addaudithook(note)
"""


class Watch(threading.Thread):
    """Sees every process that is started below this one during the block, detached and renamed ones included."""

    def __init__(self, interrupt_at: str = "", *, connections: bool = False) -> None:
        super().__init__(daemon=True)
        self._connections = connections
        self._seen: set[psutil.Process] = set()
        self._before = set(psutil.Process().children(recursive=True))  # other tests' helpers: a forkserver stays
        self.listening: set[tuple[str | None, str]] = set()  # name of a process, address
        self._over = threading.Event()
        self._interrupt_at = interrupt_at

    def run(self) -> None:
        while not self._over.wait(0.3):
            children = set(psutil.Process().children(recursive=True)) - self._before
            self._seen.update(children)
            for process in children if self._connections else ():
                with suppress(psutil.NoSuchProcess):
                    self.listening |= {
                        (name_of(process), connection.laddr.ip.removeprefix("::ffff:"))
                        for connection in process.net_connections("inet")
                        if connection.status == psutil.CONN_LISTEN
                    }
            if self._interrupt_at and self._interrupt_at in map(name_of, children):
                self._interrupt_at = ""
                os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def check_nothing_is_left(self) -> None:
        """No process, and nothing in the temporary folder (see `own_temporary_folder`)."""
        assert len(self._seen) >= 3, "a run has more processes than that: the watch does not work"
        assert not [process for process in self._seen if name_of(process)]
        assert not list(Path(tempfile.gettempdir()).iterdir())


def name_of(process: psutil.Process) -> str | None:
    """None when it is no more."""
    try:
        return process.name() if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def config(run_dir: Path, **settings) -> RunConfig:
    return RunConfig.from_flat(SMALL | {"run-dir": str(run_dir)}).replace(**settings)


def test_same_numbers_as_the_local_engine_and_both_apps_from_the_bundle(tmp_path, monkeypatch, put_namesakes):
    (tmp_path / "sitecustomize.py").write_text(NOTES_IMPORTS)
    noted = tmp_path / "imports.txt"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTED_IMPORTS", str(noted))
    (tmp_path / "current").mkdir()
    put_namesakes(tmp_path / "current")
    monkeypatch.chdir(tmp_path / "current")
    with Watch(connections=True) as watch:
        run(config(Path("../flower")), "flwr")
    watch.check_nothing_is_left()
    # on the loopback alone: also the Ray that Flower starts
    assert {"gcs_server", "raylet"} <= {name for name, _ in watch.listening}
    assert {address for _, address in watch.listening} == {"127.0.0.1"}
    run(config(tmp_path / "local"), "local")

    ours, theirs = RunFolder(tmp_path / "local"), RunFolder(tmp_path / "flower")
    expected, _ = load_model(ours.last)
    weights, _ = load_model(theirs.last)
    assert weights.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(weights[key], expected[key], rtol=0, atol=1e-5)
    (one,), (other,) = ours.read("rounds.jsonl"), theirs.read("rounds.jsonl")
    assert one.keys() == other.keys()
    assert one["drift.cosine"] == pytest.approx(other["drift.cosine"], rel=1e-4)
    assert theirs.record()["state"] == "completed"
    assert "Starting Flower Simulation" in (theirs.path / "flwr.log").read_text()

    # the commands and the server's process import one or both apps, a Ray worker the ClientApp: none from the checkout
    imports = [line.split(maxsplit=1) for line in noted.read_text().splitlines()]
    assert len({process for process, file in imports if "/apps/" in file and file.endswith("clients/app.py")}) == 2
    assert all("/fedrobust-flwr-" in file for _, file in imports), imports


def test_a_run_that_fails_says_why_and_leaves_nothing(tmp_path):
    with Watch() as watch, pytest.raises(RunFailed, match=r"^partition\.min-samples = 1000: allowed is 1 to"):
        launch(config(tmp_path / "run", partition__min_samples=1000))
    watch.check_nothing_is_left()
    assert RunFolder(tmp_path / "run").record()["state"] == "failed"


def test_an_interrupted_run_leaves_nothing(tmp_path):
    # whoever runs the tests in the background has SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Watch(interrupt_at="raylet") as watch, pytest.raises(KeyboardInterrupt):
        launch(config(tmp_path / "run"))
    watch.check_nothing_is_left()


def test_a_superlink_that_cannot_start_says_so(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(superlink, "_free_port", lambda: taken.getsockname()[1])
        with pytest.raises(RunFailed, match="SuperLink ended at once"):
            launch(config(tmp_path))
    assert "address already in use" in (tmp_path / "flwr.log").read_text()


def test_a_foreign_cluster_is_not_for_this_engine(tmp_path):
    with pytest.raises(ConfigError, match=r"workers\.address"):
        launch(config(tmp_path, workers__address="10.0.0.1:6379"))
