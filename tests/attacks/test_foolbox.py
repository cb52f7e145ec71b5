"""Attacks held against Foolbox's, with equal settings."""

import warnings

import pytest
import torch
from torch import nn

from fedrobust.attacks import carlini_wagner, deepfool, pgd

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of SciPy, at Foolbox' import
    from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
    from foolbox.attacks.deepfool import L2DeepFoolAttack, LinfDeepFoolAttack
    from foolbox.attacks.projected_gradient_descent import (
        L2ProjectedGradientDescentAttack,
        LinfProjectedGradientDescentAttack,
    )
    from foolbox.models.pytorch import PyTorchModel

STEPS = 20
THEIRS = {"linf": LinfProjectedGradientDescentAttack, "l2": L2ProjectedGradientDescentAttack}


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.5)])
def test_pgd_is_foolboxs_within_1e_5(norm, epsilon):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
        x = torch.rand(16, 3, 8, 8)
    y = model(x).argmax(1)
    ours = pgd(model, x, y, epsilon=epsilon, norm=norm, step_size=epsilon / 4, steps=STEPS, random_start="zero")
    attack = THEIRS[norm](steps=STEPS, abs_stepsize=epsilon / 4, random_start=False)
    theirs = attack.run(PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilon=epsilon)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - x).abs().max() > 1e-3


@pytest.fixture(scope="module")
def right(trained):
    """The model and the images that it gets right."""
    model, x, y = trained
    keep = model(x).argmax(1) == y
    return model, x[keep], y[keep]


@pytest.mark.parametrize(
    ("norm", "order", "whole_cube", "theirs"),
    [("linf", float("inf"), 1.0, LinfDeepFoolAttack), ("l2", 2, 6.0, L2DeepFoolAttack)],
)
def test_deepfool_finds_boundaries_as_near_as_foolboxs(right, norm, order, whole_cube, theirs):
    model, x, y = right
    ours = deepfool(model, x, y, epsilon=whole_cube, norm=norm)
    attack = theirs(steps=50, candidates=4, overshoot=0.02, loss="logits")
    _, found, _ = attack(PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    assert (model(ours).argmax(1) != y).all()
    ratio = (ours - x).norm(p=order, dim=1) / (found - x).norm(p=order, dim=1)
    assert (ratio - 1).abs().max() < 1e-3


def test_carlini_wagner_breaks_the_images_that_foolboxs_breaks(right):
    model, x, y = right
    shares, epsilons = [], (0.2, 0.35, 0.5)
    attack = L2CarliniWagnerAttack(
        binary_search_steps=9, steps=200, stepsize=0.01, initial_const=0.1, abort_early=False
    )
    # one attack for all: it looks for the nearest example, whatever the radius
    _, _, broken = attack(PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=list(epsilons))
    for epsilon, theirs in zip(epsilons, broken, strict=True):
        ours = model(carlini_wagner(model, x, y, epsilon=epsilon, steps=200)).argmax(1) != y
        assert (ours != theirs).float().mean() <= 0.01
        shares.append(ours.float().mean().item())
    assert 0 < shares[0] < shares[1] < shares[2] < 1
