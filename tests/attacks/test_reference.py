"""APGD, FAB and Square against what the public code finds on a small network, image by image, from the same starts."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import apgd, fab, square
from fedrobust.attacks.apgd import checkpoints
from fedrobust.attacks.ball import ORDERS, Ball, image_norm
from fedrobust.losses import cross_entropy, targeted_dlr

from .reference.make import CHECKED, FAB, FILE, RANK, STEPS, network

NORMS = ["linf", "l2"]
RANKS = [0, RANK]
STEADY = {"linf": 100, "l2": 75}  # losses before rounding decides, at the top, which steps raise


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    with np.load(FILE) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def problem(stored: dict[str, Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    model = network()
    model.load_state_dict({key.removeprefix("weights/"): v for key, v in stored.items() if key.startswith("weights/")})
    return model, stored["x"], stored["y"]


@pytest.fixture
def from_start(stored: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let attacks begin at the stored start of these images (positions)."""

    def patch(norm: str, images: Tensor | slice = slice(None)) -> None:
        monkeypatch.setattr(Ball, "start", lambda *_: stored[f"{norm}/start"][images].clone())

    return patch


def test_the_fixture_is_small() -> None:
    assert FILE.stat().st_size < 200_000


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_breaks_the_same_images_and_gets_as_far_with_the_rest(
    problem: Any, stored: Any, from_start: Any, norm: Any, rank: int
) -> None:
    """Broken images leave at their first misclassified point here, so that theirs need not be the same."""
    model, x, y = problem
    public = {key: stored[f"{norm}/apgd-{rank}/{key}"] for key in ("broken", "loss", "best")}
    epsilon, stands = stored[f"{norm}/epsilon"].item(), ~public["broken"]
    assert 3 <= stands.sum() <= len(x) - 3
    from_start(norm)
    x_adv = apgd(model, x, y, epsilon=epsilon, norm=norm, steps=STEPS["apgd"], target_rank=rank)
    assert torch.equal(model(x_adv).argmax(1) == y, stands)
    reached = loss_of(model(x), y, rank)(model(x_adv))
    torch.testing.assert_close(reached[stands], public["loss"][stands], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x_adv[stands], public["best"][stands], rtol=0, atol=1e-2)


@pytest.mark.parametrize("steps", CHECKED)
def test_apgd_looks_at_its_step_size_after_the_same_steps(stored: Any, steps: int) -> None:
    assert list(checkpoints(steps)) == stored[f"checkpoints/{steps}"].tolist()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_goes_the_same_way_step_by_step(
    problem: Any, stored: Any, from_start: Any, monkeypatch: pytest.MonkeyPatch, norm: Any, rank: int
) -> None:
    """Step sizes, when they are halved, and momentum are seen in the loss after each step."""
    model, x, y = problem
    stands = (~stored[f"{norm}/apgd-{rank}/broken"]).nonzero().squeeze(1)
    expected, seen = stored[f"{norm}/apgd-{rank}/losses"][: STEADY[norm], stands], []
    module = import_module("fedrobust.attacks.apgd")
    if rank:
        raised = module._towards_target
        monkeypatch.setattr(module, "_towards_target", lambda *a: noted(seen, raised(*a)))
    from_start(norm, stands)
    epsilon = stored[f"{norm}/epsilon"].item()
    settings: Any = {"epsilon": epsilon, "norm": norm, "steps": STEPS["apgd"], "target_rank": rank}
    apgd(model, x[stands], y[stands], loss=lambda *a: noted(seen, cross_entropy(*a)), **settings)
    torch.testing.assert_close(torch.stack(seen)[: len(expected)], expected, rtol=2e-4, atol=2e-4)


def noted(seen: list[Tensor], value: Tensor) -> Tensor:
    seen.append(value.detach())
    return value


def loss_of(clean: Tensor, y: Tensor, rank: int) -> Any:
    target = clean.sort(dim=1).indices[:, -1 - rank]
    return lambda logits: targeted_dlr(logits, y, target) if rank else cross_entropy(logits, y)


@pytest.mark.parametrize("number", range(len(FAB)))
@pytest.mark.parametrize("norm", NORMS)
def test_fab_finds_the_same_points(
    problem: Any, stored: Any, monkeypatch: pytest.MonkeyPatch, norm: Any, number: int
) -> None:
    """Nothing lies within this epsilon: no image leaves early, and the nearest points would be projected."""
    model, x, y = problem
    expected, (rank, settings) = stored[f"{norm}/fab/{number}"], FAB[number]
    monkeypatch.setattr(Ball, "enclose", lambda _, x_adv: x_adv)
    found = fab(model, x, y, epsilon=1e-6, norm=norm, steps=STEPS["fab"], target_rank=rank, **settings)
    assert (model(found).argmax(1) != y).sum() > len(x) - 4
    distances = (image_norm(points - x, ORDERS[norm]) for points in (found, expected))
    torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_breaks_what_the_public_code_breaks_within_epsilon(problem: Any, stored: Any, norm: Any) -> None:
    model, x, y = problem
    distances = image_norm(stored[f"{norm}/fab/1"] - x, ORDERS[norm])
    epsilon = distances.median().item() * 1.001
    x_adv = fab(model, x, y, epsilon=epsilon, norm=norm, steps=STEPS["fab"], target_rank=RANK)
    assert torch.equal(model(x_adv).argmax(1) != y, distances <= epsilon)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("queries", [5000, 100])
def test_square_takes_the_same_sides(
    stored: Any, seeded: Any, monkeypatch: pytest.MonkeyPatch, queries: int, rescale: bool
) -> None:
    """The side of each query's square, in an image that is large enough to tell all of them apart."""
    side, module, seen = 64, import_module("fedrobust.attacks.square"), []

    def note(x_best: Tensor, clean: Tensor, epsilon: float, sign: Tensor, at: tuple[slice, slice]) -> Tensor:
        seen.append([window.stop - window.start for window in at])
        return x_best

    monkeypatch.setattr(module, "_square", note)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 2)).requires_grad_(False)
    nn.init.zeros_(sure[1].weight)
    sure[1].bias[:] = torch.tensor([1.0, 0.0])
    x = torch.full((1, 1, side, side), 0.5)
    square(sure, x, torch.tensor([0]), epsilon=0.1, queries=queries, rescale=rescale, generator=seeded())
    shares = stored[f"square/{queries}/{rescale}"].double()
    expected = (shares * side * side).sqrt().round().clamp(1, side).long()
    assert seen == [[value, value] for value in expected.tolist()]
