"""The last linear layer of a model, and its features: what that layer sees."""

from __future__ import annotations

from torch import Tensor, nn

from fedrobust.errors import ConfigError


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a model by their names, in its own order; a polynomial network has none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return name and module of the last linear layer. Raise ConfigError if there is none."""
    return list(_some(model).items())[-1]


def features(model: nn.Module, x: Tensor) -> Tensor:
    """Return the input of the linear layer that is called last, [B, D] in float32.

    It is `last_linear` in every model of `MODELS`; one of a user's own may call its layers in another order.

    Raises:
        ConfigError: the model has no linear layer.
    """
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in _some(model).values()
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1].float().flatten(1)


def _some(model: nn.Module) -> dict[str, nn.Linear]:
    if not (found := linear_layers(model)):
        raise ConfigError(f"{type(model).__name__}: has no linear layer at its end")
    return found
