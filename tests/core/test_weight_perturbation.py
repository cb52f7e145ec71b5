"""Adversarial weight perturbation, soft labels and noise: closed forms and limit cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedrobust.attacks import make_attack
from fedrobust.losses import cross_entropy
from fedrobust.objectives import OBJECTIVES, make_objective

X = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
ATTACK = make_attack("pgd", epsilon=0.1, step_size=0.05, steps=2, random_start="gaussian")
COUNTS = torch.tensor([2, 2, 2])
ANY_MODEL = [name for name in OBJECTIVES if name != "convex"]


def network(*, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5) if norm else nn.Tanh(), nn.Linear(5, 3))


def gradients(model, *, x=X, name="at", **settings):
    objective = make_objective(name, attack=ATTACK, class_counts=COUNTS, **settings)
    step = objective(model, x, Y, torch.Generator().manual_seed(2))
    return step, torch.autograd.grad(step.loss, list(model.parameters()))


def test_awp_is_the_loss_and_the_gradient_at_the_worst_weights_nearby():
    gamma, model, moved = 0.3, network(), network()
    x_adv = ATTACK(model.eval(), X, Y, generator=torch.Generator().manual_seed(2))
    model.train()
    plain = torch.autograd.grad(F.cross_entropy(model(x_adv), Y), list(model.parameters()))
    with torch.no_grad():
        for w, g in zip(moved.parameters(), plain, strict=True):
            if w.ndim > 1:  # biases stay
                w.add_(g / g.norm() * gamma * w.norm())
    expected = F.cross_entropy(moved(x_adv), Y)
    step, found = gradients(model, awp_gamma=gamma)
    torch.testing.assert_close(step.loss, expected)
    assert step.loss > F.cross_entropy(model(x_adv), Y)
    for ours, theirs in zip(found, torch.autograd.grad(expected, list(moved.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ANY_MODEL)
def test_awp_leaves_weights_and_modes_and_counts_the_training_passes_once(name):
    model, plain = network(norm=True).train(), network(norm=True).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    state = torch.get_rng_state()
    gradients(model, name=name, awp_gamma=0.05)
    gradients(plain, name=name)
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert all(module.training for module in model.modules())
    assert model[2].num_batches_tracked == plain[2].num_batches_tracked
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ANY_MODEL)
def test_awp_with_gamma_near_zero_is_the_objective(name):
    (step, found), (plain, expected) = gradients(network(), name=name, awp_gamma=1e-9), gradients(network(), name=name)
    torch.testing.assert_close(step.loss, plain.loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_awp_attacks_once():
    calls = []

    def counting(*arguments, **settings):
        calls.append(1)
        return ATTACK(*arguments, **settings)

    make_objective("at", attack=counting, awp_gamma=0.1)(network(), X, Y, torch.Generator().manual_seed(0))
    assert len(calls) == 1


def test_soft_labels_are_dangs():
    """y_c = 1 − ((N − 1)/N) α, the others α / N."""
    logits, alpha = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), 0.3
    soft = F.one_hot(Y, 3) * (1 - 2 / 3 * alpha) + (1 - F.one_hot(Y, 3)) * alpha / 3
    torch.testing.assert_close(cross_entropy(logits, Y, alpha), -(soft * logits.log_softmax(1)).sum(1))
    assert torch.equal(cross_entropy(logits, Y, 0.0), cross_entropy(logits, Y))


@pytest.mark.parametrize("name", ["natural", "at", "mixed", "trades"])
def test_soft_labels_enter_the_outer_loss(name):
    hard, soft = gradients(network(), name=name)[0], gradients(network(), name=name, label_smoothing=0.3)[0]
    assert soft.loss != hard.loss
    logits = soft.adversarial_logits if name == "at" else soft.natural_logits
    if name in ("natural", "at"):
        torch.testing.assert_close(soft.loss, cross_entropy(logits, Y, 0.3).mean())


class Watched(nn.Module):
    """Keeps the last inputs."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        self.seen = x.detach()
        return self.inner(x)


def test_noise_is_on_the_natural_part_alone_and_stays_in_the_pixel_range():
    model, x = Watched(), torch.full((20_000, 1, 2, 2), 0.5)
    y = torch.zeros(20_000, dtype=torch.int64)
    objective = make_objective("mixed", attack=ATTACK, adversarial_fraction=0.1, noise_sigma=0.2)
    objective(model, x, y, torch.Generator().manual_seed(0))
    attacked, noisy = model.seen[:2_000], model.seen[2_000:]
    assert (attacked - 0.5).abs().max() <= 0.1 + 1e-6
    assert 0 <= noisy.min() < noisy.max() <= 1
    assert noisy.std().item() == pytest.approx(0.2, rel=0.03)
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.005)


def test_without_noise_mixed_is_as_before():
    model = Watched()
    make_objective("mixed", attack=ATTACK, adversarial_fraction=0.0)(model, X, Y)
    assert torch.equal(model.seen, X)
