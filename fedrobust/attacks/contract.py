"""The contract of attacks: pixels in [0, 1] come in; the model, its buffers and the random state stay as they were.

`WorkingSet` holds the images that an attack still works on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, wraps
from inspect import signature
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

_ATTACKING: ContextVar[bool] = ContextVar("attacking", default=False)

Loss = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["eval", "train"]

logger = logging.getLogger(__name__)

FRESH_SEED = 0  # of the generator that an attack makes if it is given none
ROUNDING = 4  # units in the last place by which a pixel may lie outside [0, 1]


class Attack(Protocol):
    """An attack with its settings bound: what `make_attack` returns and objectives and evaluation call."""

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss = ...,
        generator: torch.Generator | None = ...,
    ) -> Tensor: ...


def on_pixels(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the attack with its arguments checked: pixels, inference mode, generator.

    It refuses x outside [0, 1], NaN included, with ValueError. In `torch.inference_mode()` no gradient can be taken, so
    that mode is left for the attack's time, and x and y are copied if they were made in it. On CUDA the smallest and
    largest pixel are read once the attack's own work is queued: nobody waits for that.

    An attack that draws noise and is given no generator draws from a fresh one with seed 0, so the same call gives the
    same examples; a line in the log says so, once per attack and process.
    """
    draws = "generator" in signature(function).parameters

    @wraps(function)
    def attack(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
        check = _pixel_check(x)
        fresh, state = None, None
        if draws and settings.get("generator") is None:
            settings["generator"] = fresh = torch.Generator(x.device).manual_seed(FRESH_SEED)
            state = fresh.get_state()
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            x, y = (given.clone() if given.is_inference() else given for given in (x, y))
            x_adv = function(model, x, y, **settings)
        if fresh is not None and state is not None and not torch.equal(state, fresh.get_state()):
            _log_fresh_generator(function.__name__)
        check()
        return x_adv

    return attack


@cache
def _log_fresh_generator(name: str) -> None:
    logger.warning("%s: no generator is given; its noise is drawn from a fresh one with seed %d", name, FRESH_SEED)


def _pixel_check(x: Tensor) -> Callable[[], None]:
    """Check that pixels lie in [0, 1]: at once on the CPU; elsewhere, return the check to call later.

    Nothing is checked while a CUDA graph is captured, and `Ball` says what is wrong with integers.
    """
    if not x.numel() or not x.is_floating_point() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return lambda: None
    ends = torch.stack(torch.aminmax(x.detach()))
    if not x.is_cuda:
        _check_pixels(ends)
        return lambda: None
    read = torch.empty(ends.shape, dtype=ends.dtype, pin_memory=True).copy_(ends, non_blocking=True)
    done = torch.cuda.current_stream(x.device).record_event()

    def check() -> None:
        done.synchronize()  # this event alone, long past: not what the attack has queued since
        _check_pixels(read)

    return check


def _check_pixels(ends: Tensor) -> None:
    least, most = ends.tolist()
    slack = ROUNDING * torch.finfo(ends.dtype).eps
    if not (least >= -slack and most <= 1 + slack):  # NaN is neither
        raise ValueError(
            f"x: pixels must lie in [0, 1], not in {least:.4g} to {most:.4g}; a normalisation belongs into the model"
        )


@contextmanager
def attack_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put all of `model` in eval or train mode; afterwards every module is back in the mode it had itself.

    For objectives and evaluation: an attack runs the model in the mode it finds.

    Raises:
        ValueError: another mode.
    """
    if mode not in ("eval", "train"):
        raise ValueError(f"attack mode {mode!r}: must be eval or train")
    found = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in found:
            module.training = training


def attacking() -> bool:
    """Whether the pass at hand is an attack's, for layers that differ there (`models.smooth_backward`)."""
    return _ATTACKING.get()


@contextmanager
def no_side_effects(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run `model` without lasting effect on its buffers or on the random state of CPU and CUDA `device`.

    Only modules in train mode have such effects; in eval mode this costs nothing. They get copies of their
    buffers for the time being: the originals are not even written to, so graphs that hold them stay valid.
    The CUDA generator cannot be read while a CUDA graph is captured; it is then left to the capture.
    """
    token = _ATTACKING.set(True)
    try:
        with buffers_and_random_state_kept(model, device):
            yield
    finally:
        _ATTACKING.reset(token)


@contextmanager
def buffers_and_random_state_kept(model: nn.Module, device: torch.device) -> Iterator[None]:
    """As `no_side_effects`, for passes that are not an attack's."""
    training = [module for module in model.modules() if module.training]
    if not training:
        yield
        return
    found = [(module, *item) for module in training for item in module.named_buffers(recurse=False)]
    copies = {id(buffer): buffer.clone() for _, _, buffer in found}
    forked = [device] if device.type == "cuda" and not torch.cuda.is_current_stream_capturing() else []
    with torch.random.fork_rng(devices=forked):
        try:
            for module, name, buffer in found:
                setattr(module, name, copies[id(buffer)])
            yield
        finally:
            for module, name, buffer in found:
                setattr(module, name, buffer)


def forward_backward(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, K], loss_i [B] and ∂ Σ_i loss_i / ∂x, all detached; no gradient for a weight is computed or stored.

    Logits and loss are in float32, whatever autocast makes of the model; the gradient has shape and dtype of `x`.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()  # shares the storage of x: no copy
        logits = model(x).float()
        value = loss(logits, y)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return logits.detach(), value.detach(), gradient


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """∂ Σ_i loss_i / ∂x, as of `forward_backward`."""
    return forward_backward(model, x, y, loss)[2]


class WorkingSet:
    """`result` holds an answer for every image; `index` says which of them are still worked on.

    A model in train mode sees the batch that is left, and its batch norm with it.

    Args:
        x: [B, ...], the first answers; copied.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.detach().clone()
        self.index = torch.arange(len(x), device=x.device)

    def __len__(self) -> int:
        return len(self.index)

    def drop(self, leave: Tensor, answer: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Take the rows `leave` of `answer` into the result; return the other rows of `answer` and of `state`.

        Waits for the device. Where none leaves, nothing is copied.

        Args:
            leave: [len(self)] of bool.
            answer: [len(self), ...], images.
            state: anything else with one row per image that is worked on.
        """
        if not leave.any():
            return answer, *state
        gone, stay = (mask.nonzero().squeeze(1) for mask in (leave, ~leave))
        self.result[self.index[gone]] = answer[gone]
        self.index = self.index[stay]
        return tuple(rows[stay] for rows in (answer, *state))

    def finish(self, answer: Tensor) -> Tensor:
        """The result, with `answer` for all that are still worked on."""
        self.result[self.index] = answer
        return self.result
