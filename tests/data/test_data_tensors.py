"""Images on a device, and augmentation against the plain loop."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedrobust.data import DATASETS, load
from fedrobust.data.device import AUGMENTATIONS, DeviceImages, on_device, random_crop_flip

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
)


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> torch.device:
    return torch.device(request.param)


def loop(x, generator, *, padding, flip):
    """`random_crop_flip`, image by image."""
    batch, _, height, width = x.shape
    draw = partial(torch.randint, generator=generator, device=x.device)
    top, left = draw(2 * padding + 1, (2, batch, 1)).squeeze(-1).tolist()
    mirrored = draw(2, (batch, 1)).squeeze(-1).tolist() if flip else [0] * batch
    out = []
    for i in range(batch):
        image = F.pad(x[i], (padding,) * 4)[:, top[i] : top[i] + height, left[i] : left[i] + width]
        out.append(image.flip(-1) if mirrored[i] else image)
    return torch.stack(out)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (7, 1, 9, 6)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_augmentation_equals_the_loop(device, shape, dtype, flip, padding):
    generator = torch.Generator(device).manual_seed(0)
    x = (torch.rand(shape, generator=generator, device=device) * 255).to(dtype)
    before = x.clone()
    state = generator.get_state()
    out = random_crop_flip(x, generator, padding=padding, flip=flip)
    generator.set_state(state)
    assert torch.equal(out, loop(x, generator, padding=padding, flip=flip))
    assert out.dtype == dtype
    assert torch.equal(x, before)


def test_augmentation_keeps_channels_last(device):
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(8, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    assert random_crop_flip(x, generator).is_contiguous(memory_format=torch.channels_last)


def test_every_shift_and_both_directions_occur(device):
    generator = torch.Generator(device).manual_seed(0)
    x = torch.zeros(4000, 1, 5, 5, device=device)
    x[:, :, 2, 2], x[:, :, 2, 3] = 1, 2
    out = random_crop_flip(x, generator, padding=1)
    assert len(out.unique(dim=0)) == 3 * 3 * 2
    one, two = ((out == value).flatten(1).int().argmax(1) for value in (1, 2))
    mirrored = (two < one).float().mean()
    assert mirrored.item() == pytest.approx(0.5, abs=0.04)


def test_augmentation_leaves_the_global_generator_alone():
    x, state = torch.zeros(4, 3, 8, 8), torch.get_rng_state()
    random_crop_flip(x, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_set_names_a_known_augmentation():
    assert {spec.augmentation for spec in DATASETS.values()} <= set(AUGMENTATIONS)
    x, generator = torch.rand(4, 1, 8, 8), torch.Generator().manual_seed(0)
    assert AUGMENTATIONS["none"](x, generator) is x
    state = generator.get_state()
    cropped = AUGMENTATIONS["crop"](x, generator)
    assert torch.equal(cropped, random_crop_flip(x, generator.set_state(state), flip=False))


def test_cpu_images_are_the_memory_map_itself(cifar10):
    data = DeviceImages(cifar10.train, "cpu")
    assert data.images.data_ptr() == cifar10.train.images.ctypes.data
    assert data.labels.data_ptr() == cifar10.train.labels.ctypes.data
    assert data.images.shape == (50_000, 3, 32, 32)
    assert data.images.is_contiguous(memory_format=torch.channels_last)


def test_batch_is_the_images_in_zero_to_one(device):
    digits = load("digits")
    data = DeviceImages(digits.test, device)
    index = torch.tensor([3, 0, 3, 358])
    x, y = data.batch(index)
    assert len(data) == 359
    assert x.device == y.device == data.device
    assert x.device.type == device.type
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    expected = digits.test.images[index.numpy()].transpose(0, 3, 1, 2) / np.float32(255)
    assert torch.equal(x.cpu(), torch.from_numpy(expected))
    assert y.tolist() == digits.test.labels[index.numpy()].tolist()


@pytest.mark.parametrize("index", [359, -1])
def test_batch_refuses_an_index_out_of_range(index):
    with pytest.raises(IndexError):
        DeviceImages(load("digits").test, "cpu").batch(torch.tensor([index]))


def test_on_device_copies_once_per_data_not_per_object(device):
    first = on_device(load("digits"), "train", device)
    assert on_device(load("digits"), "train", device) is first
    assert on_device(load("digits"), "train", first.device) is first
    assert on_device(load("digits"), "test", device) is not first
