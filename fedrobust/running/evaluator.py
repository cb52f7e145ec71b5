"""A run's own evaluation: the validation slice chooses the best round, the test set is used only for reporting."""

from __future__ import annotations

import numpy as np
import torch

from fedrobust.config import RunConfig
from fedrobust.data import some
from fedrobust.data.spec import SplitName
from fedrobust.data.split import split_of
from fedrobust.evaluation.accuracy import Evaluation, evaluate
from fedrobust.evaluation.suite import make_suite
from fedrobust.seeding import numpy_stream
from fedrobust.storage.checkpoint import Arrays
from fedrobust.training.context import run_context


class RunEvaluator:
    """An evaluator of global models, always on the same images and with the same random starts."""

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg
        self.context = run_context(cfg)
        self.split = split_of(cfg)
        self._suite = make_suite(cfg, self.context.dataset.num_classes)
        train, test = self.context.dataset.train.labels, self.context.dataset.test.labels
        rng, counts = self._rng, cfg.evaluation
        self._validation = some(self.split.validation, train, counts.validation_images, rng("validation"))
        self._test = some(np.arange(len(test)), test, cfg.data.test_images, rng("test"))
        self._test_of_round = some(self._test, test, counts.test_images, rng("test-of-round"))

    def validation(self, arrays: Arrays) -> Evaluation | None:
        """Evaluate on the validation slice of the training set; return None if that is empty."""
        return self._evaluate(arrays, "train", self._validation) if self.selects else None

    def test(self, arrays: Arrays) -> Evaluation:
        """Evaluate on the test set (`data.test-images` of it)."""
        return self._evaluate(arrays, "test", self._test)

    def test_of_round(self, arrays: Arrays) -> Evaluation | None:
        """Evaluate on `evaluation.test-images` of the test set; return None if that is 0."""
        return self._evaluate(arrays, "test", self._test_of_round) if self.cfg.evaluation.test_images else None

    @property
    def selects(self) -> bool:
        """True if there are validation images to choose the best round on."""
        return bool(len(self._validation))

    @property
    def selection(self) -> str:
        """The rule by which the best round is chosen, in words for a record."""
        if not self.selects:
            return "last round (no validation images)"
        return f"highest {self.cfg.evaluation.select_by} accuracy on {len(self._validation)} validation images"

    def score(self, evaluation: Evaluation) -> float:
        """Return the accuracy by which the best round is chosen."""
        name = self.cfg.evaluation.select_by
        return evaluation.natural_accuracy if name == "natural" else evaluation.robust_accuracy[name]

    def _evaluate(self, arrays: Arrays, split: SplitName, index: np.ndarray) -> Evaluation:
        return evaluate(
            self.context.load_arrays(arrays),
            self.context.images(split),
            torch.from_numpy(index),
            self._suite,
            batch_size=self.cfg.evaluation.batch_size,
            seed=self.cfg.seed,
            stream=("evaluation", split),
        )

    def _rng(self, stream: str) -> np.random.Generator:
        return numpy_stream(self.cfg.seed, "evaluated", stream)
