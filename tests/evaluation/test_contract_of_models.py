"""Models that are refused: in train mode, wrong pixels, wrong logits (B9 for evaluation)."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.evaluation.contract import check_model


def check(model, digits, images):
    check_model(model, digits, images, torch.arange(100), batch_size=64)


def test_a_model_under_the_contract_passes(model, digits, images):
    check(model, digits, images)


def test_train_mode_is_refused_and_the_module_named(model, digits, images):
    model.get_submodule("network.conv1").train()
    with pytest.raises(ConfigError, match=r"train mode \(network.conv1\)"):
        check(model, digits, images)


@pytest.mark.parametrize("kind", ["normalised pixels", "pixels in 0..255"])
def test_b9_other_pixels_are_refused(kind, model, digits, images):
    class Outside(nn.Module):
        """The model without its conversion: whoever calls it has converted already."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x * 0.05 + 0.9 if kind == "normalised pixels" else x / 255)

    with pytest.raises(ConfigError, match=f"expects {kind}.*first layer"):
        check(Outside().eval(), replace(digits, mean=(0.9,), std=(0.05,)), images)


def test_logits_of_another_shape_or_not_finite_are_refused(model, digits, images):
    with pytest.raises(ConfigError, match=r"shape \(64, 64\), expected logits of shape \(64, 10\)"):
        check(nn.Flatten().eval(), digits, images)
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        check(model, digits, images)
