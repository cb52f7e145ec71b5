"""Balls: inside, idempotent, non-expansive, and starts that fill them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.attacks.ball import BALLS

NORMS = sorted(BALLS)
few = settings(max_examples=25, deadline=None)
cases = given(
    norm=st.sampled_from(NORMS),
    epsilon=st.sampled_from([0.0, 1e-6, 8 / 255, 0.5, 2.0]),
    scale=st.sampled_from([0.0, 1e-3, 0.1, 10.0]),
    seed=st.integers(0, 2**31),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, shape: tuple[int, ...] = (6, 3, 4, 4)) -> torch.Tensor:
    """Pixels in [0, 1], many of them at its ends."""
    return torch.randn(shape, generator=seeded(seed)).add(0.5).clamp(0, 1)


def sizes(delta: torch.Tensor, norm: str) -> torch.Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), ord=math.inf if norm == "linf" else 2, dim=1)


@few
@cases
def test_projection_is_inside_and_idempotent(norm: str, epsilon: float, scale: float, seed: int) -> None:
    x = images(seed)
    ball = BALLS[norm](x, epsilon)
    far = x + scale * torch.randn(x.shape, generator=seeded(seed + 1))
    once = ball.project_(far.clone())
    assert sizes(once - x, norm).max() <= epsilon + 1e-6
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(ball.project_(once.clone()), once, rtol=0, atol=3e-7)


@few
@cases
def test_projection_keeps_what_is_inside(norm: str, epsilon: float, scale: float, seed: int) -> None:
    x = images(seed)
    ball = BALLS[norm](x, epsilon)
    inside = ball.start("uniform", seeded(seed))
    torch.testing.assert_close(ball.project_(inside.clone()), inside, rtol=0, atol=3e-7)


@few
@cases
def test_projection_is_non_expansive(norm: str, epsilon: float, scale: float, seed: int) -> None:
    x = images(seed)
    ball = BALLS[norm](x, epsilon)
    a, b = (x + scale * torch.randn(x.shape, generator=seeded(seed + i)) for i in (1, 2))
    before = sizes(a - b, "l2")
    after = sizes(ball.project_(a.clone()) - ball.project_(b.clone()), "l2")
    assert (after <= before + 1e-5).all()


def test_l2_projection_is_the_nearest_point_where_clipping_does_nothing() -> None:
    x = torch.full((2, 2), 0.5)
    far = torch.tensor([[0.8, 0.9], [0.5, 0.6]])
    near = BALLS["l2"](x, 0.25).project_(far.clone())
    torch.testing.assert_close(near, torch.tensor([[0.65, 0.70], [0.5, 0.6]]))


def test_uniform_l2_start_fills_the_ball() -> None:
    x = torch.full((20_000, 3), 0.5)
    start = BALLS["l2"](x, 0.3).start("uniform", seeded(0))
    radius = sizes(start - x, "l2") / 0.3
    # in d dimensions P(radius <= r) = r^d
    for r in (0.5, 0.8, 0.95):
        assert (radius <= r).float().mean().item() == pytest.approx(r**3, abs=0.015)
    torch.testing.assert_close((start - x).mean(0), torch.zeros(3), rtol=0, atol=0.005)


def test_uniform_linf_start_fills_the_box() -> None:
    x = torch.full((20_000, 2), 0.5)
    delta = BALLS["linf"](x, 0.3).start("uniform", seeded(0)) - x
    assert delta.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    assert delta.abs().max() > 0.299


@pytest.mark.parametrize("norm", NORMS)
def test_gaussian_start_has_standard_deviation_0_001(norm: str) -> None:
    x = torch.full((2_000, 12), 0.5)
    delta = BALLS[norm](x, 8 / 255).start("gaussian", seeded(0)) - x
    assert delta.std().item() == pytest.approx(0.001, rel=0.02)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_starts_do_not_depend_on_the_memory_format(norm: str, kind: str) -> None:
    x = images(0)
    channels_last = x.to(memory_format=torch.channels_last)
    a = BALLS[norm](x, 0.1).start(kind, seeded(1))
    b = BALLS[norm](channels_last, 0.1).start(kind, seeded(1))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert b.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_moves_nothing(norm: str) -> None:
    x = images(0)
    torch.testing.assert_close(BALLS[norm](x, 0.1).step_(x.clone(), torch.zeros_like(x), 0.05), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_step_has_its_length_whatever_the_gradients(norm: str, size: float, per_image: bool) -> None:
    x = torch.full((3, 2, 2, 2), 0.5)
    gradient = size * torch.randn(x.shape, generator=seeded(1))
    lengths = torch.tensor([0.02, 0.05, 0.1]) if per_image else torch.full((3,), 0.05)
    step = lengths.view(3, 1, 1, 1) if per_image else 0.05
    moved = BALLS[norm](x, 0.3).step_(x.clone(), gradient, step) - x
    torch.testing.assert_close(sizes(moved, norm), lengths)
    direction = gradient.sign() if norm == "linf" else gradient
    assert torch.cosine_similarity(moved.flatten(1), direction.flatten(1)).min() > 0.9999


@pytest.mark.parametrize("norm", NORMS)
def test_errors(norm: str) -> None:
    x = images(0)
    with pytest.raises(ValueError, match="epsilon ≥ 0"):
        BALLS[norm](x, -0.1)
    with pytest.raises(ValueError, match="floating-point"):
        BALLS[norm](x.to(torch.uint8), 0.1)
    with pytest.raises(ValueError, match="pass a generator"):
        BALLS[norm](x, 0.1).start("uniform", None)
    with pytest.raises(ValueError, match="must be zero, uniform or gaussian"):
        BALLS[norm](x, 0.1).start("best", seeded(0))
