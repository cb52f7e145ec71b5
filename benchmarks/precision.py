"""Is bfloat16 as good as float32? Natural and robust accuracy of centralised runs in both, over several seeds.

    python -m benchmarks.precision --model calfat-cnn --data cifar10 --objective at --images 10000 --epochs 10

A model with an objective belongs into `fedrobust.hardware.process.BFLOAT16_SHOWN_EQUAL` when, over at least three
seeds, the mean difference of natural and of PGD-20 accuracy is within the spread of the float32 runs. On a machine
without bfloat16 units the arithmetic is emulated: the accuracies are right, the seconds are not.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev

import torch

from benchmarks.harness import record, show
from fedrobust.attacks import make_attack
from fedrobust.config import RunConfig
from fedrobust.data import subset
from fedrobust.data.device import AUGMENTATIONS
from fedrobust.evaluation import evaluate, make_suite
from fedrobust.objectives import make_objective
from fedrobust.seeding import numpy_stream
from fedrobust.training.context import run_context
from fedrobust.training.loop import SGDSettings, train

ATTACKS = ("natural", "pgd-20")


def one_run(cfg: RunConfig, precision: torch.dtype, images: int, epochs: int) -> dict[str, float]:
    """Accuracies on the test set after centralised training on a class-balanced subset."""
    context = run_context(cfg)
    labels = context.dataset.train.labels
    index = torch.from_numpy(subset(labels, images, numpy_stream(cfg.seed, "subset")))
    objective = make_objective(
        cfg.objective.name,
        attack=make_attack(cfg.attack.name, **cfg.attack.model_dump(exclude={"name"})),
        class_counts=torch.bincount(torch.from_numpy(labels)[index]).to(context.device),
        **cfg.objective.model_dump(exclude={"name"}),
    )
    summary = train(
        context.model,
        context.images("train"),
        index,
        objective,
        SGDSettings(epochs=epochs, batch_size=cfg.local.batch_size, learning_rate=cfg.local.learning_rate),
        augmentation=AUGMENTATIONS[context.dataset.augmentation],
        precision=precision,
        seed=cfg.seed,
        stream=("precision",),
    )
    test = torch.from_numpy(subset(context.dataset.test.labels, cfg.data.test_images, numpy_stream(0, "test")))
    result = evaluate(
        context.model,
        context.images("test"),
        test,
        make_suite(cfg, context.dataset.num_classes),
        batch_size=500,
        seed=cfg.seed,
    )
    return {
        "natural": result.natural_accuracy,
        "pgd-20": result.robust_accuracy["pgd-20"],
        "seconds": summary.seconds,
    }


def main() -> None:
    """Run both precisions for every seed; print and record the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="calfat-cnn")
    parser.add_argument("--width", type=float, default=1.0, help="model.width")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--objective", default="at")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"float32": [], "bfloat16": []}
    for seed in range(arguments.seeds):
        cfg = RunConfig.from_flat(
            {
                "seed": seed,
                "model.name": arguments.model,
                "model.width": arguments.width,
                "data.name": arguments.data,
                "data.test-images": arguments.test_images,
                "objective.name": arguments.objective,
                "attack.steps": arguments.steps,
                "attack.step-size": "2/255" if arguments.steps >= 8 else "5/255",
                "attack.random-start": "gaussian" if arguments.objective == "calfat" else "uniform",
                "local.batch-size": arguments.batch_size,
                "evaluation.attacks": "pgd-20",
            }
        )
        for name, results in runs.items():
            run_context.cache_clear()  # the same untrained model for both
            results.append(one_run(cfg, getattr(torch, name), arguments.images, arguments.epochs))
            print(f"seed {seed} {name}: {results[-1]}", flush=True)
    rows = []
    for name in ATTACKS:
        differences = [b[name] - f[name] for f, b in zip(runs["float32"], runs["bfloat16"], strict=True)]
        floats = [run[name] for run in runs["float32"]]
        rows.append(
            {
                "variant": name,
                "float32": mean(floats),
                "float32_std": stdev(floats),
                "bfloat16": mean(run[name] for run in runs["bfloat16"]),
                "mean_difference": mean(differences),
                "differences": differences,
            }
        )
    record("precision", vars(arguments), rows)
    columns = ["float32", "float32_std", "bfloat16", "mean_difference"]
    show(
        f"{arguments.model}, {arguments.objective}, {arguments.seeds} seeds",
        ["accuracy", *columns],
        [[row["variant"], *(f"{100 * row[column]:.1f}" for column in columns)] for row in rows],
    )


if __name__ == "__main__":
    main()
