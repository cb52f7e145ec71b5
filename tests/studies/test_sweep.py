"""A sweep works through its runs whatever becomes of one, and goes on where it was."""

import json
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from threading import Event, Thread

import psutil
import pytest

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.storage.run_folder import RunFolder
from fedrobust.studies import sweep
from fedrobust.studies.sweep import claimed

STUDY = """
preset = "quickstart"
[settings]
num-clients = 2
num-rounds = 2
data.train-images = 300
data.test-images = 60
attack.steps = 1
evaluation.attacks = "fgsm,pgd-2"
evaluation.select-by = "pgd-2"
[axes]
local.learning-rate = [0.01, 1e12]

"""


@pytest.fixture
def here(tmp_path, monkeypatch, put_namesakes):
    monkeypatch.chdir(tmp_path)
    put_namesakes(tmp_path)
    (tmp_path / "mine.toml").write_text(STUDY)
    return tmp_path


def record(here, label):
    return RunFolder(here / "sweeps" / "mine" / label).record()


def test_a_run_that_fails_is_recorded_and_stops_no_other(here, capfd):
    command = ["sweep", "mine.toml", "--engine", "local"]  # that of several runs; a single one would wait for Ray
    assert main(command) == 1
    out = capfd.readouterr().out
    assert "1 completed" in out
    assert "1 failed" in out
    assert record(here, "learning-rate=0.01,seed=0")["state"] == "completed"
    failed = record(here, "learning-rate=1000000000000.0,seed=0")
    assert failed["state"] == "failed"
    assert failed["error"].startswith("round 1: 0 usable updates")
    assert failed["error"] in out
    assert "fedrobust report sweeps/mine" in out
    facts = json.loads((here / "sweeps" / "mine" / "sweep.json").read_text())
    assert facts["study"] == "mine"

    before = record(here, "learning-rate=0.01,seed=0")
    assert main(command) == 1  # what is there is not run again
    assert record(here, "learning-rate=0.01,seed=0") == before
    assert "2 runs, 1 of them complete" in capfd.readouterr().out

    assert main(["sweep", "mine.toml", "--local.batch-size", "16"]) == 2
    assert "was run with local.batch-size = 32, the study asks for 16" in capfd.readouterr().err


def test_dry_run_starts_nothing(here, capfd):
    assert main(["sweep", "mine.toml", "--dry-run", "--seeds", "3,4"]) == 0
    out = capfd.readouterr().out
    assert "4 runs, 0 of them complete" in out
    assert "learning-rate=0.01,seed=4" in out
    assert not (here / "sweeps").exists()
    assert main(["sweep", "mine.toml", "--dry-run", "--only", "local.learning-rate=0.01"]) == 0
    out = capfd.readouterr().out
    assert "1 runs, 0 of them complete" in out
    assert re.search(r"1 runs to do, [\d,]+ images to be trained on", out)
    both = ["--only", "learning-rate=0.01", "--only", "learning-rate=1e12", "--only", "seed=0"]
    assert main(["sweep", "mine.toml", "--dry-run", *both]) == 0
    assert "2 runs, 0 of them complete" in capfd.readouterr().out


def test_dry_run_reads_no_data(here, capfd, monkeypatch):
    monkeypatch.setenv("FEDROBUST_DATA", str(here))  # where none are
    monkeypatch.setenv("FEDROBUST_CACHE", str(here / "cache"))
    monkeypatch.setattr("fedrobust.data.loading.assemble", None)
    (here / "mine.toml").write_text(STUDY.replace("quickstart", "cifar10-smoke"))
    assert main(["sweep", "mine.toml", "--dry-run", "--data.train-images", "5000"]) == 0
    out = capfd.readouterr().out
    assert "2 runs to do" in out
    assert not (here / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shring"], "unknown study 'shring'; did you mean 'sharing'?"),
        (["mine.toml", "--seeds", "0,x"], "--seeds '0,x': must be whole numbers"),
        (["mine.toml", "--seed", "3"], "--seed: a sweep has several; use --seeds"),
        (["mine.toml", "--run-dir", "x"], "--run-dir: a sweep has several; use --out"),
        (
            ["mine.toml", "--only", "learning-rat=0.01"],
            "unknown axis 'learning-rat'; did you mean 'learning-rate'",
        ),
        (["mine.toml", "--only", "local.learning-rate=0.02"], "unknown value of local.learning-rate '0.02'"),
        (["gone.toml"], "gone.toml: no such file"),
    ],
)
def test_mistakes(here, capfd, arguments, said):
    assert main(["sweep", *arguments]) == 2
    assert said in capfd.readouterr().err


def test_one_sweep_at_a_time(here):
    with claimed(here), pytest.raises(ConfigError, match="another sweep"), claimed(here):
        pass
    with claimed(here):
        pass
    (here / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"file/below: cannot be written \(Not a directory\)"),
        claimed(here / "file/below"),
    ):
        pass


@pytest.fixture
def stopped(monkeypatch, wait_until):
    """Carry out a command here, and send Ctrl-C once something is reached: its exit code."""

    def run(command, what, reached):
        monkeypatch.setattr(sys, "argv", ["fedrobust", *command])
        done = Event()

        def interrupt():
            with suppress(AssertionError):  # its exit code says it then
                wait_until(what, lambda: done.is_set() or reached(), seconds=120)
            if not done.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        other = Thread(target=interrupt)
        other.start()
        try:
            return main(command)
        finally:
            done.set()
            other.join()

    return run


