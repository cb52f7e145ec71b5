"""E8: the same attack in Foolbox, from the same start."""

import warnings

import pytest
import torch
from torch import nn

from fedrobust.attacks import pgd

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of SciPy, at Foolbox' import
    from foolbox.attacks.projected_gradient_descent import (
        L2ProjectedGradientDescentAttack,
        LinfProjectedGradientDescentAttack,
    )
    from foolbox.models.pytorch import PyTorchModel

STEPS = 20
THEIRS = {"linf": LinfProjectedGradientDescentAttack, "l2": L2ProjectedGradientDescentAttack}


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.5)])
def test_e8_pgd_is_foolboxs_within_1e_5(norm, epsilon):
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
