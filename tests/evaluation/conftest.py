"""A model of the digits, adversarially trained for some seconds, and the images to evaluate it on."""

import copy

import pytest
import torch
from torch import nn

from fedrobust.attacks import pgd
from fedrobust.config import Model
from fedrobust.data import Dataset, load
from fedrobust.data.device import DeviceImages, on_device
from fedrobust.models import ModelSpec, build_model
from fedrobust.objectives import make_objective
from fedrobust.training.loop import SGDSettings, train

EPSILON = 0.1


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def images(digits: Dataset) -> DeviceImages:
    return on_device(digits, "test", "cpu")


@pytest.fixture(scope="session")
def index() -> torch.Tensor:
    return torch.arange(120)


@pytest.fixture(scope="session")
def untrained(digits: Dataset) -> nn.Module:
    return build_model(ModelSpec.of(Model(name="small-cnn"), digits), generator_seed=0).eval()


@pytest.fixture(scope="session")
def _trained(digits: Dataset, untrained: nn.Module) -> nn.Module:
    model = copy.deepcopy(untrained)

    def attack(model, x, y, *, loss=None, generator=None):
        return pgd(model, x, y, epsilon=EPSILON, step_size=0.05, steps=3, generator=generator)

    data = on_device(digits, "train", "cpu")
    train(
        model,
        data,
        torch.arange(len(data)),
        make_objective("at", attack=attack, attack_mode="eval"),
        SGDSettings(epochs=4, batch_size=32, learning_rate=0.05),
        augmentation=lambda x, generator: x,
        precision=torch.float32,
        seed=0,
        stream=("test",),
    )
    return model.eval()


@pytest.fixture
def model(_trained: nn.Module) -> nn.Module:
    """A copy for each test."""
    return copy.deepcopy(_trained)
