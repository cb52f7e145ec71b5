"""Activations: their formulas, limits and gradients; what suits them; random ones are reproducible."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.models import ACTIVATIONS, MODELS, build_model
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
        model = build_model("resnet18", generator_seed=0, activation=name, **CIFAR)
        return [key for key, p in model.named_parameters() if "activation" in key and p.requires_grad]

    assert len(shapes("pssilu")) == 2 * 17
    assert len(shapes("smooth-relu-learned")) == 17
    assert not shapes("smooth-relu")
    layer = SmoothReLU(400, learned=True)
    layer(torch.ones(3)).sum().backward()
    assert layer.root.grad is not None
    assert layer.root.item() == 20


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_in_every_model(model, name):
    network = build_model(model, generator_seed=0, activation=name, **CIFAR)
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
    from fedrobust.models.small_cnn import build_small_cnn

    model = build_model("small-cnn", generator_seed=3, **CIFAR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = build_small_cnn(10, (3, 32, 32), CIFAR["mean"], CIFAR["std"], partial(nn.ReLU, inplace=True))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "alpha", "said"),
    [
        ("rleu", None, "unknown activation 'rleu'; did you mean 'relu'?"),
        ("relu", 2.0, "model.activation-alpha = 2: relu takes none; those that do: celu, elu, parametric-softplus"),
    ],
)
def test_mistakes(name, alpha, said):
    with pytest.raises(ConfigError) as error:
        activation_maker(name, alpha)
    assert str(error.value).startswith(said)
