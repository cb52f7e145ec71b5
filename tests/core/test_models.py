"""Models: sizes, seeds, first layer, shapes."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.models import MODELS, ModelSpec, build_model
from fedrobust.models.layers import Normalisation
from fedrobust.models.preact import PreActBlock

CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.2, 0.3)}
DIGITS = {"num_classes": 10, "image_shape": (1, 8, 8), "mean": (0.3,), "std": (0.4,)}
SHAPES = {name: DIGITS if name in ("polynomial", "small-cnn") else CIFAR for name in MODELS}
PARAMETERS = {
    "calfat-cnn": 319_242,
    "efficientnet-b0": 4_020_358,
    "polynomial": 84_500,
    "preact-resnet18": 11_172_170,
    "resnet18": 11_173_962,
    "resnet18-imagenet": 11_181_642,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "small-cnn": 21_386,
    "wrn-28-10": 36_479_194,
    "wrn-34-10": 46_160_474,
}
# slow, and of the same make as others
LARGE = ("resnet34", "resnet50", "wrn-28-10", "wrn-34-10")
LIGHT = [name for name in MODELS if name not in LARGE]


def built(name: str, seed: int = 0) -> nn.Module:
    return build_model(ModelSpec(name, **SHAPES[name]), generator_seed=seed)


def images(name: str, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, *SHAPES[name]["image_shape"], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters_and_what_is_in_no_state_dict(name: str) -> None:
    model = built(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert not {"mean", "std"} & {key.rsplit(".", 1)[-1] for key in model.state_dict()}
    assert name == "calfat-cnn" or isinstance(next(model.children()), Normalisation)


@pytest.mark.parametrize("name", LIGHT)
def test_seeds_reproduce_and_the_global_random_state_stays(name: str) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    a, b, other = built(name, 1), built(name, 1), built(name, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", LIGHT)
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


@pytest.mark.parametrize("name", ["resnet18", "resnet18-imagenet", "resnet34", "resnet50"])
def test_resnets_are_torchvisions_but_for_the_stem(name: str) -> None:
    import torchvision.models

    ours = built(name).train().get_submodule("network")
    theirs = getattr(torchvision.models, name.removesuffix("-imagenet"))(num_classes=10)
    if not name.endswith("-imagenet"):
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = images(name)
    assert torch.equal(ours(x), theirs.train()(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.get_parameter("layer1.0.conv1.weight").std().item() == pytest.approx(
        (2 / ours.get_parameter("layer1.0.conv1.weight")[:, 0].numel()) ** 0.5, rel=0.05
    )


def test_efficientnet_is_torchvisions_but_for_two_strides_and_the_activation() -> None:
    from torchvision.models import efficientnet_b0

    ours = built("efficientnet-b0").eval().get_submodule("network")
    theirs = efficientnet_b0(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    assert not any(isinstance(module, nn.SiLU) for module in ours.modules())
    x, sizes = images("efficientnet-b0"), []
    ours.get_submodule("features").register_forward_hook(lambda *found: sizes.append(found[-1].shape))
    with torch.no_grad():
        assert not torch.equal(ours(x), theirs(x))
        for name in ("features.0.0", "features.2.0.block.1.0"):
            theirs.get_submodule(name).stride = (1, 1)  # type: ignore[assignment]
        silu = build_model(ModelSpec("efficientnet-b0", activation="silu", **CIFAR), generator_seed=0).eval()
        theirs.load_state_dict(silu.get_submodule("network").state_dict())
        assert torch.equal(silu.get_submodule("network")(x), theirs(x))
    assert sizes == [(3, 1280, 4, 4)]


def test_preact_blocks_activate_first_and_their_shortcut_sees_what_was_activated() -> None:
    block = PreActBlock(4, 8, 2, nn.ReLU).eval()
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    active = torch.relu(block.bn1(x))
    residual = block.conv2(torch.relu(block.bn2(block.conv1(active))))
    assert block.shortcut is not None
    torch.testing.assert_close(block(x), residual + block.shortcut(active))
    same = PreActBlock(4, 4, 1, nn.ReLU).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x)


@pytest.mark.parametrize(("name", "blocks"), [("preact-resnet18", 8), ("wrn-28-10", 12), ("wrn-34-10", 15)])
def test_preact_networks_have_their_depth(name: str, blocks: int) -> None:
    """WRN-d has (d − 4) / 6 blocks in each of three stages."""
    assert sum(isinstance(module, PreActBlock) for module in built(name).modules()) == blocks


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
    b = build_model(ModelSpec("calfat-cnn", **{**CIFAR, "mean": (0, 0, 0), "std": (1, 1, 1)}), generator_seed=0).eval()
    with torch.no_grad():
        assert torch.equal(a(images("calfat-cnn")), b(images("calfat-cnn")))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("calfat-cnn", (3, 17, 32)),
        ("efficientnet-b0", (3, 7, 8)),
        ("preact-resnet18", (3, 7, 7)),
        ("resnet18", (3, 7, 7)),
        ("resnet18-imagenet", (3, 31, 32)),
        ("small-cnn", (3, 3, 8)),
        ("wrn-28-10", (3, 3, 3)),
    ],
)
def test_images_that_do_not_fit(name: str, shape: tuple[int, int, int]) -> None:
    line = f"^model {name}: needs images of .* not {shape[1]}×{shape[2]}; set model.input-size"
    with pytest.raises(ConfigError, match=line):
        build_model(ModelSpec(name, **{**CIFAR, "image_shape": shape}), generator_seed=0)


def test_smallest_images() -> None:
    smallest = {"calfat-cnn": (3, 18, 18), "efficientnet-b0": (3, 8, 8), "preact-resnet18": (3, 8, 8)}
    smallest |= {"resnet18": (3, 8, 8), "resnet18-imagenet": (3, 32, 32), "small-cnn": (3, 4, 5)}
    for name, shape in smallest.items():
        model = build_model(ModelSpec(name, **{**CIFAR, "image_shape": shape}), generator_seed=0).eval()
        assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_a_resized_input_is_that_of_the_same_model_on_larger_images() -> None:
    small, large = (build_model(ModelSpec("small-cnn", input_size=size, **CIFAR), generator_seed=0) for size in (0, 48))
    x = images("calfat-cnn")
    enlarged = torch.nn.functional.interpolate(x, (48, 48), mode="bilinear")
    assert torch.equal(large(x), large.get_submodule("model")(enlarged))
    assert large(x).shape == small(x).shape
    convolutions = (model.state_dict() for model in (small, large))
    first, second = ([v for k, v in state.items() if k.endswith("conv1.weight")] for state in convolutions)
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [("resnet18", 0.25, 701_466), ("preact-resnet18", 0.5, 2_796_714), ("resnet50", 0.125, 375_762)],
)
def test_a_width_is_times_as_many_channels_everywhere(name: str, width: float, parameters: int) -> None:
    model = build_model(ModelSpec(name, width=width, **CIFAR), generator_seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    ours, usual = (
        [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)] for network in (model, built(name))
    )
    assert ours == [width * channels for channels in usual]
    assert model(images(name)).shape == (3, 10)


def test_a_width_of_one_is_the_network_itself() -> None:
    one = build_model(ModelSpec("resnet18", width=1.0, **CIFAR), generator_seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), built("resnet18").parameters(), strict=True))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^model\.width = 0\.5: the width of small-cnn is fixed; models with a variable one: .*resnet18",
    ):
        build_model(ModelSpec("small-cnn", width=0.5, **CIFAR), generator_seed=0)
    with pytest.raises(ValueError, match="3 channels need as many means and stds, not 1 and 1"):
        build_model(ModelSpec("calfat-cnn", **{**CIFAR, "mean": (0.5,), "std": (0.5,)}), generator_seed=0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        build_model(ModelSpec("calfat-cnn", **{**CIFAR, "num_classes": 1}), generator_seed=0)
    with pytest.raises(ConfigError, match="unknown model 'resnet81'; did you mean 'resnet18'"):
        build_model(ModelSpec("resnet81", **CIFAR), generator_seed=0)
