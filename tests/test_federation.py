"""A federation from its settings to its folder: limit cases, faults, and what a killed run is worth."""

import itertools
import json
import multiprocessing
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord
from torch import nn

from clients.app import app
from fedrobust import engines
from fedrobust.attacks import make_attack
from fedrobust.checkpoint import load_checkpoint, load_model
from fedrobust.data import hold_out
from fedrobust.data.augment import AUGMENTATIONS
from fedrobust.engines import flower
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.models import MODELS
from fedrobust.models.normalisation import normalised
from fedrobust.objectives import make_objective
from fedrobust.preflight import check_run
from fedrobust.records import RunFolder
from fedrobust.seeding import numpy_stream
from fedrobust.split import split_of
from fedrobust.training import Schedule, train
from fedrobust.workbench import workbench
from strategies.measure import Measure

KILLS = 8  # of the driver, at random moments; 20 for the whole of F3


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        (one[key].dtype, one[key].shape, one[key].tobytes())
        == (other[key].dtype, other[key].shape, other[key].tobytes())
        for key in one
    )


def last(folder):
    return load_model(folder.last)[0]


# -- limit cases ----------------------------------------------------------------------------------------------------


def test_one_client_with_all_the_data_is_centralised_training(quick, federate):
    settings = {"num_clients": 1, "partition__held_out": 0.0, "data__train_images": 0}
    cfg = quick(**settings)
    bench = workbench(cfg)
    everything, _ = hold_out(
        bench.dataset.train.labels, cfg.data.validation_fraction, numpy_stream(cfg.seed, "validation")
    )
    attack = make_attack("pgd", **cfg.attack.model_dump(exclude={"name"}))
    weights = bench.weights()
    for server_round in (1, 2):
        train(
            bench.load(weights),
            bench.images("train"),
            torch.from_numpy(everything),
            make_objective("at", attack=attack),
            Schedule(batch_size=cfg.local.batch_size, learning_rate=cfg.local.learning_rate),
            augmentation=AUGMENTATIONS[bench.dataset.augmentation],
            precision=torch.float32,
            seed=cfg.seed,
            stream=("client", 0, server_round),
        )
        weights = bench.weights()
    assert same_bits(last(federate(quick(**settings))), {key: value.numpy() for key, value in weights.items()})


@pytest.fixture(scope="module")
def fedavg(quick, federate):
    """A run of FedAvg, undisturbed; others are held against it."""
    return federate(quick())


def test_fedprox_with_mu_zero_is_fedavg(quick, federate, fedavg, metrics_of):
    fedprox = federate(quick(strategy__name="fedprox", strategy__proximal_mu=0.0))
    assert same_bits(last(fedprox), last(fedavg))
    assert metrics_of(fedprox) == metrics_of(fedavg)


def test_fedprox_moves_less_the_larger_mu(quick, federate):
    def distance(mu):
        cfg = quick(num_rounds=1, strategy__name="fedprox", strategy__proximal_mu=mu)
        start = {key: value.numpy() for key, value in workbench(cfg).weights().items()}
        after = last(federate(cfg))
        return sum(np.square(after[key] - start[key]).sum() for key in start)

    assert distance(0.0) > distance(1.0) > distance(10.0) > 0


def test_a_pool_of_all_kinds_runs_and_calfat_too(quick, federate):
    cfg = quick(num_rounds=1, strategy__name="calfat", pool__fraction=0.2, pool__mode="replace")
    (row,) = federate(cfg).read("rounds.jsonl")
    assert row["ok"] == 3


def test_batch_norm_counters_stay_whole_numbers_through_rounds_and_a_resume(quick, federate, monkeypatch):
    def build(num_classes, image_shape, mean, std, activation):
        return normalised(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes)), mean, std)

    monkeypatch.setitem(MODELS, "with-batch-norm", build)
    cfg = quick(num_rounds=1, model__name="with-batch-norm", objective__name="natural", local__steps=3)
    federate(cfg)
    folder = federate(cfg.replace(num_rounds=2, resume=True))
    (counter,) = [array for array in last(folder).values() if array.dtype == np.int64]
    assert counter.shape == ()
    assert counter == 6
    assert [row["ok"] for row in folder.read("rounds.jsonl")] == [3, 3]


