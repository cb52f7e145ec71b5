"""Faults that need no second process: a GPU without memory, a disk without room, a client that hangs."""

import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import torch

import clients.local
from fedrobust.engines.flwr_command import Flower
from fedrobust.errors import RunFailed
from fedrobust.storage.run_folder import RunFolder


def test_a_client_out_of_gpu_memory_says_how_full_and_what_to_change_and_the_others_go_on(quick, federate, monkeypatch):
    train = clients.local.train

    def greedy(*arguments, **keywords):
        if keywords["stream"][1] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return train(*arguments, **keywords)

    monkeypatch.setattr(clients.local, "train", greedy)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 29, 8 << 30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    folder = federate(quick(num_rounds=1))
    (row,) = folder.read("rounds.jsonl")
    assert (row["ok"], row["failed"]) == (2, 1)
    (lost,) = [row for row in folder.read("clients.jsonl") if row["status"] == "failed"]
    assert lost["client"] == 1
    assert "7.5 of 8.0 GiB were in use on Some GPU, 3.0 GiB by this client; lower local.batch-size" in lost["reason"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_out_of_memory_on_a_gpu(quick, federate, monkeypatch):
    train = clients.local.train

    def greedy(*arguments, **keywords):
        if keywords["stream"][1] == 1:
            torch.empty(torch.cuda.get_device_properties(0).total_memory, device="cuda")
        return train(*arguments, **keywords)

    monkeypatch.setattr(clients.local, "train", greedy)
    folder = federate(quick(num_rounds=1, device="cuda"))
    (row,) = folder.read("rounds.jsonl")
    assert (row["ok"], row["failed"]) == (2, 1)
    (lost,) = [row for row in folder.read("clients.jsonl") if row["status"] == "failed"]
    assert "out of GPU memory" in lost["reason"]


def test_without_room_for_its_checkpoints_a_run_does_not_begin(quick, federate, monkeypatch):
    cfg = quick()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 20, 1 << 20, 1000))
    with pytest.raises(RunFailed, match=r"0 MiB free, the checkpoints need 1 MiB"):
        federate(cfg)
    assert not RunFolder(cfg.run_dir).read("rounds.jsonl")
    assert RunFolder(cfg.run_dir).record()["state"] == "failed"


class Silent(Flower):
    """A SuperLink that does not answer for a while."""

    def __init__(self, silent_for, log):
        super().__init__(log.parent, {}, log)
        self.answers_at = time.monotonic() + silent_for

    def call(self, *arguments, output):
        time.sleep(0.3)  # the run's log, until the SuperLink was gone

    def ask(self, *arguments):
        if time.monotonic() < self.answers_at:
            raise RunFailed("no connection")
        return {"runs": [{"status": "finished:completed", "status-details": ""}]}


def test_whoever_waits_is_patient_from_the_moment_at_which_the_superlink_fell_silent(tmp_path, slowness):
    assert Silent(0.5, tmp_path / "log").await_end("1", patience=2)[0] == "finished:completed"
    with pytest.raises(RunFailed, match="no connection"):
        Silent(0.5, tmp_path / "log").await_end("1")
    start = time.monotonic()
    with pytest.raises(RunFailed, match="no connection"):
        Silent(60, tmp_path / "log").await_end("1", patience=1)
    assert 1 <= time.monotonic() - start < 10 * slowness()


HANGS = """
import sys, time
from fedrobust.engines.watchdog import limited
sys.argv = [sys.argv[1]]
with limited(0.5):
    time.sleep(2)
print("went on")
"""


@pytest.mark.parametrize(("program", "ended"), [("/some/where/flwr-clientapp", True), ("fedrobust", False)])
def test_a_client_that_hangs_is_ended_where_it_has_a_process_of_its_own(program, ended):
    done = subprocess.run(
        [sys.executable, "-c", HANGS, program], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (done.returncode != 0) == ended
    assert ("went on" in done.stdout) != ended
    assert ("Timeout (0:00:00.500000)!" in done.stderr) == ended
