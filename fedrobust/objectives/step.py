"""The output of an objective, and the inner maximisation that several objectives share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedrobust.attacks import contract
from fedrobust.attacks.contract import Attack, Loss, Mode
from fedrobust.models.folded import folded


class ObjectiveOutput(NamedTuple):
    """A loss to differentiate, and the logits computed with it, for training accuracies without further passes.

    `adversarial_logits` belong to the first examples of the batch and `natural_logits` to the last, as many
    as they have rows: all, unless the objective splits the batch. Detached, float32; None if there are none.
    """

    loss: Tensor
    natural_logits: Tensor | None
    adversarial_logits: Tensor | None


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, *, attack: Attack, mode: Mode, generator: torch.Generator | None
) -> Tensor:
    """Return the attack's x′ on its own loss, with the model in `mode` during the attack."""
    with _for_attacks(model, mode) as attackable:
        return attack(attackable, x, y, generator=generator)


def divergence_attacked(
    model: nn.Module, x: Tensor, *, attack: Attack, loss: Loss, mode: Mode, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return (x′, z(x)): x′ maximises loss(z(x′), z(x)), with the model in `mode` during the attack; both detached.

    The reference z(x) is computed once, since no step changes it. A divergence has zero gradient at x: the attack must
    start elsewhere.

    Under autocast the reference is still computed in float32. A start of x + N(0, 0.001²) lies within bfloat16's
    spacing of x: rounded in the same way, both would give nearly equal logits, and the first steps would follow
    rounding noise.
    """
    with (
        torch.autocast(x.device.type, enabled=False),
        _for_attacks(model, mode) as exact,
        contract.no_side_effects(exact, x.device),
        torch.no_grad(),
    ):
        reference = exact(x).float()
    with _for_attacks(model, mode) as attackable:
        return attack(attackable, x, reference, loss=loss, generator=generator), reference


@contextmanager
def _for_attacks(model: nn.Module, mode: Mode) -> Iterator[nn.Module]:
    """Yield the model in that mode; in eval mode with its batch norms folded into the convolutions."""
    with contract.attack_mode(model, mode):
        yield folded(model) if mode == "eval" else model
