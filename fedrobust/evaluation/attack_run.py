"""Many attacks on one model and the same images, with intermediate results on disk: the long part of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.data import some
from fedrobust.data.device import on_device
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation.contract import admitted, fitting_batch_size
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.evaluation_folder import AttackState, EvaluationFolder
from fedrobust.evaluation.suite import EvaluationAttack, Threat, make_chain, needs_gradients
from fedrobust.evaluation.verdicts import attack_steps, classify, first_verdicts
from fedrobust.seeding import numpy_stream

SAVE_EVERY = 10.0  # seconds

Watch = Callable[[str, float], None]
"""Function that is called with the running attack's name and its completed share."""
OpenJournal = Callable[[dict[str, Any], int, tuple[int, ...]], EvaluationFolder]
"""Function that opens the evaluation's folder, given the settings, the number of images and an image's shape."""


@dataclass(frozen=True)
class Request:
    """The request of an evaluation.

    Attributes:
        attacks: names of the suite's attacks; the worst case is over these.
        num_images: class-balanced number of test images; 0 takes all.
        batch_size: images per batch; 0 takes the largest number that fits the device.
        step_size: step size of PGD, BIM and MIM in pixel units; None takes epsilon / 4.
        checks: also run the checks that the flags need.
    """

    attacks: tuple[str, ...]
    threat: Threat
    num_images: int
    seed: int
    batch_size: int
    step_size: float | None = None
    checks: bool = True


class AttackRun:
    """Attacks on `evaluated`, each resumed from its state in the evaluation's folder.

    Attributes:
        request: the request, with the batch size filled in.
        model, data, index: the model and the images under attack; `index` [n] into the test images, on their device.
        labels: labels of these images, [n].
        natural: result of `classify` on these images.
        transfers: true if examples are made on another model.
    """

    def __init__(
        self,
        evaluated: EvaluatedModel,
        request: Request,
        open_journal: OpenJournal,
        *,
        device: torch.device,
        source: EvaluatedModel | None = None,
        watch: Watch = lambda name, share: None,
    ) -> None:
        """Raise ConfigError for a model that violates the contract, or a folder with other settings."""
        self.watch, self.transfers = watch, source is not None
        self._subject = evaluated
        self.data = on_device(evaluated.dataset, "test", device)
        labels = evaluated.dataset.test.labels
        rng = numpy_stream(request.seed, "evaluated", "test")
        positions = some(np.arange(len(labels)), labels, request.num_images, rng)
        self.labels, self.index = labels[positions], torch.from_numpy(positions).to(device)
        attacked, dataset = any(map(needs_gradients, request.attacks)), evaluated.dataset
        gradients = request.checks or (attacked and not source)
        self.model = admitted(evaluated.model, dataset, self.data, self.index, gradients=gradients)
        self._source = admitted(source.model, dataset, self.data, self.index, gradients=attacked) if source else None
        if not request.batch_size:
            fits = fitting_batch_size(self.model, dataset.image_shape, device, gradients=gradients)
            request = replace(request, batch_size=fits)
        self.request = request
        try:
            self.natural = classify(self.model, self.data, self.index, batch_size=request.batch_size)
        except RunFailed as error:  # the model is the user's choice
            raise ConfigError(str(error)) from error
        settings = {
            "model": evaluated.digest,
            "source": source.digest if source else "",
            "data": evaluated.dataset.digest,
            "epsilon": float(request.threat.epsilon),
            "norm": request.threat.norm,
            "num_images": len(positions),
            "seed": request.seed,
            "batch_size": request.batch_size,
            "step_size": None if request.step_size is None else float(request.step_size),
        }
        self._journal = open_journal(settings, len(positions), evaluated.dataset.image_shape)

    @property
    def examples(self) -> np.ndarray:
        """Adversarial examples, one per image, as `EvaluationFolder` keeps them."""
        return self._journal.examples

    def chain(self, name: str, threat: Threat | None = None) -> EvaluationAttack:
        """Return the attack of this name; against the request's threat, with its step size, unless another is given."""
        step_size = self.request.step_size if threat is None else None
        classes = self._subject.dataset.num_classes
        return make_chain(name, threat or self.request.threat, num_classes=classes, step_size=step_size)

    def attack(
        self, attack: EvaluationAttack, *, key: str = "", kept: bool = False, white_box: bool = False
    ) -> AttackState:
        """Run an attack on all images that are classified correctly.

        Args:
            key: its name in the evaluation's folder; by default the attack's name.
            kept: store its examples in the folder.
            white_box: attack the evaluated model itself, even if examples are made on another model.
        """
        key = key or attack.name
        state = self._journal.attack(key) or AttackState(first_verdicts(self.natural).cpu().numpy())
        if state.complete:
            return state
        verdicts = torch.from_numpy(state.verdicts.copy()).to(self.data.device)
        broken_before = self._broken_before() if kept else None
        started, saved, before = perf_counter(), monotonic(), state.seconds
        steps = attack_steps(
            self.model,
            self.data,
            self.index,
            attack,
            verdicts,
            batch_size=self.request.batch_size,
            seed=self.request.seed,
            stream=("evaluation",),
            source=None if white_box else self._source,
            done=state.steps,
        )
        try:
            for step in steps:
                if broken_before is not None:
                    self._keep(step.positions, step.examples, broken_before)
                state.steps, state.seconds = state.steps + 1, before + perf_counter() - started
                if monotonic() - saved > SAVE_EVERY:  # for a kill; an interrupt is seen to below
                    state.verdicts = verdicts.cpu().numpy()
                    self._journal.save(key, state)
                    saved = monotonic()
                self.watch(key, (step.stage - 1 + step.share) / len(attack.stages))
            state.complete = True
        finally:
            state.verdicts = verdicts.cpu().numpy()
            self._journal.save(key, state)
        return state

    def _broken_before(self) -> np.ndarray:
        """Return images on which a complete attack of the suite has succeeded: their example stays."""
        states = filter(None, map(self._journal.attack, self.request.attacks))
        broken = [state.verdicts > 0 for state in states if state.complete]
        return np.logical_or.reduce([np.zeros(len(self.labels), dtype=bool), *broken])

    def _keep(self, positions: Tensor, examples: Tensor, broken_before: np.ndarray) -> None:
        where = positions.cpu().numpy()
        new = ~broken_before[where]
        self._journal.examples[where[new]] = examples.cpu().numpy()[new]
