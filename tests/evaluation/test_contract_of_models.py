"""Models from elsewhere: what they may want is given, what they may do is refused in a line."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedrobust.data import Split
from fedrobust.data.device import DeviceImages
from fedrobust.errors import ConfigError
from fedrobust.evaluation.contract import admitted


def check(model, digits, images, **settings):
    return admitted(model, digits, images, torch.arange(100), **settings)


def test_a_model_under_the_contract_passes_as_it_is(model, digits, images):
    assert check(model, digits, images) is model
    assert model.get_submodule("network.conv1").weight.is_contiguous(memory_format=torch.channels_last)


def test_train_mode_is_refused_and_the_module_named(model, digits, images):
    model.get_submodule("network.conv1").train()
    with pytest.raises(ConfigError, match=r"train mode \(network.conv1\)"):
        check(model, digits, images)


@pytest.mark.parametrize("kind", ["normalised pixels", "pixels in 0..255"])
def test_other_pixels_are_refused(kind, model, digits, images):
    class Outside(nn.Module):
        """The model without its conversion: whoever calls it has converted already."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x * 0.05 + 0.9 if kind == "normalised pixels" else x / 255)

    with pytest.raises(ConfigError, match=f"expects {kind}.*first layer"):
        check(Outside().eval(), replace(digits, mean=(0.9,), std=(0.05,)), images)


def test_of_few_images_one_more_says_nothing(digits, images):
    """A model that gets none of four images right as they are, and one of them normalised, is not refused."""
    labels = digits.test.labels[:4]

    class Chance(nn.Module):
        def forward(self, x):
            chosen = labels[0] if x.min() < 0 else next(c for c in range(10) if c not in labels)
            return torch.eye(10)[int(chosen)].repeat(len(x), 1) + 0 * x.sum((1, 2, 3))[:, None]

    model = Chance().eval()
    assert admitted(model, replace(digits, mean=(0.9,), std=(0.05,)), images, torch.arange(4)) is model


def test_logits_of_another_shape_or_not_finite_are_refused(model, digits, images):
    with pytest.raises(ConfigError, match=r"shape \(2, 64\), expected logits of shape \(2, 10\)"):
        check(nn.Flatten().eval(), digits, images)
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        check(model, digits, images)


class Around(nn.Module):
    """A model with something before and after it."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))


class Convolutional(nn.Module):
    """What it pools is flattened by a view, which channels-last memory does not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 10)

    def forward(self, x):
        return self.linear(nn.functional.max_pool2d(self.conv(x), 2).view(-1, 8 * 4 * 4))


@pytest.fixture
def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Convolutional().eval()


def test_a_model_that_views_its_images_is_given_contiguous_ones(convolutional, digits, images):
    x, _ = images.batch(torch.arange(7))
    expected = convolutional(x.clone(memory_format=torch.contiguous_format))
    placed = check(convolutional, digits, images)
    assert torch.equal(placed(x), expected)
    with pytest.raises(RuntimeError, match="view"):
        convolutional.to(memory_format=torch.channels_last)(x)


def test_colour_images_are_viewed_too(digits):
    images = DeviceImages(Split(digits.test.images.repeat(3, axis=3), digits.test.labels), "cpu")
    model = Around(nn.Linear(192, 10), lambda x: x.view(len(x), -1)).eval()
    placed = check(model, replace(digits, mean=(0.3,) * 3, std=(0.4,) * 3), images)
    x, _ = images.batch(torch.arange(7))
    assert torch.equal(placed(x), model(x.contiguous()))


def test_a_model_that_normalises_in_place_leaves_the_images_alone(model, digits, images):
    x, _ = images.batch(torch.arange(7))
    expected, before = model(x - 0.1), x.clone()
    for gradients in (True, False):
        placed = check(Around(model, lambda x: x.sub_(0.1)).eval(), digits, images, gradients=gradients)
        torch.testing.assert_close(placed(x), expected)
        assert torch.equal(x, before)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_half_and_double_are_evaluated_in_float32(precision, convolutional, digits, images):
    weights = {key: value.to(precision).float() for key, value in convolutional.state_dict().items()}
    placed = check(convolutional.to(precision), digits, images)
    assert {value.dtype for value in placed.state_dict().values()} == {torch.float32}
    assert all(torch.equal(value, weights[key]) for key, value in convolutional.state_dict().items())


def test_a_model_that_converts_its_input_itself_stays_as_it_is(model, digits, images):
    halved = Around(model.double(), lambda x: x.double()).eval()
    assert check(halved, digits, images) is halved
    assert {value.dtype for value in halved.state_dict().values()} == {torch.float64}


REFUSED = {
    "tuple": (lambda z: (z, z), r"gives a tuple, not logits: wrap it so that it returns one tensor \[B, 10\]"),
    "dict": (lambda z: {"logits": z}, "gives a dict, not logits"),
    "classes": (lambda z: z[:, :7], r"shape \(2, 7\), expected logits of shape \(2, 10\)"),
    "squeezed": (lambda z: z.squeeze(), r"shape \(10,\), expected logits of shape \(1, 10\)"),
    "detached": (lambda z: z.detach(), "no gradient of its input .*only square and noise"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_outputs_are_refused(kind, model, digits, images):
    after, problem = REFUSED[kind]
    with pytest.raises(ConfigError, match=problem):
        check(Around(model, after=after).eval(), digits, images)


def test_without_gradients_a_model_is_admitted_to_attacks_that_need_none(model, digits, images):
    constant = Around(model, lambda x: x.detach()).eval()  # the weights have a gradient, the images have none
    check(constant, digits, images, gradients=False)
    with pytest.raises(ConfigError, match="no gradient of its input"):
        check(constant, digits, images)


@pytest.mark.parametrize("network", [nn.Linear(784, 10), nn.Conv2d(3, 4, 3)], ids=["size", "channels"])
def test_a_model_for_other_images_is_refused(network, digits, images):
    with pytest.raises(ConfigError, match=r"fails on images of 1×8×8 \(RuntimeError: "):
        check(nn.Sequential(nn.Flatten(-3 if isinstance(network, nn.Linear) else -1), network).eval(), digits, images)


def test_a_model_that_checks_its_pixels_passes(model, digits, images):
    def within(x):
        assert x.min() >= 0
        assert x.max() <= 1
        return x

    check(Around(model, within).eval(), digits, images)
