"""CalFAT's local epoch as everybody writes it: the baseline of training_step, used nowhere in the package.

PIL transforms in a DataLoader, float32, contiguous NCHW, and `loss.backward()` inside the attack, which computes
a gradient for every weight as well and throws it away. The mathematics is the package's, step for step; the
official code also recomputes the natural logits in every step of the attack, which this loop does not.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10
TEMPERATURE, SCALE = 0.1, 10.0


class AsPublished(nn.Module):
    """`calfat-cnn` in the order of the official code, ReLU before the pooling; the weights are shared."""

    def __init__(self, cnn: nn.Module) -> None:
        super().__init__()
        self.cnn = cnn

    def forward(self, x: Tensor) -> Tensor:
        layer = self.cnn.get_submodule
        x = F.max_pool2d(F.relu(layer("conv1")(x)), 2)
        x = F.max_pool2d(F.relu(layer("conv2")(x)), 2)
        return layer("linear")(F.relu(layer("conv3")(x)).flatten(1))


class Images(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision serves it: an array, a PIL image per access, transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        x: Tensor = self.transform(Image.fromarray(self.images[item]))  # pyright: ignore[reportAssignmentType]
        return x, int(self.labels[item])


def attack(model: nn.Module, x: Tensor, log_counts: Tensor) -> Tensor:
    """PGD on CalFAT's calibrated KL divergence."""
    model.eval()
    criterion = nn.KLDivLoss(reduction="sum")
    with torch.no_grad():
        natural = F.softmax(model(x) + TEMPERATURE * log_counts, dim=1)
    x_adv = x.detach() + 0.001 * torch.randn(x.shape)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = criterion(F.log_softmax(model(x_adv) + TEMPERATURE * log_counts, dim=1), natural)
        model.zero_grad()
        loss.backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + STEP_SIZE * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
    model.train()
    return x_adv.detach()


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, *, batch_size: int, workers: int) -> float:
    """One epoch; the mean loss."""
    loader = DataLoader(Images(images, labels), batch_size=batch_size, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    log_counts = torch.log(torch.bincount(torch.from_numpy(labels), minlength=10).clamp(min=1) + 1e-7)
    total = 0.0
    for x, y in loader:
        x_adv = attack(model, x, log_counts)
        optimizer.zero_grad()
        loss = F.cross_entropy(SCALE * (model(x_adv) + TEMPERATURE * log_counts), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
    return total / len(labels)
