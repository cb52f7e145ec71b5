"""Attacks that look for the smallest change: on a linear model, the distance to the nearest boundary."""

from functools import partial
from typing import Any

import pytest
import torch

from fedrobust.attacks import carlini_wagner, deepfool, fab
from fedrobust.attacks.deepfool import move_to_hyperplane

NORMS = [("linf", 1), ("l2", 2)]


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_deepfool_finds_the_distance(linear: Any, distances: Any, norm: Any, dual: int) -> None:
    model, x, y = problem = linear()
    x_adv = deepfool(model, x, y, epsilon=10.0, norm=norm)
    assert (model(x_adv).argmax(1) != y).all()
    found = (x_adv - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    nearest = distances(problem, dual)[:, 0]
    torch.testing.assert_close(found, 1.02 * (nearest + 1e-4), rtol=1e-3, atol=1e-5)


def test_deepfool_with_one_rival_goes_to_the_second_best(linear: Any) -> None:
    model, x, y = linear()
    second = model(x).topk(2).indices[:, 1]
    x_adv = deepfool(model, x, y, epsilon=10.0, num_candidates=2)
    gaps = model(x_adv).gather(1, torch.stack((second, y), 1)).diff(dim=1)
    assert (gaps < 0).all()


@pytest.mark.parametrize(("norm", "dual"), NORMS)
@pytest.mark.parametrize(
    "attack",
    [
        partial(fab, steps=20),
        partial(carlini_wagner, steps=100, search_steps=5, learning_rate=0.02),
        deepfool,
    ],
    ids=["fab", "carlini-wagner", "deepfool"],
)
def test_breaks_exactly_what_lies_within_epsilon(
    linear: Any, distances: Any, seeded: Any, attack: Any, norm: Any, dual: int
) -> None:
    """Up to 4 %: the overshoot of FAB and DeepFool, the last digits of Carlini and Wagner's c."""
    model, x, y = problem = linear()
    nearest = distances(problem, dual)[:, 0]
    for epsilon in nearest.quantile(torch.tensor([0.3, 0.7])).tolist():
        broken = model(attack(model, x, y, epsilon=epsilon, norm=norm, generator=seeded())).argmax(1) != y
        assert not broken[nearest > epsilon * (1 + 1e-5)].any()
        assert broken[nearest < 0.96 * epsilon].all()


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_fab_with_a_target_finds_the_distance_to_that_class(linear: Any, norm: Any, dual: int) -> None:
    model, x, y = linear()
    for rank in range(1, 5):
        target = model(x).sort(1).indices[:, -1 - rank]
        difference = model[1].weight[y] - model[1].weight[target]
        gap = model(x).gather(1, torch.stack((target, y), 1)).diff(dim=1).squeeze(1)
        distance = gap / difference.norm(p=dual, dim=1)
        epsilon = distance.max().item() * 1.06
        assert (model(fab(model, x, y, epsilon=epsilon, norm=norm, target_rank=rank)).argmax(1) != y).all()


def test_confidence_goes_further_over_the_boundary(linear: Any) -> None:
    model, x, y = linear()
    x_adv = carlini_wagner(model, x, y, epsilon=1.0, steps=60, search_steps=4, learning_rate=0.05, confidence=0.5)
    others = model(x_adv).scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    assert (others - model(x_adv).gather(1, y.unsqueeze(1)).squeeze(1) > 0.5).all()


@pytest.mark.parametrize("attack", [fab, deepfool, partial(carlini_wagner, steps=5)])
def test_wrong_images_stay_nearly_as_they_are(linear: Any, attack: Any) -> None:
    model, x, y = linear()
    torch.testing.assert_close(attack(model, x, (y + 1) % 5, epsilon=0.1, norm="l2"), x, rtol=0, atol=1e-6)


# The way to a hyperplane inside [0, 1]


def brute_force(x: torch.Tensor, w: torch.Tensor, gap: torch.Tensor, norm: str) -> torch.Tensor:
    """d(λ) for λ by bisection, in float64."""
    x, w, gap = x.double(), w.double(), gap.double()
    direction = -w.sign() * gap.sign().unsqueeze(1)
    speed = w.abs() if norm == "l2" else torch.ones_like(w)
    low, high = torch.zeros_like(gap), torch.full_like(gap, 1e9)

    def move(reach: torch.Tensor) -> torch.Tensor:
        return (x + direction * speed * reach.unsqueeze(1)).clamp(0, 1) - x

    for _ in range(200):
        middle = (low + high) / 2
        short = (w * move(middle)).sum(1).abs() < gap.abs()
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return move(high)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_move_to_hyperplane_is_exact(seeded: Any, norm: str) -> None:
    x = torch.randn(60, 40, generator=seeded(1)).mul(0.5).add(0.5).clamp(0, 1)
    w = torch.randn(60, 40, generator=seeded(2))
    w[:, :5] = 0
    gap = 8 * torch.randn(60, generator=seeded(3))  # some out of reach
    d = move_to_hyperplane(x, w, gap, norm)
    assert (x + d).min() >= -1e-6
    assert (x + d).max() <= 1 + 1e-6
    assert (d[:, :5] == 0).all()
    torch.testing.assert_close(d.double(), brute_force(x, w, gap, norm), rtol=0, atol=2e-5)
    reached = (gap + (w * d).sum(1)).abs() < 1e-4
    assert 20 < reached.sum() < 60


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_normal_no_move(norm: str) -> None:
    x = torch.full((2, 3), 0.5)
    assert (move_to_hyperplane(x, torch.zeros(2, 3), torch.tensor([1.0, 0.0]), norm) == 0).all()
