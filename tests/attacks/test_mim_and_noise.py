"""The momentum method and its limit case; the distributions of noise."""

from typing import Any

import pytest
import torch

from fedrobust.attacks import gaussian_noise, mim, pgd, uniform_noise
from fedrobust.losses import cross_entropy, margin


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_momentum_mim_is_pgd_from_x(trained: Any, norm: Any) -> None:
    model, x, y = trained
    plain = pgd(model, x, y, epsilon=0.1, step_size=0.02, steps=5, norm=norm, random_start="zero")
    x_adv = mim(model, x, y, epsilon=0.1, step_size=0.02, steps=5, norm=norm, momentum=0.0)
    torch.testing.assert_close(x_adv, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_mim_reaches_the_worst_case_of_a_linear_model(linear: Any, norm: Any, dual: int) -> None:
    model, x, y = linear(classes=2)
    gap = (model[1].weight[0] - model[1].weight[1]).norm(p=dual)
    x_adv = mim(model, x, y, epsilon=0.05, norm=norm)
    torch.testing.assert_close(margin(model(x_adv), y), margin(model(x), y) + 0.05 * gap, rtol=1e-4, atol=1e-4)


def test_mim_adds_up_normalised_gradients(trained: Any) -> None:
    model, x, y = trained
    total, x_adv = torch.zeros_like(x), x
    for _ in range(4):
        leaf = x_adv.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
        total = 0.9 * total + gradient / gradient.abs().sum(1, keepdim=True)
        x_adv = (x_adv + 0.025 * total.sign()).clamp(0, 1)
    result = mim(model, x, y, epsilon=0.1, steps=4, momentum=0.9)
    torch.testing.assert_close(result, x_adv, rtol=0, atol=1e-6)


def test_gaussian_noise_has_the_stated_distribution(linear: Any, seeded: Any) -> None:
    model = linear()[0]
    x, y = torch.full((4_000, 2, 3, 4), 0.5), torch.zeros(4_000, dtype=torch.long)
    delta = gaussian_noise(model, x, y, epsilon=0.1, generator=seeded()) - x
    assert (delta.abs() > 0.1 - 1e-6).float().mean().item() == pytest.approx(0.317, abs=0.01)
    assert (delta.abs() < 0.05).float().mean().item() == pytest.approx(0.383, abs=0.01)
    length = (gaussian_noise(model, x, y, epsilon=0.1, norm="l2", generator=seeded()) - x).flatten(1).norm(dim=1)
    assert (length > 0.1 - 1e-6).float().mean().item() == pytest.approx(0.46, abs=0.03)  # χ² of 24 above 24
    assert length.mean().item() == pytest.approx(0.1, rel=0.1)


def test_uniform_noise_has_the_stated_distribution(linear: Any, seeded: Any) -> None:
    model = linear()[0]
    x, y = torch.full((4_000, 2, 3, 4), 0.5), torch.zeros(4_000, dtype=torch.long)
    delta = uniform_noise(model, x, y, epsilon=0.1, generator=seeded()) - x
    assert delta.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.01)
    length = (uniform_noise(model, x, y, epsilon=0.1, norm="l2", generator=seeded()) - x).flatten(1).norm(dim=1)
    assert (length < 0.1 * 0.5 ** (1 / 24)).float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("attack", [gaussian_noise, uniform_noise])
def test_of_several_draws_the_worst_per_image_stays(trained: Any, seeded: Any, attack: Any) -> None:
    model, x, y = trained
    stream = seeded(5)
    singles = [attack(model, x, y, epsilon=0.1, generator=stream) for _ in range(4)]
    best = torch.stack([margin(model(x_adv), y) for x_adv in singles]).amax(0)
    x_adv = attack(model, x, y, epsilon=0.1, draws=4, generator=seeded(5))
    torch.testing.assert_close(margin(model(x_adv), y), best)
