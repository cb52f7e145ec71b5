"""A split as two tensors on a device, and batched augmentation there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrobust.data.spec import AugmentationName, Dataset, Split, SplitName

_CACHE: dict[tuple[str, str, SplitName, torch.device], DeviceImages] = {}
_LOCK = threading.Lock()


class DeviceImages:
    """The images and labels of a split on one device.

    On a CPU both are views of the split's own memory: with memory-mapped arrays all processes of a machine
    share one copy. On another device they are copied, once per process when made with `on_device`.

    Attributes:
        images: uint8 `[N, C, H, W]`, 0..255, a channels-last view of `[N, H, W, C]` memory.
        labels: int64 `[N]`.
    """

    def __init__(self, split: Split, device: torch.device | str) -> None:
        self._pixels = torch.from_numpy(split.images).to(device)  # [N, H, W, C]
        self.images = self._pixels.permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(split.labels).to(device)
        # a tensor there: CUDA divides by a number, or by a tensor on the CPU, as a product with its rounded inverse
        self._white = torch.tensor(255.0, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device of the tensors, with its index (`cuda:0`)."""
        return self.labels.device

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at `index`, float32 `[B, C, H, W]` in [0, 1], channels-last, and their labels, int64 `[B]`.

        Args:
            index: int64 `[B]`, 0..N-1, repeats allowed; best on this device already, as it is moved there.

        Raises:
            IndexError: an index out of range (on a CPU; a GPU reports it by an assertion of its own).
        """
        index = index.to(self.device)
        # On a CPU index_select copies whole images; indexing with [] goes by element, 15 times as slowly.
        pixels = self._pixels.index_select(0, index)
        return pixels.permute(0, 3, 1, 2).float().div_(self._white), self.labels.index_select(0, index)


def on_device(dataset: Dataset, split: SplitName, device: torch.device | str) -> DeviceImages:
    """Return a split of `dataset` on `device`, the same object for the same data in each process.

    The key is the data's digest, not the `Dataset` object: clients that each call `load` share one copy.
    """
    device = torch.empty(0, device=device).device  # "cuda" → cuda:0, so that both are one key
    key = (dataset.name, dataset.digest, split, device)
    with _LOCK:
        if key not in _CACHE:
            _CACHE[key] = DeviceImages(dataset.train if split == "train" else dataset.test, device)
        return _CACHE[key]


Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Function (x `[B, C, H, W]`, generator) → augmented x of the same shape and dtype."""


def random_crop_flip(x: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift each image by up to `padding` pixels in each direction (zeros enter) and mirror it with probability 0.5.

    The usual augmentation for CIFAR: He et al., "Deep Residual Learning for Image Recognition", 2016, 4.2.
    Zero is black in pixel units, so this belongs before the model's normalisation layer.

    Args:
        x: `[B, C, H, W]`, any dtype, best in channels-last memory (others are copied once).
        generator: on the device of `x`; three draws per image, two without flip.
        padding: at least 0; 0 crops nothing.
        flip: False where left and right mean something (digits, house numbers).

    Returns:
        a new tensor of the same shape and dtype, in channels-last memory.
    """
    batch, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).contiguous()
    across, device = width + 2 * padding, x.device

    offset = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator, device=device)
    rows = offset[0] + torch.arange(height, device=device)  # [B, H]
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip:
        mirrored = torch.randint(2, (batch, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = offset[1] + columns  # [B, W]

    # One gather of whole pixels: on a CPU a flat index_select is 2-3 times as fast as three index tensors.
    first_row = torch.arange(batch, device=device)[:, None] * (height + 2 * padding)
    pixel = (first_row + rows)[:, :, None] * across + columns[:, None, :]  # [B, H, W]
    out = padded.view(-1, channels).index_select(0, pixel.view(-1))
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def unchanged(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return `x` itself; draw nothing."""
    return x


AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
    "crop-flip": random_crop_flip,
    "crop": partial(random_crop_flip, flip=False),
    "none": unchanged,
}
"""Augmentations by the names that `Dataset.augmentation` takes."""
