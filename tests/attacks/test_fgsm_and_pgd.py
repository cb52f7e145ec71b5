"""FGSM and PGD: closed forms on linear models, limit cases, equivalences."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import fgsm, make_attack, pgd
from fedrobust.losses import cross_entropy, kl_divergence, margin

Problem = tuple[nn.Module, Tensor, Tensor]
STARTS = ("uniform", "gaussian", "zero")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(7)).mul(0.4).add(0.5).clamp(0, 1)


def linear(classes: int, pixels: int = 12) -> nn.Linear:
    model = nn.Linear(pixels, classes)
    nn.init.normal_(model.weight, generator=seeded(1))
    return model


def attacks_by_norm() -> list[Any]:
    step = {"epsilon": 0.1, "step_size": 0.03, "steps": 40}
    return [
        pytest.param(partial(fgsm, epsilon=0.1), 1, id="fgsm"),
        *(pytest.param(partial(pgd, **step, random_start=s), 1, id=f"linf-{s}") for s in STARTS),
        *(pytest.param(partial(pgd, **step, norm="l2", random_start=s), 2, id=f"l2-{s}") for s in STARTS),
    ]


@pytest.mark.parametrize(("attack", "dual"), attacks_by_norm())
@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_worst_case_of_two_classes(attack: Callable[..., Tensor], dual: int, loss: Any) -> None:
    """The margin falls by epsilon ‖w_y − w_k‖ in the dual norm: l1 for l∞, l2 for l2."""
    model, x, y = linear(2), torch.full((4, 12), 0.5), torch.tensor([0, 1, 0, 1])
    gap = (model.weight[0] - model.weight[1]).norm(p=dual)
    x_adv = attack(model, x, y, loss=loss, generator=seeded())
    expected = -margin(model(x), y) - 0.1 * gap
    torch.testing.assert_close(-margin(model(x_adv), y), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("attack", "dual"), attacks_by_norm())
def test_worst_case_of_one_class_against_another(attack: Callable[..., Tensor], dual: int) -> None:
    model, x, y = linear(6), torch.full((6, 12), 0.5), torch.arange(6)

    def towards_next(logits: Tensor, y: Tensor) -> Tensor:
        rows = torch.arange(len(y))
        return logits[rows, (y + 1) % 6] - logits[rows, y]

    gap = (model.weight - model.weight.roll(-1, 0)).norm(p=dual, dim=1)
    x_adv = attack(model, x, y, loss=towards_next, generator=seeded())
    expected = towards_next(model(x), y) + 0.1 * gap
    torch.testing.assert_close(towards_next(model(x_adv), y), expected, rtol=1e-4, atol=1e-4)


def test_worst_case_at_the_edges_of_0_1() -> None:
    model, x, y = linear(2), images(5, 12), torch.tensor([0, 1, 0, 1, 0])
    direction = (model.weight[1] - model.weight[0]) * (1 - 2 * y.unsqueeze(1))
    corner = (x + 0.1 * direction.sign()).clamp(0, 1)
    x_adv = pgd(model, x, y, epsilon=0.1, step_size=0.03, steps=15, generator=seeded())
    torch.testing.assert_close(x_adv, corner)


def test_fgsm_by_its_starts() -> None:
    """On a linear model the step has one sign everywhere, so only the start spreads the result."""
    model, x, y = linear(2), torch.full((4_000, 12), 0.5), torch.zeros(4_000, dtype=torch.long)
    towards = (model.weight[1] - model.weight[0]).sign()

    def moves(start: str) -> Tensor:
        attack = make_attack("fgsm", epsilon=0.1, random_start=start)
        return (attack(model, x, y, generator=seeded()) - x) * towards

    torch.testing.assert_close(moves("zero"), torch.full_like(x, 0.1))
    # U(-1, 1) + 1.25 reaches 1 with probability 5/8, and is never below 0.25
    uniform = moves("uniform")
    assert (uniform > 0.1 - 1e-5).float().mean().item() == pytest.approx(5 / 8, abs=0.01)
    assert uniform.min().item() == pytest.approx(0.025, abs=1e-3)
    # U(-2, 2) + 1, not clipped
    noisy = moves("n-fgsm")
    assert noisy.min().item() == pytest.approx(-0.1, abs=1e-3)
    assert noisy.max().item() == pytest.approx(0.3, abs=1e-3)
    assert noisy.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.02)


def test_the_stronger_attack_never_gains_e4(trained: Problem) -> None:
    model, x, y = trained
    assert (model(x).argmax(1) == y).float().mean() > 0.95

    def strength(attack: Callable[..., Tensor]) -> float:
        return cross_entropy(model(attack(model, x, y, epsilon=0.1, generator=seeded())), y).mean().item()

    losses = [
        cross_entropy(model(x), y).mean().item(),
        strength(fgsm),
        strength(partial(pgd, step_size=0.02, steps=10, random_start="zero")),
        strength(partial(pgd, step_size=0.02, steps=10)),
        strength(partial(pgd, step_size=0.02, steps=10, restarts=5)),
    ]
    assert losses[0] < losses[1] < losses[2]
    assert losses[1] < losses[3] <= losses[4]


def test_robust_accuracy_never_rises_with_epsilon_e3(trained: Problem) -> None:
    model, x, y = trained
    accuracies = [
        (model(pgd(model, x, y, epsilon=e, step_size=e / 4 + 1e-3, steps=10, generator=seeded())).argmax(1) == y)
        .float()
        .mean()
        .item()
        for e in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == (model(x).argmax(1) == y).float().mean().item()
    assert accuracies[-1] <= 0.01


def test_restarts_keep_the_strongest_per_example(trained: Problem) -> None:
    model, x, y = trained
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.05, "steps": 2}
    one_stream = seeded(5)
    singles = [pgd(model, x, y, **settings, generator=one_stream) for _ in range(4)]
    best = torch.stack([cross_entropy(model(x_adv), y) for x_adv in singles]).amax(0)
    x_adv = pgd(model, x, y, **settings, restarts=4, generator=seeded(5))
    torch.testing.assert_close(cross_entropy(model(x_adv), y), best)


def test_one_step_of_epsilon_from_x_is_fgsm(trained: Problem) -> None:
    model, x, y = trained
    one = pgd(model, x, y, epsilon=0.1, step_size=0.1, steps=1, random_start="zero")
    assert torch.equal(one, fgsm(model, x, y, epsilon=0.1))


def test_pgd_equals_the_textbook_loop(trained: Problem) -> None:
    model, x, y = trained
    textbook = x + (torch.rand(x.shape, generator=seeded(9)) * 2 - 1) * 0.1
    textbook = textbook.clamp(0, 1)
    for _ in range(5):
        textbook = textbook.detach().requires_grad_()
        model.zero_grad()
        cross_entropy(model(textbook), y).mean().backward()
        assert textbook.grad is not None
        step = textbook.detach() + 0.03 * textbook.grad.sign()
        textbook = torch.max(torch.min(step, x + 0.1), x - 0.1).clamp(0, 1)
    x_adv = pgd(model, x, y, epsilon=0.1, step_size=0.03, steps=5, generator=seeded(9))
    torch.testing.assert_close(x_adv, textbook, rtol=0, atol=1e-6)


def test_a_divergence_needs_a_start_beside_x(trained: Problem) -> None:
    model, x, _ = trained
    natural = model(x).detach()
    attack = partial(pgd, epsilon=0.1, step_size=0.03, steps=5, loss=kl_divergence, generator=seeded())
    gaussian = attack(model, x, natural, random_start="gaussian")
    assert kl_divergence(model(gaussian), natural).mean() > 0.1
    stuck = attack(model, x, natural, random_start="zero")
    assert kl_divergence(model(stuck), natural).mean() < kl_divergence(model(gaussian), natural).mean()


@pytest.mark.parametrize(
    ("decay", "lengths"),
    [
        ("none", [0.04, 0.04, 0.04, 0.04]),
        ("linear", [0.04, 0.03, 0.02, 0.01]),
        ("cosine", [0.04, 0.02 + 0.02 * 0.5**0.5, 0.02, 0.02 - 0.02 * 0.5**0.5]),
    ],
)
def test_a_decaying_step_size(decay: Any, lengths: list[float]) -> None:
    model, x, y = linear(2), torch.full((3, 12), 0.5), torch.zeros(3, dtype=torch.long)
    direction = (model.weight[1] - model.weight[0]).sign()
    for steps in (1, 2, 4):
        x_adv = pgd(model, x, y, epsilon=0.4, step_size=0.04, steps=steps, random_start="zero", decay=decay)
        taken = lengths if steps == 4 else lengths[:: 4 // steps]
        torch.testing.assert_close(x_adv, x + sum(taken) * direction, rtol=0, atol=1e-6)
