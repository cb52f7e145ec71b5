"""The exact worst case of images, and the objective that trains on it."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import pgd
from fedrobust.convex.certificates import l2_margins
from fedrobust.convex.network import Lifted
from fedrobust.convex.problem import Problem
from fedrobust.convex.solvers.first_order import solve_first_order
from fedrobust.errors import ConfigError
from fedrobust.losses import margin
from fedrobust.models import ModelSpec, build_model
from fedrobust.models.polynomial import worst_images
from fedrobust.objectives import make_objective

MEAN = 0.4


def model_of(num_classes: int = 2, seed: int = 0) -> nn.Module:
    model = build_model(
        ModelSpec(
            "polynomial",
            num_classes=num_classes,
            image_shape=(1, 2, 3),
            mean=(MEAN,),
            std=(0.3,),
            activation="polynomial",
        ),
        generator_seed=seed,
    )
    with torch.no_grad():
        for root in model.parameters():
            root.mul_(2)
    return model


def lifted_of(model: nn.Module) -> Lifted:
    return Lifted(*model.state_dict().values())


def images(count: int = 24, num_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Images with a bright spot that depends on the class."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % num_classes
    x = 0.7 * torch.rand(count, 1, 2, 3, generator=generator)
    x.view(count, 6)[torch.arange(count), y] += 0.3
    return x, y


@pytest.mark.parametrize("num_classes", [2, 4])
def test_no_point_of_the_ball_is_worse_than_the_worst_image(num_classes: int) -> None:
    model, (x, y) = model_of(num_classes), images(num_classes=num_classes)
    worst = worst_images(model, x, y, radius=0.3)
    assert (worst - x).flatten(1).norm(dim=1).max() < 0.3 + 1e-9
    least = -margin(model(worst), y)
    lifted = lifted_of(model)
    torch.testing.assert_close(least, l2_margins(lifted, x.double().flatten(1) - MEAN, y, 0.3), rtol=1e-6, atol=1e-7)
    moves = torch.randn(200, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moves = 0.3 * moves / moves.flatten(2).norm(dim=2)[..., None, None, None]
    for move in moves:
        assert (-margin(model(x + move), y) >= least - 1e-9).all()
    generator = torch.Generator().manual_seed(3)
    attacked = pgd(model, x, y, epsilon=0.3, step_size=0.05, steps=20, norm="l2", loss=margin, generator=generator)
    assert (-margin(model(attacked), y) >= least - 1e-6).all()
    assert torch.equal(worst_images(model, x, y, radius=0.0), x.double())


def test_the_loss_is_the_programmes() -> None:
    model, (x, y) = model_of(), images()
    problem = Problem(x.double().flatten(1) - MEAN, y, radius=0.2, beta=0.05)
    step = make_objective("convex", epsilon=0.2)(model, x, y)
    lifted = lifted_of(model)
    expected = problem.objective(lifted) - 0.05 * lifted.path_norm.item()
    assert step.loss.item() == pytest.approx(expected, rel=1e-6)
    assert step.natural_logits is not None
    torch.testing.assert_close(step.natural_logits, model(x).detach().float())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_its_gradient_is_that_of_finite_differences(num_classes: int) -> None:
    model, (x, y) = model_of(num_classes), images(num_classes=num_classes)
    objective = make_objective("convex", epsilon=0.2)
    step = objective(model, x, y)
    roots = list(model.parameters())
    gradients = torch.autograd.grad(step.loss, roots)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        along = [torch.randn(root.shape, generator=generator, dtype=root.dtype) for root in roots]
        found = []
        for move in (1e-5, -2e-5):
            with torch.no_grad():
                for root, direction in zip(roots, along, strict=True):
                    root.add_(direction, alpha=move)
            found.append(objective(model, x, y).loss.item())
        slope = (found[0] - found[1]) / 2e-5
        with torch.no_grad():
            for root, direction in zip(roots, along, strict=True):
                root.add_(direction, alpha=1e-5)
        exact = sum((g * d).sum() for g, d in zip(gradients, along, strict=True))
        assert slope == pytest.approx(float(exact), rel=1e-5, abs=1e-7)


def test_gradient_steps_come_to_the_certified_optimum() -> None:
    model, (x, y) = model_of(), images()
    problem = Problem(x.double().flatten(1) - MEAN, y, radius=0.1, beta=0.02)
    best = solve_first_order(problem)
    objective = make_objective("convex", epsilon=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        objective(model, x, y).loss.backward()
        optimizer.step()
    reached = problem.objective(lifted_of(model))
    assert best.lower_bound <= reached < 1.02 * best.objective


def test_it_leaves_no_trace_and_epsilon_zero_is_the_hinge() -> None:
    model, (x, y) = model_of().train(), images()
    before = torch.get_rng_state()
    step = make_objective("convex", epsilon=0.0)(model, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(root.grad is None for root in model.parameters())
    torch.testing.assert_close(step.loss, (1 + margin(model(x.double()), y)).clamp(min=0).mean())


def test_other_models_and_weights_that_are_not_finite_are_refused() -> None:
    x, y = images()
    with pytest.raises(ConfigError, match=r"Flatten: has no exact worst case; only model.name polynomial has"):
        worst_images(nn.Flatten(), x, y, radius=0.1)
    with pytest.raises(ValueError, match="objective 'convex' needs epsilon"):
        make_objective("convex")
    model = model_of()
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="training diverged"):
        make_objective("convex", epsilon=0.1)(model, x, y)


@pytest.mark.parametrize("name", ["at", "trades"])
def test_the_usual_objectives_train_it_too(name: str) -> None:
    model, (x, y) = model_of(), images()
    attack = partial(pgd, epsilon=0.1, step_size=0.05, steps=3, norm="l2", random_start="gaussian")
    objective = make_objective(name, attack=attack)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for _ in range(30):
        step = objective(model, x, y, torch.Generator().manual_seed(0))
        losses.append(step.loss.item())
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
