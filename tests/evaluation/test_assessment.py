"""A whole evaluation: its folder, a stop in the middle, and numbers that scoring again confirms."""

import copy
import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedrobust.data.split import split_of
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation import Threat
from fedrobust.evaluation.assessment import EvaluationResult, assess
from fedrobust.evaluation.attack_run import AttackRun, Request
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.evaluation_folder import EvaluationFolder
from fedrobust.evaluation.probes import rescore
from fedrobust.evaluation.summary import per_class, per_client, summarise
from fedrobust.evaluation.verdicts import ROBUST
from fedrobust.storage.checkpoint import weights_digest

REQUEST = Request(("fgsm", "pgd-5x2"), Threat(0.1), num_images=90, seed=0, batch_size=16, checks=False)


@pytest.fixture
def evaluated(model, digits):
    evaluated = EvaluatedModel("test", model, digits, weights_digest(model.state_dict()))

    def make(folder, request=REQUEST, **settings) -> EvaluationResult:
        settings = {"device": torch.device("cpu"), **settings}
        return assess(AttackRun(evaluated, request, lambda *opened: EvaluationFolder(folder, *opened), **settings))

    return make


def test_the_worst_case_is_per_image(evaluated, tmp_path):
    result = evaluated(tmp_path)
    assert len(result.index) == 90
    stands = result.stands("fgsm") & result.stands("pgd-5x2")
    assert np.array_equal(result.worst(), stands & result.right)
    assert result.worst().sum() <= min(result.stands("fgsm").sum(), result.stands("pgd-5x2").sum())


@pytest.mark.parametrize("kind", ["interrupted", "killed"])
@pytest.mark.parametrize("stop", [1, 4, 9, 13])
def test_a_stop_at_any_moment_changes_nothing(kind, stop, evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr("fedrobust.evaluation.attack_run.SAVE_EVERY", 0.0)
    calls = itertools.count(1)

    def stopping(name, share):
        if next(calls) == stop:
            if kind == "interrupted":
                raise KeyboardInterrupt
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")  # what a kill at this moment leaves

    if kind == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path / "stopped", watch=stopping)
        steps = []
        whole = evaluated(tmp_path / "whole", watch=lambda name, share: steps.append(name))
    else:
        whole, steps = evaluated(tmp_path / "whole", watch=stopping), range(next(calls) - 1)
    seen = []
    resumed = evaluated(tmp_path / "stopped", watch=lambda name, share: seen.append(name))
    assert resumed.verdicts.keys() == whole.verdicts.keys()
    for name, verdicts in whole.verdicts.items():
        assert np.array_equal(resumed.verdicts[name], verdicts)
    first, second = (np.load(tmp_path / name / "examples.npy") for name in ("whole", "stopped"))
    assert np.array_equal(first, second)
    assert len(seen) == len(steps) - stop  # nothing is done twice


def test_another_attack_can_be_added_and_another_setting_cannot(evaluated, tmp_path):
    evaluated(tmp_path)
    seen = []
    request = Request(("fgsm", "pgd-5x2", "pgd-3"), Threat(0.1), num_images=90, seed=0, batch_size=16, checks=False)
    evaluated(tmp_path, request, watch=lambda name, share: seen.append(name))
    assert set(seen) == {"pgd-3"}
    other = Request(("fgsm",), Threat(0.2), num_images=90, seed=0, batch_size=16, checks=False)
    with pytest.raises(ConfigError, match=r"epsilon = 0.1, not 0.2; name another folder with --out"):
        evaluated(tmp_path, other)


def test_saved_examples_are_scored_again(evaluated, tmp_path, model, digits):
    result = evaluated(tmp_path)
    examples = np.load(tmp_path / "examples.npy")
    clean = digits.test.images[result.index].transpose(0, 3, 1, 2) / 255
    assert np.abs(examples - clean)[result.right].max() <= 0.1 + 1e-6
    with torch.no_grad():
        right = model(torch.from_numpy(examples)).argmax(1).numpy() == result.labels
    assert np.array_equal(right[result.right], result.worst()[result.right])
    assert result.checks["rescoring"] == {"num_images": int(result.right.sum()), "changed": 0, "close": 0}


def test_a_verdict_that_depends_on_the_batch_is_found(model, digits):
    class WholeBatch(nn.Module):
        def forward(self, x):
            logits = model(x)
            return logits - logits.mean(0) * 5

    count = 100
    examples = (digits.test.images[:count].transpose(0, 3, 1, 2) / 255).astype(np.float32)
    scored = rescore(WholeBatch(), examples, digits.test.labels[:count], np.arange(count), torch.device("cpu"))
    assert scored.changed > 10


