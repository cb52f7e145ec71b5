"""What the tests of whole federations share: an undisturbed run, and models to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrobust.storage.checkpoint import Arrays, load_model
from fedrobust.storage.run_folder import RunFolder


@pytest.fixture(scope="package")
def fedavg(quick, federate) -> RunFolder:
    """A run of FedAvg, undisturbed; others are held against it."""
    return federate(quick())


@pytest.fixture(scope="session")
def bits() -> Callable[[Arrays | Path], dict[str, Any]]:
    """A model, or a model's file, as what must be equal for it to be the same to the bit."""

    def of(model: Arrays | Path) -> dict[str, Any]:
        arrays = load_model(model)[0] if isinstance(model, Path) else model
        return {key: (array.dtype, array.shape, array.tobytes()) for key, array in arrays.items()}

    return of
