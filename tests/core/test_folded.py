"""Batch norms folded into convolutions: the same function, of the weights of the moment, and nothing else touched."""

import gc
import os
import subprocess
import sys
import weakref
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import make_attack
from fedrobust.attacks.contract import input_gradient
from fedrobust.losses import cross_entropy
from fedrobust.models import ModelSpec, build_model
from fedrobust.models.folded import folded
from fedrobust.objectives import make_objective

CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.2, 0.3)}
FOLDED = {"efficientnet-b0": 49, "preact-resnet18": 8, "resnet18": 20, "resnet18-imagenet": 20, "resnet50": 53}
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.rand(4, 3, 32, 32, generator=GENERATOR), torch.randint(10, (4,), generator=GENERATOR)


def used(name: str, **settings) -> nn.Module:
    """In eval mode, with statistics and affine parameters that are not the first ones, in float64."""
    model = build_model(ModelSpec(name, **CIFAR, **settings), generator_seed=0).double()
    shake(model)
    return model.eval()


@torch.no_grad()
def shake(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=0.3)


def outcome(model: nn.Module) -> tuple[Tensor, Tensor]:
    return model(X.double()).detach(), input_gradient(model, X.double(), Y, cross_entropy)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", FOLDED)
def test_logits_and_input_gradients_are_the_models(name: str) -> None:
    narrow = {} if name == "efficientnet-b0" else {"width": 0.125}
    model = used(name, **narrow)
    view = folded(model)
    assert norms(model) - norms(view) == FOLDED[name]
    # cross_entropy takes logits in float32, whose rounding the gradients have
    for ours, theirs, tolerance in zip(outcome(view), outcome(model), (1e-10, 1e-5), strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_it_has_the_weights_and_statistics_of_the_moment() -> None:
    model = used("resnet18", width=0.125)
    before = outcome(folded(model))[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    shake(model)
    after = outcome(folded(model))[0]
    assert torch.allclose(after, model(X.double()))
    assert not torch.allclose(before, after)


def test_the_model_stays_as_it_was_and_no_weight_of_the_view_wants_a_gradient() -> None:
    model = used("resnet18", width=0.125)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    view = folded(model)
    model.train()
    view(X.double()).sum().backward()
    assert not any(parameter.grad is not None for name, parameter in model.named_parameters() if "conv" in name)
    assert all(module.training for module in model.modules())
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("name", ["calfat-cnn", "small-cnn"])
def test_a_model_without_batch_norm_is_itself(name: str) -> None:
    model = build_model(ModelSpec(name, **CIFAR), generator_seed=0).eval()
    assert folded(model) is model


def test_a_model_that_cannot_be_traced_is_itself() -> None:
    class Depends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x)).flatten(1) if x.mean() > 0 else x.flatten(1)

    model = Depends().eval()
    assert folded(model) is model


def test_a_convolution_that_others_see_too_is_not_folded() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            found = self.conv(x)
            return (self.bn(found) + found).flatten(1)

    model = Seen().eval()
    assert folded(model) is model


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.other = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.conv(self.one(self.conv(x)))).flatten(1)

    model = Twice().eval()
    assert folded(model) is model


def test_under_autocast_what_is_folded_is_in_its_precision() -> None:
    model = used("resnet18", width=0.125).float()
    with torch.autocast("cpu", torch.bfloat16):
        view = folded(model)
        logits = view(X)
    assert view.get_submodule("network.conv1").weight.dtype == torch.bfloat16
    assert (logits.float() - model(X)).abs().max() < 0.1 * model(X).abs().max()
    assert folded(model).get_submodule("network.conv1").weight.dtype == torch.float32


