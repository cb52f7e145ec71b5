"""What a process sets up for itself."""

from itertools import product

import pytest
import torch

from fedrobust.config import RunConfig
from fedrobust.hardware import process
from fedrobust.models import MODELS
from fedrobust.objectives import OBJECTIVES
from fedrobust.training.context import run_context

CPU = torch.device("cpu")


@pytest.mark.parametrize("units", [True, False])
def test_auto_precision_takes_both_the_hardware_and_a_proof(units, monkeypatch):
    monkeypatch.setattr(process, "has_bfloat16_units", lambda device: units)
    for model, objective in product(MODELS, OBJECTIVES):
        shown = (model, objective) in process.BFLOAT16_SHOWN_EQUAL
        expected = torch.bfloat16 if units and shown else torch.float32
        assert process.pick_precision("auto", model, objective, CPU) == expected
        assert process.pick_precision("bfloat16", model, objective, CPU) == torch.bfloat16
        assert process.pick_precision("float32", model, objective, CPU) == torch.float32
    assert set(product(MODELS, OBJECTIVES)) >= process.BFLOAT16_SHOWN_EQUAL


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy__name": "fedavg"}, torch.bfloat16),  # its objective is `at`
        ({"strategy__name": "calfat"}, torch.float32),
        ({"objective__name": "trades"}, torch.float32),
        ({"kind": "central"}, torch.bfloat16),
        ({"strategy__name": "calfat", "precision": "bfloat16"}, torch.bfloat16),
    ],
)
def test_a_run_takes_the_precision_shown_for_its_model_and_objective(settings, expected, monkeypatch):
    monkeypatch.setattr(process, "has_bfloat16_units", lambda device: True)
    monkeypatch.setattr(process, "BFLOAT16_SHOWN_EQUAL", {("small-cnn", "at")})
    run_context.cache_clear()
    assert run_context(RunConfig().replace(device="cpu", **settings)).precision == expected
    run_context.cache_clear()
