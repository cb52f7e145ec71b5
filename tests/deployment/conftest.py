"""What the tests of deployments share: processes as on real machines."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def federation_of_processes(wait_until) -> Callable[..., Any]:
    """(folder, number of clients) → its `Machines`."""
    spec = spec_from_file_location("machines", Path(__file__).with_name("machines.py"))
    assert spec
    assert spec.loader
    machines = sys.modules["machines"] = module_from_spec(spec)
    spec.loader.exec_module(machines)
    return lambda folder, num_clients: machines.Machines(folder, num_clients, wait_until)
