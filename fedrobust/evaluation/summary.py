"""Accuracies of an evaluation with their intervals, by attack, by class and by client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedrobust.config import WORST_CASE
from fedrobust.evaluation.assessment import EvaluationResult
from fedrobust.evaluation.attack_run import Request
from fedrobust.evaluation.evaluated_model import EvaluatedModel
from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.storage.provenance import provenance

NATURAL = "natural"

Row = dict[str, Any]


def verdicts_by_name(result: EvaluationResult) -> dict[str, np.ndarray]:
    """Return masks, bool [n] each: correct without an attack, correct without and under each attack, under all of the
    suite.
    """
    return {
        NATURAL: result.right,
        **{name: result.stands(name) for name in result.verdicts},
        WORST_CASE: result.worst(),
    }


def record_of(
    result: EvaluationResult,
    evaluated: EvaluatedModel,
    source: EvaluatedModel | None,
    request: Request,
    device: torch.device,
) -> Row:
    """Return the content of evaluation.json: where the numbers come from, the request, and `summarise`."""
    return {
        **provenance(),
        "subject": {"name": evaluated.name, "weights": evaluated.digest, **evaluated.facts},
        "source": {"name": source.name, "weights": source.digest, **source.facts} if source else None,
        "data_digest": evaluated.dataset.digest,
        "epsilon": str(request.threat.epsilon),
        "norm": request.threat.norm,
        "attacks": list(request.attacks),
        "seed": request.seed,
        "batch_size": request.batch_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "notes": [*evaluated.notes, *(source.notes if source else ())],
        **summarise(result, evaluated),
    }


def summarise(result: EvaluationResult, evaluated: EvaluatedModel) -> Row:
    """Return the numbers of a record: natural and robust accuracy, worst case, per class, per client, flags, checks.

    Every accuracy is a share of all images with its 95 % Wilson interval; an image is robust only if it is also
    classified correctly without the attack. The worst case counts the images on which no attack of the suite succeeded.
    """
    verdicts = verdicts_by_name(result)
    overall: dict[str, Row] = {name: _share(stands) for name, stands in verdicts.items()}
    for name, stages in result.stages.items():
        overall[name]["seconds"] = round(result.seconds[name], 1)
        if len(stages) > 1:
            counts = np.bincount(result.verdicts[name].clip(0), minlength=len(stages) + 1)[1:]
            overall[name]["broken_by"] = dict(zip(stages, map(int, counts), strict=True))
    classes = per_class(result.labels, verdicts, evaluated.dataset.class_names)
    clients = per_client(classes, list(verdicts), evaluated)
    return {
        "num_images": len(result.index),
        "accuracy": overall,
        "per_class": classes,
        "per_client": clients,
        "worst_client": min(clients, key=lambda row: row[WORST_CASE])["client"] if clients else None,
        "flags": [vars(flag) for flag in result.flags],
        "checks": result.checks,
    }


def per_class(labels: np.ndarray, verdicts: Mapping[str, np.ndarray], class_names: tuple[str, ...]) -> list[Row]:
    """Return one row per class that occurs: its number of images and each accuracy."""
    return [
        {
            "label": int(label),
            "class": class_names[label],
            "images": int((labels == label).sum()),
            **{name: float(stands[labels == label].mean()) for name, stands in verdicts.items()},
        }
        for label in np.unique(labels)
    ]


def per_client(classes: list[Row], names: list[str], evaluated: EvaluatedModel) -> list[Row]:
    """Return one row per client of the model's run; none if `evaluated.clients` is None.

    A client's accuracy is that of the classes, weighted by its share of each: Σ_c p_i(c) · accuracy(c), with p_i from
    the run's partition. That is its accuracy on test images with its own label distribution; clients differ only in
    label skew here. In a real federation only the clients know their labels: they evaluate themselves in the rounds
    that `evaluation.clients-every` selects.
    """
    rows = []
    for number, counts in enumerate(() if evaluated.clients is None else evaluated.clients):
        weights = np.array([counts[row["label"]] for row in classes], dtype=float)
        if weights.sum():  # else none of its classes is among the evaluated images
            weights /= weights.sum()
            means = {name: float(weights @ [row[name] for row in classes]) for name in names}
            rows.append({"client": number, "images": int(counts.sum()), **means})
    return rows


def _share(stands: np.ndarray) -> Row:
    low, high = wilson_interval(int(stands.sum()), len(stands))
    return {"accuracy": float(stands.mean()), "low": low, "high": high}
