"""SGD with momentum, as torch.optim.SGD computes it, with all of its state on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a step changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class SGD:
    """The optimiser of local and central training.

    v ← momentum · v + g + weight_decay · w, then w ← w − learning_rate · v, v = 0 at first.

    Bit for bit torch.optim.SGD on a CPU. That one is not used because it imports torch's compiler (about 1.6 s in each
    process), and because a captured CUDA graph needs the learning rate and all momenta in memory that stays.

    Args:
        parameters: the weights to change, in place; of one device.
        learning_rate, momentum, weight_decay: at least 0.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        self.parameters = list(parameters)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.momenta = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self._fused = self.parameters[0].device.type == "cuda"
        self._rate = torch.zeros((), device=self.parameters[0].device)
        self.learning_rate = learning_rate

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        self._rate.fill_(value)

    def forget(self) -> None:
        """Set all momenta to zero: the next step is a first one."""
        for momentum in self.momenta:
            momentum.zero_()

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Take one step. A parameter without a gradient stays as it is, as in torch.optim.SGD."""
        found = [
            (parameter, gradient, momentum)
            for parameter, gradient, momentum in zip(self.parameters, gradients, self.momenta, strict=True)
            if gradient is not None
        ]
        if self._fused:
            found = [(p, torch.empty_like(p).copy_(g) if g.stride() != p.stride() else g, m) for p, g, m in found]
            parameters, used, momenta = (list(column) for column in zip(*found, strict=True))
            torch._fused_sgd_(  # pyright: ignore[reportPrivateImportUsage]
                parameters,
                used,
                momenta if self.momentum else [],
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self._rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,  # momenta are zeros then, which gives the same
            )
            return
        for parameter, gradient, momentum in found:
            direction = gradient.add(parameter, alpha=self.weight_decay) if self.weight_decay else gradient
            if self.momentum:
                direction = momentum.mul_(self.momentum).add_(direction)
            parameter.add_(direction, alpha=-self._learning_rate)
