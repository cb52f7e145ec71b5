"""Attacks: closed forms on linear models, limit cases, and one contract over every entry of the registry."""

import random
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import ATTACKS, Mode, attack_mode, fgsm, make_attack, pgd
from fedrobust.attacks.fgsm import RELATIVE_STEPS
from fedrobust.errors import ConfigError
from fedrobust.losses import cross_entropy, kl_divergence, margin

EPSILON = 8 / 255
STARTS = ("uniform", "gaussian", "zero")
VARIANTS = {
    "fgsm": [{"random_start": start} for start in RELATIVE_STEPS],
    "pgd": [
        {"step_size": 0.02, "steps": 3, "norm": norm, "random_start": start, "restarts": restarts}
        for norm, start, restarts in product(("linf", "l2"), STARTS, (1, 2))
        if not (start == "zero" and restarts > 1)
    ],
}
every = pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param(n, v, id="-".join([n, *map(str, v.values())])) for n in VARIANTS for v in VARIANTS[n]],
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(7)).mul(0.4).add(0.5).clamp(0, 1)


def stateful_model() -> nn.Sequential:
    """All that a forward pass can disturb: batch norm, dropout, a frozen weight, modes that differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
        )
        model[1](torch.randn(4, 4, 6, 6))
    model[0].weight.requires_grad_(False)
    model[5].bias.grad = torch.ones(5)
    return model


def state(model: nn.Module) -> tuple[Any, ...]:
    """Everything an attack must leave alone, comparable with ==."""
    return (
        [(name, id(b), b.tolist()) for name, b in model.named_buffers()],
        [(name, id(p), p.requires_grad, p.tolist()) for name, p in model.named_parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


X, Y = images(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])


def test_every_attack_is_under_contract() -> None:
    assert set(VARIANTS) == set(ATTACKS)


@every
@pytest.mark.parametrize("mode", ["eval", "train", "mixed"])
def test_contract_e7_the_model_and_the_random_state_stay(name: str, settings: dict[str, Any], mode: str) -> None:
    model = stateful_model().train(mode != "eval")
    if mode == "mixed":
        model[1].eval()
    x, before, pixels = X.clone().requires_grad_(), state(model), X.clone()
    x_adv = make_attack(name, epsilon=EPSILON, **settings)(model, x, Y, generator=seeded())
    assert state(model) == before
    assert x.grad is None
    assert x.requires_grad
    assert torch.equal(x.detach(), pixels)
    assert not x_adv.requires_grad


@every
def test_contract_e2_in_the_ball_and_in_0_1(name: str, settings: dict[str, Any]) -> None:
    model = stateful_model().eval()
    norm, start = settings.get("norm", "linf"), settings["random_start"]
    epsilon = {"linf": EPSILON, "l2": 0.5}[norm]
    x_adv = make_attack(name, epsilon=epsilon, **settings)(model, X, Y, generator=seeded())
    delta = (x_adv - X).flatten(1)
    size = delta.norm(dim=1).max() if norm == "l2" else delta.abs().max()
    assert 0 < size <= (3 * epsilon if start == "n-fgsm" else epsilon) + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@every
def test_contract_epsilon_zero_returns_x(name: str, settings: dict[str, Any]) -> None:
    x_adv = make_attack(name, epsilon=0.0, **settings)(stateful_model().eval(), X, Y, generator=seeded())
    assert torch.equal(x_adv, X)
    assert x_adv.data_ptr() != X.data_ptr()


@every
def test_contract_same_seed_same_result(name: str, settings: dict[str, Any]) -> None:
    model, attack = stateful_model().eval(), make_attack(name, epsilon=EPSILON, **settings)
    a, b, other = (attack(model, X, Y, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, other) == (settings["random_start"] == "zero")


@every
def test_contract_memory_format_and_precision(name: str, settings: dict[str, Any]) -> None:
    model = stateful_model().eval().to(memory_format=torch.channels_last)
    x, kinds = X.to(memory_format=torch.channels_last), set()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        kinds.add(logits.dtype)
        return cross_entropy(logits, y)

    attack = make_attack(name, epsilon=EPSILON, **settings)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        x_adv = attack(model, x, Y, loss=loss, generator=seeded())
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    assert x_adv.dtype == torch.float32
    assert kinds == {torch.float32}


@every
def test_contract_input_gradients_only_and_no_pass_too_many(name: str, settings: dict[str, Any]) -> None:
    model, passes, weight_gradients = stateful_model().eval(), [], []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(weight_gradients.append)
    make_attack(name, epsilon=EPSILON, **settings)(model, X, Y, generator=seeded())
    restarts = settings.get("restarts", 1)
    assert passes.count(True) == restarts * settings.get("steps", 1)
    assert passes.count(False) == (0 if restarts == 1 else restarts)
    assert not weight_gradients


def test_a_graph_that_holds_batch_norm_buffers_survives_an_attack_in_train_mode() -> None:
    model = stateful_model().train()
    logits = model(X)
    pgd(model, X, Y, epsilon=EPSILON, step_size=0.02, steps=2, generator=seeded())
    logits.sum().backward()


def fail_within(model: nn.Module, mode: Mode) -> None:
    with attack_mode(model, mode):
        assert {module.training for module in model.modules()} == {mode == "train"}
        raise ZeroDivisionError


def test_attack_mode_restores_every_module_even_after_an_error() -> None:
    model = stateful_model().train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    modes: tuple[Mode, ...] = ("eval", "train")
    for mode in modes:
        with pytest.raises(ZeroDivisionError):
            fail_within(model, mode)
        assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="must be eval or train"):
        fail_within(model, "test")  # type: ignore[arg-type]


# Closed forms on a linear model


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


# Equivalences and strength


@cache
def trained_model() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that separates four overlapping blobs of images."""
    y = torch.arange(200) % 4
    centres = torch.rand(4, 36, generator=seeded(3))
    x = (0.5 * centres[y] + 0.25 + 0.15 * torch.randn(200, 36, generator=seeded(4))).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(36, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimiser.step()
    return model.eval(), x, y


def test_the_stronger_attack_never_gains_e4() -> None:
    model, x, y = trained_model()
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


def test_robust_accuracy_never_rises_with_epsilon_e3() -> None:
    model, x, y = trained_model()
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


def test_restarts_keep_the_strongest_per_example() -> None:
    model, x, y = trained_model()
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.05, "steps": 2}
    one_stream = seeded(5)
    singles = [pgd(model, x, y, **settings, generator=one_stream) for _ in range(4)]
    best = torch.stack([cross_entropy(model(x_adv), y) for x_adv in singles]).amax(0)
    x_adv = pgd(model, x, y, **settings, restarts=4, generator=seeded(5))
    torch.testing.assert_close(cross_entropy(model(x_adv), y), best)


