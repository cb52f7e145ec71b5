"""Activations: their formulas, limits and gradients; what suits them; random ones are reproducible."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from fedrobust.attacks.contract import input_gradient, no_side_effects
from fedrobust.errors import ConfigError
from fedrobust.losses import cross_entropy
from fedrobust.models import ACTIVATIONS, MODELS, ModelSpec, build_model
from fedrobust.models.activations import SmoothReLU, activation_maker, gain

Z = torch.linspace(-6, 6, 97, dtype=torch.float64)
PHI = 0.5 * (1 + torch.erf(Z / math.sqrt(2)))
UP, DOWN = Z.clamp(min=0), Z.clamp(max=0)
SIGMOID = 1 / (1 + (-Z).exp())
FORMULAS = {
    "relu": UP,
    "rrelu": torch.where(Z > 0, Z, 11 / 48 * Z),
    "softplus": torch.log1p(Z.exp()),
    "gelu": Z * PHI,
    "selu": 1.0507009873554805 * torch.where(Z > 0, Z, 1.6732632423543772 * (Z.exp() - 1)),
    "celu": torch.where(Z > 0, Z, Z.exp() - 1),
    "silu": Z * SIGMOID,
    "hardsilu": Z * (Z + 3).clamp(0, 6) / 6,
    "hardtanh": Z.clamp(-1, 1),
    "telu": Z * torch.tanh(Z.exp()),
    "mish": Z * torch.tanh(torch.log1p(Z.exp())),
    "elu": torch.where(Z > 0, Z, Z.exp() - 1),
    "parametric-softplus": torch.log1p((10 * Z).exp()) / 10,
    "smooth-relu": UP - torch.log(UP + 1),
    "smooth-relu-learned": UP - torch.log(400 * UP + 1) / 400,
    "pssilu": Z * SIGMOID,
    "polynomial": 0.09 * Z**2 + 0.5 * Z + 0.47,
}
CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}


def made(name, alpha=None):
    return activation_maker(name, alpha)().double().eval()


def derivative(function, at):
    at = torch.tensor(float(at), dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(function(at * 1), at)[0].item()


def test_every_activation_has_its_formula():
    assert list(FORMULAS) == list(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_formula(name):
    torch.testing.assert_close(made(name)(Z.clone()), FORMULAS[name], rtol=1e-8, atol=3e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradient_is_the_formulas_and_finite_far_out(name):
    at = torch.tensor([-2.3, -0.4, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: made(name)(x * 1), at)
    far = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    out = activation_maker(name)().eval()(far * 1)
    (slope,) = torch.autograd.grad(out.sum(), far)
    assert out.isfinite().all()
    assert slope.isfinite().all()


def test_elu_is_smooth_at_one_alone_and_celu_at_every_alpha():
    for alpha in (0.5, 1.0, 2.0):
        elu, celu = made("elu", alpha), made("celu", alpha)
        assert derivative(elu, -1e-9) == pytest.approx(alpha)
        assert derivative(celu, -1e-9) == pytest.approx(1)
        assert derivative(elu, 1e-9) == derivative(celu, 1e-9) == 1


def test_relu_is_the_limit_of_the_smooth_ones():
    for name, alpha, apart in (("parametric-softplus", 1e4, 1e-4), ("smooth-relu", 1e6, 2e-5)):
        assert (made(name, alpha)(Z.clone()) - UP).abs().max() < apart
    assert derivative(made("smooth-relu"), 0) == 0


def test_parametric_softplus_is_no_threshold():
    """`softplus(x, threshold=10)`, seen elsewhere, is plain Softplus."""
    softplus = made("parametric-softplus")
    assert softplus(torch.zeros((), dtype=torch.float64)).item() == pytest.approx(math.log(2) / 10)


def test_learned_shapes_are_parameters_of_each_layer():
    def shapes(name):
        model = build_model(ModelSpec("resnet18", activation=name, **CIFAR), generator_seed=0)
        return [key for key, p in model.named_parameters() if "activation" in key and p.requires_grad]

    assert len(shapes("pssilu")) == 2 * 17
    assert len(shapes("smooth-relu-learned")) == 17
    assert not shapes("smooth-relu")
    layer = SmoothReLU(400, learned=True)
    layer(torch.ones(3)).sum().backward()
    assert layer.root.grad is not None
    assert layer.root.item() == 20


# every activation in one model of each make; in the others, which differ in depth, one with parameters of its own
MAKES = ("calfat-cnn", "preact-resnet18", "resnet18", "small-cnn")
PAIRS = [
    (model, name)
    for model in MODELS
    if model != "polynomial"  # has its own
    for name in (ACTIVATIONS if model in MAKES else ("pssilu",))
]
PAIRS += [("efficientnet-b0", name) for name in ("relu", "rrelu", "polynomial")]


@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_every_activation_in_every_model(model, name):
    width = 1 / 16 if MODELS[model].scales else 1.0  # the same layers with fewer channels
    network = build_model(ModelSpec(model, activation=name, width=width, **CIFAR), generator_seed=0)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = network.train()(x)
    logits.logsumexp(1).sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    assert (name == "relu") == any(isinstance(layer, nn.ReLU) for layer in network.modules())
    with torch.no_grad():
        assert torch.equal(network.eval()(x), network(x))


def test_gains():
    assert gain("relu") == pytest.approx(math.sqrt(2), abs=1e-9)
    assert gain("selu") == pytest.approx(1, abs=1e-4)  # what SELU was made for
    assert gain("elu", 0.5) > gain("elu", 2.0)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "hardtanh"])
def test_the_mean_square_survives_many_layers(name):
    """Weights of variance gain² / fan-in keep it; ReLU's would not."""
    generator = torch.Generator().manual_seed(0)
    x, activation = torch.randn(64, 512, generator=generator), activation_maker(name)().eval()
    for _ in range(6):
        x = activation(x) @ (torch.randn(512, 512, generator=generator) * gain(name) / math.sqrt(512))
    assert 0.5 < x.square().mean() < 2


