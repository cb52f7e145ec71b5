"""A split as two tensors on a device; a client's shard is an index into them (as in cifar10-airbench)."""

import threading

import torch
from torch import Tensor

from fedrobust.data.spec import Dataset, Split, SplitName


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

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the tensors are, with its index (`cuda:0`)."""
        return self.labels.device

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `index`, float32 `[B, C, H, W]` in [0, 1], channels-last; their labels, int64 `[B]`.

        Args:
            index: int64 `[B]`, 0..N-1, repeats allowed; best on this device already, as it is moved there.

        Raises:
            IndexError: an index out of range (on a CPU; a GPU reports it by an assertion of its own).
        """
        index = index.to(self.device)
        # On a CPU index_select copies whole images; indexing with [] goes by element, 15 times as slowly.
        pixels = self._pixels.index_select(0, index)
        return pixels.permute(0, 3, 1, 2).float().div_(255), self.labels.index_select(0, index)


_CACHE: dict[tuple[str, str, SplitName, torch.device], DeviceImages] = {}
_LOCK = threading.Lock()


def on_device(dataset: Dataset, split: SplitName, device: torch.device | str) -> DeviceImages:
    """A split of `dataset` on `device`, the same object for the same data for as long as the process lives.

    The key is the data's digest, not the `Dataset` object: clients that each call `load` share one copy.
    """
    device = torch.empty(0, device=device).device  # "cuda" → cuda:0, so that both are one key
    key = (dataset.name, dataset.digest, split, device)
    with _LOCK:
        if key not in _CACHE:
            _CACHE[key] = DeviceImages(dataset.train if split == "train" else dataset.test, device)
        return _CACHE[key]
