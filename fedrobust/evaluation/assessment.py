"""An evaluation that can be believed: a suite of attacks on one set of images, the checks on it, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.data import subset
from fedrobust.data.device import DeviceImages, on_device
from fedrobust.evaluation import flags
from fedrobust.evaluation.contract import check_model
from fedrobust.evaluation.flags import Flag
from fedrobust.evaluation.journal import AttackState, Journal
from fedrobust.evaluation.planted import planted_test
from fedrobust.evaluation.probes import probe
from fedrobust.evaluation.rescoring import rescore
from fedrobust.evaluation.subjects import Subject
from fedrobust.evaluation.suite import EvaluationAttack, Threat, make_chain
from fedrobust.evaluation.verdicts import STANDS, Natural, attack_steps, classify, first_verdicts
from fedrobust.seeding import numpy_stream

SAVE_EVERY = 10.0  # seconds
STREAM = ("evaluation",)
STRENGTH_CHECKS = ("fgsm", "pgd-10", "pgd-20", "pgd-40", "pgd-20x5", "square-200", "gaussian-noise", "uniform-noise")
CURVE_ATTACK = "pgd-20"
CURVE = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # times epsilon: at 8/255 these are 2, 4, 8, 16, 32, 64 / 255
PROBED_IMAGES, PLANTED_IMAGES = 256, 100

Watch = Callable[[str, float], None]
"""Told the attack that is at work and which share of it is done."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        attacks: the suite, by name; the worst case is over these.
        num_images: class-balanced part of the test set; 0 takes all.
        batch_size: images at once.
        step_size: of PGD, BIM and MIM; None takes epsilon / 4.
        checks: whether to run what the flags need beside the suite.
    """

    attacks: tuple[str, ...]
    threat: Threat
    num_images: int
    seed: int
    batch_size: int
    step_size: float | None = None
    checks: bool = True


@dataclass(frozen=True)
class Findings:
    """What came out, per image: `index` [n] into the test set, `labels` [n], `right` [n], `verdicts` name → [n].

    `seconds` is by attack, `checks` what else was measured, `flags` what it warns of.
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
        """Which images are right without and under the attack."""
        return self.verdicts[attack] == STANDS

    def worst(self) -> np.ndarray:
        """Which images no attack of the suite broke."""
        return np.logical_and.reduce([self.right, *(self.stands(name) for name in self.verdicts)])