def test_the_model_stays_as_it_was(evaluated, tmp_path, model):
    before = copy.deepcopy(model.state_dict())
    evaluated(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_same_seed_twice(evaluated, tmp_path):
    first, second = (evaluated(tmp_path / name) for name in ("a", "b"))
    assert all(np.array_equal(first.verdicts[name], second.verdicts[name]) for name in first.verdicts)
    assert np.array_equal(first.index, second.index)


def test_a_corrupt_state_is_named(evaluated, tmp_path):
    evaluated(tmp_path)
    (tmp_path / "attacks" / "fgsm.npz").write_bytes(b"PK\3\4 not whole")
    with pytest.raises(RunFailed, match=r"fgsm.npz: corrupt .*remove it"):
        evaluated(tmp_path)


class Blind(nn.Module):
    """Logits without a gradient, NaN for images as bright as `limit`."""

    def __init__(self, model, limit=float("inf")):
        super().__init__()
        self.model, self.limit = model, limit

    @torch.no_grad()
    def forward(self, x):
        bright = x.flatten(1).mean(1) >= self.limit
        return self.model(x) + torch.where(bright, torch.nan, 0.0)[:, None]


def test_attacks_with_gradients_are_refused_before_anything_is_written(model, digits, tmp_path):
    def run(request):
        evaluated = EvaluatedModel("test", Blind(model).eval(), digits, "")
        open_journal = lambda *opened: EvaluationFolder(tmp_path / "out", *opened)  # noqa: E731
        return assess(AttackRun(evaluated, request, open_journal, device=torch.device("cpu")))

    for refused in (replace(REQUEST, checks=True, attacks=("square-5",)), REQUEST):
        with pytest.raises(ConfigError, match="no gradient of its input"):
            run(refused)
    assert not (tmp_path / "out").exists()
    assert run(replace(REQUEST, attacks=("square-5", "gaussian-noise"))).worst().any()


def test_nan_on_the_last_image_alone_is_refused_before_anything_is_written(model, digits, tmp_path):
    brightness = np.sort(digits.test.images.mean((1, 2, 3)) / 255)
    limit = float(brightness[-2:].mean())
    evaluated = EvaluatedModel("test", Blind(model, limit).eval(), digits, "")
    request = replace(REQUEST, attacks=("square-5",), num_images=0)
    with pytest.raises(ConfigError, match="not finite on natural images"):
        AttackRun(
            evaluated, request, lambda *opened: EvaluationFolder(tmp_path / "out", *opened), device=torch.device("cpu")
        )
    assert not (tmp_path / "out").exists()


def test_summary_adds_up(evaluated, tmp_path, model, digits):
    result = evaluated(tmp_path)
    summary = summarise(result, EvaluatedModel("test", model, digits, ""))
    accuracy = summary["accuracy"]
    assert accuracy["natural"]["accuracy"] == result.right.mean()
    assert accuracy["worst-case"]["low"] < accuracy["worst-case"]["accuracy"] < accuracy["worst-case"]["high"]
    broken = accuracy["pgd-5x2"]["broken_by"]
    assert list(broken) == ["pgd", "pgd (2)"]
    assert sum(broken.values()) == (result.verdicts["pgd-5x2"] > 0).sum()
    by_class = sum(row["images"] * row["worst-case"] for row in summary["per_class"])
    assert by_class == pytest.approx(result.worst().sum())
    assert summary["per_client"] == []
    assert summary["worst_client"] is None


def test_clients_are_weighted_by_their_labels(digits, model, quick):
    cfg = quick(partition__scheme="shards", num_clients=5, data__train_images=0)
    labels, natural = np.arange(10).repeat(2), np.zeros(20, bool)
    natural[:10] = True  # every image of the classes 0 to 4, none of the others
    classes = per_class(labels, {"natural": natural}, digits.class_names)
    assert [row["natural"] for row in classes] == [1.0] * 5 + [0.0] * 5
    labels = digits.train.labels
    owned = [labels[client.own] for client in split_of(cfg).clients]
    counts = np.array([np.bincount(own, minlength=10) for own in owned])
    rows = per_client(classes, ["natural"], EvaluatedModel("test", model, digits, "", clients=counts))
    assert len(rows) == 5
    for row, own in zip(rows, owned, strict=True):
        assert row["natural"] == pytest.approx((own < 5).mean())
        assert row["images"] == len(own)
    assert per_client(classes, ["natural"], EvaluatedModel("test", model, digits, "")) == []


def test_an_image_that_stands_keeps_the_last_attempt(evaluated, tmp_path, digits):
    result = evaluated(tmp_path)
    examples = np.load(tmp_path / "examples.npy")
    clean = digits.test.images[result.index].transpose(0, 3, 1, 2) / 255
    standing = result.verdicts["pgd-5x2"] == ROBUST
    assert (np.abs(examples - clean)[standing].reshape(standing.sum(), -1).max(1) > 0).all()
