"""The loop under every robustness number: who is attacked, by what, and what a stop in the middle changes."""

import pytest
import torch
from torch import nn

from fedrobust.config import WORST_CASE
from fedrobust.data.device import DeviceImages
from fedrobust.data.spec import Split
from fedrobust.errors import RunFailed
from fedrobust.evaluation import EvaluationAttack, Stage, Threat, evaluate, make_chain
from fedrobust.evaluation.verdicts import MISCLASSIFIED, ROBUST, attack_steps, classify, first_verdicts

SETTINGS = {"batch_size": 32, "seed": 3, "stream": ("test",)}


def attacked(model, images, index, attack, verdicts=None, **settings):
    """Verdicts after all steps, and the steps."""
    if verdicts is None:
        verdicts = first_verdicts(classify(model, images, index, batch_size=32))
    return verdicts, list(attack_steps(model, images, index, attack, verdicts, **SETTINGS | settings))


def named(name, epsilon=0.1):
    return make_chain(name, Threat(epsilon), num_classes=10)


@pytest.mark.parametrize("name", ["fgsm", "pgd-5", "pgd-5x2"])
def test_epsilon_zero_is_natural_accuracy(name, model, images, index):
    labels = images.labels.clone()
    labels[::10] = (labels[::10] + 1) % 10  # a model that is right everywhere would show little
    mislabelled = DeviceImages(Split(images.images.permute(0, 2, 3, 1).numpy(), labels.numpy()), "cpu")
    evaluation = evaluate(model, mislabelled, index, [named(name, 0.0)], batch_size=32, seed=0)
    assert evaluation.robust_accuracy[name] == evaluation.natural_accuracy
    assert 0.7 < evaluation.natural_accuracy <= 0.9


def test_wrong_images_are_never_attacked_and_broken_ones_not_again(model, images, index):
    verdicts, steps = attacked(model, images, index, named("pgd-5x3"))
    natural = classify(model, images, index, batch_size=32)
    assert torch.equal(verdicts == MISCLASSIFIED, ~natural.right)
    per_stage = [sum(len(step.positions) for step in steps if step.stage == stage) for stage in (1, 2, 3)]
    assert per_stage[0] == natural.right.sum()
    assert per_stage[1] == per_stage[0] - (verdicts == 1).sum()
    assert per_stage[2] == per_stage[1] - (verdicts == 2).sum()
    assert (verdicts == 1).any()
    assert (verdicts == ROBUST).any()


def test_the_verdict_is_of_the_example_that_is_handed_on(model, images, index):
    verdicts, steps = attacked(model, images, index, named("pgd-5"))
    for step in steps:
        x, y = images.batch(index[step.positions])
        assert (step.examples - x).abs().max() <= 0.1 + 1e-6
        with torch.no_grad():
            broken = model(step.examples).argmax(1) != y
        assert torch.equal(broken, verdicts[step.positions] == 1)
    assert [step.share for step in steps][-1] == 1.0


@pytest.mark.parametrize("stop", range(1, 9, 2))
def test_going_on_after_a_stop_ends_as_if_undisturbed(stop, model, images, index):
    whole, steps = attacked(model, images, index, named("pgd-3x3"))
    assert len(steps) > stop
    partly = first_verdicts(classify(model, images, index, batch_size=32))
    interrupted = attack_steps(model, images, index, named("pgd-3x3"), partly, **SETTINGS)
    for _ in range(stop):
        next(interrupted)
    resumed, rest = attacked(model, images, index, named("pgd-3x3"), partly, done=stop)
    assert torch.equal(resumed, whole)
    assert len(rest) == len(steps) - stop


def test_one_attack_changes_nothing_for_another(model, images, index):
    pgd, fgsm = named("pgd-5"), named("fgsm")
    alone = evaluate(model, images, index, [pgd], batch_size=32, seed=0).robust_accuracy["pgd-5"]
    assert evaluate(model, images, index, [fgsm, pgd], batch_size=32, seed=0).robust_accuracy["pgd-5"] == alone


def test_the_worst_case_is_what_no_attack_broke(model, images, index):
    suite = [named("fgsm"), named("pgd-5"), named("deepfool")]
    evaluation = evaluate(model, images, index, suite, batch_size=32, seed=3, stream=("test",))
    standing = torch.stack([attacked(model, images, index, attack)[0] == ROBUST for attack in suite])
    robust = evaluation.robust_accuracy
    assert robust[WORST_CASE] == standing.all(0).sum().item() / len(index)
    assert robust[WORST_CASE] <= min(robust.values())
    assert evaluation.metrics()["robust_accuracy.worst-case"] == robust[WORST_CASE]
    assert list(evaluate(model, images, index, suite[:1], batch_size=32, seed=3).robust_accuracy) == ["fgsm"]


def test_classes_weighted_by_their_images_give_the_accuracy(model, images, index):
    some = index[images.labels[index] != 3]
    evaluation = evaluate(model, images, some, [named("fgsm"), named("pgd-5")], batch_size=32, seed=0)
    accuracies = {"natural": evaluation.natural_accuracy, **evaluation.robust_accuracy}
    counts = images.labels[some].bincount(minlength=12)
    per_class = evaluation.per_class(12)
    assert list(per_class) == ["natural", "fgsm", "pgd-5", WORST_CASE] == list(accuracies)
    for name, classes in per_class.items():
        assert [label for label, value in enumerate(classes) if value is None] == [3, 10, 11]
        mean = sum(value * count for value, count in zip(classes, counts.tolist(), strict=True) if value is not None)
        assert mean / len(some) == pytest.approx(accuracies[name])


def test_a_transfer_attack_is_made_on_the_source_and_judged_on_the_model(model, images, index):
    linear = nn.Linear(64, 10)
    source = nn.Sequential(nn.Flatten(), linear)
    nn.init.zeros_(linear.weight)  # no gradient: its examples are where the attack starts
    verdicts, steps = attacked(model, images, index, named("fgsm"), source=source)
    assert not (verdicts > 0).any()
    x, _ = images.batch(index[steps[0].positions])
    assert torch.equal(steps[0].examples, x)


def test_logits_that_are_not_finite_end_the_evaluation(model, images, index):
    def spoil(model, x, y, *, generator):
        return torch.full_like(x, float("nan"))

    with pytest.raises(RunFailed, match="not finite on an adversarial example"):
        attacked(model, images, index, EvaluationAttack("spoil", (Stage("spoil", spoil),)))
    next(model.parameters()).data.fill_(float("inf"))
    with pytest.raises(RunFailed, match="not finite on natural images"):
        classify(model, images, index, batch_size=32)
