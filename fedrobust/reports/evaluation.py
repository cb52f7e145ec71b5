"""What an evaluation leaves behind: the record, its tables, a row per image, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedrobust.errors import RunFailed
from fedrobust.evaluation.assessment import Findings
from fedrobust.evaluation.evaluated_model import Subject
from fedrobust.evaluation.suite import Threat
from fedrobust.evaluation.summary import verdicts_by_name
from fedrobust.reports import evaluation_figures as figures
from fedrobust.reports.evaluation_table import markdown
from fedrobust.storage.files import write_atomically


def write_evaluation(
    folder: Path, record: dict[str, Any], findings: Findings, subject: Subject, threat: Threat
) -> None:
    """Write evaluation.json, evaluation.md, images.csv and the pictures into the evaluation's folder.

    Raises:
        RunFailed: it cannot be written.
    """
    try:
        write_atomically(folder / "evaluation.json", (json.dumps(record, indent=2) + "\n").encode())
        write_atomically(folder / "evaluation.md", markdown(record).encode())
        columns = {"image": findings.index, "label": findings.labels, **verdicts_by_name(findings)}
        pd.DataFrame(columns).to_csv(folder / "images.csv", index=False)
        if record["checks"].get("curve"):
            figures.draw_curve(record, threat.epsilon, threat.norm, folder / "curve.png")
        figures.draw_classes(record, folder / "classes.png")
        images, examples, labels, predicted = _sheet(folder, findings, subject, record["device"])
        figures.draw_examples(images, examples, labels, predicted, folder / "examples.png")
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written ({error.strerror or error})") from error


@torch.no_grad()
def _sheet(
    folder: Path, findings: Findings, subject: Subject, device: str
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Some images that the suite broke, of as many classes as possible, with what became of them."""
    broken = np.flatnonzero(findings.right & ~findings.worst())
    _, first = np.unique(findings.labels[broken], return_index=True)
    others = np.setdiff1d(np.arange(len(broken)), first)
    chosen = broken[np.concatenate([np.sort(first), others])[: figures.CHOSEN]]
    images = subject.dataset.test.images[findings.index[chosen]].transpose(0, 3, 1, 2) / 255
    examples = np.array(np.load(folder / "examples.npy", mmap_mode="r")[chosen])
    names = subject.dataset.class_names
    predicted = []
    if len(chosen):
        predicted = subject.model(torch.from_numpy(examples).to(device)).argmax(1).tolist()
    return images, examples, [names[y] for y in findings.labels[chosen]], [names[y] for y in predicted]
