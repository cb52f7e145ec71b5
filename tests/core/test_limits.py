"""The share of a machine that a run takes: what its container, its batch job and OMP_NUM_THREADS leave; precision."""

import os
from collections import namedtuple
from itertools import product

import pytest
import torch

from fedrobust.config import RunConfig
from fedrobust.engines import plan, plan_workers
from fedrobust.hardware import cgroup, process
from fedrobust.models import MODELS
from fedrobust.objectives import OBJECTIVES
from fedrobust.training.context import run_context

GIB = 1 << 30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A machine of 8 cores and 64 GiB, on which the files of a cgroup say what they are told to."""

    def make(groups, files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        limits = cgroup.cpu_limit(tmp_path), cgroup.free_memory(tmp_path)
        monkeypatch.setattr(cgroup, "cpu_limit", lambda: limits[0])
        monkeypatch.setattr(cgroup, "free_memory", lambda: limits[1])
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        free = namedtuple("free", "available")(64 * GIB)
        monkeypatch.setattr(cgroup.psutil, "virtual_memory", lambda: free)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        return cgroup.available_cores(), cgroup.available_memory()

    return make


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "files", "cores", "memory"),
    [
        ("0::/\n", {}, 8, 64 * GIB),
        ("0::/\n", {f"{V2}/cpu.max": "max 100000\n", f"{V2}/memory.max": "max\n"}, 8, 64 * GIB),
        ("0::/\n", {f"{V2}/cpu.max": "250000 100000\n"}, 2, 64 * GIB),
        ("0::/\n", {f"{V2}/cpu.max": "50000 100000\n"}, 1, 64 * GIB),
        ("0::/\n", {f"{V2}/cpu.max": "6400000 100000\n"}, 8, 64 * GIB),
        # the limit is that of a group above; a job of Slurm or systemd has several
        ("0::/slurm/job/step\n", {f"{V2}/slurm/job/cpu.max": "300000 100000", f"{V2}/slurm/cpu.max": "max 1"}, 3, None),
        (
            "0::/\n",
            {
                f"{V2}/memory.max": f"{4 * GIB}\n",
                f"{V2}/memory.current": f"{3 * GIB}\n",
                f"{V2}/memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\n",
            },
            8,
            2 * GIB,
        ),
        # version 1: several mounts; /proc names the group as the host does, the container's mount begins with it
        (
            "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                f"{V1}/memory.limit_in_bytes": f"{8 * GIB}\n",
                f"{V1}/memory.usage_in_bytes": f"{2 * GIB}\n",
                f"{V1}/memory.stat": f"cache 5\ntotal_inactive_file {GIB}\n",
            },
            4,
            7 * GIB,
        ),
        (
            "4:memory:/x\n3:cpuacct,cpu:/x\n0::/x\n",
            {
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                f"{V1}/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8,
            64 * GIB,
        ),
    ],
)
def test_limits_of_a_container(container, groups, files, cores, memory):
    assert container(groups, files) == (cores, memory or 64 * GIB)


def test_without_cgroups_there_are_none(tmp_path):
    assert cgroup.cpu_limit(tmp_path) is None
    assert cgroup.free_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("omp", "settings", "engine", "workers"),
    [
        (None, {}, "ray", (8, 1)),
        (None, {}, "local", (1, 8)),
        ("1", {}, "local", (1, 1)),
        ("3", {}, "local", (1, 3)),
        ("3,1", {}, "ray", (2, 3)),
        ("64", {}, "local", (1, 8)),
        ("no number", {}, "local", (1, 8)),
        ("1", {"workers.threads": 4}, "local", (1, 4)),
        ("4", {"workers.num": 5}, "ray", (5, 1)),
    ],
)
def test_omp_num_threads_is_the_number_of_threads(container, monkeypatch, omp, settings, engine, workers):
    container("0::/", {})
    monkeypatch.setattr(plan, "_num_gpus", lambda cfg: 0)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    planned, _ = plan_workers(RunConfig.from_flat({"num-clients": 20, **settings}), engine)
    assert (planned.workers.num, planned.workers.threads) == workers


def test_workers_fit_into_a_container(container, monkeypatch):
    monkeypatch.setattr(plan, "_num_gpus", lambda cfg: 0)
    container("0::/", {f"{V2}/cpu.max": "400000 100000", f"{V2}/memory.max": str(3 * GIB)})
    planned, why = plan_workers(RunConfig.from_flat({"num-clients": 20}), "ray")
    assert (planned.workers.num, planned.workers.threads) == (3, 1)
    assert "bounded by the memory" in why


CPU = torch.device("cpu")


@pytest.mark.parametrize("units", [True, False])
def test_auto_precision_takes_both_the_hardware_and_a_proof(units, monkeypatch):
    monkeypatch.setattr(process, "has_bfloat16_units", lambda device: units)
    for model, objective in product(MODELS, OBJECTIVES):
        shown = (model, objective) in process.BFLOAT16_SHOWN_EQUAL
        expected = torch.bfloat16 if units and shown else torch.float32
        assert process.pick_precision("auto", model, objective, CPU) == expected
        assert process.pick_precision("bfloat16", model, objective, CPU) == torch.bfloat16
        assert process.pick_precision("float32", model, objective, CPU) == torch.float32
    assert set(product(MODELS, OBJECTIVES)) >= process.BFLOAT16_SHOWN_EQUAL


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy__name": "fedavg"}, torch.bfloat16),  # its objective is `at`
        ({"strategy__name": "calfat"}, torch.float32),
        ({"objective__name": "trades"}, torch.float32),
        ({"kind": "central"}, torch.bfloat16),
        ({"strategy__name": "calfat", "precision": "bfloat16"}, torch.bfloat16),
    ],
)
def test_a_run_takes_the_precision_shown_for_its_model_and_objective(settings, expected, monkeypatch):
    monkeypatch.setattr(process, "has_bfloat16_units", lambda device: True)
    monkeypatch.setattr(process, "BFLOAT16_SHOWN_EQUAL", {("small-cnn", "at")})
    run_context.cache_clear()
    assert run_context(RunConfig().replace(device="cpu", **settings)).precision == expected
    run_context.cache_clear()