@pytest.mark.timeout(900)
def test_stopped_it_leaves_no_process_and_goes_on(here, capfd, stopped):
    command = ["sweep", "mine.toml", "--parallel", "1", "--engine", "local", "--num-rounds", "15"]
    command += ["--local.learning-rate", "0.01", "--seeds", "0,1"]
    (here / "mine.toml").write_text(STUDY.replace("local.learning-rate = [0.01, 1e12]", "attack.steps = [1]"))
    folder = RunFolder(here / "sweeps" / "mine" / "steps=1,seed=0")
    before = children_of(os.getpid())
    assert stopped(command, "two rounds", lambda: len(folder.read("rounds.jsonl")) >= 2) == 130
    assert children_of(os.getpid()) <= before
    out = capfd.readouterr().out
    assert "1 interrupted, 1 not begun" in out
    assert f"interrupted, 2 of the runs are left; resume with: {shlex.join(['fedrobust', *command])}" in out
    done = len(folder.read("rounds.jsonl"))
    assert 2 <= done < 15
    assert folder.record()["state"] == "interrupted"
    assert main([*command, "--only", "seed=0"]) == 0
    assert [row["round"] for row in folder.read("rounds.jsonl")] == list(range(1, 16))
    assert "completed" in capfd.readouterr().out


@pytest.mark.timeout(900)
def test_stopped_while_a_run_starts_it_says_what_is_left(here, capfd, stopped, wait_until):
    """Ray takes SIGTERM for itself while it starts, and would end the run as a failure of its own."""
    command = ["sweep", "mine.toml", "--parallel", "1", "--engine", "ray", "--workers.num", "1"]
    before, started = children_of(os.getpid()), set()

    def has_ray():
        started.update(children_of(os.getpid()) - before)
        return "raylet" in names(started)

    assert stopped(command, "Ray", has_ray) == 130
    out = capfd.readouterr().out
    assert "1 interrupted, 1 not begun" in out
    assert "2 of the runs are left; resume with: fedrobust sweep mine.toml" in out
    assert "failed" not in out
    wait_until("no process", lambda: not names(started), seconds=5)


def children_of(pid):
    """Processes that descend from one."""
    return set(psutil.Process(pid).children(recursive=True))


def names(processes):
    """Of those that are still at work."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
    return found


def configs(number, **flat):
    return [RunConfig.from_flat({"seed": seed, **flat}) for seed in range(number)]


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores, GPUs and GiB."""

    def make(cores, gpus=0, memory=64):
        monkeypatch.setattr(sweep, "available_cores", lambda: cores)
        monkeypatch.setattr(sweep, "_visible_gpus", lambda: [str(n) for n in range(gpus)])
        monkeypatch.setattr(sweep, "available_memory", lambda: memory << 30)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    return make


def test_room_on_cores(machine):
    machine(8)
    found, _ = sweep.plan_slots(configs(20), "auto", 0)
    assert (found.parallel, found.engine, found.flags) == (8, "local", ("--workers.threads", "1"))
    assert sweep.plan_slots(configs(3), "auto", 0)[0].flags == ("--workers.threads", "2")
    assert sweep.plan_slots(configs(20), "auto", 2)[0].parallel == 2
    machine(8, memory=3)
    assert sweep.plan_slots(configs(20), "auto", 0)[0].parallel == 3


def test_a_single_run_takes_the_engine_that_it_would_take_by_itself(machine, monkeypatch):
    monkeypatch.setattr(sweep, "pick_engine", lambda cfg, engine: ("ray", ""))
    machine(8)
    assert sweep.plan_slots(configs(1), "auto", 0)[0].engine == "ray"
    assert sweep.plan_slots(configs(2), "auto", 1)[0].engine == "ray"
    assert sweep.plan_slots(configs(1), "local", 0)[0].engine == "local"


def test_a_central_run_has_no_engine_and_all_cores(machine, monkeypatch):
    machine(8)
    found, _ = sweep.plan_slots(configs(1, kind="central"), "auto", 0)
    assert (found.engine, found.flags) == ("local", ("--workers.threads", "8"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert sweep.plan_slots(configs(1, kind="central"), "auto", 0)[0].flags == ("--workers.threads", "3")


def test_room_on_gpus(machine, monkeypatch):
    monkeypatch.setattr(sweep, "pick_engine", lambda cfg, engine: ("ray", ""))
    machine(16, gpus=4)
    found, _ = sweep.plan_slots(configs(20), "auto", 0)
    assert (found.parallel, found.engine, found.devices) == (4, "ray", ("0", "1", "2", "3"))
    assert sweep.plan_slots(configs(20, device="cpu"), "auto", 0)[0].parallel == 16


def test_room_on_a_cluster(machine):
    machine(8)
    found, why = sweep.plan_slots(configs(20, **{"workers.address": "10.0.0.1:6379"}), "auto", 3)
    assert (found.parallel, found.engine) == (3, "ray")
    assert "cluster" in why
