"""Reports of an evaluation: the record, its tables, a row per image, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from fedrobust.config import WORST_CASE
from fedrobust.evaluation.assessment import EvaluationResult
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.suite import Threat
from fedrobust.evaluation.summary import verdicts_by_name
from fedrobust.reports.labels import heading
from fedrobust.reports.tables import markdown_table
from fedrobust.storage.files import write_atomically, writing

COLUMNS = ("", "accuracy", "95 %", "seconds", "flags")

CHOSEN = 8  # images of the contact sheet


def title(record: dict[str, Any]) -> str:
    """Return the title: the model and its threat."""
    source = f", made on {record['source']['name']}" if record["source"] else ""
    return (
        f"{record['subject']['name']}: {record['num_images']} test images, {record['norm']}, "
        f"epsilon {record['epsilon']}, seed {record['seed']}{source}"
    )


def rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row per attack with the flags about it: natural accuracy first, the worst case over the suite last."""
    for name, share in record["accuracy"].items():
        interval = f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"
        seconds = f"{share['seconds']:.0f}" if "seconds" in share else ""
        about = [flag["name"] for flag in record["flags"] if name == WORST_CASE or name.startswith(flag["about"])]
        flags = "" if name == "natural" else ", ".join(dict.fromkeys(about))
        yield heading(name), f"{100 * share['accuracy']:.1f}", interval, seconds, flags


def clients_line(record: dict[str, Any]) -> Iterator[str]:
    """Yield the worst client, if there are clients."""
    for client in record["per_client"]:
        if client["client"] == record["worst_client"]:
            shares = f"natural {client['natural']:.1%}, worst case {client[WORST_CASE]:.1%}"
            yield f"worst client {client['client']}: {shares} (test images weighted by its labels)"


