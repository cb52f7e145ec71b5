"""What a run leaves behind: counts, drift, the best and the last model."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fedrobust.data.split import split_of
from fedrobust.evaluation import evaluate
from fedrobust.running.evaluator import RunEvaluator
from fedrobust.storage.checkpoint import load_model


def test_best_is_chosen_by_the_validation_slice_and_the_last_is_kept(quick, federate, monkeypatch, bits):
    cfg = quick(num_rounds=3)
    scores = iter([0.5, 0.9, 0.7])
    judged, validate = [], RunEvaluator.validation

    def validation(self, arrays):
        judged.append(arrays)
        return replace(validate(self, arrays), natural_accuracy=next(scores))

    monkeypatch.setattr(RunEvaluator, "validation", validation)
    folder = federate(cfg)
    (best, best_facts), (final, last_facts) = load_model(folder.best), load_model(folder.last)
    assert (best_facts["round"], last_facts["round"]) == (2, 3)
    assert bits(best) == bits(judged[1])
    assert bits(final) == bits(judged[2])
    monkeypatch.undo()
    for which, arrays in (("best", best), ("last", final)):
        measured = RunEvaluator(cfg).test(arrays)
        assert folder.record()[which].items() >= measured.metrics().items()
        assert folder.record()[which]["test_images"] == measured.num_images == 100


def test_without_validation_images_the_best_round_is_the_last(quick, federate, bits):
    folder = federate(quick(num_rounds=2, data__validation_fraction=0, evaluation__every=2))
    record = folder.record()
    assert record["selection"] == "last round (no validation images)"
    assert record["best"] == record["last"]
    assert record["best"]["round"] == 2
    assert bits(load_model(folder.best)[0]) == bits(load_model(folder.last)[0])
    assert not any(key.startswith("validation.") for row in folder.read("rounds.jsonl") for key in row)


def test_the_record_says_how_the_best_round_was_chosen(fedavg):
    assert fedavg.record()["selection"] == "highest natural accuracy on 40 validation images"


def test_the_validation_slice_is_training_data_that_no_client_has(quick, monkeypatch):
    cfg = quick()
    measure, seen = RunEvaluator(cfg), []

    def spy(model, data, index, suite, **settings):
        seen.append((data, index))
        return evaluate(model, data, index, suite, **settings)

    monkeypatch.setattr("fedrobust.running.evaluator.evaluate", spy)
    arrays = measure.context.arrays()
    measure.validation(arrays)
    measure.test(arrays)
    (data, index), (test_data, _) = seen
    assert (data, test_data) == (measure.context.images("train"), measure.context.images("test"))
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