def test_the_smooth_backward_pass_of_an_attack_is_kept() -> None:
    attack = make_attack("pgd", epsilon=0.1, step_size=0.05, steps=2, random_start="zero")
    plain, smooth = (
        used("resnet18", width=0.125, backward=backward, phase="attack").float() for backward in ("", "softplus")
    )
    for model in (plain, smooth):
        assert torch.equal(attack(folded(model), X, Y).sign(), attack(model, X, Y).sign())
        assert (attack(folded(model), X, Y) != attack(model, X, Y)).float().mean() < 0.02
    assert (attack(folded(plain), X, Y) != attack(folded(smooth), X, Y)).float().mean() > 0.05


def test_objectives_attack_it_in_eval_mode_and_the_model_itself_in_train_mode() -> None:
    model = used("resnet18", width=0.125).float().train()
    seen = []

    def attack(attacked, x, y, **_):
        seen.append(norms(attacked))
        return x

    for mode in ("eval", "train"):
        make_objective("at", attack=attack, attack_mode=mode)(model, X, Y)
        assert model.training
    assert seen == [0, 20]


def test_it_lives_no_longer_than_its_model() -> None:
    model = used("resnet18", width=0.125)
    gone = weakref.ref(model), weakref.ref(folded(model))
    del model
    gc.collect()
    gc.collect()  # the first leaves what the model's end let go
    assert [reference() for reference in gone] == [None, None]


# compares the kernels with PyTorch's layers on the device that it is given; on a CPU Triton interprets them
KERNELS = """
import sys
import torch
from torch import nn
from fedrobust.models import ModelSpec, build_model
from fedrobust.models.folded import _fold
from fedrobust.models.pooled import ConvPoolReLU

device, precision = sys.argv[1], getattr(torch, sys.argv[2])
torch.manual_seed(0)
torch.backends.cudnn.allow_tf32 = False
bound = 1e-5 if precision == torch.float32 else 0.03
shapes = (3, 128, 32, 32), (1, 8, 9, 12), (4, 16, 7, 7), (16, 24, 13, 14), (128, 128, 15, 15)
for channels, out, height, width in shapes:
    layers = nn.Sequential(nn.Conv2d(channels, out, 3, bias=out != 16), nn.MaxPool2d(2), nn.ReLU()).to(device)
    assert ConvPoolReLU.fits(*layers)
    x = torch.rand(3, channels, height, width, device=device).to(memory_format=torch.channels_last)
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        kernel = ConvPoolReLU(layers[0])
        found = []
        for function in (layers, kernel):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            above = torch.linspace(-1, 1, y.numel(), device=device).view(y.shape).to(y.dtype)
            found.append((y, *torch.autograd.grad(y, leaf, above)))
    for expected, value in zip(*found):
        assert value.dtype == expected.dtype and value.shape == expected.shape
        error = (value.float() - expected.float()).norm() / expected.float().norm()
        assert error < bound, (channels, out, height, width, error.item())

# calfat-cnn as an attack sees it on CUDA: both of its pooling layers, with the weights of the moment
shape = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3}
model = build_model(ModelSpec("calfat-cnn", **shape), generator_seed=0)
model = model.to(device).to(memory_format=torch.channels_last).eval()
with torch.autocast(device, precision, enabled=precision != torch.float32), torch.no_grad():
    view, pairs, fused = _fold(model, fuse=True)
    for weight in model.parameters():
        weight.mul_(1.1)
    for convolution, kernel in fused:
        kernel.prepare(convolution)
    assert len(fused) == 2 and not pairs
    x = torch.rand(2, 3, 32, 32, device=device)
    logits = [function(x).float() for function in (model, view)]
    assert (logits[0] - logits[1]).norm() / logits[0].norm() < bound, logits
print("equal")
"""


def _kernels(device: str, precision: str, **environment: str) -> str:
    command = [sys.executable, "-c", KERNELS, device, precision]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_compute_what_pytorchs_layers_compute() -> None:
    assert _kernels("cpu", "float32", TRITON_INTERPRET="1") == "equal"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the kernels are interpreted elsewhere")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_kernels_on_cuda_compute_what_pytorchs_layers_compute(precision: str) -> None:
    assert _kernels("cuda", precision) == "equal"
