"""A complete evaluation: a suite of attacks on one set of images, the checks on it, and its warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from fedrobust.evaluation import flags
from fedrobust.evaluation.attack_run import AttackRun
from fedrobust.evaluation.evaluation_folder import AttackState
from fedrobust.evaluation.flags import Flag
from fedrobust.evaluation.last_layer import linear_layers
from fedrobust.evaluation.planted import Planted, planted_test
from fedrobust.evaluation.probes import probe, rescore
from fedrobust.evaluation.suite import Threat
from fedrobust.evaluation.verdicts import ROBUST

STRENGTH = ("fgsm", "pgd-10", "pgd-20", "pgd-40", "pgd-20x5", "square-200", "gaussian-noise", "uniform-noise")
CURVE_ATTACK = "pgd-20"
CURVE = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # times epsilon: at 8/255 these are 2, 4, 8, 16, 32, 64 / 255
PROBED_IMAGES, PLANTED_IMAGES = 256, 100


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome per image: `index` [n] into the test set, `labels` [n], `right` [n], `verdicts` name → [n].

    `stages` and `seconds` are by attack, `checks` has the results of the checks, `flags` the warnings.
    """

    index: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    verdicts: dict[str, np.ndarray]
    stages: dict[str, tuple[str, ...]]
    seconds: dict[str, float]
    checks: dict[str, Any]
    flags: tuple[Flag, ...]

    def stands(self, attack: str) -> np.ndarray:
        """Return a mask of the images that are classified correctly without and under the attack."""
        return self.verdicts[attack] == ROBUST

    def worst(self) -> np.ndarray:
        """Return a mask of the images on which no attack of the suite succeeded."""
        return np.logical_and.reduce([self.right, *(self.stands(name) for name in self.verdicts)])


def assess(attack_run: AttackRun) -> EvaluationResult:
    """Carry out all remaining attacks and checks, then return the result. It may be interrupted at any time and called
    again.

    Raises:
        RunFailed: a logit is NaN or infinite, or the folder cannot be read or written.
    """
    chains = {name: attack_run.chain(name) for name in attack_run.request.attacks}
    states = {name: attack_run.attack(attack, kept=True) for name, attack in chains.items()}
    checks, raised = run_checks(attack_run, states) if attack_run.request.checks else ({}, [])
    right = attack_run.natural.right.cpu().numpy()
    rescored = rescore(
        attack_run.model, attack_run.examples, attack_run.labels, np.flatnonzero(right), attack_run.data.device
    )
    raised += flags.rescoring_flags(rescored.changed, rescored.num_images)
    if "autoattack" in states:
        by_square = states["autoattack"].verdicts == len(chains["autoattack"].stages)  # its last stage
        raised += flags.square_flags(int(by_square.sum()), len(by_square))
    return EvaluationResult(
        index=attack_run.index.cpu().numpy(),
        labels=attack_run.labels,
        right=right,
        verdicts={name: state.verdicts for name, state in states.items()},
        stages={name: tuple(stage.name for stage in attack.stages) for name, attack in chains.items()},
        seconds={name: state.seconds for name, state in states.items()},
        checks=checks | {"rescoring": vars(rescored)},
        flags=tuple(dict.fromkeys(raised)),
    )


def run_checks(attack_run: AttackRun, suite: Mapping[str, AttackState]) -> tuple[dict[str, Any], list[Flag]]:
    """Run all checks; return the measurements, for the record, and the flags they raise.

    In a transfer attack, the attacks of the suite that STRENGTH contains also run white-box for comparison; the order
    of transferred attacks has no meaning.
    """
    request, few = attack_run.request, slice(0, PROBED_IMAGES)
    probes = probe(
        attack_run.model,
        attack_run.data,
        attack_run.index[few],
        attack_run.natural.right[few],
        batch_size=request.batch_size,
    )
    strength = {name: state.stands for name, state in suite.items()}
    white_box: dict[str, np.ndarray] = {}
    if attack_run.transfers:
        for name in (name for name in STRENGTH if name in suite):
            state = attack_run.attack(attack_run.chain(name), key=f"white-box-{name}", white_box=True)
            white_box[name] = state.stands
        order: Iterator[Flag] = flags.transfer_flags(strength, white_box)
    else:
        strength |= {n: attack_run.attack(attack_run.chain(n)).stands for n in STRENGTH if n not in suite}
        order = flags.strength_flags(strength)
    curve = list(_curve(attack_run))
    attack_run.watch("planted examples", 0.0)
    planted = Planted(0, 0.0, 0.0)
    if linear_layers(attack_run.model):
        planted = planted_test(
            attack_run.model,
            attack_run.data,
            attack_run.index[:PLANTED_IMAGES],
            request.threat,
            batch_size=request.batch_size,
            seed=request.seed,
        )
    measured = {
        "probes": vars(probes),
        "strength": {name: float(stands.mean()) for name, stands in strength.items()},
        "white_box": {name: float(stands.mean()) for name, stands in white_box.items()},
        "curve": [(epsilon, float(stands.mean())) for epsilon, stands in curve],
        "planted": vars(planted),
    }
    raised = chain(
        flags.model_flags(probes),
        order,
        flags.curve_flags(curve),
        flags.planted_flags(planted.found, planted.num_images),
    )
    return measured, list(raised)


def _curve(attack_run: AttackRun) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (epsilon, mask of the images that PGD-20 does not break), from 0 on; always white-box."""
    threat = attack_run.request.threat
    yield 0.0, attack_run.natural.right.cpu().numpy()
    for multiple in CURVE:
        wider = Threat(threat.epsilon * multiple, threat.norm)
        attack = attack_run.chain(CURVE_ATTACK, wider)
        yield wider.epsilon, attack_run.attack(attack, key=f"curve-{multiple:g}-epsilon", white_box=True).stands
