"""A study of eight real federations of seconds, and folders of runs that came to nothing."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fedrobust.storage.run_folder import RunFolder

POOLS = (0.0, 0.2)
SEEDS = (0, 1)
EVALUATION = {
    "subject": {"name": "net", "which": "best"},
    "source": None,
    "num_images": 60,
    "norm": "linf",
    "epsilon": "0.1",
    "seed": 0,
    "attacks": ["pgd-2", "square"],
    "accuracy": {
        "natural": {"accuracy": 0.5, "low": 0.4, "high": 0.6},
        "pgd-2": {"accuracy": 0.4, "low": 0.3, "high": 0.5},
        "square": {"accuracy": 0.3, "low": 0.2, "high": 0.4},
    },
    "flags": [{"name": "zero-gradients", "seen": "31 of 100 <gradients> are 0", "about": ""}],
}


@pytest.fixture(scope="session")
def swept(tmp_path_factory, quick, federate) -> Path:
    """Two strategies, with and without a pool, two seeds each; learning rates go with the strategy."""
    folder = tmp_path_factory.mktemp("swept")
    for strategy, rate, start in (("fedavg", 0.05, "uniform"), ("calfat", 0.005, "gaussian")):
        for pool in POOLS:
            for seed in SEEDS:
                settings = {
                    "run_dir": str(folder / f"{strategy}-{pool:g}-{seed}"),
                    "seed": seed,
                    "pool__fraction": pool,
                    "strategy__name": strategy,
                    "local__learning_rate": rate,
                    "attack__random_start": start,
                    "evaluation__attacks": "fgsm,pgd-2",
                    "evaluation__select_by": "pgd-2",
                }
                federate(quick(**settings))
    return folder


@pytest.fixture
def study(study_in, tmp_path) -> Iterator[Path]:
    """A study of this test's own, which it may change."""
    with study_in(tmp_path / "study") as folder:
        yield folder


@pytest.fixture(scope="session")
def study_in(swept) -> Callable[[Path], AbstractContextManager[Path]]:
    """Lay a copy of `swept` there, with an evaluation, a run that failed in its last round, one before its first, one
    at work."""
    return contextmanager(lambda folder: _lay_out(swept, folder))


def _lay_out(swept: Path, folder: Path) -> Iterator[Path]:
    shutil.copytree(swept, folder)
    evaluated = RunFolder(folder / "fedavg-0-0")
    subject = EVALUATION["subject"] | {"round": evaluated.record()["best"]["round"]}
    epsilon = str(evaluated.read_config().attack.epsilon)
    for name, radius in (("best-linf", epsilon), ("best-linf-wider", "0.5")):
        evaluation = evaluated.path / "evaluations" / name
        evaluation.mkdir(parents=True)
        record = EVALUATION | {"subject": subject, "epsilon": radius}
        (evaluation / "evaluation.json").write_text(json.dumps(record))

    failed = RunFolder(shutil.copytree(swept / "fedavg-0-0", folder / "failed"))
    record = {key: value for key, value in failed.record().items() if key not in ("best", "last")}
    (failed.path / "record.json").write_text(json.dumps(record | {"state": "failed", "error": "disk <full> & gone"}))

    early = RunFolder(folder / "early")
    early.prepare()
    early.update_record(name="early", command="fedrobust run x")

    running = RunFolder(shutil.copytree(swept / "fedavg-0-1", folder / "running"))
    record = {key: value for key, value in running.record().items() if key not in ("best", "last")}
    (running.path / "record.json").write_text(json.dumps(record | {"state": "running"}))
    with open(running.path / "rounds.jsonl", "a") as file:
        file.write('{"round": 3, "cli')
    with running.held():
        yield folder
