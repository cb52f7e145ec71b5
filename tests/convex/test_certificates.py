"""Certificates: no attack gets below one, and each is attained or sound."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedrobust.convex.certificates import l2_distances, l2_margins, linf_margins, minimum_in_box
from fedrobust.convex.margins import worst_case
from fedrobust.convex.network import Lifted, as_logits, recover, values


def margins(lifted: Lifted, x: Tensor, y: Tensor) -> Tensor:
    logits = as_logits(values(lifted.forms, x))
    label = one_hot(y, logits.shape[1]).bool()
    return logits[label] - logits.masked_fill(label, -torch.inf).amax(1)


def attacked(lifted: Lifted, x: Tensor, y: Tensor, radius: float, norm: str, restarts: int, steps: int = 30) -> Tensor:
    """The lowest margin that PGD with decaying steps finds, [n]; without [0, 1], so that the whole ball is its own."""
    generator = torch.Generator().manual_seed(7)
    lowest = margins(lifted, x, y)
    x, y = x.repeat(restarts, 1), y.repeat(restarts)  # all restarts at once
    delta = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    delta = radius * (delta.sign() if norm == "linf" else delta / delta.norm(dim=1, keepdim=True))
    for step in range(steps):
        delta.requires_grad_()
        (slope,) = torch.autograd.grad(margins(lifted, x + delta, y).sum(), delta)
        length = 2 * radius * (1 - step / steps)
        with torch.no_grad():
            if norm == "linf":
                delta = (delta - length * slope.sign()).clamp(-radius, radius)
            else:
                delta = delta - length * slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-300)
                delta = delta * (radius / delta.norm(dim=1, keepdim=True).clamp(min=1e-300)).clamp(max=1)
            found = margins(lifted, x + delta, y).view(restarts, -1)
            lowest = torch.minimum(lowest, found.amin(0))
    return lowest


@pytest.mark.parametrize("functions", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_no_l2_attack_gets_below_the_certificate(
    functions: int, seed: int, random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted = random_network(6, functions, seed=seed)
    x, y = blobs(16, 6, max(2, functions), seed=seed)
    for radius in (0.05, 0.5, 2.0, 8.0):
        certified = l2_margins(lifted, x, y, radius)
        found = attacked(lifted, x, y, radius, "l2", restarts=20)
        assert (found >= certified - 1e-9).all()
        # and it is the minimum: the attack reaches it
        assert ((found - certified) <= 0.02 * (1 + certified.abs())).double().mean() > 0.9


def test_the_hard_case_of_a_network(random_network: Callable[..., Lifted]) -> None:
    # at the stationary point of f the gradient vanishes: every direction of lowest curvature is a worst case
    lifted = random_network(4, units=12, seed=5)
    form = lifted.forms[0]
    x = torch.linalg.solve(form[:-1, :-1], -form[:-1, -1])[None]
    for label in (0, 1):
        y = torch.tensor([label])
        case = worst_case(lifted.forms, x, y, 0.5)
        sign = 2 * label - 1
        lowest = (sign * torch.linalg.eigvalsh(form[:-1, :-1])).min().clamp(max=0)
        assert case.margin.item() == pytest.approx(margins(lifted, x, y).item() + 0.25 * lowest.item(), abs=1e-10)
        assert margins(lifted, case.point, y).item() == pytest.approx(case.margin.item(), abs=1e-10)
        assert (attacked(lifted, x, y, 0.5, "l2", restarts=20) >= case.margin - 1e-9).all()


def test_worst_point_attains_the_margin(
    random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    for functions in (1, 4):
        lifted = random_network(5, functions, seed=2)
        x, y = blobs(20, 5, max(2, functions))
        case = worst_case(lifted.forms, x, y, 0.7)
        assert torch.allclose(margins(lifted, case.point, y), case.margin, atol=1e-10)
        assert ((case.point - x).norm(dim=1) <= 0.7 + 1e-12).all()
        chosen = (values(lifted.forms, case.point) * case.contrast).sum(1)
        assert torch.allclose(chosen, case.margin, atol=1e-10)


def test_radius_zero_is_the_margin(
    random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted, (x, y) = random_network(5, 3), blobs(20, 5, 3)
    assert torch.allclose(l2_margins(lifted, x, y, 0.0), margins(lifted, x, y), atol=1e-12)
    assert torch.allclose(linf_margins(lifted, x, y, 0.0), margins(lifted, x, y), atol=1e-12)


@pytest.mark.parametrize("functions", [1, 3])
def test_distance_is_where_the_margin_is_zero(
    functions: int, random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted = random_network(5, functions, seed=4)
    x, y = blobs(60, 5, max(2, functions))
    distance = l2_distances(lifted, x, y)
    right = margins(lifted, x, y) > 0
    assert ((distance > 0) == right).all()
    assert 0 < right.sum() < 60
    for sample in (right & distance.isfinite()).nonzero().flatten().tolist():
        radius = distance[sample].item()
        at, inside = (l2_margins(lifted, x[[sample]], y[[sample]], share * radius).item() for share in (1.0, 1 - 1e-6))
        assert at == pytest.approx(0, abs=1e-9)
        assert inside > 0


def test_distance_without_a_boundary_is_infinite() -> None:
    # f = 2 σ(x) − σ(−x) scaled: positive everywhere
    block = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
    lifted = Lifted(block, torch.zeros_like(block))
    x = torch.tensor([[0.0], [3.0]]).double()
    assert l2_distances(lifted, x, torch.tensor([1, 1])).tolist() == [math.inf, math.inf]
    assert l2_distances(lifted, x, torch.tensor([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize("functions", [1, 3])
def test_no_linf_attack_gets_below_the_bound(
    functions: int, random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted = random_network(8, functions, seed=1)
    x, y = blobs(16, 8, max(2, functions))
    for radius in (0.05, 0.5):
        bound = linf_margins(lifted, x, y, radius)
        found = attacked(lifted, x, y, radius, "linf", restarts=5)
        assert (found >= bound - 1e-9).all()
        # within 0.6 % of the best attack at d = 8 was measured; of the scale of margins, here
        assert ((found - bound) / (1 + found.abs())).mean() < 0.01


def test_box_bound_is_exact_for_a_diagonal_form() -> None:
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    gradient = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-0.7, 0.7, 2001, dtype=torch.float64)
    exact = (diagonal[..., None] * grid.square() + 2 * gradient[..., None] * grid).amin(2).sum(1)
    bound = minimum_in_box(torch.diag_embed(diagonal), gradient, 0.7)
    assert (bound <= exact + 1e-9).all()
    assert torch.allclose(bound, exact, atol=1e-4)


def test_recovered_network_has_the_same_certificates(
    random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted, x = random_network(4, 3, units=9), blobs(12, 4, 3)[0]
    logits = recover(lifted)(x)
    assert torch.allclose(logits, values(lifted.forms, x), atol=1e-9)