def test_one_step_of_epsilon_from_x_is_fgsm() -> None:
    model, x, y = trained_model()
    one = pgd(model, x, y, epsilon=0.1, step_size=0.1, steps=1, random_start="zero")
    assert torch.equal(one, fgsm(model, x, y, epsilon=0.1))


def test_pgd_equals_the_textbook_loop() -> None:
    model, x, y = trained_model()
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


def test_a_divergence_needs_a_start_beside_x() -> None:
    model, x, _ = trained_model()
    natural = model(x).detach()
    attack = partial(pgd, epsilon=0.1, step_size=0.03, steps=5, loss=kl_divergence, generator=seeded())
    gaussian = attack(model, x, natural, random_start="gaussian")
    assert kl_divergence(model(gaussian), natural).mean() > 0.1
    stuck = attack(model, x, natural, random_start="zero")
    assert kl_divergence(model(stuck), natural).mean() < kl_divergence(model(gaussian), natural).mean()


# Settings


def test_make_attack_keeps_what_the_attack_takes() -> None:
    model, x, y = trained_model()
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.02, "steps": 3, "norm": "linf", "restarts": 1}
    attack = make_attack("fgsm", **settings, random_start="zero")
    assert torch.equal(attack(model, x, y), fgsm(model, x, y, epsilon=0.1))
    attack = make_attack("pgd", **settings, relative_step=None)
    expected = pgd(model, x, y, **settings, generator=seeded())
    assert torch.equal(attack(model, x, y, generator=seeded()), expected)


def test_make_attack_errors() -> None:
    with pytest.raises(ConfigError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        make_attack("pdg", epsilon=0.1)
    with pytest.raises(ValueError, match="unknown attack setting 'epsilom'; did you mean 'epsilon'"):
        make_attack("pgd", epsilom=0.1)
    with pytest.raises(ValueError, match="attack 'pgd' needs steps"):
        make_attack("pgd", epsilon=0.1, step_size=0.01)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fgsm", {"norm": "l2"}, "fgsm is for norm linf"),
        ("fgsm", {"random_start": "best"}, "must be one of zero"),
        ("fgsm", {"relative_step": 0.0}, "must be above 0"),
        ("fgsm", {"epsilon": -1.0}, "epsilon ≥ 0"),
        ("fgsm", {"random_start": "n-fgsm"}, "pass a generator"),
        ("pgd", {"norm": "l1"}, "must be one of linf, l2"),
        ("pgd", {"steps": 0}, "steps and restarts ≥ 1"),
        ("pgd", {"step_size": 0.0}, "step_size > 0"),
        ("pgd", {"restarts": 2, "random_start": "zero"}, "all restarts the same"),
        ("pgd", {"random_start": "n-fgsm"}, "must be zero, uniform or gaussian"),
        ("pgd", {}, "pass a generator"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any], message: str) -> None:
    allowed: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.02, "steps": 3}
    with pytest.raises(ValueError, match=message):
        make_attack(name, **{**allowed, **settings})(stateful_model().eval(), X, Y)