GOLDEN = {"natural_accuracy": 0.964, "robust_accuracy.fgsm": 0.627, "loss": 0.176}
TOLERANCE = {"natural_accuracy": 0.009, "robust_accuracy.fgsm": 0.02, "loss": 0.005}


def test_the_golden_run(quick, federate):
    """Two rounds on all the digits: what they gave here, within what another machine's arithmetic may change."""
    cfg = quick(data__train_images=0, data__test_images=0, objective__name="natural", local__epochs=2)
    reached = federate(cfg).record()["last"]
    for metric, expected in GOLDEN.items():
        assert reached[metric] == pytest.approx(expected, abs=TOLERANCE[metric]), metric


# -- what a run leaves behind ----------------------------------------------------------------------------------------


def test_best_is_chosen_by_the_validation_slice_and_the_last_is_kept(quick, federate, monkeypatch):
    cfg = quick(num_rounds=3)
    scores = iter([0.5, 0.9, 0.7])
    judged, validate = [], Measure.validation

    def validation(self, arrays):
        judged.append(arrays)
        return replace(validate(self, arrays), natural_accuracy=next(scores))

    monkeypatch.setattr(Measure, "validation", validation)
    folder = federate(cfg)
    (best, best_facts), (final, last_facts) = load_model(folder.best), load_model(folder.last)
    assert (best_facts["round"], last_facts["round"]) == (2, 3)
    assert same_bits(best, judged[1])
    assert same_bits(final, judged[2])
    monkeypatch.undo()
    for which, arrays in (("best", best), ("last", final)):
        measured = Measure(cfg).test(arrays)
        assert folder.record()[which].items() >= measured.metrics().items()
        assert folder.record()[which]["test_images"] == measured.num_images == 100


def test_the_validation_slice_is_training_data_that_no_client_has(quick, monkeypatch):
    cfg = quick()
    measure, seen = Measure(cfg), []
    monkeypatch.setattr(Measure, "_evaluate", lambda self, arrays, split, index: seen.append((split, index)))
    measure.validation({})
    measure.test({})
    (split, index), (test_split, _) = seen
    assert (split, test_split) == ("train", "test")
    np.testing.assert_array_equal(index, split_of(cfg).validation)
    assert not any(np.isin(index, np.r_[client.train, client.held_out]).any() for client in split_of(cfg).clients)


def test_a_run_is_counted_by_rounds_and_by_clients(fedavg):
    rounds, clients = fedavg.read("rounds.jsonl"), fedavg.read("clients.jsonl")
    assert [(row["round"], row["clients"], row["ok"]) for row in rounds] == [(1, 3, 3), (2, 3, 3)]
    kinds = [(row["round"], row["phase"], row["client"]) for row in clients]
    assert kinds == list(itertools.product((1, 2), ("train", "evaluate"), range(3)))
    for row in rounds:
        mine = [c for c in clients if (c["round"], c["phase"]) == (row["round"], "train")]
        mean = np.average([c["loss"] for c in mine], weights=[c["num_examples"] for c in mine])
        assert row["train.loss"] == pytest.approx(mean)
    assert (
        fedavg.record().items() >= {"state": "completed", "rounds": 2, "rejected": 0, "failed": 0, "error": ""}.items()
    )


def test_drift_is_in_the_rows_of_rounds_and_clients(fedavg):
    clients = [row for row in fedavg.read("clients.jsonl") if row["phase"] == "train"]
    for row in fedavg.read("rounds.jsonl"):
        mine = [c for c in clients if c["round"] == row["round"]]
        norms, images = ([c[key] for c in mine] for key in ("update_norm", "num_examples"))
        assert row["drift.update_norm"] == pytest.approx(np.average(norms, weights=images))
        assert row["drift.cosine"] == pytest.approx(row["drift.step_norm"] / row["drift.update_norm"])
        assert 0 < row["drift.cosine"] < 1


