"""Auto-PGD: PGD that sets its own step sizes, and stops on an image once it is misclassified."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, per_image
from fedrobust.attacks.contract import Loss, WorkingSet, forward_backward, no_side_effects, on_pixels
from fedrobust.losses import cross_entropy, targeted_dlr

RHO = 0.75  # share of steps that must raise the loss
MOMENTUM = 0.75  # weight of the new direction; the rest goes to the last move
EAGER = ("cpu",)  # device types on which the batch shrinks after every step: on others the host would have to wait


def checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which the step size is reconsidered, each with the number of steps since the last one.

    As in the public code: first after 22 % of the steps; each later interval is 3 % of them shorter, at least 6 %.
    """
    interval, step, found = max(int(0.22 * steps), 1), 0, {}
    while (step := step + interval) <= steps:
        found[step] = interval
        interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def ranked_class(logits: Tensor, rank: int) -> Tensor:
    """Return the class that ranks (rank + 1)-th: rank 0 is the prediction. [B, K] → [B].

    Raises:
        ValueError: a rank outside 0 … K − 1."""
    if not 0 <= rank < logits.shape[1]:
        raise ValueError(f"rank {rank}: must be at least 0 and below the number of classes, {logits.shape[1]}")
    return logits.sort(dim=1).indices[:, -1 - rank]


@dataclass
class _Start:
    """The images at work, a row each: where the search begins, and towards what."""

    y: Tensor
    goal: Tensor
    """The target of the loss: the label, or label and target class."""
    x_adv: Tensor


@dataclass
class _Search(_Start):
    """The images at work, a row each: the last points, the best one, and what sets the step size."""

    x_prev: Tensor
    x_best: Tensor
    gradient: Tensor
    gradient_best: Tensor
    value: Tensor
    loss_best: Tensor
    loss_then: Tensor
    """`loss_best` at the last checkpoint."""
    step_size: Tensor
    raises: Tensor
    """Steps since the last checkpoint that raised the loss."""
    halved: Tensor
    """True where the last checkpoint halved the step size."""
    broken: Tensor


@on_pixels
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 100,
    target_rank: int = 0,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss by gradient steps with momentum whose size adapts to each image.

    z = Π(x_t + η d_t), x_{t+1} = Π(x_t + ¾ (z − x_t) + ¼ (x_t − x_{t−1})), d_t and Π as in `pgd`.

    Croce and Hein 2020, algorithm 1. η starts at 2 epsilon. At each of the `checkpoints` η is halved for an image, and
    its search restarts from its best point, if fewer than ¾ of the steps since the last checkpoint raised the loss, or
    if neither η nor the best loss has changed since. The start is uniform in the ball.

    With `target_rank` = r > 0 it raises `targeted_dlr` towards the class that ranks (r + 1)-th at x instead of
    `loss`: APGD-T of AutoAttack is r = 1 … 9. Images that are misclassified at x then stay as they are.

    An image leaves the batch at its first misclassified point, so that one pass forward and one back per step are done
    for the rest only; after the last step, only forward. On devices other than the CPU the batch shrinks only at the
    checkpoints. Images that are never misclassified are returned at their highest loss (the public code returns x for
    them). Deviations from the public code: l2 starts in the ball, not on its surface (with d pixels, a (1/d)-th away);
    the first step counts as raising the loss if it does; in the public code, if the loss is positive. Limit case:
    epsilon = 0 returns x.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        steps: number of steps, at least 1.
        target_rank: rank of the target class, below the number of classes, which must be 4 or more; 0 is untargeted.
        loss: the loss to maximise, (logits in float32, y) -> [B].
        generator: source of the random start, on the device of x.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state but `generator`
        are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if steps < 1 or target_rank < 0:
        raise ValueError(f"apgd needs steps ≥ 1 and target_rank ≥ 0, not {steps} and {target_rank}")
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    start, work, raised = _Start(y, y, ball.start("uniform", generator)), WorkingSet(x), loss
    with no_side_effects(model, x.device), torch.no_grad():
        if target_rank:
            clean = model(ball.x).float()
            start.goal, raised = torch.stack((y, ranked_class(clean, target_rank)), 1), _towards_target
            start = work.drop(clean.argmax(1) != y, ball.x, start)
        if not len(work):
            return work.result
        logits, value, gradient = forward_backward(model, start.x_adv, start.goal, raised)
        broken = logits.argmax(1) != start.y
        at = _Search(
            **vars(start),
            x_prev=start.x_adv,
            x_best=start.x_adv,
            gradient=gradient,
            gradient_best=gradient,
            value=value,
            loss_best=value,
            loss_then=value,
            step_size=torch.full_like(value, 2 * epsilon),
            raises=torch.zeros_like(value),
            halved=torch.ones_like(broken),
            broken=broken,
        )
        check = checkpoints(steps)
        for step in range(1, steps + 1):
            if x.device.type in EAGER or step - 1 in check:
                at = work.drop(at.broken, at.x_best, at)
                if not len(work):
                    return work.result
            if len(ball.x) > len(work):
                ball = ball_of(norm, x[work.index], epsilon)
            z = ball.step_(at.x_adv.clone(), at.gradient, per_image(at.step_size, x))
            if step > 1:
                z = ball.project_(torch.lerp(at.x_adv, z, MOMENTUM).add_(at.x_adv - at.x_prev, alpha=1 - MOMENTUM))
            at.x_prev, at.x_adv, before = at.x_adv, z, at.value
            if step < steps:
                logits, at.value, at.gradient = forward_backward(model, at.x_adv, at.goal, raised)
            else:
                logits = model(at.x_adv).float()
                at.value = raised(logits, at.goal)
            at.raises = at.raises + (at.value > before)
            wrong = logits.argmax(1) != at.y
            # a broken image keeps what broke it
            better = per_image(((at.value > at.loss_best) | wrong) & ~at.broken, x)
            at.x_best = torch.where(better, at.x_adv, at.x_best)
            at.gradient_best = torch.where(better, at.gradient, at.gradient_best)
            at.loss_best, at.broken = torch.maximum(at.value, at.loss_best), at.broken | wrong
            if step in check:
                halve = (at.raises <= RHO * check[step]) | (~at.halved & (at.loss_then >= at.loss_best))
                at.step_size = torch.where(halve, at.step_size / 2, at.step_size)
                at.x_adv = torch.where(per_image(halve, x), at.x_best, at.x_adv)
                at.gradient = torch.where(per_image(halve, x), at.gradient_best, at.gradient)
                at.halved, at.loss_then, at.raises = halve, at.loss_best, torch.zeros_like(at.raises)
    return work.finish(at.x_best)


def _towards_target(logits: Tensor, goal: Tensor) -> Tensor:
    """Compute `targeted_dlr` with label and target in one tensor [B, 2]."""
    return targeted_dlr(logits, *goal.unbind(1))
