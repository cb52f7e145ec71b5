"""What the tests of attacks share: seeded noise, linear models, and one small trained network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedrobust.losses import cross_entropy

Problem = tuple[nn.Module, Tensor, Tensor]


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def seeded() -> Callable[..., torch.Generator]:
    return _seeded


@pytest.fixture(scope="session")
def linear() -> Callable[..., Problem]:
    """A linear model of so many classes, grey images of 2 × 3 × 4 pixels, and labels that it gets right."""

    def make(classes: int = 5, images: int = 12) -> Problem:
        head = nn.Linear(24, classes)
        nn.init.normal_(head.weight, generator=_seeded(1))
        nn.init.zeros_(head.bias)
        model = nn.Sequential(nn.Flatten(), head).requires_grad_(False)
        x = 0.5 + 0.02 * torch.randn(images, 2, 3, 4, generator=_seeded(2))
        return model, x, model(x).argmax(1)

    return make


@pytest.fixture(scope="session")
def distances() -> Callable[[Problem, float], Tensor]:
    """Of a linear model: distance of each image to the boundary with every other class, [B, K − 1], increasing.

    Argument: the order of the dual norm, 1 for l∞ and 2 for l2.
    """

    def measure(problem: Problem, dual: float) -> Tensor:
        model, x, y = problem
        weight, logits = model[1].weight, model(x)  # type: ignore[index]
        gaps = logits.gather(1, y.unsqueeze(1)) - logits
        lengths = (weight[y].unsqueeze(1) - weight).norm(p=dual, dim=2)
        return (gaps / lengths.clamp(min=1e-9)).scatter(1, y.unsqueeze(1), torch.inf).sort(1).values[:, :-1]

    return measure


@pytest.fixture(scope="session")
def trained() -> Problem:
    """A small network that separates four overlapping blobs of images."""
    y = torch.arange(200) % 4
    centres = torch.rand(4, 36, generator=_seeded(3))
    x = (0.5 * centres[y] + 0.25 + 0.15 * torch.randn(200, 36, generator=_seeded(4))).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(36, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimiser.step()
    return model.eval(), x, y
