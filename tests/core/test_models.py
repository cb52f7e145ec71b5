"""Models: sizes, seeds, first layer, shapes."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.models import MODELS, build_model
from fedrobust.models.normalisation import Normalisation

CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.2, 0.3)}
DIGITS = {"num_classes": 10, "image_shape": (1, 8, 8), "mean": (0.3,), "std": (0.4,)}
SHAPES = {"calfat-cnn": CIFAR, "resnet18": CIFAR, "small-cnn": DIGITS}


def built(name: str, seed: int = 0) -> nn.Module:
    return build_model(name, generator_seed=seed, **SHAPES[name])


def images(name: str, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, *SHAPES[name]["image_shape"], generator=torch.Generator().manual_seed(0))


def test_every_model_is_tested() -> None:
    assert set(SHAPES) == set(MODELS)


@pytest.mark.parametrize(("name", "count"), [("calfat-cnn", 319_242), ("resnet18", 11_173_962), ("small-cnn", 21_386)])
def test_number_of_parameters(name: str, count: int) -> None:
    assert sum(p.numel() for p in built(name).parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_seeds_reproduce_and_the_global_random_state_stays(name: str) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    a, b, other = built(name, 1), built(name, 1), built(name, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_deterministic_in_eval_mode(name: str) -> None:
    model, x = built(name).eval(), images(name)
    with torch.no_grad():
        first, second = model(x), model(x)
    assert first.shape == (3, 10)
    assert torch.equal(first, second)


def relu_before_pool(model: nn.Module) -> nn.Module:
    """The same layers in the order of the official code."""
    layers = list(model.children())
    for at, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.MaxPool2d) and isinstance(second, nn.ReLU):
            layers[at : at + 2] = second, first
    return nn.Sequential(*(relu_before_pool(layer) if isinstance(layer, nn.Sequential) else layer for layer in layers))


@pytest.mark.parametrize("name", ["calfat-cnn", "small-cnn"])
def test_pooling_before_relu_changes_no_bit(name: str) -> None:
    model, x = built(name), images(name).requires_grad_()
    usual = relu_before_pool(model)
    assert [type(layer) for layer in usual.modules()] != [type(layer) for layer in model.modules()]
    results = []
    for network in (model, usual):
        logits = network(x)
        results.append((logits, *torch.autograd.grad(logits.logsumexp(1).sum(), [x, *model.parameters()])))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_resnet18_is_torchvisions_but_for_the_stem() -> None:
    from torchvision.models import resnet18

    ours, theirs = built("resnet18").train().get_submodule("network"), resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    theirs.load_state_dict(ours.state_dict())
    x = images("resnet18")
    assert torch.equal(ours(x), theirs.train()(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.get_parameter("layer1.0.conv1.weight").std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_mean_and_std_are_in_no_state_dict(name: str) -> None:
    model = built(name)
    assert not {"mean", "std"} & {key.rsplit(".", 1)[-1] for key in model.state_dict()}
    assert name == "calfat-cnn" or isinstance(next(model.children()), Normalisation)


def test_normalisation() -> None:
    layer = Normalisation((0.5, 0.2), (0.5, 0.1))
    x = torch.rand(4, 2, 3, 3).to(memory_format=torch.channels_last)
    out = layer(x)
    torch.testing.assert_close(out[:, 0], (x[:, 0] - 0.5) / 0.5)
    torch.testing.assert_close(out[:, 1], (x[:, 1] - 0.2) / 0.1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not layer.state_dict()
    assert {name for name, _ in layer.named_buffers()} == {"mean", "std"}
    with pytest.raises(ValueError, match="positive std"):
        Normalisation((0.5,), (0.0,))


def test_calfat_cnn_takes_raw_pixels() -> None:
    a = built("calfat-cnn").eval()
    b = build_model("calfat-cnn", generator_seed=0, **{**CIFAR, "mean": (0, 0, 0), "std": (1, 1, 1)}).eval()
    with torch.no_grad():
        assert torch.equal(a(images("calfat-cnn")), b(images("calfat-cnn")))


@pytest.mark.parametrize(
    ("name", "shape"), [("calfat-cnn", (3, 17, 32)), ("resnet18", (3, 7, 7)), ("small-cnn", (3, 3, 8))]
)
def test_images_that_do_not_fit(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"^{name} needs images of .* not {shape[1]}×{shape[2]}$"):
        build_model(name, generator_seed=0, **{**CIFAR, "image_shape": shape})


def test_smallest_images() -> None:
    for name, shape in (("calfat-cnn", (3, 18, 18)), ("resnet18", (3, 8, 8)), ("small-cnn", (3, 4, 5))):
        model = build_model(name, generator_seed=0, **{**CIFAR, "image_shape": shape}).eval()
        assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 channels want as many means and stds, not 1 and 1"):
        build_model("calfat-cnn", generator_seed=0, **{**CIFAR, "mean": (0.5,), "std": (0.5,)})
    with pytest.raises(ValueError, match="at least 2 classes"):
        build_model("calfat-cnn", generator_seed=0, **{**CIFAR, "num_classes": 1})
    with pytest.raises(ConfigError, match="unknown model 'resnet81'; did you mean 'resnet18'"):
        build_model("resnet81", generator_seed=0, **CIFAR)
