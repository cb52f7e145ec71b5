"""Heads: what is replaced, what stays, and SAM's limit case."""

import pytest
import torch
from torch import nn

from fedrobust.convex.heads import last_linear, projected, raw_features, sam_head, with_head
from fedrobust.convex.network import PolynomialNetwork
from fedrobust.data import load
from fedrobust.data.device import on_device
from fedrobust.errors import ConfigError
from fedrobust.models import build_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    dataset = load("digits")
    settings = {"num_classes": 10, "image_shape": dataset.image_shape, "mean": dataset.mean, "std": dataset.std}
    return build_model("small-cnn", generator_seed=0, **settings).eval()


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
    features = projected(raw_features(model, data, index), y, 5)
    assert features.x.square().mean().item() == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(7, 5, generator=generator))
    network = PolynomialNetwork(unit, torch.randn(10, 7, generator=generator))
    whole = with_head(model, nn.Sequential(features.projection, network))
    assert not whole.training
    assert torch.allclose(whole(x), network(features.x.float()), atol=1e-4)
    assert torch.equal(model(x), before)
    # no two images are further apart behind the projection than scale allows
    raw = raw_features(model, data, index)
    assert (torch.cdist(features.x, features.x) <= torch.cdist(raw, raw) / features.projection.scale + 1e-3).all()


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
    with pytest.raises(ConfigError, match="--components 50: must be 1 to 20"):
        projected(torch.randn(20, 64), torch.zeros(20), 50)
