"""The state of a central run between rounds: optimiser, learning rate, averaged weights, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from fedrobust.config import Central, RunConfig
from fedrobust.config.names import split_list
from fedrobust.config.registry import objective_of
from fedrobust.objectives import Objective
from fedrobust.storage.checkpoint import Arrays
from fedrobust.training.build import augmentation, sgd_settings, training_attack, training_objective
from fedrobust.training.context import RunContext, as_tensor
from fedrobust.training.loop import TrainingSummary, train
from fedrobust.training.sgd import SGD, trainable

Factor = Callable[[float], float]

PROBE_ATTACK, PROBE_IMAGES = "pgd-5", 256
PROBE = f"probe.robust_accuracy.{PROBE_ATTACK}"
FALL = 0.20
MOMENTUM, WEIGHTS, COUNT = "momentum/", "weights/", "averaged"


def rate_factor(settings: Central) -> Factor:
    """Return the factor on the learning rate as a function of the completed share t in [0, 1] of all steps.

    - constant: 1.
    - piecewise: decay^m, m the number of milestones ≤ t (Rice et al. 2020: 0.1 at 0.5 and 0.75).
    - cosine: (1 + cos πt) / 2 (Loshchilov and Hutter 2017, without restarts).
    - cyclic: t / peak up to the peak, then (1 − t) / (1 − peak): a single triangle (Wong et al. 2020: peak 0.4).

    The formulas are those of torch's MultiStepLR, CosineAnnealingLR and CyclicLR, without their state: a resumed run
    needs only the number of its step.
    """
    milestones = [float(share) for share in split_list(settings.milestones)]
    factors: dict[str, Factor] = {
        "constant": lambda t: 1.0,
        "piecewise": lambda t: settings.decay ** sum(t >= milestone for milestone in milestones),
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "cyclic": lambda t: min(t / settings.peak, (1 - t) / (1 - settings.peak)),
    }
    return factors[settings.schedule]


Row = dict[str, Any]


def fallen(rows: Sequence[Row]) -> str:
    """Return a line on catastrophic overfitting in the last of these rounds; "" if there is none.

    It is detected if the accuracy under PGD-5 on training images is more than 20 points below the highest so far (Wong
    et al. 2020, section 5.4, who compare with the round before; a fall over two rounds is one, too).
    """
    found = [row[PROBE] for row in rows if PROBE in row]
    if len(found) < 2 or max(found) - found[-1] <= FALL:
        return ""
    return (
        f"catastrophic overfitting in round {rows[-1]['round']}: {PROBE_ATTACK} accuracy on training images fell from "
        f"{max(found):.1%} to {found[-1]:.1%}"
    )


def why_over(settings: Central, rows: Sequence[Row], best_round: int) -> str:
    """Return why a run with these rounds ends; "" to continue."""
    if not rows:
        return ""
    if settings.overfitting == "stop" and (why := fallen(rows)):
        return why
    last = rows[-1]["round"]
    if settings.patience and best_round and last - best_round >= settings.patience:
        return f"no better score since round {best_round}, {last - best_round} rounds ago"
    return ""


class Trainer:
    """A central run's trainer: it trains the model `start`, round after round, on the images `index` of the training
    set.

    The learning rate is `central.schedule`'s, step by step; momentum is kept from round to round. With
    `central.average` the model that `arrays` returns is the average of the weights, once averaging has begun:
    exponential (Izmailov et al. 2018 for the plain one), buffers included, so that batch norm's statistics are averaged
    and not computed anew over the data, as swa_utils.update_bn would.
    """

    def __init__(self, cfg: RunConfig, context: RunContext, index: np.ndarray, start: Arrays) -> None:
        self.cfg, self.context = cfg, context
        self.index = torch.from_numpy(index)
        self.schedule = sgd_settings(cfg)
        self.attack = training_attack(cfg)
        self.steps_per_round = self.schedule.num_steps(len(index))
        self.total = self.steps_per_round * cfg.num_rounds
        self._weights = _tensors(start)
        context.load(self._weights)
        self._average = self._make_average()
        self._begin(0)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._optimizer.learning_rate

    def train(self, number: int) -> TrainingSummary:
        """Train for the round of that number, counted from 1."""
        summary = train(
            self.context.load(self._weights),
            self.context.images("train"),
            self.index,
            self._objective(number),
            self.schedule,
            augmentation=augmentation(self.cfg, self.context.dataset),
            precision=self.context.precision,
            seed=self.cfg.seed,
            stream=("client", 0, number),  # a lone client's, so that it can be held against this
            optimizer=self._optimizer,
            capture=self.cfg.cuda_graphs,
            after_step=self._after_step,
        )
        if self._average is not None and self.cfg.central.average == "swa" and self._averaging:
            self._average.update_parameters(self.context.model)
        self._weights = self.context.weights()
        return summary

    def arrays(self) -> Arrays:
        """Return the run's model: the average if there is one, else the weights."""
        weights = self._weights
        if self._average is not None and self._average.n_averaged > 0:
            weights = {
                key: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for key, value in self._average.module.state_dict().items()
            }
        return {key: value.numpy() for key, value in weights.items()}

    def state(self) -> Arrays:
        """Return the state that the next round needs besides `arrays`."""
        state = {MOMENTUM + name: _array(momentum) for name, momentum in self._momenta() if self._optimizer.momentum}
        if self._average is not None:
            state |= {WEIGHTS + key: value.numpy() for key, value in self._weights.items()}
            state[COUNT] = _array(self._average.n_averaged)
        return state

    def restore(self, number: int, state: Arrays) -> None:
        """Restore the state after round `number`; `start` was the result of `arrays`."""
        if self._average is not None:  # it is made of `start`
            self._average.n_averaged.copy_(as_tensor(state[COUNT]))
            self._weights = _tensors(state, WEIGHTS)
        self._begin(number)
        momenta = _tensors(state, MOMENTUM)
        for name, momentum in self._momenta():
            if name in momenta:
                momentum.copy_(momenta[name])

    def _momenta(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the optimiser's momenta by the names of their weights."""
        names = [name for name, parameter in self.context.model.named_parameters() if parameter.requires_grad]
        yield from zip(names, self._optimizer.momenta, strict=True)

    def _begin(self, number: int) -> None:
        """Make a new optimiser, at the learning rate that follows round `number`."""
        settings = self.schedule
        self._step = number * self.steps_per_round
        self._factor = rate_factor(self.cfg.central)
        self._optimizer = SGD(
            trainable(self.context.model),
            learning_rate=settings.learning_rate * self._factor(self._step / self.total),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def _objective(self, number: int) -> Objective:
        begun = (number - 1) / self.cfg.num_rounds >= self.cfg.central.awp_start
        gamma = self.cfg.objective.awp_gamma if begun else 0.0
        name = objective_of(self.cfg)
        return training_objective(self.cfg, name, self.attack, self.context, self.index.numpy(), awp_gamma=gamma)

    def _make_average(self) -> AveragedModel | None:
        settings = self.cfg.central
        if settings.average == "none":
            return None
        rule = get_ema_multi_avg_fn(settings.average_decay) if settings.average == "ema" else get_swa_multi_avg_fn()
        return AveragedModel(self.context.model, multi_avg_fn=rule, use_buffers=True)

    @property
    def _averaging(self) -> bool:
        return self._step >= self.cfg.central.average_start * self.total

    def _after_step(self) -> None:
        self._step += 1
        self._optimizer.learning_rate = self.schedule.learning_rate * self._factor(self._step / self.total)
        if self._average is not None and self.cfg.central.average == "ema" and self._averaging:
            self._average.update_parameters(self.context.model)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True).numpy()


def _tensors(arrays: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, Tensor]:
    """Return the arrays whose name begins with the prefix, without it."""
    return {key.removeprefix(prefix): as_tensor(value) for key, value in arrays.items() if key.startswith(prefix)}
