"""Objectives: limit cases, the papers' formulas, and one contract over every entry of the registry."""

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedrobust.attacks import Attack, make_attack
from fedrobust.errors import ConfigError
from fedrobust.losses import kl_divergence
from fedrobust.objectives import OBJECTIVES, Objective, make_objective

K = 5
COUNTS = torch.tensor([100, 20, 0, 3, 1])
Y = torch.tensor([0, 1, 2, 3, 4, 0, 1])
X = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(7))
EDGES = X.mul(3).sub(1).clamp(0, 1)  # a third of the pixels black, a third white
PGD: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.04, "steps": 3, "random_start": "gaussian"}
ATTACK = make_attack("pgd", **PGD)
ANY_MODEL = [name for name in OBJECTIVES if name != "convex"]  # tests/convex/test_convex_objective.py
every = pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(*case, id="-".join(case)) for case in product(ANY_MODEL, ("eval", "train"))],
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, batch_norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        head = nn.Linear(144, K)
        nn.init.normal_(head.weight, std=0.3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), head)


def objective(name: str, attack: Attack = ATTACK, counts: Tensor = COUNTS, **settings: Any) -> Objective:
    return make_objective(name, attack=attack, class_counts=counts, **settings)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@every
def test_contract_the_attack_leaves_no_trace(name: str, mode: str) -> None:
    model = network().train()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    generator_state = torch.get_rng_state()
    step = objective(name, attack_mode=mode)(model, X, Y, seeded())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    # batch norm counts the training passes and no others
    assert model[1].num_batches_tracked == (3 if name == "trades" else 1)
    assert step.loss.shape == ()


@every
def test_contract_buffers_are_those_of_the_training_passes(name: str, mode: str) -> None:
    """Replaying them on a twin in train mode, without any attack, gives the same statistics."""
    model, twin, inputs = network().train(), network().train(), []
    model[0].register_forward_hook(lambda module, args, _: inputs.append(args[0].detach().clone()))
    seen = objective(name, attack_mode=mode)(model, X, Y, seeded())
    training_passes = inputs[-3:] if name == "trades" else inputs[-1:]
    for x in training_passes:
        twin(x)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.isfinite(seen.loss)


@every
def test_contract_same_seed_same_step(name: str, mode: str) -> None:
    a, b = (objective(name, attack_mode=mode)(network().train(), X, Y, seeded(3)) for _ in range(2))
    assert torch.equal(a.loss, b.loss)


@every
def test_contract_autocast(name: str, mode: str) -> None:
    """Losses and logits in float32, and every weight still gets a gradient."""
    model = network().train().to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        step = objective(name, attack_mode=mode)(model, x, Y, seeded())
    assert step.loss.dtype == torch.float32
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model, step.loss)[2:])


@pytest.mark.parametrize("name", ANY_MODEL)
def test_logits_of_the_step(name: str) -> None:
    step = objective(name, adversarial_fraction=0.4)(network(), X, Y, seeded())
    rows = {
        "natural": (7, None),
        "at": (None, 7),
        "mixed": (4, 3),
        "trades": (7, 7),
        "calfat": (7, 7),
    }[name]
    for logits, expected in zip((step.natural_logits, step.adversarial_logits), rows, strict=True):
        assert (None if logits is None else len(logits)) == expected
        assert logits is None or not logits.requires_grad


# Limit cases


@pytest.mark.parametrize("name", ["at", "mixed", "trades"])
def test_epsilon_zero_is_natural(name: str) -> None:
    model = network(batch_norm=False)
    still = make_attack("pgd", **{**PGD, "epsilon": 0.0})
    step = objective(name, still, trades_beta=6.0)(model, X, Y, seeded())
    torch.testing.assert_close(step.loss, F.cross_entropy(model(X), Y))


def test_trades_with_beta_zero_has_the_gradient_of_the_natural_cross_entropy() -> None:
    model = network().train()
    step = objective("trades", trades_beta=0.0)(model, X, Y, seeded())
    expected = gradients(model, F.cross_entropy(model(X), Y))
    for a, b in zip(gradients(model, step.loss), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("fraction", "same"), [(0.0, "natural"), (1.0, "at")])
def test_mixed_at_its_ends(fraction: float, same: str) -> None:
    a = objective("mixed", adversarial_fraction=fraction)(network().train(), X, Y, seeded())
    b = objective(same)(network().train(), X, Y, seeded())
    torch.testing.assert_close(a.loss, b.loss)
    assert (a.natural_logits is None, a.adversarial_logits is None) == (fraction == 1, fraction == 0)


def test_mixed_weighs_both_parts() -> None:
    model = network(batch_norm=False)
    step = objective("mixed", adversarial_fraction=3 / 7)(model, X, Y, seeded())
    x_adv = ATTACK(model.eval(), X[:3], Y[:3], generator=seeded())
    expected = F.cross_entropy(model(torch.cat([x_adv, X[3:]])), Y)
    torch.testing.assert_close(step.loss, expected)


