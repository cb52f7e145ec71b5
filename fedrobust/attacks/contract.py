"""The contract of attacks: pixels lie in [0, 1]; the model, its buffers and the random state stay unchanged.

`WorkingSet` holds the images that an attack has not finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, wraps
from inspect import signature
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

_ATTACKING: ContextVar[bool] = ContextVar("attacking", default=False)

Loss = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["eval", "train"]
State = TypeVar("State")

logger = logging.getLogger(__name__)

FRESH_SEED = 0  # of the generator that an attack makes if it is given none
ROUNDING = 4  # units in the last place by which a pixel may lie outside [0, 1]


class Attack(Protocol):
    """An attack with its settings bound, as `make_attack` returns it and objectives and evaluation call it."""

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

    It refuses x outside [0, 1], NaN included, with ValueError. In `torch.inference_mode()` no gradient can be computed,
    so that mode is left during the attack, and x and y are copied if they were made in it. On CUDA the smallest and
    largest pixel are read after the attack's own work is queued, so that nothing waits for them.

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
    logger.warning("%s: no generator is given; noise is drawn from a new one with seed %d", name, FRESH_SEED)


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
            f"x: pixels must lie in [0, 1], not in {least:.4g} to {most:.4g}; put the normalisation into the model"
        )


@contextmanager
def attack_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put all of `model` in eval or train mode; afterwards restore the mode of every module.

    Objectives and evaluation use it, because an attack runs the model in its current mode.

    Raises:
        ValueError: an unknown mode.
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
    """Return whether the current pass belongs to an attack, for layers that differ there (`models.smooth_backward`)."""
    return _ATTACKING.get()


@contextmanager
def no_side_effects(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run `model` without lasting effect on its buffers or on the random state of CPU and CUDA `device`.

    Only modules in train mode have such effects; in eval mode this costs nothing. Inside the block they have copies of
    their buffers: the originals are not written to, so graphs that hold them stay valid. The CUDA generator cannot be
    read while a CUDA graph is captured; it is then left to the capture.
    """
    token = _ATTACKING.set(True)
    try:
        with buffers_and_random_state_kept(model, device):
            yield
    finally:
        _ATTACKING.reset(token)


@contextmanager
def buffers_and_random_state_kept(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run `model` as in `no_side_effects`, for passes that do not belong to an attack."""
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
    """Return logits [B, K], loss_i [B] and ∂ Σ_i loss_i / ∂x, all detached; no weight gradient is computed or stored.

    Logits and loss are in float32, also if autocast runs the model in bfloat16; the gradient has shape and dtype of
    `x`.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()  # shares the storage of x: no copy
        logits = model(x).float()
        value = loss(logits, y)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return logits.detach(), value.detach(), gradient


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return ∂ Σ_i loss_i / ∂x, as `forward_backward` does."""
    return forward_backward(model, x, y, loss)[2]


class WorkingSet:
    """The images that an attack has not finished (`index`), and an answer for every image (`result`).

    In train mode, batch norm sees only the remaining images.

    Args:
        x: [B, ...], the first answers; copied.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.detach().clone()
        self.index = torch.arange(len(x), device=x.device)

    def __len__(self) -> int:
        return len(self.index)

    def drop(self, leave: Tensor, answer: Tensor, state: State) -> State:
        """Store the rows `leave` of `answer` in the result; return `state` without these rows.

        Waits for the device. If no row leaves, nothing is copied.

        Args:
            leave: rows that are finished, [len(self)], bool.
            answer: images, [len(self), ...].
            state: a dataclass of tensors with one row per unfinished image, usually `answer` among them.
        """
        if not leave.any():
            return state
        gone, stay = (mask.nonzero().squeeze(1) for mask in (leave, ~leave))
        self.result[self.index[gone]] = answer[gone]
        self.index = self.index[stay]
        return type(state)(**{name: rows[stay] for name, rows in vars(state).items()})

    def finish(self, answer: Tensor) -> Tensor:
        """Return the result, with `answer` for all unfinished images."""
        self.result[self.index] = answer
        return self.result
