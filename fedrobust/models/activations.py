"""Activations by name: the nonlinearities of every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrobust.attacks.contract import attacking
from fedrobust.config.registry import lookup
from fedrobust.errors import ConfigError

Phase = Literal["attack", "update", "both"]


class SmoothBackward(nn.Module):
    """The function max(0, x) forward; backward the derivative of `smooth` at x, in the attack, in the update, or in
    both.

    Xie et al. 2020, section 3: smoothing in the attack makes stronger examples, in the update better steps. The logits
    are ReLU's to the last bit. Attacks in an evaluation use the same backward pass. Limit case: with nn.ReLU as
    `smooth` it is ReLU.
    """

    def __init__(self, smooth: nn.Module, phase: Phase) -> None:
        super().__init__()
        self.smooth, self.phase = smooth, phase

    def forward(self, x: Tensor) -> Tensor:
        if self.phase == "both" or attacking() == (self.phase == "attack"):
            return _Swapped.apply(x, self.smooth)  # type: ignore[return-value]
        return F.relu(x)


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, smooth: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.smooth = smooth
        return F.relu(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(ctx.smooth(x), x, gradients[0])[0], None


class TeLU(nn.Module):
    """The activation x tanh(eˣ) (Fernandez and Mali 2024). Smooth; x for large x, x eˣ for small."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(torch.exp(x.clamp(max=20)))  # beyond, tanh is 1 and its derivative 0 · ∞


class SmoothReLU(nn.Module):
    """The activation x − log(αx + 1) / α for x ≥ 0, else 0 (Xie et al. 2020, section 4.1). ReLU as α → ∞; derivative 0
    at 0.

    With `learned`, α = β² with β a parameter of the layer, initially √alpha (the official code: 20).
    """

    def __init__(self, alpha: float, *, learned: bool = False) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.tensor(math.sqrt(alpha)), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        alpha, x = self.root.square(), x.clamp(min=0)
        return x - torch.log1p(alpha * x) / alpha


class PSSiLU(nn.Module):
    """The activation x (σ(|α|x) − |β|) / (1 − |β|), with α and β learned, initially 1 and 0 (Dai et al. 2021): SiLU at
    first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - beta) / (1 - beta)


class Polynomial(nn.Module):
    """The activation 0.09 x² + 0.5 x + 0.47: the parabola of the convex programmes (Kuelbs et al. 2024). Unbounded
    growth.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul((0.5 * x).add_(0.47), x, x, value=0.09)


@dataclass(frozen=True)
class Activation:
    """An entry of ACTIVATIONS. `alpha`: its default α, None if it takes none; `make` is called with α, or with 0 if it
    takes none.
    """

    description: str
    make: Callable[[float], nn.Module]
    alpha: float | None = None


# The first eleven are Dang et al.'s, the others Smooth Adversarial Training's and its kin's
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation("max(0, x).", lambda _: nn.ReLU(inplace=True)),
    "rrelu": Activation(
        "x for x ≥ 0, else x times a random slope in [1/8, 1/3], in eval mode 11/48.", lambda _: nn.RReLU()
    ),
    "softplus": Activation("log(1 + eˣ).", lambda _: nn.Softplus()),
    "gelu": Activation("x Φ(x).", lambda _: nn.GELU()),
    "selu": Activation("1.0507 x for x ≥ 0, else 1.0507 · 1.6733 (eˣ − 1).", lambda _: nn.SELU()),
    "celu": Activation("x for x ≥ 0, else α (exp(x/α) − 1): smooth for every α.", lambda alpha: nn.CELU(alpha), 1.0),
    "silu": Activation("x σ(x), also called Swish.", lambda _: nn.SiLU()),
    "hardsilu": Activation("x min(max(x + 3, 0), 6) / 6, also called Hardswish.", lambda _: nn.Hardswish()),
    "hardtanh": Activation("x cut off at −1 and 1.", lambda _: nn.Hardtanh()),
    "telu": Activation("x tanh(eˣ).", lambda _: TeLU()),
    "mish": Activation("x tanh(log(1 + eˣ)).", lambda _: nn.Mish()),
    "elu": Activation("x for x ≥ 0, else α (eˣ − 1): smooth only for α = 1.", lambda alpha: nn.ELU(alpha), 1.0),
    "parametric-softplus": Activation("log(1 + exp(αx)) / α.", lambda alpha: nn.Softplus(beta=alpha), 10.0),
    "smooth-relu": Activation("x − log(αx + 1) / α for x ≥ 0, else 0.", lambda alpha: SmoothReLU(alpha), 1.0),
    "smooth-relu-learned": Activation(
        "SmoothReLU with α learned per layer from model.activation-alpha on.",
        lambda alpha: SmoothReLU(alpha, learned=True),
        400.0,
    ),
    "pssilu": Activation("x (σ(|α|x) − |β|) / (1 − |β|), α and β learned per layer.", lambda _: PSSiLU()),
    "polynomial": Activation("0.09 x² + 0.5 x + 0.47.", lambda _: Polynomial()),
}


def activation_maker(
    activation: str, alpha: float | None = None, backward: str = "", phase: Phase = "both"
) -> Callable[[], nn.Module]:
    """Return a function that makes the activation of this name: called once per place in a network, as some have
    parameters.

    Args:
        alpha: α of the activation, above 0; None takes its default. With `backward` it is α of that one.
        backward: for relu, another activation whose derivative the backward pass takes in `phase` (`SmoothBackward`).

    Raises:
        ConfigError: unknown name, an alpha for an activation without one, a `backward` for another activation than
            relu, or one with parameters.
    """
    parametrised = backward or activation
    chosen = lookup("activation", ACTIVATIONS, parametrised)
    if alpha is not None and chosen.alpha is None:
        takers = ", ".join(other for other, entry in ACTIVATIONS.items() if entry.alpha is not None)
        raise ConfigError(
            f"model.activation-alpha = {alpha:g}: {parametrised} has no α; activations with one: {takers}"
        )
    value = alpha if alpha is not None else chosen.alpha or 0.0
    if not backward:
        return lambda: chosen.make(value)
    if lookup("activation", ACTIVATIONS, activation) is not ACTIVATIONS["relu"]:
        raise ConfigError(
            f"model.backward-activation = {backward!r}: allowed only with model.activation relu, not {activation}"
        )
    if backward in ("relu", "rrelu") or any(p.requires_grad for p in chosen.make(value).parameters()):
        raise ConfigError(f"model.backward-activation = {backward!r}: must be smooth and have no parameters")
    return lambda: SmoothBackward(chosen.make(value), phase)


@lru_cache
def gain(name: str, alpha: float | None = None) -> float:
    """Compute 1 / √E[f(z)²] for z ~ N(0, 1): weights of variance gain² / fan-in keep the mean square from layer to
    layer.

    He et al. 2015 for ReLU, whose gain is √2. Computed in eval mode by the trapezoidal rule.
    """
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        values = activation_maker(name, alpha)().eval().double()(z.clone())
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return 1 / math.sqrt(torch.trapezoid(values.square() * density, z).item())


def suit_weights(network: nn.Module, name: str, alpha: float | None = None) -> None:
    """Scale the weights, initialised for ReLU, to the activation's gain, in all layers except the first, whose inputs
    are pixels. ReLU's do not change, to the last bit.
    """
    factor = gain(name, alpha) / gain("relu")
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.mul_(factor)
