"""How much of a device's matrix rate adversarial training reaches: one model, PGD-k, `fedrobust.training.loop.train`.

    python -m benchmarks.matrix_rate --device cuda --batch-size 1024       # an H200: 25 % is the target, 40 % the aim
    python -m benchmarks.matrix_rate --device cpu --model small-cnn --batch-size 64 --size 1024 --precision float32

Needs nothing but the device: images are random. The rate is that of square matrix products of random numbers in the
same precision, best of several, on the same device in the same process. A step of PGD-k counts 2 k + 3 forward passes:
the attack needs no gradient of a weight. One short epoch warms up; the timed epoch ends with what it reads back.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
import torch

from benchmarks.harness import middle, record, show, spread
from fedrobust.attacks import make_attack
from fedrobust.config import Data, Model
from fedrobust.data import DATASETS
from fedrobust.data.device import DeviceImages, random_crop_flip
from fedrobust.data.spec import Split
from fedrobust.hardware.process import keep_freed_memory, pick_device
from fedrobust.models import build_model
from fedrobust.objectives import make_objective
from fedrobust.studies.plan import forward_flops
from fedrobust.training.loop import SGDSettings, train

PRODUCTS = 20


def matrix_rate(size: int, precision: torch.dtype, device: torch.device) -> float:
    """FLOP/s of size × size products, the best of several."""
    a, b = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
    best = float("inf")
    for _ in range(PRODUCTS):
        start = now(device)
        torch.mm(a, b)
        best = min(best, now(device) - start)
    return 2 * size**3 / best


def images_per_second(arguments: argparse.Namespace, device: torch.device) -> float:
    """Of one timed epoch of adversarial training on random images."""
    spec, rng = DATASETS["cifar10"], np.random.default_rng(0)
    count = arguments.batch_size * arguments.batches
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    data = DeviceImages(Split(pixels, rng.integers(0, 10, count)), device)
    model = build_model(
        arguments.model, num_classes=10, image_shape=(3, 32, 32), mean=spec.mean, std=spec.std, generator_seed=0
    )
    model.to(device).to(memory_format=torch.channels_last)
    attack = make_attack("pgd", epsilon=8 / 255, step_size=2 / 255, steps=arguments.steps)

    def epoch(batches: int) -> float:
        summary = train(
            model,
            data,
            torch.arange(arguments.batch_size * batches),
            make_objective("at", attack=attack),
            SGDSettings(batch_size=arguments.batch_size, learning_rate=0.01),
            augmentation=random_crop_flip,
            precision=getattr(torch, arguments.precision),
            seed=0,
            stream=("benchmark",),
        )
        return summary.images / summary.seconds

    epoch(min(2, arguments.batches))
    return epoch(arguments.batches)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def main() -> None:
    """RunEvaluator both, in turn, and print and record the fraction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--batches", type=int, default=20, help="in the timed epoch")
    parser.add_argument("--size", type=int, default=8192, help="of the matrices")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    device = pick_device(arguments.device)
    flops = forward_flops(Model(name=arguments.model), Data(name="cifar10")) * (2 * arguments.steps + 3)
    rows = []
    for _ in range(arguments.repeats):
        rate = matrix_rate(arguments.size, getattr(torch, arguments.precision), device)
        speed = images_per_second(arguments, device)
        rows.append({"images_per_second": speed, "tflops": rate / 1e12, "fraction": speed * flops / rate})
        print(rows[-1], flush=True)
    result = {key: middle(rows, key) for key in rows[0]} | {f"{key}_range": spread(rows, key) for key in rows[0]}
    record("matrix_rate", vars(arguments), [{"variant": arguments.model, **result}])
    show(
        f"{arguments.model}, PGD-{arguments.steps}, batch {arguments.batch_size}, {arguments.precision}, {device}",
        ("model", "images/s", "matrix product, TFLOP/s", "fraction of it"),
        [
            (
                arguments.model,
                f"{result['images_per_second']:.0f}",
                f"{result['tflops']:.2f}",
                f"{result['fraction']:.1%}",
            )
        ],
    )


if __name__ == "__main__":
    main()
