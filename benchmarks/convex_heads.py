"""Convex heads on a trained network's features, against its own and a SAM fine-tuned one, through the whole network.

    python -m benchmarks.convex_heads RUN --images 1000 --test-images 200 --components 24 --radius 0.5

RUN is a run's folder or a model's file, as of `fedrobust evaluate`. Attacks are those of the project on pixels; the
certified accuracy is the head's, in feature space, in units of a feature's standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.harness import record, show
from fedrobust.convex import relu
from fedrobust.convex.certificates import accuracy, l2_margins
from fedrobust.convex.first_order import solve_first_order
from fedrobust.convex.heads import projected, raw_features, sam_head, with_head
from fedrobust.convex.problem import Problem
from fedrobust.convex.relu_solvers import solve_relu_first_order
from fedrobust.data import subset
from fedrobust.data.device import on_device
from fedrobust.evaluation import Threat, evaluate, make_chain
from fedrobust.evaluation.subjects import load_subject
from fedrobust.seeding import numpy_stream

ATTACKS = ("fgsm", "pgd-20")


def main() -> None:
    """Train the heads, evaluate them, print, append the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=200)
    parser.add_argument("--components", type=int, default=24)
    parser.add_argument("--radius", type=float, default=0.5)
    parser.add_argument("--beta", type=float, default=0.001)
    parser.add_argument("--stage-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject(arguments.run)
    assert subject.cfg, "a run's folder, which says what it was trained for"
    threat = Threat(subject.cfg.attack.epsilon, subject.cfg.attack.norm)
    dataset, model = subject.dataset, subject.model.eval()
    chosen = subset(dataset.train.labels, arguments.images, numpy_stream(arguments.seed, "heads", "train"))
    tested = subset(dataset.test.labels, arguments.test_images, numpy_stream(arguments.seed, "evaluated", "test"))
    train, test = (on_device(dataset, split, "cpu") for split in ("train", "test"))  # type: ignore[arg-type]
    index = torch.from_numpy(np.sort(tested))
    suite = [make_chain(name, threat, num_classes=dataset.num_classes) for name in ATTACKS]
    rows = []
    for name, head, certified, seconds in _heads(arguments, model, train, torch.from_numpy(chosen), test, index):
        whole = model if head is None else with_head(model, head)
        found = evaluate(whole, test, index, suite, batch_size=100, seed=arguments.seed)
        rows.append({"head": name, **found.metrics(), "certified_in_feature_space": certified, "seconds": seconds})
        print(rows[-1], flush=True)
    record("convex_heads", {key: str(value) for key, value in vars(arguments).items()}, rows)
    columns = ("head", "natural", *ATTACKS, "feature-space certificate", "seconds")
    show(f"{arguments.test_images} test images, {threat.norm} {threat.epsilon}", columns, [_cells(row) for row in rows])
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(arguments.out / "heads.csv", index=False)


def _heads(
    arguments: argparse.Namespace, model: nn.Module, train: Any, chosen: Any, test: Any, index: Any
) -> Iterator[tuple[str, nn.Module | None, float | None, float]]:
    """Name, head (None: its own), accuracy certified in feature space at the radius, seconds of training."""
    labels, test_labels = train.labels[chosen], test.labels[index]
    raw = raw_features(model, train, chosen)
    features = projected(raw, labels, arguments.components)
    test_x = features.projection(raw_features(model, test, index)).double()
    yield "its own", None, None, 0.0
    started = perf_counter()
    yield "SAM fine-tuned", sam_head(model, raw, labels, seed=arguments.seed), None, perf_counter() - started
    classes = int(labels.max()) + 1
    for radius in (0.0, arguments.radius):
        problem = Problem(features.x, labels, radius, arguments.beta, classes)
        found = solve_first_order(problem, stage_steps=arguments.stage_steps)
        certified = accuracy(l2_margins(found.lifted, test_x, test_labels, arguments.radius))
        head = nn.Sequential(features.projection, found.network.float())
        yield f"polynomial, r = {radius:g} (gap {found.gap:.0%})", head, certified, found.seconds
    for radius in (0.0, arguments.radius):
        relu_problem = relu.ReluProblem(features.x, labels, radius, arguments.beta, classes, norm="l2")
        relu_found = solve_relu_first_order(relu_problem, patterns=20, steps=300)
        margins = relu.margins(relu_found.network, test_x, test_labels, arguments.radius, "l2")
        head = nn.Sequential(features.projection, relu_found.network.float())
        yield f"ReLU, r = {radius:g}", head, accuracy(margins), relu_found.seconds


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("natural_accuracy", *(f"robust_accuracy.{name}" for name in ATTACKS), "certified_in_feature_space")
    values = ("" if row[name] is None else f"{100 * row[name]:.1f}" for name in names)
    return row["head"], *values, f"{row['seconds']:.1f}"


if __name__ == "__main__":
    main()