class Assessment:
    """One subject, one request, one folder. `run` may be interrupted at any moment and called again."""

    def __init__(
        self,
        subject: Subject,
        request: Request,
        journal: Callable[[dict[str, Any], int, tuple[int, ...]], Journal],
        *,
        device: torch.device,
        source: Subject | None = None,
        watch: Watch = lambda name, share: None,
    ) -> None:
        """`journal` opens the folder, given the settings, the number of images and an image's shape.

        Raises:
            ConfigError: a model that is not under the contract, or a folder with other settings.
        """
        self.subject, self.request, self._watch = subject, request, watch
        self._data: DeviceImages = on_device(subject.dataset, "test", device)
        labels = subject.dataset.test.labels
        self.index = np.arange(len(labels))
        if 0 < request.num_images < len(labels):
            self.index = np.sort(subset(labels, request.num_images, numpy_stream(request.seed, "evaluated", "test")))
        self._index = torch.from_numpy(self.index).to(device)
        self._model = _placed(subject, device)
        self._source = _placed(source, device) if source else None
        for model in filter(None, (self._model, self._source)):
            check_model(model, subject.dataset, self._data, self._index, batch_size=request.batch_size)
        settings = {
            "model": subject.digest,
            "source": source.digest if source else "",
            "data": subject.dataset.digest,
            "epsilon": float(request.threat.epsilon),
            "norm": request.threat.norm,
            "num_images": len(self.index),
            "seed": request.seed,
            "batch_size": request.batch_size,
            "step_size": None if request.step_size is None else float(request.step_size),
        }
        self._journal = journal(settings, len(self.index), subject.dataset.image_shape)

    def run(self) -> Findings:
        """Everything that is not done yet, then the findings."""
        request = self.request
        natural = classify(self._model, self._data, self._index, batch_size=request.batch_size)
        states = {name: self._attack(self._named(name, request.threat), natural, kept=True) for name in request.attacks}
        checks, raised = self._check(natural, states) if request.checks else ({}, [])
        rescored = rescore(
            self._model, self._journal.examples, self._labels, self._attacked(natural), self._data.device
        )
        raised += flags.rescoring_flags(rescored.changed, rescored.num_images)
        for name, state in states.items():
            if name == "autoattack":
                last = len(self._named(name, request.threat).stages)
                raised += flags.square_flags(float((state.verdicts == last).mean()))
        return Findings(
            index=self.index,
            labels=self._labels,
            right=natural.right.cpu().numpy(),
            verdicts={name: state.verdicts for name, state in states.items()},
            stages={n: tuple(s.name for s in self._named(n, request.threat).stages) for n in states},
            seconds={name: state.seconds for name, state in states.items()},
            checks=checks | {"rescoring": vars(rescored)},
            flags=tuple(dict.fromkeys(raised)),
        )

    @property
    def _labels(self) -> np.ndarray:
        return self.subject.dataset.test.labels[self.index]

    def _attacked(self, natural: Natural) -> np.ndarray:
        return natural.right.nonzero().flatten().cpu().numpy()

    def _named(self, name: str, threat: Threat) -> EvaluationAttack:
        classes = self.subject.dataset.num_classes
        return make_chain(name, threat, num_classes=classes, step_size=self.request.step_size)

    def _check(self, natural: Natural, suite: dict[str, AttackState]) -> tuple[dict[str, Any], list[Flag]]:
        """What the flags need: probes of the model, attacks that must not differ, the curve, planted examples."""
        threat, batch_size = self.request.threat, self.request.batch_size
        few = slice(0, PROBED_IMAGES)
        probes = probe(self._model, self._data, self._index[few], natural.right[few], batch_size=batch_size)
        raised = list(flags.model_flags(probes))

        accuracy = {name: _accuracy(state) for name, state in suite.items()}
        white_box: dict[str, float] = {}
        for name in STRENGTH_CHECKS:
            attack = self._named(name, threat)
            if self._source is None:
                accuracy[name] = _accuracy(suite.get(name) or self._attack(attack, natural))
            elif name in suite:
                white_box[name] = _accuracy(self._attack(attack, natural, key=f"white-box-{name}", transfer=False))
        if self._source is None:
            raised += flags.strength_flags(accuracy)
        raised += flags.transfer_flags(accuracy, white_box)

        curve = [(0.0, natural.right.sum().item() / len(self.index))]
        for multiple in CURVE:
            wider = Threat(threat.epsilon * multiple, threat.norm)
            attack = make_chain(CURVE_ATTACK, wider, num_classes=self.subject.dataset.num_classes)
            state = self._attack(attack, natural, key=f"curve-{multiple:g}-epsilon")
            curve.append((wider.epsilon, _accuracy(state)))
        raised += flags.curve_flags(curve)

        self._watch("planted examples", 0.0)
        planted = planted_test(
            self._model,
            self._data,
            self._index[:PLANTED_IMAGES],
            threat,
            batch_size=batch_size,
            seed=self.request.seed,
        )
        raised += flags.planted_flags(planted.found, planted.num_images)
        return {
            "probes": vars(probes),
            "strength": accuracy,
            "white_box": white_box,
            "curve": curve,
            "planted": vars(planted),
        }, raised

    def _attack(
        self,
        attack: EvaluationAttack,
        natural: Natural,
        *,
        key: str = "",
        kept: bool = False,
        transfer: bool = True,
    ) -> AttackState:
        """The attack on all images, from where it was left. `kept`: its examples go into the folder."""
        key = key or attack.name
        state = self._journal.attack(key) or AttackState(first_verdicts(natural).cpu().numpy())
        if state.complete:
            return state
        verdicts = torch.from_numpy(state.verdicts.copy()).to(self._data.device)
        known = self._known_broken() if kept else None
        saved = monotonic()
        started, before = perf_counter(), state.seconds
        steps = attack_steps(
            self._model,
            self._data,
            self._index,
            attack,
            verdicts,
            batch_size=self.request.batch_size,
            seed=self.request.seed,
            stream=STREAM,
            source=self._source if transfer else None,
            done=state.steps,
        )
        for step in steps:
            if known is not None:
                self._keep(step.positions, step.examples, known)
            state.steps, state.seconds = state.steps + 1, before + perf_counter() - started
            self._watch(key, (step.stage - 1 + step.share) / len(attack.stages))
            if monotonic() - saved > SAVE_EVERY:
                state.verdicts = verdicts.cpu().numpy()
                self._journal.save(key, state)
                saved = monotonic()
        state.verdicts, state.complete = verdicts.cpu().numpy(), True
        state.seconds = before + perf_counter() - started
        self._journal.save(key, state)
        return state

    def _known_broken(self) -> np.ndarray:
        """Images that an attack of the suite that is complete has broken already: their example stays."""
        known = np.zeros(len(self.index), dtype=bool)
        for name in self.request.attacks:
            state = self._journal.attack(name)
            if state and state.complete:
                known |= state.verdicts > 0
        return known

    def _keep(self, positions: Tensor, examples: Tensor, known: np.ndarray) -> None:
        where = positions.cpu().numpy()
        new = ~known[where]
        self._journal.examples[where[new]] = examples[torch.from_numpy(new).to(examples.device)].cpu().numpy()


def _accuracy(state: AttackState) -> float:
    return float((state.verdicts == STANDS).mean())


def _placed(subject: Subject, device: torch.device) -> torch.nn.Module:
    return subject.model.to(device).to(memory_format=torch.channels_last)


def names_of(flagged: Iterable[Flag]) -> list[str]:
    """Names of flags, each once."""
    return list(dict.fromkeys(flag.name for flag in flagged))
