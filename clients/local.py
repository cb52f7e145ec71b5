"""One client's work: its shard, its class counts, local training and evaluation. No messages here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.config import RunConfig
from fedrobust.data.own import load_own
from fedrobust.data.split import shard_of, split_of
from fedrobust.evaluation import EvaluationAttack, Stage, evaluate, make_suite
from fedrobust.training.build import augmentation, sgd_settings, training_attack, training_objective
from fedrobust.training.context import run_context
from fedrobust.training.loop import TrainingSummary, train


@dataclass(frozen=True)
class Instructions:
    """Per-round settings that the strategy sends to a client."""

    server_round: int
    learning_rate: float
    objective: str
    proximal_mu: float


class LocalClient:
    """The client that holds partition `partition` of a run.

    Its images follow from the run's seed and the labels, or are its own (`data.own`). Its class counts
    are computed here and stay here.
    """

    def __init__(self, cfg: RunConfig, partition: int) -> None:
        self.cfg, self.partition = cfg, partition
        if cfg.data.own:
            data = load_own(cfg)
            self.context = run_context(cfg, data.dataset)
            self.shard = shard_of(cfg, partition, data.own, data.pool, data.dataset.train.labels)
        else:
            self.context = run_context(cfg)
            self.shard = split_of(cfg).clients[partition]

    def train(
        self, weights: dict[str, Tensor], instructions: Instructions
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Train from `weights` on the shard; return the new weights and the metrics.

        Metrics: "num-examples" (images of the shard), loss, seconds, images, steps; natural_accuracy and
        adversarial_accuracy while training, if the objective computes them, or else after it on
        `evaluation.probe-images` of the shard's images.
        """
        cfg, context = self.cfg, self.context
        attack = training_attack(cfg)
        objective = training_objective(
            cfg, instructions.objective, attack, context, self.shard.train, awp_gamma=cfg.objective.awp_gamma
        )
        schedule = sgd_settings(cfg, learning_rate=instructions.learning_rate, proximal_mu=instructions.proximal_mu)
        summary = train(
            context.load(weights),
            context.images("train"),
            torch.from_numpy(self.shard.train),
            objective,
            schedule,
            augmentation=augmentation(cfg, context.dataset),
            precision=context.precision,
            seed=cfg.seed,
            stream=("client", self.partition, instructions.server_round),
            capture=cfg.cuda_graphs,
        )
        return context.weights(), self._metrics(summary, EvaluationAttack("training", (Stage("training", attack),)))

    def evaluate(self, weights: dict[str, Tensor], server_round: int) -> dict[str, float]:
        """Return the metrics of `weights` on the client's own held-out images; only "num-examples" 0 if it has none."""
        if not len(self.shard.held_out):
            return {"num-examples": 0}
        evaluation = evaluate(
            self.context.load(weights),
            self.context.images("train"),
            torch.from_numpy(self.shard.held_out),
            make_suite(self.cfg, self.context.dataset.num_classes),
            batch_size=self.cfg.evaluation.batch_size,
            seed=self.cfg.seed,
            stream=("client-evaluation", self.partition, server_round),
        )
        return {"num-examples": evaluation.num_images, **evaluation.metrics()}

    def _metrics(self, summary: TrainingSummary, attack: EvaluationAttack) -> dict[str, float]:
        seen = {"natural_accuracy": summary.natural_accuracy, "adversarial_accuracy": summary.adversarial_accuracy}
        if (count := self.cfg.evaluation.probe_images) and None in seen.values():
            own = self.shard.train
            probe = evaluate(
                self.context.model,
                self.context.images("train"),
                torch.from_numpy(own[:: max(1, len(own) // count)][:count]),
                [attack] if seen["adversarial_accuracy"] is None else [],
                batch_size=self.cfg.local.batch_size,
                seed=self.cfg.seed,
                stream=("probe", self.partition),
            )
            measured = {
                "natural_accuracy": probe.natural_accuracy,
                "adversarial_accuracy": probe.robust_accuracy.get("training"),
            }
            seen = {key: measured[key] if value is None else value for key, value in seen.items()}
        return {
            "num-examples": len(self.shard.train),
            "loss": summary.loss,
            **{key: value for key, value in seen.items() if value is not None},
            "seconds": summary.seconds,
            "images": summary.images,
            "steps": summary.steps,
        }