def flag_lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line per flag with its observation."""
    for flag in record["flags"]:
        yield f"flag {flag['name']}: {flag['seen']}"
    if record["flags"]:
        yield "what they mean: docs/evaluation-flags.md"


def markdown(record: dict[str, Any]) -> str:
    """Return the whole page: overall, by class, by client, flags."""
    lines = [f"# {title(record)}", ""]
    lines += markdown_table(COLUMNS, rows(record))
    lines += ["", *(f"{line}  " for line in [*clients_line(record), *flag_lines(record)])]
    for key, first in (("per_class", ("class", "images")), ("per_client", ("client", "images"))):
        entries = record[key]
        if entries:
            names = [name for name in entries[0] if name not in (*first, "label")]
            body = ((*(str(row[k]) for k in first), *(f"{100 * row[name]:.1f}" for name in names)) for row in entries)
            lines += ["", *markdown_table((*first, *names), body)]
    return "\n".join(lines) + "\n"


def draw_curve(summary: dict[str, Any], epsilon: float, norm: str, path: Path) -> None:
    """Draw robust accuracy under PGD-20 against epsilon, and the suite's worst case at the requested epsilon."""
    radii, accuracy = zip(*summary["checks"]["curve"], strict=True)
    worst = summary["accuracy"][WORST_CASE]
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(radii))
    axes.plot(places, [100 * share for share in accuracy], "o-", color="C0", label="PGD-20")
    at = next(place for place, radius in zip(places, radii, strict=True) if np.isclose(radius, epsilon))
    spread = [[100 * (worst["accuracy"] - worst["low"])], [100 * (worst["high"] - worst["accuracy"])]]
    axes.errorbar(
        [at], [100 * worst["accuracy"]], yerr=spread, fmt="s", color="C3", capsize=3, label="worst case, 95 %"
    )
    axes.set_xticks(places, _written(radii))
    axes.set_xlabel(f"epsilon ({norm})")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def draw_classes(summary: dict[str, Any], path: Path) -> None:
    """Draw bars per class: natural accuracy, and in it the accuracy under all attacks of the suite."""
    rows = summary["per_class"]
    figure = Figure(figsize=(1.5 + 0.62 * len(rows), 3.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for offset, name, colour in ((-0.2, "natural", "#b8c4d6"), (0.2, WORST_CASE, "C3")):
        axes.bar(places + offset, [100 * row[name] for row in rows], 0.4, color=colour, label=heading(name))
    axes.set_xticks(places, [row["class"] for row in rows], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper right")
    figure.savefig(path, dpi=150)


def draw_examples(
    images: np.ndarray,
    examples: np.ndarray,
    labels: Sequence[str],
    predicted: Sequence[str],
    path: Path,
) -> None:
    """Draw misclassified images, a column each: clean, adversarial, and the perturbation around mid-grey.

    The perturbation is scaled so that its largest pixel change fills the range, by the factor under its row.

    Args:
        images, examples: [n, C, H, W] in [0, 1].
        labels, predicted: names of the true class and of the class predicted under attack.
    """
    count = len(images)
    figure = Figure(figsize=(0.9 + 1.15 * max(count, 1), 3.9), layout="constrained")
    if not count:
        figure.text(0.5, 0.5, "no image was broken", ha="center", va="center")
        figure.savefig(path, dpi=150)
        return
    change = examples - images
    factor = 0.5 / max(float(np.abs(change).max()), 1e-12)
    rows = {
        "clean": images,
        "adversarial": examples,
        f"perturbation × {factor:.0f}": 0.5 + factor * change,
    }
    axes = figure.subplots(3, count, squeeze=False)
    for row, (title, shown) in enumerate(rows.items()):
        for column in range(count):
            panel = axes[row, column]
            pixels = shown[column].transpose(1, 2, 0).clip(0, 1)
            panel.imshow(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            if row < 2:
                panel.set_title((labels, predicted)[row][column], fontsize=8)
        axes[row, 0].set_ylabel(title, fontsize=8)
    figure.savefig(path, dpi=150)


def _written(radii: Sequence[float]) -> list[str]:
    """Return radii as text: 8/255 and so on if all are multiples of 1/255, else numbers."""
    if all(abs(255 * radius - round(255 * radius)) < 1e-6 for radius in radii):
        return [f"{255 * radius:.0f}/255" for radius in radii]
    return [f"{radius:.3g}" for radius in radii]


def write_evaluation(
    folder: Path, record: dict[str, Any], result: EvaluationResult, evaluated: EvaluatedModel, threat: Threat
) -> None:
    """Write evaluation.json, evaluation.md, images.csv and the pictures into the evaluation's folder.

    Raises:
        RunFailed: it cannot be written.
    """
    with writing(folder):
        write_atomically(folder / "evaluation.json", (json.dumps(record, indent=2) + "\n").encode())
        write_atomically(folder / "evaluation.md", markdown(record).encode())
        columns = {"image": result.index, "label": result.labels, **verdicts_by_name(result)}
        pd.DataFrame(columns).to_csv(folder / "images.csv", index=False)
        if record["checks"].get("curve"):
            draw_curve(record, threat.epsilon, threat.norm, folder / "curve.png")
        draw_classes(record, folder / "classes.png")
        images, examples, labels, predicted = _sheet(folder, result, evaluated, record["device"])
        draw_examples(images, examples, labels, predicted, folder / "examples.png")


@torch.no_grad()
def _sheet(
    folder: Path, result: EvaluationResult, evaluated: EvaluatedModel, device: str
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Return some images on which the suite succeeded, of as many classes as possible, with their examples and class
    names.
    """
    broken = np.flatnonzero(result.right & ~result.worst())
    _, first = np.unique(result.labels[broken], return_index=True)
    others = np.setdiff1d(np.arange(len(broken)), first)
    chosen = broken[np.concatenate([np.sort(first), others])[:CHOSEN]]
    images = evaluated.dataset.test.images[result.index[chosen]].transpose(0, 3, 1, 2) / 255
    examples = np.array(np.load(folder / "examples.npy", mmap_mode="r")[chosen])
    names = evaluated.dataset.class_names
    predicted = []
    if len(chosen):
        predicted = evaluated.model(torch.from_numpy(examples).to(device)).argmax(1).tolist()
    return images, examples, [names[y] for y in result.labels[chosen]], [names[y] for y in predicted]
