"""Findings in numbers: shares with their intervals, by attack, by class and by client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fedrobust.config import WORST_CASE
from fedrobust.evaluation.assessment import Findings
from fedrobust.evaluation.attack_run import Request
from fedrobust.evaluation.evaluated_model import Subject
from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.storage.provenance import provenance

NATURAL = "natural"

Row = dict[str, Any]


def verdicts_by_name(findings: Findings) -> dict[str, np.ndarray]:
    """[n] of bool each: right without an attack, right without and under each attack, broken by none of the suite."""
    return {
        NATURAL: findings.right,
        **{name: findings.stands(name) for name in findings.verdicts},
        WORST_CASE: findings.worst(),
    }


def record_of(
    findings: Findings, subject: Subject, source: Subject | None, request: Request, device: torch.device
) -> Row:
    """evaluation.json: where the numbers come from, what was asked, and `summarise`."""
    return {
        **provenance(),
        "subject": {"name": subject.name, "weights": subject.digest, **subject.facts},
        "source": {"name": source.name, "weights": source.digest, **source.facts} if source else None,
        "data_digest": subject.dataset.digest,
        "epsilon": str(request.threat.epsilon),
        "norm": request.threat.norm,
        "attacks": list(request.attacks),
        "seed": request.seed,
        "batch_size": request.batch_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "notes": [*subject.notes, *(source.notes if source else ())],
        **summarise(findings, subject),
    }


def summarise(findings: Findings, subject: Subject) -> Row:
    """What a record holds: natural and robust accuracy, the worst case, per class, per client, flags, checks.

    Every accuracy is a share of all images with its 95 % Wilson interval; an image is robust only if it is right
    without the attack, too. The worst case counts the images that no attack of the suite broke.
    """
    verdicts = verdicts_by_name(findings)
    overall: dict[str, Row] = {name: _share(stands) for name, stands in verdicts.items()}
    for name, stages in findings.stages.items():
        overall[name]["seconds"] = round(findings.seconds[name], 1)
        if len(stages) > 1:
            counts = np.bincount(findings.verdicts[name].clip(0), minlength=len(stages) + 1)[1:]
            overall[name]["broken_by"] = dict(zip(stages, map(int, counts), strict=True))
    classes = per_class(findings.labels, verdicts, subject.dataset.class_names)
    clients = per_client(classes, list(verdicts), subject)
    return {
        "num_images": len(findings.index),
        "accuracy": overall,
        "per_class": classes,
        "per_client": clients,
        "worst_client": min(clients, key=lambda row: row[WORST_CASE])["client"] if clients else None,
        "flags": [vars(flag) for flag in findings.flags],
        "checks": findings.checks,
    }


def per_class(labels: np.ndarray, verdicts: Mapping[str, np.ndarray], class_names: tuple[str, ...]) -> list[Row]:
    """One row per class that occurs: its number of images and each accuracy."""
    return [
        {
            "label": int(label),
            "class": class_names[label],
            "images": int((labels == label).sum()),
            **{name: float(stands[labels == label].mean()) for name, stands in verdicts.items()},
        }
        for label in np.unique(labels)
    ]


def per_client(classes: list[Row], names: list[str], subject: Subject) -> list[Row]:
    """One row per client of the run the subject comes from; none if `subject.clients` is.

    A client's accuracy is that of the classes, weighted by its share of each: Σ_c p_i(c) · accuracy(c), with p_i from
    the run's partition. That is its accuracy on test images with its own label distribution; label skew is all that
    tells clients apart here. In a real federation only the clients know their labels: there they evaluate
    themselves, each round that `evaluation.clients-every` says.
    """
    rows = []
    for number, counts in enumerate(() if subject.clients is None else subject.clients):
        weights = np.array([counts[row["label"]] for row in classes], dtype=float)
        if weights.sum():  # else none of its classes is among the evaluated images
            weights /= weights.sum()
            means = {name: float(weights @ [row[name] for row in classes]) for name in names}
            rows.append({"client": number, "images": int(counts.sum()), **means})
    return rows


def _share(stands: np.ndarray) -> Row:
    low, high = wilson_interval(int(stands.sum()), len(stands))
    return {"accuracy": float(stands.mean()), "low": low, "high": high}
