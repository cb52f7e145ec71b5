"""The minimum of a quadratic function on a ball: exact, attained, and in the hard case, too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.convex.trust_region import minimise


def value(curvature: Tensor, gradient: Tensor, point: Tensor) -> Tensor:
    return (curvature * point.square() + 2 * gradient * point).sum(-1)


def descend(curvature: Tensor, gradient: Tensor, radius: float, restarts: int = 20, steps: int = 60) -> Tensor:
    """The lowest value that projected gradient descent with decaying steps finds, [n]."""
    generator = torch.Generator().manual_seed(0)
    lowest = torch.full((len(gradient),), torch.inf, dtype=gradient.dtype)
    for _ in range(restarts):
        point = radius * torch.nn.functional.normalize(
            torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        )
        for step in range(steps):
            slope = torch.nn.functional.normalize(curvature * point + gradient)
            point = point - radius * (1 - step / steps) * slope
            point = point * (radius / point.norm(dim=1, keepdim=True)).clamp(max=1)
            lowest = torch.minimum(lowest, value(curvature, gradient, point))
    return lowest


KINDS = ("indefinite", "convex", "concave", "hard", "nearly-hard", "degenerate", "flat", "zero-gradient")


def problem(kind: str, seed: int, samples: int = 8, dimension: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.randn(samples, dimension, generator=generator, dtype=torch.float64)
    gradient = torch.randn(samples, dimension, generator=generator, dtype=torch.float64)
    lowest = curvature.argmin(1, keepdim=True)
    if kind == "convex":
        curvature = curvature.abs() + 0.1
    if kind == "concave":
        curvature = -curvature.abs()
    if kind in ("hard", "nearly-hard"):
        # no part along the lowest eigenvector, or one of rounding's size
        curvature.scatter_(1, lowest, -3.0)
        gradient = 0.01 * gradient.scatter(1, lowest, 0.0 if kind == "hard" else 1e-14)
    if kind == "degenerate":
        curvature[:] = -1.0
    if kind == "flat":
        curvature[:] = 0.0
    if kind == "zero-gradient":
        gradient[:] = 0.0
    return curvature, gradient


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.sampled_from([1e-3, 0.3, 1.0, 10.0]))
def test_no_descent_gets_below_it_and_its_point_attains_it(kind: str, seed: int, radius: float) -> None:
    curvature, gradient = problem(kind, seed)
    found = minimise(curvature, gradient, torch.full((8,), radius, dtype=torch.float64))
    assert (found.point.norm(dim=1) <= radius * (1 + 1e-12)).all()
    attained = value(curvature, gradient, found.point)
    scale = 1 + found.value.abs()
    assert ((attained - found.value).abs() <= 1e-12 * scale).all()
    assert (descend(curvature, gradient, radius, restarts=4) >= found.value - 1e-9 * scale).all()


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_sphere_no_point_is_lower(kind: str) -> None:
    curvature, gradient = problem(kind, 1)
    found = minimise(curvature, gradient, torch.ones(8, dtype=torch.float64), sphere=True)
    assert torch.allclose(found.point.norm(dim=1), torch.ones(8, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(value(curvature, gradient, found.point), found.value, atol=1e-11)
    points = torch.nn.functional.normalize(
        torch.randn(20_000, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    for row in range(8):
        assert (value(curvature[row], gradient[row], points) >= found.value[row] - 1e-9).all()


def test_hard_case_closed_form() -> None:
    # min −3 a² + b² + 2·0.4 b over a² + b² ≤ 1: μ = 3, b = −0.4/4, a = ±√(1 − b²)
    curvature, gradient = torch.tensor([[-3.0, 1.0]]).double(), torch.tensor([[0.0, 0.4]]).double()
    found = minimise(curvature, gradient, torch.ones(1, dtype=torch.float64))
    assert found.multiplier.item() == pytest.approx(3)
    assert found.value.item() == pytest.approx(-3 - 0.4**2 / 4)
    assert found.point[0, 1].item() == pytest.approx(-0.1)
    assert abs(found.point[0, 0].item()) == pytest.approx((1 - 0.01) ** 0.5)


def test_linear_function_closed_form() -> None:
    found = minimise(torch.zeros(1, 3).double(), torch.tensor([[1.0, 2.0, 2.0]]).double(), torch.tensor([0.5]).double())
    assert found.value.item() == pytest.approx(-2 * 0.5 * 3)


def test_float32_agrees_with_float64() -> None:
    for kind in KINDS:
        curvature, gradient = problem(kind, 3)
        radius = torch.full((8,), 0.7, dtype=torch.float64)
        exact, single = (
            minimise(curvature, gradient, radius),
            minimise(*map(Tensor.float, (curvature, gradient, radius))),
        )
        assert single.value.dtype == torch.float32
        assert torch.allclose(single.value.double(), exact.value, rtol=1e-5, atol=1e-5), kind
        attained = value(curvature, gradient, single.point.double())
        assert torch.allclose(attained, exact.value, rtol=1e-4, atol=1e-4), kind
