"""The attacks of an evaluation, parsed from their names: "fgsm,pgd-20,autoattack"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedrobust.attacks import make_evaluation_attack
from fedrobust.attacks.ball import Norm
from fedrobust.config import RunConfig
from fedrobust.config.names import split_list, unknown
from fedrobust.errors import ConfigError
from fedrobust.models.polynomial import worst_images

CERTIFIED = "certified"
NO_GRADIENT = ("square", "gaussian-noise", "uniform-noise")  # how names begin of attacks that see logits alone
DLR_CLASSES = 4  # without which the targeted DLR loss is none
NUM_TARGETS = 9  # classes a targeted attack of AutoAttack aims at, from the second most likely on

Settings = tuple[str, dict[str, Any]]  # an attack's name in its registry, and how it is set

SUITE: dict[str, str] = {
    "fgsm": "One step of size epsilon from the image; in the l2 norm the fast gradient method.",
    "pgd-K": "PGD: K steps from a uniform start in the ball, as PGD-20 in CalFAT and most federated papers.",
    "pgd-KxR": "PGD: K steps from each of R starts.",
    "pgd-KxR-decay": "PGD with step sizes that fall linearly to 0; also pgd-K-decay.",
    "bim-K": "BIM: K steps from the image itself.",
    "mim-K": "MIM: K steps with momentum.",
    "cw": "The margin loss under PGD for linf, Carlini and Wagner's own attack for l2.",
    "deepfool": "DeepFool: steps to the nearest boundary of the linearised model.",
    "apgd-ce": "Auto-PGD on the cross-entropy.",
    "apgd-t": "Auto-PGD on the targeted DLR loss, one stage per target class.",
    "fab-t": "FAB, one stage per target class.",
    "square": "Square Attack with 5,000 queries and no gradient; square-Q makes Q queries.",
    "autoattack": "AutoAttack, standard version: apgd-ce, apgd-t, fab-t and square in a chain.",
    "gaussian-noise": "Gaussian noise: not an attack but a control.",
    "uniform-noise": "Uniform noise: not an attack but a control.",
    CERTIFIED: "The exact worst case in the whole l2 ball, a bound for every attack (model polynomial).",
}


@dataclass(frozen=True)
class Threat:
    """A threat model: the attacker moves an image by at most epsilon in this norm, within [0, 1]."""

    epsilon: float
    norm: Norm = "linf"


@dataclass(frozen=True)
class Stage:
    """One attack, its settings bound: `run(model, x, y, generator=...)` returns adversarial examples."""

    name: str
    run: Callable[..., Any]


@dataclass(frozen=True)
class EvaluationAttack:
    """A chain of attacks under one name, `robust_accuracy.<name>`: each stage attacks the images that are still
    classified correctly.
    """

    name: str
    stages: tuple[Stage, ...]


def parse_attack(name: str, num_classes: int = 10) -> list[Settings]:
    """Return the chain of attacks behind the name of an evaluation attack, each with its settings.

    SUITE describes each; the members of AutoAttack are as in Croce and Hein 2020, the standard version. The chain of
    "certified", which is not an attack, is empty.

    Raises:
        ConfigError: any other name, or a loss that is not defined for so few classes.
    """
    if name in ("apgd-t", "autoattack") and num_classes < DLR_CLASSES:
        raise ConfigError(
            f"{name}: its targeted DLR loss needs {DLR_CLASSES} classes or more, not {num_classes}; "
            "use apgd-ce, fab-t and square"
        )
    targets = range(1, min(NUM_TARGETS, num_classes - 1) + 1)
    autoattack: dict[str, list[Settings]] = {
        "apgd-ce": [("apgd", {})],
        "apgd-t": [("apgd", {"target_rank": rank}) for rank in targets],
        "fab-t": [("fab", {"target_rank": rank}) for rank in targets],
        "square": [("square", {})],
    }
    chains: dict[str, list[Settings]] = {
        "fgsm": [("pgd", {"steps": 1, "random_start": "zero"})],
        "cw": [("carlini-wagner", {})],
        "deepfool": [("deepfool", {})],
        **autoattack,
        "autoattack": [stage for member in autoattack.values() for stage in member],
        "gaussian-noise": [("gaussian-noise", {})],
        "uniform-noise": [("uniform-noise", {})],
        CERTIFIED: [],
    }
    if name in chains:
        return chains[name]
    if match := re.fullmatch(r"pgd-([1-9]\d{0,3})(?:x([1-9]\d?))?(-decay)?", name):
        decay = "linear" if match[3] else "none"
        return [("pgd", {"steps": int(match[1]), "random_start": "uniform", "decay": decay})] * int(match[2] or 1)
    if match := re.fullmatch(r"(bim|mim)-([1-9]\d{0,3})", name):
        start = {"random_start": "zero"} if match[1] == "bim" else {}
        return [("pgd" if match[1] == "bim" else "mim", {"steps": int(match[2]), **start})]
    if match := re.fullmatch(r"square-([1-9]\d{0,5})", name):
        return [("square", {"queries": int(match[1])})]
    raise ConfigError(unknown("attack", name, SUITE, typed=_typeable(name)))


def _typeable(name: str) -> list[str]:
    """Return the names of SUITE as they can be typed, with the numbers of `name` for K, R and Q."""
    numbers = [each for number in re.findall(r"\d+", name) if (each := number.lstrip("0"))]
    steps, starts = (*numbers[:2], *("20", "10")[len(numbers) :])
    names = (each.replace("KxR", f"{steps}x{starts}").replace("K", steps) for each in SUITE)
    return [*names, *(f"square-{queries}" for queries in numbers[:1])]


def needs_gradients(name: str) -> bool:
    """Return whether the attack of this name asks the model for input gradients."""
    return not name.startswith((*NO_GRADIENT, CERTIFIED))


def make_chain(name: str, threat: Threat, *, num_classes: int, step_size: float | None = None) -> EvaluationAttack:
    """Return the attack of this name against a threat model.

    Args:
        step_size: step size of PGD, BIM and MIM; by default epsilon / 4 (2/255 at 8/255). FGSM's is epsilon.

    Raises:
        ConfigError: unknown name, or a certificate in another norm than l2.
    """
    if name == CERTIFIED:
        if threat.norm != "l2":
            raise ConfigError(f"{CERTIFIED}: allowed only for norm l2, not {threat.norm}")
        return EvaluationAttack(name, (Stage(name, partial(worst_images, radius=threat.epsilon)),))
    stages: dict[str, Stage] = {}
    for attack, settings in parse_attack(name, num_classes):
        given: dict[str, Any] = {"epsilon": threat.epsilon, "norm": threat.norm, **settings}
        usual = threat.epsilon * (1 if name == "fgsm" else 0.25) or 1.0  # with epsilon 0 no step matters
        if "steps" in settings:
            given["step_size"] = usual if name == "fgsm" or step_size is None else step_size
        rank = settings.get("target_rank")
        label = attack if rank is None else f"{attack}-target-{rank}"
        if label in stages:  # the next start of the same attack
            label = f"{label} ({len(stages) + 1})"
        stages[label] = Stage(label, make_evaluation_attack(attack, **given))
    return EvaluationAttack(name, tuple(stages.values()))


def make_suite(cfg: RunConfig, num_classes: int) -> tuple[EvaluationAttack, ...]:
    """Return the suite of a run: every attack of `evaluation.attacks` at the run's epsilon and norm."""
    threat = Threat(cfg.attack.epsilon, cfg.attack.norm)
    return tuple(_suite(split_list(cfg.evaluation.attacks), threat, num_classes, cfg.evaluation.step_size))


def _suite(names: list[str], threat: Threat, num_classes: int, step_size: float) -> Iterator[EvaluationAttack]:
    for name in names:
        yield make_chain(name, threat, num_classes=num_classes, step_size=step_size)
