"""What a process sets up for itself."""

import pytest
import torch

from fedrobust import process
from fedrobust.models import MODELS

CPU = torch.device("cpu")


@pytest.mark.parametrize("units", [True, False])
def test_auto_precision_takes_both_the_hardware_and_a_proof(units, monkeypatch):
    monkeypatch.setattr(process, "has_bfloat16_units", lambda device: units)
    for model in MODELS:
        shown = model in process.BFLOAT16_SHOWN_EQUAL
        expected = torch.bfloat16 if units and shown else torch.float32
        assert process.pick_precision("auto", model, CPU) == expected
        assert process.pick_precision("bfloat16", model, CPU) == torch.bfloat16
        assert process.pick_precision("float32", model, CPU) == torch.float32
    assert set(MODELS) >= process.BFLOAT16_SHOWN_EQUAL