def test_the_worst_case_chooses_the_best_round_and_classes_are_in_the_record(quick, federate):
    folder = federate(quick(evaluation__attacks="fgsm,pgd-2", evaluation__select_by="worst-case"))
    scores = [row["validation.robust_accuracy.worst-case"] for row in folder.read("rounds.jsonl")]
    record = folder.record()
    assert record["best"]["round"] == 1 + scores.index(max(scores))
    for which in ("best", "last"):
        results = record[which]
        assert {name: len(classes) for name, classes in results["per_class"].items()} == dict.fromkeys(
            ("natural", "fgsm", "pgd-2", "worst-case"), 10
        )
        # the 100 test images are as many of each class
        assert np.mean(results["per_class"]["natural"]) == pytest.approx(results["natural_accuracy"])
    assert not any("per_class" in key for row in folder.read("rounds.jsonl") for key in row)


# -- faults ----------------------------------------------------------------------------------------------------------


def but_client(partition, misbehave):
    """The ClientApp, but what this client does when it is to train."""

    def client(message, context):
        if context.node_config["partition-id"] == partition and message.metadata.message_type == "train":
            return misbehave(message, context)
        return app(message, context)

    return client


def fail(message, context):
    raise RuntimeError("out of memory")


def poison(message, context):
    reply = app(message, context)
    arrays = {key: array.numpy() for key, array in reply.content["arrays"].items()}
    arrays["network.linear.bias"] = arrays["network.linear.bias"] * np.float32(np.nan)
    reply.content["arrays"] = ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return reply


@pytest.mark.parametrize(
    ("misbehave", "status", "reason"),
    [
        (fail, "failed", "RuntimeError: out of memory"),
        (poison, "rejected", "array 'network.linear.bias' holds NaN"),
    ],
)
def test_the_others_go_on_without_a_client(quick, federate, misbehave, status, reason):
    folder = federate(quick(num_rounds=1), but_client(1, misbehave))
    (row,) = folder.read("rounds.jsonl")
    assert (row["ok"], row[status], folder.record()[status]) == (2, 1, 1)
    (client,) = [c for c in folder.read("clients.jsonl") if c["phase"] == "train" and c["client"] == 1]
    assert (client["status"], reason in client["reason"]) == (status, True)
    assert all(np.isfinite(array).all() for array in last(folder).values())


def test_when_every_client_fails_the_run_fails_with_the_reason(quick, federate):
    cfg = quick(local__learning_rate=1e20)
    with pytest.raises(RunFailed, match=r"round 1: 0 usable updates of 3 clients.*client 0 failed: FloatingPointError"):
        federate(cfg)
    folder = RunFolder(cfg.run_dir)
    assert folder.record()["state"] == "failed"
    assert "lower local.learning-rate" in folder.record()["error"]
    assert not folder.last.exists()
    assert not folder.checkpoint.exists()


def test_a_run_that_failed_goes_on_from_its_last_round(quick, federate, fedavg, metrics_of):
    cfg, rounds = quick(), itertools.count()

    def broken_in_round_two(message, context):
        if message.metadata.message_type == "train" and int(message.content["config"]["server-round"]) == 2:
            next(rounds)
            raise RuntimeError("no")
        return app(message, context)

    with pytest.raises(RunFailed, match=r"round 2: 0 usable"):
        federate(cfg, broken_in_round_two)
    assert next(rounds) == 3
    folder = federate(cfg.replace(resume=True))
    assert same_bits(last(folder), last(fedavg))
    assert metrics_of(folder) == metrics_of(fedavg)
    assert (folder.record()["state"], folder.record()["error"]) == ("completed", "")


def test_more_rounds_go_on_where_the_run_ended(quick, federate, fedavg, metrics_of):
    cfg = quick(num_rounds=1)
    federate(cfg)
    folder = federate(cfg.replace(num_rounds=2, resume=True))
    assert same_bits(last(folder), last(fedavg))
    assert metrics_of(folder) == metrics_of(fedavg)


