"""ReLU whose derivative is a smooth function's: the backward pass alone is smoothed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrobust.attacks.contract import attacking

Phase = Literal["attack", "update", "both"]


class SmoothBackward(nn.Module):
    """max(0, x) forward; backward the derivative of `smooth` at x, in the attack, in the update, or in both.

    Xie et al. 2020, section 3: smoothing in the attack makes stronger examples, in the update better steps. The logits
    are ReLU's to the last bit. Who attacks an evaluated model attacks it in the same way. Limit case: with nn.ReLU as
    `smooth` it is ReLU.
    """

    def __init__(self, smooth: nn.Module, phase: Phase) -> None:
        super().__init__()
        self.smooth, self.phase = smooth, phase

    def forward(self, x: Tensor) -> Tensor:
        if self.phase == "both" or attacking() == (self.phase == "attack"):
            return _Swapped.apply(x, self.smooth)  # type: ignore[return-value]
        return F.relu(x)


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, smooth: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.smooth = smooth
        return F.relu(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(ctx.smooth(x), x, gradients[0])[0], None
