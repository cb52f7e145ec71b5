"""fedrobust: federated adversarial training under label skew, on Flower.

    import fedrobust as fr

    run = fr.run("quickstart", variant="calfat", num_rounds=5)
    run.rounds                                                    # metrics as a pandas table
    fr.evaluate(run, attacks=["fgsm", "pgd-20"]).table
    fr.attacks.pgd(model, x, y, epsilon=8 / 255, step_size=2 / 255, steps=10)

The names below are loaded when they are first used, so `import fedrobust` takes no time.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Threads of GNU's OpenMP, which PyTorch uses on Linux, spin for milliseconds while they wait for each other. On a
# machine with other work they keep those that they wait for from running: a run took two to ten times as long. After
# 5,000 turns, some microseconds, they sleep; on a quiet machine that costs nothing (benchmarks/README.md). Read when
# PyTorch is loaded, and inherited by workers; whoever sets a policy of their own keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__all__ = [
    "ConfigError",
    "Evaluation",
    "Report",
    "Run",
    "RunConfig",
    "RunFailed",
    "attacks",
    "evaluate",
    "load_run",
    "objectives",
    "partitions",
    "report",
    "run",
    "sweep",
]

if TYPE_CHECKING:
    import partitions
    from fedrobust import attacks, objectives
    from fedrobust.api import Evaluation, Report, Run, evaluate, load_run, report, run, sweep
    from fedrobust.config import RunConfig
    from fedrobust.errors import ConfigError, RunFailed

# name → "module:attribute", or a module
_LAZY = {
    **{name: f"fedrobust.api:{name}" for name in ("Evaluation", "Report", "Run")},
    **{name: f"fedrobust.api:{name}" for name in ("evaluate", "load_run", "report", "run", "sweep")},
    "RunConfig": "fedrobust.config:RunConfig",
    "ConfigError": "fedrobust.errors:ConfigError",
    "RunFailed": "fedrobust.errors:RunFailed",
    "attacks": "fedrobust.attacks",
    "objectives": "fedrobust.objectives",
    "partitions": "partitions",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    found = import_module(module)
    globals()[name] = getattr(found, attribute) if attribute else found
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