def test_a_corrupt_checkpoint_ends_a_resume(quick, federate):
    cfg = quick(num_rounds=1)
    folder = federate(cfg)
    data = bytearray(folder.checkpoint.read_bytes())
    data[-5] ^= 1
    folder.checkpoint.write_bytes(data)
    with pytest.raises(RunFailed, match=r"checkpoint\.safetensors: corrupt .*not loaded"):
        federate(cfg.replace(num_rounds=2, resume=True))
    assert folder.record()["state"] == "failed"


def test_another_seed_cannot_go_on(quick, federate):
    cfg = quick(num_rounds=1)
    federate(cfg)
    with pytest.raises(ConfigError, match=r"seed = 1: the checkpoint was made with 0"):
        federate(cfg.replace(seed=1, num_rounds=2, resume=True))


def test_a_run_that_is_at_work_is_left_alone(quick, federate):
    cfg = quick(num_rounds=1)
    folder = federate(cfg)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with folder.held():
        assert folder.at_work
        with pytest.raises(ConfigError, match=r"a run is at work in it; wait until it is done, or stop it"):
            federate(cfg.replace(num_rounds=2, resume=True))
        with pytest.raises(ConfigError, match=r"a run is at work in it"):
            check_run(cfg.replace(num_rounds=2, resume=True))
    assert not folder.at_work
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_what_clients_remember_survives_a_resume(quick, federate):
    def counting(message, context):
        if message.metadata.message_type == "train":
            seen = context.state.metric_records.get("memory", {"messages": 0})["messages"]
            context.state["memory"] = MetricRecord({"messages": seen + 1})
        return app(message, context)

    cfg = quick(num_rounds=1)
    federate(cfg, counting)
    folder = federate(cfg.replace(num_rounds=3, resume=True), counting)
    states = load_checkpoint(folder.checkpoint).clients
    counted = {client: flower.records_from_bytes(state)["memory"]["messages"] for client, state in states.items()}
    assert counted == {0: 3, 1: 3, 2: 3}


# -- F3: the driver is killed ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver():
    """Processes that run federations, everything imported before they start, so that they are killed at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "clients.app", "strategies.app", "sklearn.datasets", "torch._dynamo"])
    return lambda cfg: context.Process(target=engines.run, args=(cfg, "local"))


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(quick, driver, metrics_of):
    settings = {"num_rounds": 4, "strategy__fraction_train": 0.7, "pool__fraction": 0.1}
    reference = quick(**settings)
    process = driver(reference)
    process.start()
    process.join()
    undisturbed, rng = RunFolder(reference.run_dir), random.Random(0)
    longest = 1.2 * undisturbed.record()["seconds"]

    kills = finished = 0
    while kills < KILLS or not finished:
        cfg = quick(**settings)
        folder, running = RunFolder(cfg.run_dir), True
        while running:
            process = driver(cfg.replace(resume=(folder.path / "config.toml").exists()))
            process.start()
            process.join(rng.uniform(0, longest) if kills < KILLS else None)
            if running := process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                assert not folder.at_work
                assert_at_most_one_round_is_lost(folder)
            else:
                assert process.exitcode == 0
        finished += 1
        assert metrics_of(folder) == metrics_of(undisturbed)
        assert same_bits(last(folder), last(undisturbed))
        assert same_bits(load_model(folder.best)[0], load_model(undisturbed.best)[0])
        assert folder.record()["best"] == undisturbed.record()["best"]


def assert_at_most_one_round_is_lost(folder):
    written = (
        (folder.path / "rounds.jsonl").read_bytes().splitlines() if (folder.path / "rounds.jsonl").exists() else []
    )
    kept = load_checkpoint(folder.checkpoint).progress.server_round if folder.checkpoint.exists() else 0
    assert kept <= len(written) <= kept + 1
    assert [json.loads(line)["round"] for line in written[:kept]] == list(range(1, kept + 1))
