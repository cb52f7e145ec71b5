"""A run's folder: whose it is, and what becomes of it where a disk is full."""

import errno
import resource
import threading
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pytest

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage import files, run_folder
from fedrobust.storage.checkpoint import save_model
from fedrobust.storage.run_folder import RunFolder, new_run_dir

TINY = ["run", "quickstart", "--variant", "fedavg", "--engine", "local", "--num-rounds", "2", "--attack.steps", "1"]
TINY += ["--data.train-images", "200", "--data.test-images", "20", "--num-clients", "2", "--partition.scheme", "iid"]
TINY += ["--evaluation.attacks", "fgsm", "--evaluation.select-by", "fgsm", "--workers.threads", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_runs_of_one_second_have_a_folder_each(here, monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_folder, "datetime", Now)
    names, start = [], threading.Barrier(4)

    def ask():
        start.wait()
        names.append(new_run_dir("x").name)

    in_threads(ask, 4)
    assert sorted(names) == ["x-20260102-030405", *(f"x-20260102-030405-{n}" for n in (2, 3, 4))]


def in_threads(step, count):
    threads = [threading.Thread(target=step) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_two_runs_in_one_folder_one_is_refused(here):
    for number in range(20):
        seeds, made, refused, start = iter((0, 1)), [], [], threading.Barrier(2)

        def create(number=number, seeds=seeds, made=made, refused=refused, start=start):
            cfg = RunConfig.from_flat({"run-dir": str(here / str(number)), "seed": next(seeds)})
            start.wait()
            try:
                RunFolder.create(cfg)
                made.append(cfg.seed)
            except ConfigError as error:
                refused.append(str(error))

        in_threads(create, 2)
        assert made == [RunFolder(here / str(number)).read_config().seed]
        assert len(refused) == 1


def test_a_given_folder_is_that_of_the_one_variant(here, capsys):
    assert main([*TINY, "--run-dir", "mine"]) == 0
    assert RunFolder(here / "mine").record()["state"] == "completed"
    capsys.readouterr()
    before = everything_in(here)
    for taken in ("mine", "mine/below", "mine/evaluations/below"):
        assert main([*TINY, "--run-dir", taken]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert "holds a run already" in first
    assert all(line.endswith(f"{here / 'mine'} is the folder of a run; name another") for line in others)
    assert everything_in(here) == before


def test_a_file_of_another_programs_makes_no_folder_a_runs(here):
    (here / "config.toml").write_text("[of.a.book]")
    RunFolder(here / "runs" / "x").check_new()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.name", "cifar10", "--data-dir", "nowhere"], "nowhere; expected train-"),
        (["--data.name", "cifar10", "--data-dir", "."], "expected train-*-of-*.parquet and test-*-of-*.parquet there"),
        (["--num-clients", "5000"], "num-clients = 5000"),
        (["--partition.scheme", "dirichlet", "--partition.min-samples", "1000"], "partition.min-samples = 1000"),
        (["--init", "gone.safetensors"], "gone.safetensors: no such file"),
        (["--init", "weights.safetensors"], "init = "),
        (["--run-dir", "file/below"], "file/below: cannot be written"),
        (["--run-dir", "/proc/nowhere/below"], "/proc/nowhere/below: cannot be written"),
        (["--engine", "ray"], "RAY_TMPDIR = '/proc/nowhere'"),
        (["--engine", "flwr", "--workers.address", "10.0.0.1:6379"], "joins a cluster under the ray engine only"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(here, monkeypatch, capsys, arguments, said):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    (here / "file").write_text("")
    save_model(here / "weights.safetensors", {"w": np.zeros(3, np.float32)})
    before = everything_in(here)
    assert main([*TINY, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert everything_in(here) == before


def test_ray_without_room_for_its_sockets_names_another_engine(here, monkeypatch, capsys):
    monkeypatch.setenv("RAY_TMPDIR", str(here / ("x" * 80)))
    assert main([*TINY, "--engine", "ray"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "too long for Ray's sockets, 39 characters are allowed" in line
    assert line.endswith("--engine local needs no Ray")
    assert everything_in(here) == []


@contextmanager
def files_of_at_most(size):
    """Whatever would be larger cannot be written, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_cannot_be_written_interrupts_a_run_that_goes_on_later(here, capsys):
    with files_of_at_most(80_000):
        assert main([*TINY, "--run-dir", "mine"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {here}/mine/checkpoint.safetensors: File too large"
    assert hint.endswith("resume with: fedrobust run --resume mine")
    record = RunFolder("mine").record()
    assert (record["state"], record["error"]) == ("interrupted", error.removeprefix("error: "))
    assert not [name for name in everything_in(here) if name.endswith((".tmp", ".reserve"))]
    assert main(["run", "--resume", "mine", "--engine", "local"]) == 0
    assert [row["round"] for row in RunFolder("mine").read("rounds.jsonl")] == [1, 2]
    assert (RunFolder("mine").record()["state"], RunFolder("mine").record()["error"]) == ("completed", "")


def test_the_record_can_be_told_of_a_full_disk(here, monkeypatch):
    folder = RunFolder(here)

    def write(path, data):
        if folder.path.joinpath(run_folder.RESERVE).exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        files.write_atomically(path, data)

    with folder.reserve():
        assert folder.path.joinpath(run_folder.RESERVE).stat().st_size == run_folder.RESERVE_BYTES
        monkeypatch.setattr(run_folder, "write_atomically", write)
        folder.update_record(state="interrupted")
    assert folder.record() == {"state": "interrupted"}
    assert everything_in(here) == ["record.json"]


def test_a_full_disk_from_the_start_is_said(here, monkeypatch):
    def write(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_atomically", write)
    with pytest.raises(RunFailed, match=r"cannot be written \(No space left on device\)"):
        RunFolder.create(RunConfig(run_dir=str(here / "x")))


def test_flower_without_a_checkout_is_refused_and_leaves_nothing(here, monkeypatch, capsys):
    from fedrobust.engines import flwr_command

    monkeypatch.setattr(flwr_command, "__file__", str(here / "site-packages" / "fedrobust" / "engines" / "x.py"))
    assert main([*TINY, "--engine", "flwr"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "install from a checkout" in line
    assert everything_in(here) == []
