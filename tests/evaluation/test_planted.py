"""Planted adversarial examples are found, by an attack that works; a mask hides them."""

import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.evaluation import Threat
from fedrobust.evaluation.planted import planted_test

INDEX = torch.arange(100)
FEW = INDEX[:30]


def planted(model, images, threat, index=INDEX, **settings):
    return planted_test(model, images, index, threat, batch_size=50, seed=0, **settings)


@pytest.mark.parametrize("threat", [Threat(0.1, "linf"), Threat(0.05, "linf"), Threat(0.5, "l2")], ids=str)
def test_found_in_99_of_100(threat, model, images):
    result = planted(model, images, threat)
    assert result.num_images >= 90
    assert result.found >= 0.99
    assert result.by_chance < 0.5


@pytest.mark.parametrize("kind", ["untrained", "wide", "smooth"])
def test_found_on_other_models(kind, images, untrained):
    model = untrained
    if kind != "untrained":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            activation = nn.SiLU() if kind == "smooth" else nn.ReLU()
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 500), activation, nn.Linear(500, 10)).eval()
    assert planted(model, images, Threat(0.1)).found >= 0.99


def test_a_mask_hides_them(model, images):
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x * 15).round() / 15)

    assert planted(Quantised().eval(), images, Threat(0.1), FEW, restarts=3).found < 0.99


def test_a_model_without_a_linear_layer_is_refused(images):
    with pytest.raises(ConfigError, match="linear layer"):
        planted(nn.Flatten(), images, Threat(0.1))
