"""Square Attack: forward passes only, a tiny linear model, its bumps, and queries that are spared."""

from typing import Any

import pytest
import torch
from torch import nn

from fedrobust.attacks import square
from fedrobust.attacks.square import bump, move_mass


@pytest.mark.parametrize(("norm", "dual", "slack"), [("linf", 1, 0.9), ("l2", 2, 0.3)])
def test_breaks_a_linear_model_but_nothing_out_of_reach(
    linear: Any, distances: Any, seeded: Any, norm: Any, dual: int, slack: float
) -> None:
    model, x, y = problem = linear()
    nearest = distances(problem, dual)[:, 0]
    epsilon = nearest.median().item() / slack
    x_adv = square(model, x, y, epsilon=epsilon, norm=norm, queries=600, rescale=True, generator=seeded())
    broken = model(x_adv).argmax(1) != y
    assert not broken[nearest > epsilon * (1 + 1e-5)].any()
    assert broken[nearest <= slack * epsilon].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_who_leaves_does_not_change_the_draws_of_the_rest(linear: Any, seeded: Any, norm: Any) -> None:
    model, x, y = linear()
    some_wrong = torch.cat((y[:4], (y[4:] + 1) % 5))
    alone, beside = (
        square(model, x, labels, epsilon=0.004, norm=norm, queries=50, generator=seeded())[:4]
        for labels in (some_wrong, y)
    )
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-7)


def test_a_query_that_changes_nothing_costs_no_pass(seeded: Any) -> None:
    """With one pixel and one channel half of the proposals are what is already there."""
    head, queried = nn.Linear(1, 2).requires_grad_(False), []
    nn.init.zeros_(head.weight)
    head.bias[:] = torch.tensor([1.0, 0.0])
    model = nn.Sequential(nn.Flatten(), head)
    model.register_forward_hook(lambda *_: queried.append(1))
    square(model, torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), epsilon=0.1, queries=200, generator=seeded())
    assert 60 < len(queried) < 140


def test_bumps_have_length_one_and_two_signs() -> None:
    for side in (1, 2, 3, 5, 6, 32):
        height = bump(side, False)
        assert height.norm().item() == pytest.approx(1)
        assert torch.equal(bump(side, True), height.T)
        if side > 1:
            assert (height[: side // 2] > 0).all()
            assert (height[side // 2 :] < 0).all()
    # sums of 1/k²: 1 + 1/4 at the peak, 1/4 beside it, each half scaled to the same length
    upper = torch.tensor([0.25, 1.25, 0.25]) / (2 * 0.25**2 + 1.25**2) ** 0.5 / 2**0.5
    torch.testing.assert_close(bump(3, False)[0].float(), upper)


def test_move_mass_keeps_the_length(seeded: Any) -> None:
    delta = torch.randn(4, 3, 8, 8, generator=seeded())
    delta *= 0.4 / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    pattern = bump(3, False).float() * torch.ones(4, 3, 1, 1)
    moved = move_mass(delta, 0.5, pattern, (slice(0, 3), slice(0, 3)), (slice(4, 7), slice(4, 7)))
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((4,), 0.5))
    assert (moved[:, :, 4:7, 4:7] == 0).all()
