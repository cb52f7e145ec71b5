"""Batch norms folded into convolutions: the same function, of the weights of the moment, and nothing else touched."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from fedrobust.attacks import make_attack
from fedrobust.attacks.contract import input_gradient
from fedrobust.losses import cross_entropy
from fedrobust.models import build_model
from fedrobust.models.folded import folded
from fedrobust.objectives import make_objective

CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "mean": (0.49, 0.48, 0.45), "std": (0.2, 0.2, 0.3)}
FOLDED = {"efficientnet-b0": 49, "preact-resnet18": 8, "resnet18": 20, "resnet18-imagenet": 20, "resnet50": 53}
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.rand(4, 3, 32, 32, generator=GENERATOR), torch.randint(10, (4,), generator=GENERATOR)


def used(name: str, **settings) -> nn.Module:
    """In eval mode, with statistics and affine parameters that are not the first ones, in float64."""
    model = build_model(name, generator_seed=0, **CIFAR, **settings).double()
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
    model = build_model(name, generator_seed=0, **CIFAR).eval()
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
