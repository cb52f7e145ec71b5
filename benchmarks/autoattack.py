"""AutoAttack (standard) on one model and the same test images: `fedrobust` against the public implementation.

The public one is fra31/auto-attack, as it comes: `--public` names a checkout of it. Both run in fresh processes, in
turn, on the same images, with the same number of threads, float32 and the allocator set as the launcher sets it
(`fedrobust.hardware.process.keep_freed_memory`), so that what differs is the attack. Shown are seconds, processor time
and robust accuracy per seed; the accuracies have to agree within the spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Child, cpu_seconds, middle, ready, record, report, show

if TYPE_CHECKING:
    from torch import Tensor, nn

VARIANTS = ("fedrobust", "public")
PUBLIC_BATCH = 250  # its default


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoattack", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="a safetensors file or a run's folder")
    parser.add_argument("--public", help="checkout of fra31/auto-attack; without it only fedrobust runs")
    parser.add_argument("--images", type=int, default=1000, help="test images, class-balanced")
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return _child(**json.loads(arguments.job))
    if not arguments.checkpoint:
        parser.error("which checkpoint?")
    settings = {key: getattr(arguments, key) for key in ("checkpoint", "images", "epsilon", "norm", "threads")}
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for variant in VARIANTS if arguments.public else VARIANTS[:1]:
            child = Child(
                "benchmarks.autoattack", settings | {"public": arguments.public, "seed": seed, "name": variant}
            )
            child.go()
            rows.append({"variant": variant, "seed": seed, **child.result()})
            print(json.dumps(rows[-1]), flush=True)
    record("autoattack", settings, rows)
    _table(rows)
    return None


def _table(rows: list[dict[str, Any]]) -> None:
    table = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        accuracies = ", ".join(f"{100 * row['robust']:.1f}" for row in own)
        cells = [f"{middle(own, key):.0f}" for key in ("seconds", "cpu_seconds")]
        table.append((variant, f"{100 * own[0]['natural']:.1f}", accuracies, *cells))
    show("AutoAttack, standard", ("", "natural", "robust, per seed", "seconds", "CPU seconds"), table)


def _child(
    checkpoint: str, images: int, epsilon: str, norm: str, threads: int, public: str, seed: int, name: str
) -> None:
    import torch

    from fedrobust.config.flat import Ratio
    from fedrobust.data import subset
    from fedrobust.data.device import on_device
    from fedrobust.evaluation.evaluated_model import load_evaluated_model
    from fedrobust.hardware.process import keep_freed_memory
    from fedrobust.seeding import numpy_stream

    keep_freed_memory()
    torch.set_num_threads(threads)
    evaluated = load_evaluated_model(checkpoint)
    labels = evaluated.dataset.test.labels
    index = torch.from_numpy(subset(labels, images, numpy_stream(0, "evaluated", "test")))
    x, y = on_device(evaluated.dataset, "test", "cpu").batch(index)
    with torch.no_grad():
        natural = (evaluated.model(x).argmax(1) == y).float().mean().item()
    run: Callable[..., Tensor] = _public if name == "public" else _ours
    ready()
    started, cpu = perf_counter(), cpu_seconds()
    x_adv = run(evaluated.model, x.contiguous(), y, float(Ratio(epsilon)), norm, seed, public)
    seconds, cpu = perf_counter() - started, cpu_seconds() - cpu
    size = (x_adv - x).flatten(1).norm(float("inf") if norm == "linf" else 2, dim=1).max().item()
    with torch.no_grad():
        robust = (evaluated.model(x_adv).argmax(1) == y).float().mean().item()
    report({"seconds": seconds, "cpu_seconds": cpu, "natural": natural, "robust": robust, "largest_change": size})


def _ours(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, norm: Any, seed: int, _: str) -> Tensor:
    """As `fedrobust evaluate --attacks autoattack` does it."""
    import torch

    from fedrobust.data.device import DeviceImages
    from fedrobust.data.spec import Split
    from fedrobust.evaluation import Threat, make_chain
    from fedrobust.evaluation.contract import fitting_batch_size
    from fedrobust.evaluation.verdicts import attack_steps, classify, first_verdicts

    model = model.to(memory_format=torch.channels_last)
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    data, index = DeviceImages(Split(pixels, y.numpy()), "cpu"), torch.arange(len(x))
    size = fitting_batch_size(model, tuple(x.shape[1:]), data.device)  # type: ignore[arg-type]
    attack = make_chain("autoattack", Threat(epsilon, norm), num_classes=10)
    verdicts, x_adv = first_verdicts(classify(model, data, index, batch_size=size)), x.clone()
    steps = attack_steps(model, data, index, attack, verdicts, batch_size=size, seed=seed, stream=("evaluation",))
    for step in steps:
        x_adv[step.positions] = step.examples
    return x_adv


def _public(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, norm: str, seed: int, public: str) -> Tensor:
    sys.path.insert(0, public)
    from autoattack import AutoAttack  # type: ignore[import-not-found]

    names = {"linf": "Linf", "l2": "L2"}
    adversary = AutoAttack(
        model, norm=names[norm], eps=epsilon, version="standard", seed=seed, device="cpu", verbose=False
    )
    return adversary.run_standard_evaluation(x, y, bs=PUBLIC_BATCH)


if __name__ == "__main__":
    main()
