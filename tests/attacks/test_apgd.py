"""Auto-PGD: its checkpoints, the worst case of a linear model, and a batch that shrinks."""

from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from fedrobust.attacks import apgd, pgd
from fedrobust.attacks.apgd import checkpoints
from fedrobust.attacks.ball import LinfBall
from fedrobust.losses import cross_entropy, margin


def test_checkpoints_of_100_steps() -> None:
    """Table of the paper: p_1 = 0.22, intervals shorter by 0.03 down to 0.06."""
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert checkpoints(1) == {1: 1}


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_worst_case_of_a_linear_model(linear: Any, seeded: Any, norm: Any, dual: int, loss: Any) -> None:
    """The margin to the one rival falls by epsilon ‖w_y − w_k‖ in the dual norm."""
    model, x, y = linear(classes=2)
    gap = (model[1].weight[0] - model[1].weight[1]).norm(p=dual)
    epsilon = 0.5 * (-margin(model(x), y).max() / gap).item()
    x_adv = apgd(model, x, y, epsilon=epsilon, norm=norm, steps=25, loss=loss, generator=seeded())
    torch.testing.assert_close(margin(model(x_adv), y), margin(model(x), y) + epsilon * gap, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_each_target_breaks_what_lies_within_epsilon(linear: Any, seeded: Any, distances: Any, norm: Any, dual: int):
    model, x, y = problem = linear()
    nearest = distances(problem, dual)[:, 0]
    for epsilon in nearest.quantile(torch.tensor([0.2, 0.5, 0.8])).tolist():
        clear = (nearest - epsilon).abs() > 0.02 * epsilon
        broken = torch.zeros(len(y), dtype=torch.bool)
        for rank in range(1, 5):
            x_adv = apgd(model, x, y, epsilon=epsilon, norm=norm, steps=30, target_rank=rank, generator=seeded())
            broken |= model(x_adv).argmax(1) != y
        assert torch.equal(broken[clear], (nearest < epsilon)[clear])


def test_no_weaker_than_pgd_and_stops_at_the_first_success(trained: Any, seeded: Any) -> None:
    model, x, y = trained
    sizes: list[int] = []
    handle = model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    try:
        x_adv = apgd(model, x, y, epsilon=0.1, steps=40, generator=seeded())
    finally:
        handle.remove()
    assert sizes == sorted(sizes, reverse=True)
    robust = int((model(x_adv).argmax(1) == y).sum())
    assert sizes[-1] >= robust
    assert sizes[-1] < 200
    by_pgd = pgd(model, x, y, epsilon=0.1, step_size=0.02, steps=40, generator=seeded())
    assert robust <= int((model(by_pgd).argmax(1) == y).sum())


@pytest.mark.parametrize("settings", [{}, {"target_rank": 1}, {"norm": "l2"}])
def test_when_the_batch_shrinks_does_not_matter(
    trained: Any, seeded: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """On CUDA it shrinks at the checkpoints only: what broke an image must outlast the steps in between."""
    model, x, y = trained
    epsilon = 0.4 if settings.get("norm") == "l2" else 0.1
    attack = partial(apgd, model, x, y, epsilon=epsilon, steps=30, **settings)
    each_step = attack(generator=seeded())
    monkeypatch.setattr(import_module("fedrobust.attacks.apgd"), "EAGER", ())
    at_checkpoints = attack(generator=seeded())
    torch.testing.assert_close(at_checkpoints, each_step, rtol=0, atol=1e-3)
    assert torch.equal(model(at_checkpoints).argmax(1), model(each_step).argmax(1))
    assert 20 < (model(each_step).argmax(1) == y).sum() < 180


def test_wrong_images_stay_with_a_target(linear: Any, seeded: Any) -> None:
    model, x, y = linear()
    y = (y + 1) % 5
    assert torch.equal(apgd(model, x, y, epsilon=0.1, target_rank=1, generator=seeded()), x)


def step_sizes(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[float]:
    """Return the lengths of all steps but the last, over epsilon, for these losses at the start and after each step."""
    given, seen = iter(losses), []
    step = LinfBall.step_

    def noting(ball: LinfBall, x_adv: torch.Tensor, gradient: torch.Tensor, step_size: Any) -> torch.Tensor:
        seen.append(step_size.item() / ball.epsilon)
        return step(ball, x_adv, gradient, step_size)

    monkeypatch.setattr(LinfBall, "step_", noting)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    sure[1].weight[:], sure[1].bias[:] = 0.0, torch.tensor([1.0, 0.0])
    apgd(
        sure,
        torch.full((1, 1, 2, 2), 0.5),
        torch.tensor([0]),
        epsilon=0.1,
        steps=len(losses) - 1,
        loss=lambda logits, _: 0 * logits[:, 0] + next(given),
        generator=torch.Generator(),
    )
    return seen


@pytest.mark.parametrize(("raising", "then"), [(22, 2.0), (17, 2.0), (16, 1.0), (0, 1.0)])
def test_a_step_size_outlasts_three_quarters_of_raising_steps(
    monkeypatch: pytest.MonkeyPatch, raising: int, then: float
) -> None:
    """`raising` of the 22 steps before the first checkpoint raise the loss."""
    first = [0.0, *(-float(k) for k in range(1, 23 - raising)), *(float(k) for k in range(1, raising + 1))]
    sizes = step_sizes(monkeypatch, first + [0.0] * 78)
    assert sizes[:22] == pytest.approx([2.0] * 22)
    assert sizes[22] == pytest.approx(then)


def test_it_is_halved_where_most_steps_raised_the_loss_but_none_above_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 19 between the first two checkpoints one falls far, and 18 climb half of the way back."""
    sizes = step_sizes(monkeypatch, [float(k) for k in (*range(23), *range(1, 79))])
    assert sizes[:41] == pytest.approx([2.0] * 41)
    assert sizes[41] == pytest.approx(1.0)
