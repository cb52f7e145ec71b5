"""Saved adversarial examples, scored again: the verdict must not depend on the batch an image happens to be in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

BATCHES = (64, 512, 1)
CLEAR_MARGIN = 1e-4  # of logits, above which a verdict may not change


@dataclass(frozen=True)
class Rescoring:
    """`changed`: images with a margin above 1e-4 whose verdict differs between batch sizes; `close`: those below it."""

    num_images: int
    changed: int
    close: int


@torch.no_grad()
def rescore(
    model: nn.Module, examples: np.ndarray, labels: np.ndarray, positions: np.ndarray, device: torch.device
) -> Rescoring:
    """Score `examples` [n, C, H, W] at `positions` in batches of 64, 512 and 1, in float32.

    The margin is the distance between the two largest logits.
    """
    right, margins = [], np.zeros(len(positions))
    for size in BATCHES:
        verdicts = []
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            x = torch.from_numpy(np.array(examples[chosen])).to(device).contiguous(memory_format=torch.channels_last)
            logits = model(x).float()
            verdicts.append(logits.argmax(1).cpu().numpy() == labels[chosen])
            if size == BATCHES[0]:
                top = logits.topk(2, dim=1).values
                margins[start : start + size] = (top[:, 0] - top[:, 1]).cpu().numpy()
        right.append(np.concatenate(verdicts) if verdicts else np.zeros(0, bool))
    differ = np.logical_or.reduce([right[0] != other for other in right[1:]])
    clear = margins > CLEAR_MARGIN
    return Rescoring(len(positions), int((differ & clear).sum()), int((~clear).sum()))
