"""Write `public.npz`: what the public code of APGD, FAB and Square finds on a small network, image by image.

`python tests/attacks/reference/make.py --public PATH`, PATH a checkout of fra31/auto-attack (the stored file is of
commit a392200, MIT licence). It runs as it comes, but for one thing: at its first checkpoint APGD compares the first
step's loss with a zero that nobody wrote, where `fedrobust.attacks.apgd` compares it with that of the start; the
public rule is given the latter here. Starts are handed over, so that both sides begin at the same points.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FILE = Path(__file__).with_name("public.npz")
NORMS = {"linf": ("Linf", 0.11), "l2": ("L2", 0.5)}  # the public name, epsilon: about half of the images break
IMAGES, STEPS = 24, {"apgd": 100, "fab": 30}
RANK = 1  # of the one target class, as fedrobust counts; the public code counts from 1
FAB = ((0, {}), (RANK, {}), (RANK, {"beta": 0.5}))  # with such a β what bounds the bias towards x matters, too
QUERIES = (5000, 100)
CHECKED = (10, 50, 100)  # numbers of steps


def network() -> nn.Sequential:
    """Pixels [B, 1, 8, 8] to 10 logits; smooth, so that rounding does not decide where a search ends."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 10)
    ).requires_grad_(False)


def main() -> None:
    from sklearn.datasets import load_digits  # for this program alone, not for the tests that import it

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", required=True, help="checkout of fra31/auto-attack")
    sys.path.insert(0, parser.parse_args().public)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    pixels, labels = torch.from_numpy(digits.images / 16).float().unsqueeze(1), torch.from_numpy(digits.target).long()
    model = _trained(pixels, labels)
    right = (model(pixels).argmax(1) == labels).nonzero().squeeze(1)
    chosen = right[torch.randperm(len(right))[:IMAGES]]
    x, y = pixels[chosen], labels[chosen]
    stored: dict[str, Any] = {f"weights/{key}": value for key, value in model.state_dict().items()}
    stored |= {"x": x, "y": y}
    for norm, (name, epsilon) in NORMS.items():
        start = _start(x, epsilon, norm)
        stored |= {f"{norm}/epsilon": epsilon, f"{norm}/start": start}
        for rank in (0, RANK):
            found = _apgd(model, x, y, start, name, epsilon, rank, STEPS["apgd"])
            stored |= {f"{norm}/apgd-{rank}/{key}": value for key, value in found.items() if key != "checkpoints"}
        for number, (rank, settings) in enumerate(FAB):
            stored[f"{norm}/fab/{number}"] = _fab(model, x, y, name, rank, settings)
    for steps in CHECKED:
        stored[f"checkpoints/{steps}"] = _apgd(model, x, y, start, name, epsilon, 0, steps)["checkpoints"]
    for queries in QUERIES:
        for rescale in (False, True):
            stored[f"square/{queries}/{rescale}"] = _shares(model, queries, rescale)
    np.savez_compressed(FILE, **{key: np.asarray(value) for key, value in stored.items()})
    print(f"{FILE}: {FILE.stat().st_size} bytes")
    for key, value in stored.items():
        if key.endswith("broken"):
            print(f"{key}: {int(value.sum())} of {IMAGES}")


def _trained(x: Tensor, y: Tensor) -> nn.Sequential:
    """Trained on noisy images, for some robustness."""
    model = network().requires_grad_()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model((x + 0.25 * torch.randn_like(x)).clamp(0, 1)), y).backward()
        optimiser.step()
    return model.requires_grad_(False)


def _start(x: Tensor, epsilon: float, norm: str) -> Tensor:
    """A point of the ball and of [0, 1] for each image."""
    noise = torch.rand_like(x).mul(2).sub(1) if norm == "linf" else torch.randn_like(x)
    if norm == "l2":
        noise *= torch.rand(len(x), 1, 1, 1) / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + epsilon * noise).clamp(0, 1)


def _apgd(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, norm: str, epsilon: float, rank: int, steps: int
) -> dict[str, Any]:
    """Which images break; of each the highest loss and its point; and the loss at the start and after each step.

    The last step's is in no table that the public code hands out. Also after which steps the step size was checked.
    """
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted  # type: ignore[import-not-found]

    kind = APGDAttack_targeted if rank else APGDAttack

    class FromTheStart(kind):
        """The public attack with the loss of the start where its table of losses has none."""

        def check_oscillation(self, x: Tensor, j: int, k: int, *rest: Any, **settings: Any) -> Tensor:
            losses.append(x.clone())
            checked.append(j + 1)
            if j + 1 == k:
                x = x.clone()
                x[-1] = first
            return super().check_oscillation(x, j, k, *rest, **settings)

    losses: list[Tensor] = []
    checked: list[int] = []
    attack = FromTheStart(model, n_iter=steps, norm=norm, eps=epsilon, device="cpu")
    attack.init_hyperparam(x)
    if rank:
        attack.y_target = model(x).sort(dim=1)[1][:, -1 - rank]
        first = attack.dlr_loss_targeted(model(start), y)
    else:
        first = nn.functional.cross_entropy(model(start), y, reduction="none")
    best, right, highest, _ = attack.attack_single_run(x, y, x_init=start)
    seen = torch.cat((first[None], losses[-1][:-1]))
    return {"broken": ~right, "loss": highest, "best": best, "losses": seen, "checkpoints": checked}


def _fab(model: nn.Module, x: Tensor, y: Tensor, norm: str, rank: int, settings: dict[str, float]) -> Tensor:
    """The nearest misclassified point that was found."""
    from autoattack.fab_pt import FABAttack_PT  # type: ignore[import-not-found]

    attack = FABAttack_PT(model, norm=norm, n_iter=STEPS["fab"], device="cpu", **settings)
    attack.target_class = rank + 1
    return attack.attack_single_run(x, y, is_targeted=bool(rank))


def _shares(model: nn.Module, queries: int, rescale: bool) -> list[float]:
    """The share p of the pixels in a square, query by query."""
    from autoattack.square import SquareAttack  # type: ignore[import-not-found]

    attack = SquareAttack(model, n_queries=queries, resc_schedule=rescale)
    return [attack.p_selection(query) for query in range(queries)]


if __name__ == "__main__":
    main()
