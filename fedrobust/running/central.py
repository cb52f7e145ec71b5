"""Centralised adversarial training: the objectives, attacks and training loop of a client, on all the data.

A central run has the settings, the folder and the rounds of a federated one; a round is `local.epochs` passes over the
training set. With a constant rate, no momentum and no averaging of weights it is a federation of one client to the last
bit: a client's optimiser starts anew in each round, this one keeps its state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedrobust.config import RunConfig
from fedrobust.config.effects import refuse_unused
from fedrobust.config.registry import objective_of
from fedrobust.data import some
from fedrobust.errors import RunFailed
from fedrobust.evaluation import evaluate
from fedrobust.evaluation.suite import Threat, make_chain
from fedrobust.hardware.process import threads
from fedrobust.running.rounds import Rounds, Row
from fedrobust.seeding import numpy_stream
from fedrobust.storage.checkpoint import Arrays, Checkpoint
from fedrobust.storage.run_folder import ROUNDS, new_run_dir
from fedrobust.training.central import PROBE, PROBE_ATTACK, PROBE_IMAGES, Trainer, fallen, why_over


class Central(Rounds):
    """The rounds of a `Trainer` on all images except those of the validation slice, or on the pool only."""

    def begin(self, checkpoint: Checkpoint) -> None:
        self.trainer = Trainer(self.cfg, self.evaluator.context, self.index, checkpoint.last)
        if checkpoint.progress.server_round:
            self.trainer.restore(checkpoint.progress.server_round, checkpoint.state)

    @property
    def index(self) -> np.ndarray:
        """Indices of the images trained on."""
        return self.evaluator.split.clients[0].train

    def train(self, server_round: int, before: Checkpoint) -> tuple[Arrays, Row, list[Row]]:
        """Train for one round, and measure the accuracy on training images under PGD-5.

        Raises:
            RunFailed: the loss is not finite.
        """
        rate = self.trainer.learning_rate
        try:
            summary = self.trainer.train(server_round)
        except FloatingPointError as error:
            raise RunFailed(f"round {server_round}: {error}") from error
        row: Row = {
            "learning_rate": rate,
            "train.loss": summary.loss,
            **{
                f"train.{key}": value
                for key in ("natural_accuracy", "adversarial_accuracy")
                if (value := getattr(summary, key)) is not None
            },
            "images": summary.images,
        }
        if self.cfg.central.overfitting != "ignore":
            row[PROBE] = self._probe()
            if why := fallen([*self.folder.read(ROUNDS), {"round": server_round, **row}]):
                row["warning"] = why
        return self.trainer.arrays(), row, []

    def over(self, state: Checkpoint) -> str:
        return why_over(self.cfg.central, self.folder.read(ROUNDS), state.progress.best_round)

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with the optimiser's momentum and, if weights are averaged, those that are trained."""
        return replace(checkpoint, state=self.trainer.state())

    def describe(self) -> dict[str, Any]:
        return {"objective": objective_of(self.cfg), "train_images": len(self.index)}

    def total(self, rounds: list[Row]) -> dict[str, Any]:
        return {"warnings": [row["warning"] for row in rounds if "warning" in row]}

    def _probe(self) -> float:
        """Return the accuracy of the current weights under PGD-5, always on the same training images."""
        labels = self.evaluator.context.dataset.train.labels
        chosen = some(self.index, labels, PROBE_IMAGES, numpy_stream(self.cfg.seed, "probe"))
        threat = Threat(self.cfg.attack.epsilon, self.cfg.attack.norm)
        num_classes = self.evaluator.context.dataset.num_classes
        attack = make_chain(PROBE_ATTACK, threat, num_classes=num_classes, step_size=self.cfg.evaluation.step_size)
        found = evaluate(
            self.evaluator.context.model,
            self.evaluator.context.images("train"),
            torch.from_numpy(chosen),
            [attack],
            batch_size=self.cfg.evaluation.batch_size,
            seed=self.cfg.seed,
            stream=("probe",),
        )
        return found.robust_accuracy[PROBE_ATTACK]


def run(cfg: RunConfig) -> None:
    """Train with the settings `cfg`, with `workers.threads` CPU threads; results lie in `run-dir`, or a new folder
    below runs/.

    Raises:
        RunFailed: the run ended early; its folder holds the results up to then.
        ConfigError: a name is in no registry, the settings do not fit the data, or one that was given has no effect.
    """
    refuse_unused({"": cfg}, cfg.given)
    if not cfg.run_dir:
        cfg = cfg.replace(run_dir=str(new_run_dir("central").absolute()))
    with threads(cfg.workers.threads):
        Central(cfg).run()
