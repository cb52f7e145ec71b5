"""What a polynomial network guarantees for a sample, whatever the attack: exact in l2, sound in l∞.

All of it holds for the inputs of the network as it is: behind a feature extractor radii are radii in feature space.
Clipping to [0, 1] only takes points away, so a certificate holds with it, too. What is no number, or has no label, is
refused (`checked`): nothing is certified of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.convex.box import minimum_in_box
from fedrobust.convex.checked import checked_labels
from fedrobust.convex.lifted import Lifted, values
from fedrobust.convex.margins import classes_of, combined, comparisons, of_pair, worst_case

MAX_STEPS = 100


def l2_margins(lifted: Lifted, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """min over ‖δ‖₂ ≤ r and rivals k of f_y(x + δ) − f_k(x + δ), exact but for rounding, [n]; for two classes ± f.

    Above 0: no perturbation within r changes the prediction. At most 0: the point of `worst_case` does.
    """
    return worst_case(lifted.forms, x, _labels(lifted, x, y), radius).margin


def l2_distances(lifted: Lifted, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the nearest point that is not classified as y, exact, [n]; 0 where x itself is not, ∞ where none is.

    The value v(ρ) of the worst case within r² = ρ is convex and falls (by the S-lemma it is a supremum of functions
    linear in ρ), so Newton's method on v(ρ) = 0 climbs to the root from below: each step is a radius that is certified.
    """
    y = _labels(lifted, x, y)
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for weights, index, sign in comparisons(y, len(lifted.forms)):
        form = combined(x.new_tensor(weights), lifted.forms)
        found = _distance(form, x[index], sign.to(x.dtype))
        nearest[index] = torch.minimum(nearest[index], found)
    return nearest


def _distance(form: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    at_x = sign * values(form[None], x)[:, 0]
    slope = torch.linalg.vector_norm(2 * (x @ form[:-1, :-1] + form[:-1, -1]), dim=1)
    eigenvalues = torch.linalg.eigvalsh(form[:-1, :-1])
    lowest = torch.where(sign > 0, eigenvalues[0], -eigenvalues[-1]).clamp(max=0)
    # the nearest that a function with this value and slope, and curvature no lower, can reach 0
    root = (slope.square() - 4 * lowest * at_x.clamp(min=0)).sqrt()
    squared = _over(2 * at_x.clamp(min=0), slope + root).square()
    tiny = 16 * torch.finfo(x.dtype).eps
    for _ in range(MAX_STEPS):
        open_ = (at_x > 0) & squared.isfinite()
        if not open_.any():
            break
        radius = squared.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        margin, _, multiplier = of_pair(form, x, sign, torch.where(open_, radius, 1.0))
        step = torch.where(open_, _over(margin.clamp(min=0), multiplier), 0.0)
        squared = squared + step
        if (step <= tiny * squared)[open_].all():
            break
    return torch.where(at_x > 0, squared.sqrt(), 0.0)


def linf_margins(lifted: Lifted, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """A lower bound on min over ‖δ‖∞ ≤ ε and rivals k of f_y(x + δ) − f_k(x + δ), [n]: sound, not always exact.

    One multiplier per coordinate in place of the ball's one (`box.minimum_in_box`). Limit case: exact for ε = 0.
    """
    y = _labels(lifted, x, y)
    lowest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for weights, index, sign in comparisons(y, len(lifted.forms)):
        form = combined(x.new_tensor(weights), lifted.forms)
        side = sign.to(x.dtype)
        found = side * values(form[None], x[index])[:, 0]
        if radius:
            gradient = side[:, None] * (x[index] @ form[:-1, :-1] + form[:-1, -1])
            found = found + minimum_in_box(side[:, None, None] * form[:-1, :-1], gradient, radius)
        lowest[index] = torch.minimum(lowest[index], found)
    return lowest


def accuracy(margins: Tensor) -> float:
    """Share of samples with a margin above 0."""
    return float((margins > 0).double().mean())


def _labels(lifted: Lifted, x: Tensor, y: Tensor) -> Tensor:
    return checked_labels(x, y, classes_of(len(lifted.positive)))


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient, ∞ over 0 where the numerator is not 0, and 0 where it is."""
    return torch.where(numerator == 0, 0.0, numerator / denominator)
