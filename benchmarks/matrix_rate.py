"""How much of a device's matrix rate adversarial training reaches: PGD-k, `fedrobust.training.loop.train`.

    python -m benchmarks.matrix_rate --device cuda --batch-sizes 128 512     # an H200: 25 % is the target, 40 % the aim
    python -m benchmarks.matrix_rate --device cpu --models small-cnn --batch-sizes 64 --size 1024 --precisions float32

Needs nothing but the device: images are random. One row for each model, batch size, precision and, on CUDA, way of
running a step: eager, and captured in a CUDA graph. The rate is that of square matrix products of random numbers in the
same precision, best of several, on the same device in the same process. A step of PGD-k counts 2 k + 3 forward passes:
the attack needs no gradient of a weight. Two steps warm up; the timed epoch ends with what it reads back.
"""

from __future__ import annotations

import argparse
from itertools import product
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
from fedrobust.models import ModelSpec, build_model
from fedrobust.objectives import make_objective
from fedrobust.studies.plan import forward_flops
from fedrobust.training.loop import SGDSettings, train

PRODUCTS = 20


def matrix_rate(size: int, precision: torch.dtype, device: torch.device) -> float:
    """FLOP/s of size × size products, the best of several; of float32 on CUDA in TF32, as convolutions are computed."""
    torch.backends.cuda.matmul.allow_tf32 = True
    a, b = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
    best = float("inf")
    for _ in range(PRODUCTS):
        start = now(device)
        torch.mm(a, b)
        best = min(best, now(device) - start)
    return 2 * size**3 / best


class Training:
    """Adversarial training of one model on random images, at one batch size, in one precision."""

    def __init__(self, name: str, batch_size: int, precision: str, arguments: argparse.Namespace) -> None:
        self.batch_size, self.batches = batch_size, arguments.batches
        device, rng = pick_device(arguments.device), np.random.default_rng(0)
        count = batch_size * arguments.batches
        pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self._data = DeviceImages(Split(pixels, rng.integers(0, 10, count)), device)
        self._model = build_model(ModelSpec.of(Model(name=name), DATASETS["cifar10"]), generator_seed=0)
        self._model.to(device).to(memory_format=torch.channels_last)
        attack = make_attack("pgd", epsilon=8 / 255, step_size=2 / 255, steps=arguments.steps)
        self._objective, self._precision = make_objective("at", attack=attack), getattr(torch, precision)

    def milliseconds(self, capture: bool, batches: int | None = None) -> float:
        """Train for an epoch, or on fewer batches; return milliseconds a step."""
        summary = train(
            self._model,
            self._data,
            torch.arange(self.batch_size * (batches or self.batches)),
            self._objective,
            SGDSettings(batch_size=self.batch_size, learning_rate=0.01),
            augmentation=random_crop_flip,
            precision=self._precision,
            seed=0,
            stream=("benchmark",),
            capture=capture,
        )
        return 1e3 * summary.seconds / summary.steps


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def main() -> None:
    """Measure every row, its ways in turn; print it and record it at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=["calfat-cnn", "resnet18"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--precisions", nargs="+", choices=("bfloat16", "float32"), default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--batches", type=int, default=20, help="in the timed epoch")
    parser.add_argument("--size", type=int, default=8192, help="of the matrices")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms first")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = arguments.cudnn_benchmark
    keep_freed_memory()
    device = pick_device(arguments.device)
    print(device, torch.cuda.get_device_name(device) if device.type == "cuda" else "", flush=True)
    rates = {name: matrix_rate(arguments.size, getattr(torch, name), device) for name in arguments.precisions}
    print("matrix products, TFLOP/s:", {name: round(rate / 1e12, 2) for name, rate in rates.items()}, flush=True)
    cells = []
    for name, batch_size, precision in product(arguments.models, arguments.batch_sizes, arguments.precisions):
        flops = forward_flops(Model(name=name), Data(name="cifar10")) * (2 * arguments.steps + 3) * batch_size
        training = Training(name, batch_size, precision, arguments)
        ways = {"eager": False, "captured": True} if device.type == "cuda" else {"eager": False}
        for capture in ways.values():  # libraries, then the capture
            training.milliseconds(capture, batches=2)
        rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(arguments.repeats):
            for way, capture in ways.items():
                milliseconds = training.milliseconds(capture)
                fraction = flops / (milliseconds / 1e3) / rates[precision]
                rows[way].append({"milliseconds": milliseconds, "fraction": fraction})
        for way, found in rows.items():
            middles = {key: middle(found, key) for key in found[0]}
            variant = f"{name}, batch {batch_size}, {precision}, {way}"
            spreads = {f"{key}_range": spread(found, key) for key in found[0]}
            rate = {"matrix_tflops": rates[precision] / 1e12}
            record("matrix_rate", vars(arguments), [{"variant": variant, **middles, **spreads, **rate}])
            speed = 1e3 * batch_size / middles["milliseconds"]
            cells.append((variant, f"{middles['milliseconds']:.2f}", f"{speed:.0f}", f"{middles['fraction']:.1%}"))
            print(*cells[-1], sep="  ", flush=True)
    columns = ("PGD-" + str(arguments.steps), "ms a step", "images/s", "of the matrix rate")
    show(f"adversarial training on {device}, median of {arguments.repeats}", columns, cells)


if __name__ == "__main__":
    main()
