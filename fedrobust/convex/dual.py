"""A lower bound on the optimum, from any weights and any perturbed samples: a certificate of optimality.

For s_i ≥ 0, at most 1/n over the points of one sample, and points x_i′ in the balls, hinge and worst case give
objective ≥ Σ s_i (1 − w_i) + β‖α‖₁ ≥ Σ s_i + Σ_j (β|α_j| − α_j Σ_i s_i y_i σ(u_jᵀx_i′)): Σ s_i is a lower bound on
the global optimum wherever |Σ_i s_i y_i σ(uᵀx_i′)| ≤ β for every unit u; s is scaled until it is.
The bound depends only on the moments M_c = Σ_i s_i y_ic [x_i′;1][x_i′;1]ᵀ, which may be averaged over iterates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.convex.network import Activation
from fedrobust.convex.trust_region import minimise


def moments(weights: Tensor, contrast: Tensor, point: Tensor) -> Tensor:
    """Compute M_c = Σ_i s_i y_ic [x_i′;1][x_i′;1]ᵀ, [C, d + 1, d + 1], from s [n], y [n, C] and x′ [n, d]; memory n ·
    d.
    """
    found = []
    for column in (weights[:, None] * contrast).T:
        used = column.nonzero().flatten()  # few samples are near the margin, and most classes are nobody's rival
        rows, share = point[used], column[used]
        weighted = rows * share[:, None]
        block, side, corner = rows.T @ weighted, weighted.sum(0), share.sum()
        found.append(torch.cat([torch.cat([block, side[:, None]], 1), torch.cat([side, corner[None]])[None]]))
    return torch.stack(found)


def largest_response(moment: Tensor, activation: Activation) -> float:
    """Return an upper bound, exact up to rounding, on max_c max_{‖u‖=1} |Σ_i s_i y_ic σ(uᵀx_i′)|, from the moments.

    The function is quadratic on the sphere: one eigendecomposition per c for both signs.
    """
    response = activation.scale(moment.shape[-1] - 1, moment) * moment
    largest = 0.0
    for form in response:
        curvature, basis = torch.linalg.eigh(form[:-1, :-1])
        linear = form[:-1, -1] @ basis
        both = torch.tensor([[1.0], [-1.0]], dtype=form.dtype, device=form.device)
        one = torch.ones(2, dtype=form.dtype, device=form.device)
        low = minimise(both * curvature, both * linear, one, sphere=True).value
        largest = max(largest, float((-(low + both[:, 0] * form[-1, -1])).max()))
    return largest


def lower_bound(total: Tensor | float, moment: Tensor, beta: float, activation: Activation) -> float:
    """Return Σ_i s_i · min(1, β / largest response): below the optimum of the programme for every s and x′.

    Args:
        total: Σ_i s_i.
        moment: moments of these weights and points, [C, d + 1, d + 1].
    """
    response = largest_response(moment.double(), activation)
    return float(total) * (min(1.0, beta / response) if response > 0 else 1.0)
