"""The binarisation test: does the attack find an adversarial example that is known to exist?

Zimmermann et al. 2022, "Increasing Confidence in Adversarial Robustness Evaluations".
For each image the last linear layer is replaced by a readout of two classes: it separates one planted point, on the
surface of the ball, from the image and many points inside the ball. So an adversarial example certainly exists, on the
features that the model itself computes. An attack that misses it is too weak for this model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrobust.attacks import pgd
from fedrobust.attacks.ball import ball_of
from fedrobust.data.device import DeviceImages
from fedrobust.evaluation.last_layer import features
from fedrobust.evaluation.suite import Threat
from fedrobust.losses import margin
from fedrobust.seeding import torch_stream

INNER_POINTS = 199  # beside the image itself
INNER = 0.5  # their radius over epsilon: between them and the planted point there is room for the boundary
CLOSE = 0.9  # how far of the way from the highest inner score to the planted one the boundary lies: near is hard
RIDGE = 1e-3  # of the readout, relative to the mean square of the features


@dataclass(frozen=True)
class Planted:
    """Shares of `num_images`; images whose readout separates nothing are left out of it.

    `found`: share of planted examples that the attack found. `by_chance`: share found by as many random points as one
    start of the attack takes steps; if this is high, the test has little meaning.
    """

    num_images: int
    found: float
    by_chance: float


class Readout(nn.Module):
    """The logits (−s, s) with s = w_i · φ(x_i) − b_i for the i-th image of the batch: class 1 is the planted one."""

    def __init__(self, model: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self._model, self._weight, self._bias = model, weight, bias

    def of(self, images: Tensor) -> Readout:
        """Return the readout for some of the images."""
        return Readout(self._model, self._weight[images], self._bias[images])

    def forward(self, x: Tensor) -> Tensor:
        score = (features(self._model, x) * self._weight).sum(1) - self._bias
        return torch.stack([-score, score], dim=1)


def planted_test(
    model: nn.Module,
    data: DeviceImages,
    index: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 20,
    batch_size: int,
    seed: int,
) -> Planted:
    """Plant one adversarial example for each image of `index`, and look for it by PGD on the margin.

    The attack is restarted up to `restarts` times for images whose example it has not found.

    Raises:
        ConfigError: the model has no linear layer.
    """
    tried, found, chance = 0, 0, 0
    for number, chosen in enumerate(index.to(data.device).split(batch_size)):
        x, _ = data.batch(chosen)
        generator = torch_stream(seed, "planted", number, device=data.device)
        readout, separates = _plant(model, x, threat, generator)
        lucky, ball = torch.zeros_like(separates), ball_of(threat.norm, x, threat.epsilon)
        with torch.no_grad():
            for _ in range(steps):
                lucky |= readout(ball.start("uniform", generator)).argmax(1) == 1
        chance += int((separates & lucky).sum())
        tried += int(separates.sum())
        left = separates.nonzero().flatten()
        for _ in range(restarts):
            if not len(left):
                break
            aim = readout.of(left)
            x_adv = pgd(
                aim,
                x[left],
                torch.zeros_like(left),
                epsilon=threat.epsilon,
                norm=threat.norm,
                steps=steps,
                step_size=threat.epsilon / 4,
                decay="linear",
                loss=margin,
                generator=generator,
            )
            with torch.no_grad():
                hit = aim(x_adv).argmax(1) == 1
            found += int(hit.sum())
            left = left[~hit]
    return Planted(tried, found / max(tried, 1), chance / max(tried, 1))


@torch.no_grad()
def _plant(model: nn.Module, x: Tensor, threat: Threat, generator: torch.Generator) -> tuple[Readout, Tensor]:
    """Return a readout per image, and a mask of those that separate."""
    inner = ball_of(threat.norm, x, INNER * threat.epsilon)
    outer = ball_of(threat.norm, x, threat.epsilon)
    direction = torch.randn(x.shape, generator=generator, device=x.device)
    planted = features(model, outer.step_(x.clone(), direction, threat.epsilon))
    points = [features(model, x), *(features(model, inner.start("uniform", generator)) for _ in range(INNER_POINTS))]
    inside = torch.stack(points, dim=1)  # [B, N, D]
    centre = inside.mean(1)
    spread = inside - centre.unsqueeze(1)
    # the ridge regression of "planted or not" on the features, by its dual: N is smaller than D
    gram = spread @ spread.transpose(1, 2)
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(gram.dtype).tiny)
    towards = planted - centre
    solved = torch.linalg.solve(
        gram + ridge.view(-1, 1, 1) * torch.eye(gram.shape[1], device=gram.device), spread @ towards.unsqueeze(2)
    )
    weight = towards - (spread.transpose(1, 2) @ solved).squeeze(2)
    highest = (inside * weight.unsqueeze(1)).sum(2).amax(1)
    score = (planted * weight).sum(1)
    scale = (score - highest).clamp(min=torch.finfo(score.dtype).tiny)
    weight, bias = weight / scale.unsqueeze(1), torch.lerp(highest, score, CLOSE) / scale
    return Readout(model, weight, bias), score > highest
