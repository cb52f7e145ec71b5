"""Central runs: what they equal, what goes on after a stop, what averages and stops mean."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrobust.cli import main
from fedrobust.config import RunConfig
from fedrobust.data.split import split_of
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.running.central import Central
from fedrobust.running.central import run as train
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder
from fedrobust.training.central import PROBE, Trainer
from strategies.federation import Federation


@pytest.fixture
def central(quick):
    """The config of a central run of seconds."""

    def make(**changes) -> RunConfig:
        return quick(**{"kind": "central", "central__overfitting": "ignore", **changes})

    return make


def run(cfg: RunConfig) -> RunFolder:
    Central(cfg).run()
    return RunFolder(cfg.run_dir)


def test_without_a_folder_a_new_one_is_made_below_runs(central, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = central(run_dir="", num_rounds=1, attack__steps=1)
    train(cfg)
    train(cfg)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    states = [RunFolder(path).record()["state"] for path in (tmp_path / "runs").glob("central-*")]
    assert states == ["completed", "completed"]
    with pytest.raises(ConfigError, match="unknown model 'smal-cnn'"):
        train(cfg.replace(model__name="smal-cnn"))
    assert len(list((tmp_path / "runs").iterdir())) == 2


def same_bits(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def last(folder):
    return load_model(folder.last)[0]


ALONE = {"num_clients": 1, "partition__held_out": 0.0, "data__train_images": 0}


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"local__momentum": 0.0, "num_rounds": 2}, True),
        ({"num_rounds": 1}, True),
        ({"num_rounds": 2}, False),  # a client's momentum starts afresh in round 2, the central run's goes on
    ],
)
def test_one_client_that_holds_all_the_data_is_a_central_run(quick, federate, central, settings, same):
    alone = federate(quick(**ALONE, **settings))
    assert same_bits(last(alone), last(run(central(**ALONE, **settings)))) == same


def test_a_folder_says_which_kind_it_is_and_holds_no_client(central):
    folder = run(central())
    assert folder.read_config().kind == "central"
    assert not (folder.path / "clients.jsonl").exists()
    assert not folder.partition.exists()
    rows, record = folder.read("rounds.jsonl"), folder.record()
    assert [row["round"] for row in rows] == [1, 2]
    assert all({"train.loss", "learning_rate", "images", "validation.natural_accuracy"} <= row.keys() for row in rows)
    assert record.items() >= {"state": "completed", "rounds": 2, "objective": "at", "train_images": 360}.items()
    assert rows[0]["images"] == 360


def test_a_central_run_can_have_the_pool_alone_the_very_one_that_clients_are_given(quick, central):
    shared = {"pool__fraction": 0.25, "seed": 3}
    alone = central(central__images="pool", **shared)
    pool = split_of(quick(**shared)).pool
    folder = run(alone)
    assert np.array_equal(split_of(alone).clients[0].train, pool)
    assert np.array_equal(split_of(alone).validation, split_of(quick(**shared)).validation)
    assert folder.record()["train_images"] == folder.read("rounds.jsonl")[0]["images"] == len(pool) == 100


EVERYTHING = {
    "num_rounds": 4,
    "central__schedule": "cyclic",
    "objective__name": "trades",
    "objective__awp_gamma": 0.01,
    "objective__label_smoothing": 0.1,
    "central__awp_start": 0.5,
    "model__activation": "rrelu",
}


@pytest.mark.parametrize("average", ["none", "ema", "swa"])
def test_a_run_that_was_stopped_ends_as_if_undisturbed(central, monkeypatch, average):
    settings = {**EVERYTHING, "central__average": average, "central__average_start": 0.25}
    undisturbed = run(central(**settings))
    cfg, train, rounds = central(**settings), Trainer.train, itertools.count(1)

    def broken(self, number):
        if next(rounds) == 3:
            raise FloatingPointError("no")
        return train(self, number)

    monkeypatch.setattr(Trainer, "train", broken)
    with pytest.raises(RunFailed, match="round 3: no"):
        run(cfg)
    folder = run(cfg.replace(resume=True))
    assert next(rounds) == 6
    assert same_bits(last(folder), last(undisturbed))
    assert metrics_of_rounds(folder) == metrics_of_rounds(undisturbed)
    assert folder.record()["state"] == "completed"


def metrics_of_rounds(folder):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in folder.read("rounds.jsonl")]


def weights_after_each_round(central, monkeypatch, **settings):
    """Of the model that is trained, and what the run hands out."""
    trained, handed = [], []
    train = Trainer.train

    def watched(self, number):
        summary = train(self, number)
        trained.append({key: value.numpy() for key, value in self._weights.items()})
        handed.append(self.arrays())
        return summary

    monkeypatch.setattr(Trainer, "train", watched)
    run(central(num_rounds=3, **settings))
    return trained, handed


def test_swa_is_the_mean_of_the_rounds(central, monkeypatch):
    settings = {"central__average": "swa", "central__average_start": 0.6}  # begins with round 2
    trained, handed = weights_after_each_round(central, monkeypatch, **settings)
    assert same_bits(handed[0], trained[0])
    assert same_bits(handed[1], trained[1])
    for key, value in handed[2].items():
        np.testing.assert_allclose(value, (trained[1][key] + trained[2][key]) / 2, rtol=1e-5, atol=1e-6)


def test_ema_follows_its_recursion(central, monkeypatch):
    settings = {"central__average": "ema", "central__average_decay": 0.5, "local__steps": 1}
    trained, handed = weights_after_each_round(central, monkeypatch, **settings)
    average = trained[0]
    for weights, found in zip(trained[1:], handed[1:], strict=True):
        average = {key: 0.5 * average[key] + 0.5 * weights[key] for key in weights}
        for key, value in found.items():
            np.testing.assert_allclose(value, average[key], rtol=1e-5, atol=1e-6)


def test_the_rate_of_each_round_is_the_schedules(central):
    settings = {"central__schedule": "piecewise", "central__milestones": "0.5", "central__decay": 0.1}
    rows = run(central(num_rounds=4, local__learning_rate=0.04, **settings)).read("rounds.jsonl")
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.04, 0.04, 0.004, 0.004])


def test_a_run_without_progress_stops_itself_and_is_complete(central, monkeypatch):
    monkeypatch.setattr("fedrobust.running.evaluator.RunEvaluator.score", lambda self, evaluation: 0.5)
    cfg = central(num_rounds=9, central__patience=2)
    folder = run(cfg)
    record = folder.record()
    assert (record["state"], record["rounds"], record["best"]["round"]) == ("completed", 3, 1)
    assert record["stopped"] == "no better score since round 1, 2 rounds ago"
    assert folder.complete(cfg.num_rounds)


@pytest.mark.parametrize(("setting", "rounds"), [("warn", 4), ("stop", 3)])
def test_catastrophic_overfitting_warns_or_stops(central, monkeypatch, setting, rounds):
    scores = iter([0.40, 0.41, 0.20, 0.35])
    monkeypatch.setattr(Central, "_probe", lambda self: next(scores))
    folder = run(central(num_rounds=4, central__overfitting=setting))
    said = "catastrophic overfitting in round 3: pgd-5 accuracy on training images fell from 41.0% to 20.0%"
    rows, record = folder.read("rounds.jsonl"), folder.record()
    assert len(rows) == record["rounds"] == rounds
    assert [row.get("warning", "") for row in rows][:3] == ["", "", said]
    assert record["warnings"] == [said]
    assert record["stopped"] == (said if setting == "stop" else "")


def test_the_probe_is_the_weights_just_trained_under_pgd(central):
    rows = run(central(central__overfitting="warn", attack__epsilon="0")).read("rounds.jsonl")
    assert all(0.1 < row[PROBE] <= 1 for row in rows)
    attacked = run(central(central__overfitting="warn")).read("rounds.jsonl")
    assert attacked[-1][PROBE] < rows[-1][PROBE]


def test_divergence_is_a_failed_run(central):
    cfg = central(local__learning_rate=1e20)
    with pytest.raises(RunFailed, match=r"round 1: training diverged: .* lower local\.learning-rate"):
        run(cfg)
    assert RunFolder(cfg.run_dir).record()["state"] == "failed"


def test_a_federation_refuses_a_central_config(central):
    with pytest.raises(ConfigError, match="this is a central run; use fedrobust central"):
        Federation(central(), None)  # type: ignore[arg-type]


TINY = ["--num-rounds", "2", "--data.train-images", "300", "--data.test-images", "60", "--attack.steps", "1"]
TINY += ["--evaluation.attacks", "fgsm", "--evaluation.select-by", "fgsm", "--workers.threads", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_from_a_preset_to_a_report(here, capsys):
    assert main(["central", "quickstart", "--variant", "fedavg", *TINY, "--run-dir", "mine"]) == 0
    out = capsys.readouterr().out
    assert "fedavg: at of small-cnn with relu on all of digits, 1 CPU threads" in out
    assert "round 2/2" in out
    folder = RunFolder("mine")
    assert folder.record()["kind"] == folder.read_config().kind == "central"

    assert main(["run", "--resume", "mine", "--num-rounds", "3"]) == 0
    assert [row["round"] for row in folder.read("rounds.jsonl")] == [1, 2, 3]
    assert main(["runs", "mine"]) == 0
    assert "3/3" in capsys.readouterr().out
    assert main(["report", "mine", "--out", "out"]) == 0
    assert (here / "out" / "curves.png").stat().st_size > 10_000
    assert "| central |" in capsys.readouterr().out
    assert main(["evaluate", "mine", "--attacks", "fgsm", "--num-images", "40", "--no-checks"]) == 0
    assert "worst client" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("quickstart --variant calfat", "strategy.name = 'calfat': a central run uses no strategy"),
        (
            "quickstart --variant fedavg --pool.fraction 0.2",
            "a central run uses all the data and no pool, or only the pool",
        ),
        ("quickstart --variant fedavg --central.milestones 0.7,0.5", "must be ascending shares between 0 and 1"),
        (
            "quickstart --variant fedavg --central.patience 2 --data.validation-fraction 0",
            "central.patience = 2: needs validation images",
        ),
        ("quickstart --variant fedavg --objective.name trades --attack.random-start zero", "use gaussian or uniform"),
        ("quickstart --engine ray", "unknown setting 'engine'"),
        ("", "no preset is given; known: central-smoke"),
    ],
)
def test_mistakes(here, capsys, arguments, said):
    assert main(["central", *arguments.split()]) == 2
    assert said in capsys.readouterr().err


def test_a_rate_that_follows_the_number_of_rounds_keeps_it(here, capsys):
    settings = ["--variant", "fedavg", *TINY, "--central.schedule", "cosine", "--run-dir", "mine"]
    assert main(["central", "quickstart", *settings]) == 0
    assert main(["central", "--resume", "mine", "--num-rounds", "5"]) == 2
    assert "num-rounds: cannot change in a resumed run whose learning rate depends on it" in capsys.readouterr().err


def test_threads_are_as_before(central):
    before = torch.get_num_threads()
    run(central())
    assert torch.get_num_threads() == before
