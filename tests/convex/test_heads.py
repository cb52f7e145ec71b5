"""Heads: what is replaced, what stays, and SAM's limit case."""

import copy

import pytest
import torch
from torch import nn

from fedrobust.config import Model
from fedrobust.convex.network import PolynomialNetwork
from fedrobust.convex_study.heads import linear_distances, projection_of, raw_features, sam_head, with_head
from fedrobust.data import load
from fedrobust.data.device import on_device
from fedrobust.errors import ConfigError
from fedrobust.evaluation.last_layer import last_linear
from fedrobust.models import ModelSpec, build_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    dataset = load("digits")
    return build_model(ModelSpec.of(Model(name="small-cnn"), dataset), generator_seed=0).eval()


def test_features_are_what_the_last_layer_sees(model: nn.Module) -> None:
    data, index = on_device(load("digits"), "train", "cpu"), torch.arange(40)
    raw = raw_features(model, data, index, batch_size=15)
    assert torch.allclose(last_linear(model)[1](raw), model(data.batch(index)[0]), atol=1e-5)
    # hooks are gone
    assert not last_linear(model)[1]._forward_pre_hooks


def test_a_head_takes_the_last_layers_place_in_a_copy(model: nn.Module) -> None:
    data, index = on_device(load("digits"), "train", "cpu"), torch.arange(40)
    x, y = data.batch(index)
    before = model(x)
    raw = raw_features(model, data, index)
    projection = projection_of(last_linear(model)[1], raw, y, 5)
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(7, 9 + 5, generator=generator))
    network = PolynomialNetwork(unit, torch.randn(10, 7, generator=generator))
    whole = with_head(model, nn.Sequential(projection, network))
    assert not whole.training
    assert torch.allclose(whole(x), network(projection(raw)), atol=1e-4)
    assert torch.equal(model(x), before)
    # no two images are further apart behind the projection than scale allows
    found = projection(raw).double()
    assert (torch.cdist(found, found) <= torch.cdist(raw.double(), raw.double()) / projection.scale + 1e-3).all()


def test_the_projection_keeps_what_the_last_layer_sees(model: nn.Module) -> None:
    data, index = on_device(load("digits"), "train", "cpu"), torch.arange(200)
    raw, y = raw_features(model, data, index), data.batch(index)[1]
    head = last_linear(model)[1]
    projection = projection_of(head, raw, y, 0)
    assert projection.basis.shape == (raw.shape[1], 9)
    # differences of logits are those of the features back from the projection
    back = projection(raw) * projection.scale @ projection.basis.T + projection.centre
    differences = [head(z) - head(z).mean(1, keepdim=True) for z in (raw, back)]
    assert torch.allclose(*differences, atol=1e-4)


def test_distances_of_a_linear_head_are_where_its_prediction_changes(model: nn.Module) -> None:
    data, index = on_device(load("digits"), "train", "cpu"), torch.arange(300)
    raw, y = raw_features(model, data, index).double(), data.batch(index)[1]
    head = copy.deepcopy(last_linear(model)[1]).double()
    distance = linear_distances(head, raw, y)
    right = head(raw).argmax(1) == y
    assert torch.equal(distance > 0, right)
    assert right.any()
    # the step to the nearest boundary, and a little more and less
    reached = torch.zeros_like(right)
    for rival in range(10):
        direction = head.weight[rival] - head.weight[y]
        unit = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-12)
        inside, outside = (head(raw + share * distance[:, None] * unit).argmax(1) for share in (0.999, 1.001))
        assert (inside == y)[right].all()
        reached |= outside != y
    assert reached[right].all()


def test_sam_without_radius_is_sgd(model: nn.Module) -> None:
    data, index = on_device(load("digits"), "train", "cpu"), torch.arange(100)
    raw, y = raw_features(model, data, index), data.batch(index)[1]

    def loss(head: nn.Module) -> float:
        return nn.functional.cross_entropy(head(raw), y).item()

    plain = sam_head(model, raw, y, rho=0.0, epochs=1)
    expected = nn.Linear(raw.shape[1], 10)
    expected.load_state_dict(last_linear(model)[1].state_dict())
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.01, momentum=0.9)
    nn.functional.cross_entropy(expected(raw), y).backward()
    optimizer.step()
    assert torch.allclose(plain.weight, expected.weight, atol=1e-6)
    assert loss(sam_head(model, raw, y, rho=0.05)) < loss(last_linear(model)[1])


def test_no_linear_layer_and_too_many_components_are_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(1, 1, 3)))
    head = nn.Linear(64, 10)
    raw = torch.randn(20, 64)
    y = head(raw).argmax(1)
    with pytest.raises(ConfigError, match="50 components: 20 images allow at most 11"):
        projection_of(head, raw, y, 50)
    with pytest.raises(ConfigError, match="classifies no training image correctly"):
        projection_of(head, raw, (y + 1) % 10, 0)