def test_relus_weights_are_not_touched():
    spec = ModelSpec("small-cnn", **CIFAR)
    model = build_model(spec, generator_seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = MODELS["small-cnn"].make(spec, partial(nn.ReLU, inplace=True))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activation": "rleu"}, "unknown activation 'rleu'; did you mean 'relu'?"),
        (
            {"activation": "relu", "alpha": 2.0},
            "model.activation-alpha = 2: relu has no α; activations with one: celu, elu",
        ),
        (
            {"activation": "silu", "backward": "gelu"},
            "model.backward-activation = 'gelu': allowed only with",
        ),
        ({"activation": "relu", "backward": "pssilu"}, "model.backward-activation = 'pssilu': must be smooth and have"),
        ({"activation": "relu", "backward": "rrelu"}, "model.backward-activation = 'rrelu': must be smooth and have"),
    ],
)
def test_mistakes(settings, said):
    with pytest.raises(ConfigError) as error:
        activation_maker(**settings)
    assert str(error.value).startswith(said)


SMOOTH = ("silu", "gelu", "softplus", "parametric-softplus", "elu", "smooth-relu", "mish", "telu")


@pytest.mark.parametrize("backward", SMOOTH)
def test_backward_alone_is_smoothed(backward):
    z = Z.clone().requires_grad_()
    swapped = activation_maker("relu", backward=backward)()
    out = swapped(z)
    assert torch.equal(out, UP)
    weights = torch.linspace(0.5, 2, len(Z), dtype=torch.float64)
    (slope,) = torch.autograd.grad(out, z, weights)
    (expected,) = torch.autograd.grad(activation_maker(backward)()(z), z, weights)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(
    ("phase", "in_attack", "in_update"), [("attack", True, False), ("update", False, True), ("both", True, True)]
)
def test_sat_smooths_in_its_phase_only(phase, in_attack, in_update):
    """What an attack sees, and what an update sees, against models with ReLU's and with the smooth derivative."""
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4)

    def gradients(**settings):
        model = build_model(ModelSpec("small-cnn", **CIFAR, **settings), generator_seed=0)
        with no_side_effects(model, x.device):
            seen = input_gradient(model, x, y, cross_entropy)
        cross_entropy(model(x), y).sum().backward()
        return seen, model.get_parameter("network.conv1.weight").grad

    plain, smooth = gradients(), gradients(backward="silu")
    assert not torch.allclose(plain[0], smooth[0])
    assert not torch.allclose(plain[1], smooth[1])
    found = gradients(backward="silu", phase=phase)
    assert torch.equal(found[0], (smooth if in_attack else plain)[0])
    assert torch.equal(found[1], (smooth if in_update else plain)[1])


def test_a_smoothed_model_has_relus_weights_and_logits():
    plain, smooth = (
        build_model(ModelSpec("calfat-cnn", backward=name, **CIFAR), generator_seed=0) for name in ("", "silu")
    )
    assert plain.state_dict().keys() == smooth.state_dict().keys()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(x), smooth(x))
