"""How many images at once."""

from __future__ import annotations

import torch
from torch import nn

from fedrobust.attacks.contract import input_gradient
from fedrobust.losses import cross_entropy

ON_CPU = 64  # activations of more fall out of the caches
TRIED, MOST = 64, 4096
SPARE = 0.5  # of the free memory: attacks keep images, gradients and candidates beside the pass that is measured


def fitting_batch_size(
    model: nn.Module, image_shape: tuple[int, int, int], device: torch.device, *, gradients: bool = True
) -> int:
    """A power of two that fits: on CUDA by the memory that one pass forward and back takes; on a CPU a fixed one.

    gradients: whether there is a pass back.
    """
    if device.type != "cuda":
        return ON_CPU
    model = model.to(device)
    x = torch.rand(TRIED, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    if gradients:
        input_gradient(model, x, torch.zeros(TRIED, dtype=torch.int64, device=device), cross_entropy)
    else:
        with torch.no_grad():
            model(x)
    each = max((torch.cuda.max_memory_allocated(device) - before) / TRIED, 1.0)
    fits = SPARE * torch.cuda.mem_get_info(device)[0] / each
    return max(1, min(MOST, 1 << int(fits).bit_length() - 1)) if fits >= 1 else 1
