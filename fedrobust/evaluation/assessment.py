"""A complete evaluation: a suite of attacks on one set of images, the checks on it, and its warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrobust.evaluation import flags
from fedrobust.evaluation.attack_run import AttackRun
from fedrobust.evaluation.checks import run_checks
from fedrobust.evaluation.flags import Flag
from fedrobust.evaluation.probes import rescore
from fedrobust.evaluation.verdicts import ROBUST


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