def test_calfat_with_a_uniform_prior_is_the_cross_entropy_of_10_z() -> None:
    model = network(batch_norm=False)
    step = objective("calfat", counts=torch.full((K,), 37))(model, X, Y, seeded())
    x_adv = ATTACK(model, X, model(X).detach(), loss=kl_divergence, generator=seeded())
    torch.testing.assert_close(step.loss, F.cross_entropy(10 * model(x_adv), Y))


def test_the_limit_of_calfat_is_the_cross_entropy_of_10_z() -> None:
    """Without an attack: only the uniform prior and the scale are left."""
    model = network(batch_norm=False)
    still = make_attack("pgd", **{**PGD, "epsilon": 0.0})
    step = objective("calfat", still, torch.full((K,), 37))(model, X, Y, seeded())
    torch.testing.assert_close(step.loss, F.cross_entropy(10 * model(X), Y))


# The papers' formulas, written out


@pytest.mark.parametrize(("temperature", "scale"), [(0.1, 10.0), (0.7, 3.0)])
def test_calfat_as_in_the_paper(temperature: float, scale: float) -> None:
    """The inner loop recomputes q(x) in every step and draws the same start; absent classes count as one.

    As in the official code the start is not clipped to [0, 1]: half of the black pixels begin below 0.
    """
    X = EDGES
    model = network().train()
    prior = torch.log(torch.tensor([100.0, 20.0, 1.0, 3.0, 1.0]) + 1e-7)
    model.eval()
    x_adv = X + 0.001 * torch.randn(X.shape, generator=seeded())
    assert x_adv.min() < 0
    assert x_adv.max() > 1
    for _ in range(3):
        x_adv.requires_grad_()
        divergence = F.kl_div(
            F.log_softmax(model(x_adv) + temperature * prior, 1),
            F.softmax(model(X) + temperature * prior, 1),
            reduction="sum",
        )
        (gradient,) = torch.autograd.grad(divergence, x_adv)
        x_adv = x_adv.detach() + 0.04 * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, X - 0.1), X + 0.1).clamp(0, 1)
    model.train()
    step = objective("calfat", temperature=temperature, scale=scale)(model, X, Y, seeded())
    expected = F.cross_entropy(scale * (model(x_adv) + temperature * prior), Y)
    torch.testing.assert_close(step.loss, expected)
    for a, b in zip(gradients(model, step.loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_trades_as_in_the_paper() -> None:
    """Like the official code: from x + N(0, 0.001²), not clipped; then x, x′ and x pass in train mode."""
    model, twin = network().train(), network().eval()
    x_adv = EDGES + 0.001 * torch.randn(EDGES.shape, generator=seeded())
    for _ in range(3):
        x_adv.requires_grad_()
        divergence = F.kl_div(F.log_softmax(twin(x_adv), 1), F.softmax(twin(EDGES), 1), reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, x_adv)
        x_adv = x_adv.detach() + 0.04 * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, EDGES - 0.1), EDGES + 0.1).clamp(0, 1)
    twin.train()
    natural = F.cross_entropy(twin(EDGES), Y)
    robust = F.kl_div(F.log_softmax(twin(x_adv), 1), F.softmax(twin(EDGES), 1), reduction="batchmean")
    expected = natural + 6 * robust
    step = objective("trades")(model, EDGES, Y, seeded())
    torch.testing.assert_close(step.loss, expected)
    for a, b in zip(gradients(model, step.loss), gradients(twin, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["trades", "calfat"])
def test_the_reference_of_a_divergence_is_taken_in_float32_under_autocast(name: str) -> None:
    """The start lies within bfloat16's spacing of x: a rounded reference would hide what the first step climbs."""
    model, references = network().train(), []

    def spy(attacked: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        references.append((y, attacked(x)))
        return x

    with torch.autocast("cpu", torch.bfloat16):
        objective(name, spy)(model, X, Y, seeded())
    ((reference, rounded),) = references
    exact = network().eval()(X)
    torch.testing.assert_close(reference, exact)
    assert rounded.dtype == torch.bfloat16  # the attack itself runs under autocast
    assert not torch.equal(rounded.float(), reference)


@pytest.mark.parametrize("name", ["at", "mixed", "trades", "calfat"])
def test_the_attack_sees_the_mode_that_was_asked_for(name: str) -> None:
    for mode in ("eval", "train"):
        seen: list[bool] = []

        def spy(model: nn.Module, x: Tensor, y: Tensor, seen: list[bool] = seen, **_: Any) -> Tensor:
            seen.extend(module.training for module in model.modules())
            return x

        objective(name, partial(spy), attack_mode=mode)(network().train(), X, Y, seeded())
        assert set(seen) == {mode == "train"}


def test_errors() -> None:
    with pytest.raises(ValueError, match="objective 'calfat' needs class_counts"):
        make_objective("calfat", attack=ATTACK, class_counts=None)
    with pytest.raises(ValueError, match="objective 'at' needs attack"):
        make_objective("at")
    with pytest.raises(ConfigError, match="unknown objective 'trade'; did you mean 'trades'"):
        make_objective("trade", attack=ATTACK)
    with pytest.raises(ValueError, match="unknown objective setting 'trades_betta'"):
        make_objective("trades", attack=ATTACK, trades_betta=6.0)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        objective("mixed", adversarial_fraction=1.5)(network(), X, Y, seeded())
