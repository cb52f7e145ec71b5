"""CalFAT's local objective."""

from functools import partial

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import calibrated_cross_entropy, calibrated_kl_divergence, log_class_counts
from fedrobust.objectives.step import ObjectiveOutput, divergence_attacked


def calfat(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    class_counts: Tensor,
    temperature: float = 0.1,
    scale: float = 10.0,
    attack_mode: Mode = "eval",
) -> ObjectiveOutput:
    """Compute CalFAT's loss on adversarial examples, with calibrated logits in both the attack and the loss.

    mean CE(softmax(s q(x′)), y), x′ raising KL(softmax q(x) ‖ softmax q(x′)), q = z + τ log(n + 1e-7).

    Chen et al. 2022 as in the official code: adversarial examples only, the inner KL without the factor s.
    Limit case: with a uniform prior, the cross-entropy of 10 z on the examples of plain KL.
    The attack must not start at x: the KL has no gradient there (the paper: gaussian).

    Deviation: the natural logits of the attack are computed once, not in every step; they do not change.
    They are also `natural_logits` here: plain, and in the mode of the attack.

    Args:
        class_counts: numbers n of the client's training images in each class, [K], on the model's device; absent
            classes count as 1.
        temperature: factor τ ≥ 0 on the log counts.
        scale: factor s > 0 on the calibrated logits.
    """
    log_counts = log_class_counts(class_counts)
    inner = partial(calibrated_kl_divergence, log_counts=log_counts, temperature=temperature)
    x_adv, natural_logits = divergence_attacked(
        model, x, attack=attack, loss=inner, mode=attack_mode, generator=generator
    )
    logits = model(x_adv).float()
    losses = calibrated_cross_entropy(logits, y, log_counts=log_counts, temperature=temperature, scale=scale)
    return ObjectiveOutput(losses.mean(), natural_logits, logits.detach())
