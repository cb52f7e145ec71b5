"""Losses, per example and on logits: `loss(logits, target) -> [B]`; the caller reduces.

Larger is worse for the classifier in each of them, so that every loss can be trained on and attacked with.
They compute in the precision of the logits: pass `logits.float()` under autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute −log softmax(z)_y; with smoothing −Σ_k q_k log softmax(z)_k, q_y = 1 − (K−1)α/K, else α/K.

    Args:
        logits: z, [B, K].
        y: labels, [B] of int64; or class probabilities, [B, K].
        label_smoothing: α in [0, 1]; the soft labels of Dang et al. and of Smooth Adversarial Training (0.1).

    Returns:
        [B], at least 0. Limit cases: log K if all logits are equal; α = 0, hard labels.
    """
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Compute max_{k≠y} z_k − z_y: positive exactly if the prediction is wrong, minus the classification margin.

    Carlini and Wagner 2017, f6, untargeted and without the cut at 0. Unlike cross-entropy it does not
    saturate on confident models.

    Args:
        logits: z, [B, K] with K ≥ 2.
        y: labels, [B], int64.

    Returns:
        [B], unbounded. Limit case: for K = 2, z_{1−y} − z_y.
    """
    label = y.unsqueeze(1)
    others = logits.scatter(1, label, float("-inf"))
    return others.amax(1) - logits.gather(1, label).squeeze(1)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Compute the difference of logits ratio towards the class t, (z_t − z_y) / (z_(1) − (z_(3) + z_(4)) / 2).

    z_(i) is the i-th largest logit. Croce and Hein 2020, equation 7, with 1e-12 added to the denominator, as in the
    authors' code. Like cross-entropy it does not change when a constant is added to all logits; unlike it, nor when all
    are scaled, so that no temperature can hide the gradient.

    Args:
        logits: z, [B, K] with K ≥ 4.
        y, target: labels and the classes to move to, [B] of int64.

    Returns:
        [B], positive exactly if the target's logit is above the label's. Limit case: 0 if target = y.

    Raises:
        ValueError: fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"targeted_dlr needs 4 classes or more, not {logits.shape[1]}")
    top = logits.topk(4, dim=1).values
    gap = logits.gather(1, torch.stack((target, y), 1)).diff(dim=1).squeeze(1).neg()
    return gap / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Compute KL(p ‖ q) = Σ_k p_k (log p_k − log q_k), p = softmax(reference), q = softmax(z).

    The order of TRADES (Zhang et al. 2019, official code): the reference is the natural prediction.
    Gradients flow to both arguments; detach the reference to attack.

    Args:
        logits, reference_logits: [B, K], finite.

    Returns:
        [B], at least 0 up to rounding. Limit case: 0, with zero gradient, if both predict the same; an attack on it
        must therefore not start at x.
    """
    log_q, log_p = F.log_softmax(logits, dim=1), F.log_softmax(reference_logits, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def log_class_counts(class_counts: Tensor) -> Tensor:
    """Compute log(n_c + 1e-7), absent classes counted as 1: CalFAT's prior, from its official code.

    Args:
        class_counts: number of training examples of the client in each class, [K], on the model's device.

    Returns:
        [K] of float32. Counts instead of shares shift all logits by one constant, which does not change the softmax.
    """
    return torch.log(class_counts.float().clamp(min=1) + 1e-7)


def calibrate(logits: Tensor, *, log_counts: Tensor, temperature: float = 0.1) -> Tensor:
    """Compute q = z + τ log n (CalFAT, Chen et al. 2022; τ = 0.1 in its code). [B, K] → [B, K]."""
    return logits + temperature * log_counts


def calibrated_cross_entropy(
    logits: Tensor, y: Tensor, *, log_counts: Tensor, temperature: float = 0.1, scale: float = 10.0
) -> Tensor:
    """Compute −log softmax(s (z + τ log n))_y: CalFAT's outer loss (Chen et al. 2022, official code).

    With the defaults s τ = 1: the logit adjustment of Menon et al. (2021) on 10 z. Predict with plain logits.

    Args:
        logits: z, [B, K].
        y: labels, [B], int64.
        log_counts: result of `log_class_counts` for the client, [K].
        temperature: factor τ ≥ 0 on the log counts.
        scale: factor s > 0 on the calibrated logits.

    Returns:
        [B], at least 0. Limit case: with a uniform prior, the cross-entropy of s z.
    """
    return cross_entropy(scale * calibrate(logits, log_counts=log_counts, temperature=temperature), y)


def calibrated_kl_divergence(
    logits: Tensor, reference_logits: Tensor, *, log_counts: Tensor, temperature: float = 0.1
) -> Tensor:
    """Compute KL(softmax q(x) ‖ softmax q(x′)), q = z + τ log n: CalFAT's inner loss, without the factor s.

    Args:
        logits, reference_logits: plain z(x′) and z(x), [B, K].
        log_counts: result of `log_class_counts` for the client, [K].
        temperature: factor τ ≥ 0 on the log counts.

    Returns:
        [B], at least 0 up to rounding. Limit case: with a uniform prior, `kl_divergence`.
    """
    return kl_divergence(
        calibrate(logits, log_counts=log_counts, temperature=temperature),
        calibrate(reference_logits, log_counts=log_counts, temperature=temperature),
    )
