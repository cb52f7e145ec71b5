"""One contract over every entry of both registries: pure, in the ball, seeded."""

import random
from inspect import signature
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import ATTACKS, EVALUATION_ATTACKS, Mode, attack_mode, make_evaluation_attack, pgd
from fedrobust.attacks.fgsm import RELATIVE_STEPS
from fedrobust.losses import cross_entropy

EPSILON = 8 / 255
NORMS = ("linf", "l2")
STARTS = ("uniform", "gaussian", "zero")
VARIANTS = {
    "fgsm": [{"random_start": start} for start in RELATIVE_STEPS],
    "pgd": [
        {"step_size": 0.02, "steps": 3, "norm": norm, "random_start": start, "restarts": restarts}
        for norm, start, restarts in product(("linf", "l2"), STARTS, (1, 2))
        if not (start == "zero" and restarts > 1)
    ],
    "mim": [{"steps": 3, "norm": norm} for norm in NORMS],
    "apgd": [{"steps": 6, "norm": norm, "target_rank": rank} for norm, rank in product(NORMS, (0, 1))],
    "fab": [{"steps": 4, "norm": norm, "target_rank": rank} for norm, rank in product(NORMS, (0, 1))],
    "square": [{"queries": 20, "norm": norm} for norm in NORMS],
    "carlini-wagner": [{"steps": 4, "norm": norm, "search_steps": 2} for norm in NORMS],
    "deepfool": [{"steps": 3, "norm": norm} for norm in NORMS],
    "gaussian-noise": [{"norm": norm, "draws": draws} for norm, draws in product(NORMS, (1, 3))],
    "uniform-noise": [{"norm": norm, "draws": draws} for norm, draws in product(NORMS, (1, 3))],
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


def labels(x: Tensor) -> Tensor:
    """What the model says, but for the first image: most are right, as an attack finds them."""
    with torch.no_grad():
        y = stateful_model().eval()(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    return y


X = images(6, 3, 8, 8)
Y = labels(X)


def is_random(name: str, settings: dict[str, Any]) -> bool:
    """Whether the result depends on the generator."""
    if name == "carlini-wagner":
        return settings["norm"] == "linf"
    return name not in ("mim", "fab", "deepfool") and settings.get("random_start") != "zero"


def radius(settings: dict[str, Any]) -> float:
    return {"linf": EPSILON, "l2": 0.5}[settings.get("norm", "linf")]


def test_every_attack_is_under_contract() -> None:
    assert set(VARIANTS) == {*ATTACKS, *EVALUATION_ATTACKS}
    assert not set(ATTACKS) & set(EVALUATION_ATTACKS)


def test_attacks_that_train_raise_a_given_loss() -> None:
    for attack in ATTACKS.values():
        assert signature(attack).parameters["loss"].default is cross_entropy


@every
@pytest.mark.parametrize("mode", ["eval", "train", "mixed"])
def test_contract_e7_the_model_and_the_random_state_stay(name: str, settings: dict[str, Any], mode: str) -> None:
    model = stateful_model().train(mode != "eval")
    if mode == "mixed":
        model[1].eval()
    x, before, pixels = X.clone().requires_grad_(), state(model), X.clone()
    x_adv = make_evaluation_attack(name, epsilon=radius(settings), **settings)(model, x, Y, generator=seeded())
    assert state(model) == before
    assert x.grad is None
    assert x.requires_grad
    assert torch.equal(x.detach(), pixels)
    assert not x_adv.requires_grad


@every
def test_contract_e2_in_the_ball_and_in_0_1(name: str, settings: dict[str, Any]) -> None:
    model = stateful_model().eval()
    norm, epsilon, start = settings.get("norm", "linf"), radius(settings), settings.get("random_start")
    x_adv = make_evaluation_attack(name, epsilon=epsilon, **settings)(model, X, Y, generator=seeded())
    delta = (x_adv - X).flatten(1)
    size = delta.norm(dim=1).max() if norm == "l2" else delta.abs().max()
    assert 0 < size <= (3 * epsilon if start == "n-fgsm" else epsilon) + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@every
def test_contract_e1_epsilon_zero_returns_x(name: str, settings: dict[str, Any]) -> None:
    x_adv = make_evaluation_attack(name, epsilon=0.0, **settings)(stateful_model().eval(), X, Y, generator=seeded())
    assert torch.equal(x_adv, X)
    assert x_adv.data_ptr() != X.data_ptr()


@every
def test_contract_e11_same_seed_same_result(name: str, settings: dict[str, Any]) -> None:
    model, attack = stateful_model().eval(), make_evaluation_attack(name, epsilon=radius(settings), **settings)
    a, b, other = (attack(model, X, Y, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, other) == (not is_random(name, settings))


@every
def test_contract_inference_mode_changes_nothing(name: str, settings: dict[str, Any]) -> None:
    """Model, images and labels from outside, or images and labels that were made in it."""
    model, attack = stateful_model().eval(), make_evaluation_attack(name, epsilon=radius(settings), **settings)
    expected = attack(model, X, Y, generator=seeded())
    with torch.inference_mode():
        assert torch.equal(attack(model, X, Y, generator=seeded()), expected)
        x, y = X.clone(), Y.clone()
        x_adv = attack(model, x, y, generator=seeded())
        assert torch.is_inference_mode_enabled()
        assert torch.equal(x_adv, expected)
    assert x.is_inference()
    assert torch.equal(attack(model, x, y, generator=seeded()), expected)


@every
def test_contract_pixels_outside_0_1_are_refused(name: str, settings: dict[str, Any]) -> None:
    attack = make_evaluation_attack(name, epsilon=radius(settings), **settings)
    for pixel, said in ((1.001, "0 to 1.001"), (-0.5, "-0.5 to 1"), (float("nan"), "nan to nan"), (255.0, "0 to 255")):
        x = X.clone()
        x[3, 1, 2, 4] = pixel
        with pytest.raises(ValueError, match=rf"pixels must lie in \[0, 1\], not in {said}"):
            attack(stateful_model().eval(), x, Y, generator=seeded())
    rounded = X.clone()
    rounded[0, 0, 0, 0], rounded[1, 0, 0, 0] = 1 + 2**-23, -(2**-23)
    attack(stateful_model().eval(), rounded, Y, generator=seeded())


class NotFinite(nn.Module):
    """NaN or infinite logits for every second image, whatever its pixels."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.model, self.value = stateful_model().eval(), value

    def forward(self, x: Tensor) -> Tensor:
        broken = (x[:, 0, 0, 0] > X[:, 0, 0, 0].median())[:, None]
        return self.model(x) * torch.where(broken, self.value, 1.0)


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_contract_logits_that_are_not_finite_leave_images_in_the_ball(
    name: str, settings: dict[str, Any], value: float
) -> None:
    model, epsilon = NotFinite(value).eval(), radius(settings)
    x_adv = make_evaluation_attack(name, epsilon=epsilon, **settings)(model, X, Y, generator=seeded())
    delta = (x_adv - X).flatten(1)
    size = delta.norm(dim=1) if settings.get("norm") == "l2" else delta.abs().amax(1)
    assert (size <= (3 * epsilon if settings.get("random_start") == "n-fgsm" else epsilon) + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@every
def test_contract_memory_format_and_precision(name: str, settings: dict[str, Any]) -> None:
    model = stateful_model().eval().to(memory_format=torch.channels_last)
    x, kinds = X.to(memory_format=torch.channels_last), set()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        kinds.add(logits.dtype)
        return cross_entropy(logits, y)

    attack = make_evaluation_attack(name, epsilon=radius(settings), **settings)
    raised = {"loss": loss} if name in ATTACKS or (name == "apgd" and not settings["target_rank"]) else {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        x_adv = attack(model, x, Y, **raised, generator=seeded())
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    assert x_adv.dtype == torch.float32
    assert kinds == ({torch.float32} if raised else set())


@every
def test_contract_no_gradient_of_a_weight(name: str, settings: dict[str, Any]) -> None:
    model, weight_gradients = stateful_model().eval(), []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(weight_gradients.append)
    make_evaluation_attack(name, epsilon=radius(settings), **settings)(model, X, Y, generator=seeded())
    assert not weight_gradients


@every
def test_contract_no_pass_too_many(name: str, settings: dict[str, Any]) -> None:
    """Forward passes with a graph, and without one, of an attack that breaks nothing."""
    model, passes = stateful_model().eval(), []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    right = slice(1, None)
    attack = make_evaluation_attack(name, epsilon=1e-6, **settings)
    attack(model, X[right], Y[right], generator=seeded())
    steps, restarts, draws = settings.get("steps", 1), settings.get("restarts", 1), settings.get("draws", 1)
    with_graph, without = {
        "fgsm": (1, 0),
        "pgd": (restarts * steps, 0 if restarts == 1 else restarts),
        "mim": (steps, 0),
        "apgd": (steps, 1 + bool(settings.get("target_rank"))),
        "fab": (steps, steps),
        "square": (0, 21),
        "carlini-wagner": (steps * (2 if settings.get("norm") == "l2" else 1), 0),
        "deepfool": (steps, 0),
        "gaussian-noise": (0, 0 if draws == 1 else draws),
        "uniform-noise": (0, 0 if draws == 1 else draws),
    }[name]
    assert passes.count(True) <= with_graph
    assert passes.count(False) <= without
    if name not in ("square", "deepfool"):
        assert len(passes) == with_graph + without


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
