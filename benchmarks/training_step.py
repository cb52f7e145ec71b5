"""One CalFAT epoch over CIFAR-10 on this machine's processor: the plain PyTorch loop against fedrobust.

calfat-cnn, PGD-10 (epsilon 8/255, step 2/255, gaussian start), batch 128, the same images and number of threads,
each in fresh processes that take turns. Measured is the epoch alone: imports, the data set and one short warm-up
epoch lie before it. Ratios are against the first variant of the same repeat; shown are medians. Images per second
of processor time says more than images per second where others use the machine as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Child, cpu_seconds, middle, ready, record, report, show, spread

if TYPE_CHECKING:
    from torch import Generator, Tensor

HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
THP = {"THP_MEM_ALLOC_ENABLE": "1"}
WARM_UP = 128  # images


@dataclass(frozen=True)
class Variant:
    """One way to run the epoch.

    Attributes:
        loop: "plain" or "package".
        keep: call `fedrobust.hardware.process.keep_freed_memory` first.
        environment: allocator settings that have to be there before the process starts.
        processes: that many at once, each with its part of the images and of the threads.
    """

    loop: str
    keep: bool = False
    channels_last: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    loader_workers: int = 0


VARIANTS = {
    "plain": Variant("plain"),
    "plain, 2 loader workers": Variant("plain", loader_workers=2),
    "plain, allocator as ray": Variant("plain", keep=True, environment=THP),
    "fedrobust": Variant("package", keep=True, environment=THP),
    "default allocator": Variant("package"),
    "THP only": Variant("package", environment=THP),
    "mallopt only": Variant("package", keep=True),
    "variables only": Variant("package", environment=HEAP),
    "variables + THP": Variant("package", environment=HEAP | THP),
    "glibc hugetlb=1 + mallopt": Variant(
        "package", keep=True, environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    ),
    "contiguous": Variant("package", keep=True, channels_last=False, environment=THP),
    "contiguous, default allocator": Variant("package", channels_last=False),
    "one process per thread": Variant("package", keep=True, environment=THP, processes=2),
    "one process per thread, contiguous": Variant(
        "package", keep=True, channels_last=False, environment=THP, processes=2
    ),
}
HEADLINE = ("plain", "fedrobust")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="training images in the epoch")
    parser.add_argument("--repeats", type=int, default=3, help="times each variant runs, in turn")
    parser.add_argument("--threads", type=int, default=2, help="in all, also where there are several processes")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of fedrobust's loop")
    parser.add_argument("--model", default="calfat-cnn", help="see `fedrobust list models`")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ablations", action="store_true", help="all variants, not only plain and fedrobust")
    parser.add_argument("--variants", help=f"semicolon-separated, of: {'; '.join(VARIANTS)}")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return _child(json.loads(arguments.job))
    names = arguments.variants.split(";") if arguments.variants else VARIANTS if arguments.ablations else HEADLINE
    _compare([name.strip() for name in names], arguments)
    return None


def _compare(names: list[str], arguments: argparse.Namespace) -> None:
    settings = {key: getattr(arguments, key) for key in ("images", "threads", "precision", "model", "batch_size")}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(arguments.repeats):
        for name in names:
            row = _measure(VARIANTS[name], settings)
            rows[name].append(row)
            first = rows[names[0]][repeat]
            row["ratio"] = row["images_per_second"] / first["images_per_second"]
            row["cpu_ratio"] = row["images_per_cpu_second"] / first["images_per_cpu_second"]
            print(f"{name}: {row['images_per_second']:.1f} images/s, ratio {row['ratio']:.2f}", flush=True)
    keys = ("images_per_second", "images_per_cpu_second", "ratio", "cpu_ratio", "peak_rss_gib", "loss")
    results = [
        {
            "variant": name,
            **{key: round(middle(rows[name], key), 4) for key in keys},
            **{f"{key}_range": spread(rows[name], key) for key in keys[:4]},
            "repeats": arguments.repeats,
        }
        for name in names
    ]
    record("training_step", settings, results)
    show(
        f"{arguments.model}, CalFAT with PGD-10, {arguments.precision}, {arguments.threads} threads, "
        f"{arguments.images} images, median of {arguments.repeats}",
        ("variant", "images/s", "(from", "to)", f"times {names[0]}", "per CPU second", f"times {names[0]}", "peak GiB"),
        [
            (
                result["variant"],
                f"{result['images_per_second']:.1f}",
                *(f"{value:.1f}" for value in result["images_per_second_range"]),
                f"{result['ratio']:.2f}",
                f"{result['images_per_cpu_second']:.1f}",
                f"{result['cpu_ratio']:.2f}",
                f"{result['peak_rss_gib']:.2f}",
            )
            for result in results
        ],
    )


def _measure(variant: Variant, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One repeat of one variant: as many processes as it wants, started together."""
    share = {"images": settings["images"] // variant.processes, "threads": settings["threads"] // variant.processes}
    environment = {key: str(share["threads"]) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    children = [
        Child(
            "benchmarks.training_step",
            {**settings, **share, "first": number * share["images"], "variant": asdict(variant)},
            environment | dict(variant.environment),
        )
        for number in range(variant.processes)
    ]
    start = perf_counter()
    for child in children:
        child.go()
    reports = [child.result() for child in children]
    # the slowest process counts; what comes after its epoch does not
    seconds = max(report["ended"] for report in reports) - start
    images = share["images"] * variant.processes
    return {
        "images_per_second": images / seconds,
        "images_per_cpu_second": images / sum(report["cpu_seconds"] for report in reports),
        "peak_rss_gib": sum(report["peak_rss_gib"] for report in reports),
        "loss": sum(report["loss"] for report in reports) / len(reports),
    }


def _child(job: dict[str, Any]) -> None:
    """Set up as the variant says, warm up, wait, run the epoch."""
    import resource

    from fedrobust.hardware.process import keep_freed_memory

    if job["variant"]["keep"]:
        keep_freed_memory()
    import torch

    torch.set_num_threads(job["threads"])
    epoch = _plain(job) if job["variant"]["loop"] == "plain" else _package(job)
    epoch(WARM_UP)
    ready()
    before = cpu_seconds()
    loss = epoch(job["images"])
    ended = perf_counter()
    report(
        {
            "ended": ended,  # the monotonic clock, which all processes of a machine share
            "cpu_seconds": cpu_seconds() - before,
            "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "loss": loss,
        }
    )


def _model(job: dict[str, Any]):
    from fedrobust.config import Model
    from fedrobust.data import DATASETS
    from fedrobust.models import ModelSpec, build_model

    return build_model(ModelSpec.of(Model(name=job["model"]), DATASETS["cifar10"]), generator_seed=0)


def _plain(job: dict[str, Any]):
    import torch

    from benchmarks.plain_loop import AsPublished, train
    from fedrobust.data import load

    torch.manual_seed(0)
    split, model = load("cifar10").train, _model(job)
    if job["model"] == "calfat-cnn":
        model = AsPublished(model)

    def epoch(count: int) -> float:
        chosen = slice(job["first"], job["first"] + count)
        workers = job["variant"]["loader_workers"]
        return train(model, split.images[chosen], split.labels[chosen], batch_size=job["batch_size"], workers=workers)

    return epoch


def _contiguous(x: Tensor, generator: Generator) -> Tensor:
    """The package's augmentation, in contiguous NCHW memory."""
    from fedrobust.data.device import random_crop_flip

    return random_crop_flip(x, generator).contiguous()


def _package(job: dict[str, Any]):
    import torch

    from fedrobust.attacks import make_attack
    from fedrobust.data import load
    from fedrobust.data.device import AUGMENTATIONS, on_device
    from fedrobust.objectives import make_objective
    from fedrobust.training.loop import SGDSettings, train

    dataset, model = load("cifar10"), _model(job)
    data = on_device(dataset, "train", "cpu")
    augmentation = AUGMENTATIONS["crop-flip"]
    if job["variant"]["channels_last"]:
        model.to(memory_format=torch.channels_last)
    else:  # the images as well: a convolution is channels-last when its input or its weights are
        augmentation = _contiguous
    attack = make_attack("pgd", epsilon=8 / 255, step_size=2 / 255, steps=10, random_start="gaussian")

    def epoch(count: int) -> float:
        index = torch.arange(job["first"], job["first"] + count)
        counts = torch.bincount(data.labels[index], minlength=10)
        summary = train(
            model,
            data,
            index,
            make_objective("calfat", attack=attack, class_counts=counts),
            SGDSettings(batch_size=job["batch_size"]),
            augmentation=augmentation,
            precision={"float32": torch.float32, "bfloat16": torch.bfloat16}[job["precision"]],
            seed=0,
            stream=("benchmark",),
        )
        return summary.loss

    return epoch


if __name__ == "__main__":
    main()
