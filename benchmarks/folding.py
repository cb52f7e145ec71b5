"""What folding batch norms into convolutions buys a training attack: PGD on the model itself and on `models.folded`.

    python -m benchmarks.folding --model resnet18 --batch-size 64
    python -m benchmarks.folding --model resnet18 --batch-size 512 --device cuda

Both in turn in one process, on the same random images; the time of the folding itself is in it.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from benchmarks.harness import middle, record, show, spread
from benchmarks.matrix_rate import now
from fedrobust.attacks import make_attack
from fedrobust.config import Model
from fedrobust.data import DATASETS
from fedrobust.hardware.process import keep_freed_memory, pick_device
from fedrobust.models import ModelSpec, build_model
from fedrobust.models.folded import folded


def main() -> None:
    """Time both in turn, print and record the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0, help="model.width")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: PyTorch's own number")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    model = build_model(
        ModelSpec.of(Model(name=arguments.model, width=arguments.width), DATASETS["cifar10"]), generator_seed=0
    )
    model.to(device).to(memory_format=torch.channels_last).eval()
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(arguments.batch_size, 3, 32, 32, generator=generator, device=device)
    y = torch.randint(10, (arguments.batch_size,), generator=generator, device=device)
    attack = make_attack("pgd", epsilon=8 / 255, step_size=2 / 255, steps=arguments.steps)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=arguments.precision == "bfloat16")

    def seconds(fold: bool) -> float:
        start = now(device)
        with autocast():
            attack(
                folded(model) if fold else model,
                x.contiguous(memory_format=torch.channels_last),
                y,
                generator=generator,
            )
        return now(device) - start

    for fold in (False, True):
        seconds(fold)
    rows = [{"plain": seconds(False), "folded": seconds(True)} for _ in range(arguments.repeats)]
    for row in rows:
        row["ratio"] = row["plain"] / row["folded"]
    result = {key: middle(rows, key) for key in rows[0]}
    low, high = spread(rows, "ratio")
    record("folding", vars(arguments), [{"variant": arguments.model, **result, "ratio_range": [low, high]}])
    show(
        f"PGD-{arguments.steps}, batch {arguments.batch_size}, {arguments.precision}, {device}",
        ("model", "plain, s", "folded, s", "ratio (range)"),
        [
            (
                f"{arguments.model} × {arguments.width:g}",
                f"{result['plain']:.3f}",
                f"{result['folded']:.3f}",
                f"{result['ratio']:.2f} ({low:.2f} to {high:.2f})",
            )
        ],
    )


if __name__ == "__main__":
    main()
