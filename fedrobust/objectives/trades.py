"""TRADES (Zhang et al. 2019)."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import cross_entropy, kl_divergence
from fedrobust.objectives.step import ObjectiveOutput, divergence_attacked


def trades(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    trades_beta: float = 6.0,
    label_smoothing: float = 0.0,
    attack_mode: Mode = "eval",
) -> ObjectiveOutput:
    """Compute TRADES' loss: natural cross-entropy, plus the divergence between natural and adversarial outputs.

    mean CE(x, y) + β mean KL(softmax z(x) ‖ softmax z(x′)), x′ raising the same KL.

    Zhang et al. 2019, official code: batch norm sees x, x′ and x again, each by itself; gradients flow through both
    sides of the outer KL. Limit case: β = 0, `natural`, up to batch norm's statistics.
    The attack must not start at x: the KL has no gradient there (the paper: gaussian).

    Deviations: the natural logits of the attack are computed once, not in every step; they do not change. The last
    pass of x takes no gradient: its logits are those of the first, unless layers are random in train mode (dropout,
    RReLU), which the official code lets draw anew. In l2 the attack projects onto the ball, then to [0, 1]; the
    official code clips to [0, 1] first. Both end in both sets.

    Args:
        trades_beta: weight β ≥ 0 of the KL term, 1/λ in the paper; 6 there for CIFAR-10.
    """
    x_adv, _ = divergence_attacked(model, x, attack=attack, loss=kl_divergence, mode=attack_mode, generator=generator)
    natural_logits, adversarial_logits = model(x).float(), model(x_adv).float()
    _see_again(model, x)
    divergence = kl_divergence(adversarial_logits, natural_logits).mean()
    loss = cross_entropy(natural_logits, y, label_smoothing).mean() + trades_beta * divergence
    return ObjectiveOutput(loss, natural_logits.detach(), adversarial_logits.detach())


@torch.no_grad()
def _see_again(model: nn.Module, x: Tensor) -> None:
    """Let the running statistics of batch norms in train mode count x once more; do nothing if there are none."""
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        model(x)
