"""A run's last layer retrained as a convex programme and compared, under attacks on the whole network, with its own
head and with SAM's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrobust.config import RunConfig
from fedrobust.convex.certificates import accuracy
from fedrobust.convex.logistic import LogisticProblem, solve_logistic
from fedrobust.convex.problem import Solution
from fedrobust.convex.relu_programme import ReluProblem, ReluSolution
from fedrobust.convex.relu_solvers import solve_relu_first_order
from fedrobust.convex_study.heads import linear_distances, projection_of, raw_features, sam_head, with_head
from fedrobust.convex_study.radii import margins
from fedrobust.data import some
from fedrobust.data.device import DeviceImages, on_device
from fedrobust.data.split import make_split
from fedrobust.errors import ConfigError
from fedrobust.evaluation import EvaluationAttack, Threat, evaluate, make_chain
from fedrobust.evaluation.contract import fitting_batch_size
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.last_layer import last_linear
from fedrobust.seeding import numpy_stream


@dataclass(frozen=True)
class HeadPlan:
    """The heads to train and the tests to run on them.

    Attributes:
        activations: activations of the heads, "polynomial" and "relu".
        radii: l2 radii of training, in feature space in units of `heads.projection_of`; each is combined with each
            beta.
        test_radii: l2 radii, in the same units, at which accuracy is certified in feature space.
        components: number of principal components besides the last layer's rows.
        patterns: number of patterns of ReLU heads.
        num_images, test_images: class-balanced numbers of images; 0 takes all.
        attacks: attacks on pixels, within the run's epsilon and norm.
    """

    activations: tuple[str, ...]
    radii: tuple[float, ...]
    betas: tuple[float, ...]
    test_radii: tuple[float, ...]
    components: int
    patterns: int
    num_images: int
    test_images: int
    attacks: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of heads for a seed."""
        return 2 + len(self.activations) * len(self.radii) * len(self.betas)


def run_heads(plan: HeadPlan, evaluated: EvaluatedModel, seed: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row per head as soon as it is trained and tested: the run's own, one fine-tuned by SAM, the convex ones.

    Heads are trained on the run's training images, unperturbed: only the ball in feature space is adversarial.

    Raises:
        ConfigError: a run whose head cannot be replaced.
    """
    trial = _Trial(plan, evaluated, seed, device)
    own = last_linear(trial.model)[1]
    raw, y = raw_features(trial.model, trial.train, trial.chosen), trial.train.labels[trial.chosen]
    test_raw, test_y = raw_features(trial.model, trial.test, trial.tested), trial.test.labels[trial.tested]
    projection = projection_of(own, raw, y, plan.components)
    common: dict[str, Any] = {"seed": seed, "radius": None, "beta": None}

    def linear(method: str, head: nn.Linear, seconds: float) -> dict[str, Any]:
        distances = linear_distances(head, test_raw, test_y) / projection.scale
        return {
            **common,
            "method": method,
            **trial.accuracies(head),
            **_certified(plan, lambda radius: distances - radius),
            "seconds": seconds,
        }

    yield linear("own", own, 0.0)
    started = perf_counter()
    yield linear("sam", sam_head(trial.model, raw, y, seed=seed), round(perf_counter() - started, 2))
    x, test_x = projection(raw).double(), projection(test_raw).double()
    for method in plan.activations:
        for beta in plan.betas:
            for radius in plan.radii:
                found = _solve(method, (x, y, radius, beta, evaluated.dataset.num_classes), plan, seed)

                def certify(radius: float, found: Solution | ReluSolution = found) -> Tensor:
                    return margins(found, test_x, test_y, radius, "l2")

                certified = _certified(plan, certify)
                units = found.network.directions if isinstance(found, Solution) else found.network.first
                yield {
                    **common,
                    "method": method,
                    "radius": radius,
                    "beta": beta,
                    **trial.accuracies(nn.Sequential(projection, found.network.float())),
                    **certified,
                    "objective": found.objective,
                    "lower_bound": found.lower_bound,
                    "gap": found.gap,
                    "status": found.status,
                    "seconds": round(found.seconds, 2),
                    "neurons": len(units),
                }


def _certified(plan: HeadPlan, margins_at: Callable[[float], Tensor]) -> dict[str, float]:
    """Return the share of test images whose features are certified at each radius: `certified.features@1`."""
    return {f"certified.features@{radius:g}": accuracy(margins_at(radius)) for radius in plan.test_radii}


def _solve(method: str, basics: tuple[Any, ...], plan: HeadPlan, seed: int) -> Solution | ReluSolution:
    if method == "polynomial":
        return solve_logistic(LogisticProblem(*basics), seed=seed)
    problem = ReluProblem(*basics, norm="l2", loss="logistic")
    return solve_relu_first_order(problem, patterns=plan.patterns, seed=seed)


class _Trial:
    """A run's model and images on a device, and the attacks on them."""

    def __init__(self, plan: HeadPlan, evaluated: EvaluatedModel, seed: int, device: torch.device) -> None:
        assert evaluated.cfg, "a run's folder has its config"
        threat = Threat(evaluated.cfg.attack.epsilon, evaluated.cfg.attack.norm)
        dataset = evaluated.dataset
        self.seed = seed
        self.suite: list[EvaluationAttack] = [
            make_chain(name, threat, num_classes=dataset.num_classes) for name in plan.attacks
        ]
        self.model = evaluated.model.to(device).eval()
        self.train: DeviceImages = on_device(dataset, "train", device)
        self.test: DeviceImages = on_device(dataset, "test", device)
        labels, test_labels = dataset.train.labels, dataset.test.labels
        mine = trained_on(evaluated.cfg, labels)
        everything = np.arange(len(test_labels))
        chosen = some(mine, labels, plan.num_images, numpy_stream(seed, "heads", "train"))
        tested = some(everything, test_labels, plan.test_images, numpy_stream(seed, "evaluated", "test"))
        self.chosen, self.tested = (torch.from_numpy(index).to(device) for index in (chosen, tested))
        self.batch_size = fitting_batch_size(self.model, dataset.image_shape, device)

    def accuracies(self, head: nn.Module) -> dict[str, float]:
        """Return natural and robust accuracy of the whole network with this head."""
        whole = with_head(self.model, head)
        found = evaluate(whole, self.test, self.tested, self.suite, batch_size=self.batch_size, seed=self.seed)
        metrics = found.metrics()
        del metrics["loss"]
        return metrics


def trained_on(cfg: RunConfig, labels: np.ndarray) -> np.ndarray:
    """Return the indices of all images that the run, or its clients, trained on.

    Raises:
        ConfigError: the images are the clients' own.
    """
    shards = make_split(cfg, labels).clients
    if not shards:
        raise ConfigError("the run's clients train on their own images (data.own), which are not on this machine")
    return np.unique(np.concatenate([shard.train for shard in shards]))
