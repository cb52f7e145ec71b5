"""A trained network's last linear layer replaced by a two-layer head, trained on its features by a convex programme.

The features are the input of the last linear layer. A certificate of the head holds in feature space: in pixels only
for the radius divided by the extractor's Lipschitz constant, which is not known here. So heads are judged by attacks on
the pixels of the whole network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrobust.attacks import attack_mode
from fedrobust.data.device import DeviceImages
from fedrobust.errors import ConfigError
from fedrobust.evaluation.last_layer import features, last_linear
from fedrobust.seeding import torch_stream


class Projection(nn.Module):
    """The map (z − centre) · basis / scale: features [B, D] → [B, d]. The columns of `basis` [D, d] are orthonormal.

    An l2 radius r after the map is r · scale before it: no two points are closer there.
    """

    centre: Tensor
    basis: Tensor

    def __init__(self, centre: Tensor, basis: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("basis", basis)
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.centre) @ self.basis / self.scale


@torch.no_grad()
def raw_features(model: nn.Module, data: DeviceImages, index: Tensor, batch_size: int = 500) -> Tensor:
    """Return the input of the last linear layer of `model` in eval mode, [n, D] in float32."""
    with attack_mode(model, "eval"):
        return torch.cat([features(model, data.batch(chosen)[0]) for chosen in index.split(batch_size)])


@torch.no_grad()
def linear_distances(head: nn.Linear, raw: Tensor, y: Tensor) -> Tensor:
    """Return the l2 distance of features [n, D] to the nearest that `head` does not classify as y, exact, [n]; 0 if it
    is wrong.

    The distance is min_k (f_y − f_k)₊ / ‖w_y − w_k‖₂ over rivals k.
    """
    logits, weight = head(raw).double(), head.weight.double()
    ahead = (logits.gather(1, y[:, None]) - logits).clamp(min=0)
    slope = torch.linalg.vector_norm(weight[y][:, None] - weight, dim=2)
    return (ahead / slope).scatter(1, y[:, None], torch.inf).amin(1)


@torch.no_grad()
def projection_of(head: nn.Linear, raw: Tensor, y: Tensor, components: int) -> Projection:
    """Return the projection to train a head on: the span of the last layer's rows, and principal components of the
    rest.

    So a linear head that ranks classes as `head` does is among those that can be found. The rows count as differences
    from their mean, K − 1 dimensions. The scale is the median distance of features to the decision boundary of `head`,
    over those it classifies correctly: within a radius of 1 half of them were robust before.

    Args:
        raw: features [n, D], labels y [n].
        components: number of principal components.

    Raises:
        ConfigError: more components than there are; a head that classifies no image correctly.
    """
    distances = linear_distances(head, raw, y)
    if not (distances > 0).any():
        raise ConfigError("the model classifies no training image correctly, so its features have no scale")
    weight, double = head.weight.double(), raw.double()
    _, sizes, rows = torch.linalg.svd(weight - weight.mean(0), full_matrices=False)
    basis = rows[sizes > 1e-6 * sizes[0]].T
    most = min(raw.shape) - basis.shape[1]
    if components > most:
        raise ConfigError(
            f"{components} components: {len(raw)} images allow at most {most} besides the head's own rows"
        )
    centre = double.mean(0)
    if components:
        rest = double - centre
        rest = rest - rest @ basis @ basis.T
        basis = torch.cat([basis, torch.linalg.svd(rest, full_matrices=False)[2][:components].T], 1)
    return Projection(centre.float(), basis.float(), float(distances[distances > 0].median()))


def with_head(model: nn.Module, head: nn.Module) -> nn.Module:
    """Return a copy of the whole network, pixels to logits, in eval mode, with `head` in place of its last linear
    layer.
    """
    whole = copy.deepcopy(model)
    name, _ = last_linear(whole)
    parent, _, leaf = name.rpartition(".")
    setattr(whole.get_submodule(parent), leaf, head)
    return whole.eval()


def sam_head(
    model: nn.Module, raw: Tensor, y: Tensor, *, rho: float = 0.05, epochs: int = 20, rate: float = 0.01, seed: int = 0
) -> nn.Linear:
    """Fine-tune the last linear layer on features by sharpness-aware minimisation (Foret et al. 2021, algorithm 1).

    w ← w − η ∇L(w + ρ ∇L(w)/‖∇L(w)‖₂), batches of 128, momentum 0.9, on the cross-entropy of the features as they are.
    """
    head = copy.deepcopy(last_linear(model)[1])
    parameters = list(head.parameters())
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    generator = torch_stream(seed, "convex", "sam")
    for chosen in _batches(len(raw), epochs, generator):
        x, target = raw[chosen], y[chosen]
        gradients = torch.autograd.grad(F.cross_entropy(head(x), target), parameters)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().clamp(min=1e-12)
        with torch.no_grad():
            moves = [rho * gradient / norm for gradient in gradients]
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.add_(move)
        optimizer.zero_grad()
        F.cross_entropy(head(x), target).backward()
        with torch.no_grad():
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.sub_(move)
        optimizer.step()
    return head


def _batches(size: int, epochs: int, generator: torch.Generator, batch_size: int = 128) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(size, generator=generator).split(batch_size)
