"""DeepFool: over the nearest boundary of the linearised model, again and again until the label falls."""

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import ball_of
from fedrobust.attacks.contract import on_pixels, untouched
from fedrobust.attacks.hyperplane import nearest_boundary
from fedrobust.attacks.norms import Norm, image_norm, per_image
from fedrobust.attacks.working_set import WorkingSet

EXTRA = 1e-4  # added to each distance by the authors' code, so that a step of length 0 still crosses


@on_pixels
def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    num_candidates: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = x_t + (1 + overshoot) (|f| / ‖w‖ + 1e-4) u, clipped to [0, 1], until the prediction is not y.

    Moosavi-Dezfooli et al. 2016, algorithm 2 and section 3.3: f = z_k − z_y and w = ∇f of the nearest rival k
    (`nearest_boundary`), u = w / ‖w‖₂ (l2), or sign w with ‖w‖₁ below the line (l∞). Images leave the batch once
    fooled; at most C forward-backward halves per step, C = min(num_candidates, K) − 1. A minimal-norm attack: what
    it finds outside the ball comes back projected onto it. Limit cases: epsilon = 0 returns x; so do wrong images.
    Deviations: the label stands for the prediction at x; [0, 1] is kept; logits that are not finite end the search.

    Args:
        model: pixels to logits, run in the mode it is in.
        x: [B, ...] in [0, 1].
        y: labels, [B] of int64.
        epsilon: radius ≥ 0 in pixel units.
        steps: at least 1.
        overshoot: at least 0.
        num_candidates: at least 2: the label and the classes with the highest logits at x.
        generator: not used: nothing is random.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if steps < 1 or overshoot < 0 or num_candidates < 2:
        raise ValueError(
            "deepfool needs steps ≥ 1, overshoot ≥ 0 and num_candidates ≥ 2, "
            f"not {steps}, {overshoot} and {num_candidates}"
        )
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    x_adv, work, rivals = ball.x, WorkingSet(x), None
    with untouched(model, x.device):
        for _ in range(steps):
            with torch.enable_grad():
                x_adv = x_adv.detach().requires_grad_()
                logits = model(x_adv).float()
            if rivals is None:
                others = logits.detach().scatter(1, y.unsqueeze(1), float("-inf"))
                rivals = others.topk(min(num_candidates, logits.shape[1]) - 1, dim=1).indices
            # no way leads on from logits that are not finite: such an image stays here, as with every attack
            fooled = (logits.argmax(1) != y) | ~logits.isfinite().all(1)
            if fooled.all():
                break
            _, normal, distance = nearest_boundary(logits, x_adv, y, rivals, norm)
            x_adv, y, rivals, normal, distance = work.drop(fooled, x_adv.detach(), y, rivals, normal, distance)
            length = image_norm(normal, 2).clamp_(min=1e-12)
            direction = normal / per_image(length, x) if norm == "l2" else normal.sign()
            x_adv = (x_adv + direction * per_image((1 + overshoot) * (distance + EXTRA), x)).clamp_(0, 1)
        return ball.enclose(work.finish(x_adv.detach()))
