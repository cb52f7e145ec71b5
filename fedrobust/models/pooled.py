"""Convolution, 2×2 max pooling and ReLU in one kernel each way, on CUDA, for gradients with respect to the input only.

PyTorch writes the convolution's output, adds the bias, pools with 64-bit indices, and on the way back fills a tensor of
the same size with zeros before it scatters: on `calfat-cnn` these passes over memory take half of an attack's time.
Here the pooled maximum, the bias and ReLU are one kernel, whose index takes a byte; behind an input of few channels the
convolution is in it, too, as a product over 4 × 4 patches, four positions of the window each.

Max pooling commutes with the bias and with ReLU, also after rounding, since both are non-decreasing. The values are
PyTorch's but for the order in which products are added.
"""

# Triton reads the annotations of its kernels, and has types of its own.
# pyright: reportMissingParameterType=false, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

BLOCK = 1024  # elements of a program that adds or pools
WIDTH = 64  # padded features of a patch: 16 per channel, so that images of up to four channels fit
LARGEST = 2**31  # elements that a kernel can count
DEAD = tl.constexpr(4)  # the index where ReLU is zero; below it, the place in the window, row by row
ROWS = 64  # pooled places of a program


class ConvPoolReLU(nn.Module):
    """A 3×3 convolution, 2×2 max pooling and ReLU, with the weights of the last `prepare`; they get no gradient."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._whole = convolution.in_channels <= WIDTH // 16  # the convolution is in the kernel, too
        self.prepare(convolution)

    @staticmethod
    def fits(convolution: nn.Conv2d, pool: nn.MaxPool2d, activation: nn.ReLU) -> bool:
        """Return whether the kernels compute these three layers."""
        plain = (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
        return (
            plain
            and convolution.kernel_size == (3, 3)
            and convolution.padding == (0, 0)
            and pool.kernel_size in (2, (2, 2))
            and pool.stride in (2, (2, 2))
            and (pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices) == (0, 1, False, False)
            and type(activation) is nn.ReLU
        )

    @torch.no_grad()
    def prepare(self, convolution: nn.Conv2d) -> None:
        """Take over the weights of a convolution; under autocast in its precision."""
        weight, device = convolution.weight.detach(), convolution.weight.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        self._weight = (window_weights(weight) if self._whole else weight).to(precision)
        bias = torch.zeros_like(weight[:, 0, 0, 0]) if convolution.bias is None else convolution.bias.detach()
        self._bias = bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layers on x, [B, C, H, W] → [B, C′, (H − 2) // 2, (W − 2) // 2], channels-last, in the precision
        of the weights.
        """
        most = LARGEST // (len(self._bias) * x.shape[2] * x.shape[3])
        if len(x) > most:
            return torch.cat([self(part) for part in x.split(most)])
        if self._whole:
            return _WholePool.apply(x, self._weight, self._bias)  # type: ignore[return-value]
        with torch.autocast(x.device.type, enabled=False):
            summed = F.conv2d(x.to(self._weight.dtype), self._weight)
        return _Pool.apply(summed, self._bias)  # type: ignore[return-value]


def window_weights(weight: Tensor) -> Tensor:
    """Return the weights as seen from 4×4 patches: for each of the four places of the pooling window, [4, WIDTH, C′].

    Feature (r · 4 + s) · C + c of a patch is its pixel at row r, column s, channel c; from place (a, b) of the window
    its weight is w[·, c, r − a, s − b], zero outside of 3×3.
    """
    out, channels = weight.shape[:2]
    placed = [F.pad(weight, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1)]  # [C′, C, 4, 4] each
    features = torch.stack(placed).permute(0, 3, 4, 2, 1).reshape(4, 16 * channels, out)
    return F.pad(features, (0, 0, 0, WIDTH - 16 * channels)).contiguous()


class _WholePool(torch.autograd.Function):
    """Convolution, pooling and ReLU."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = x.shape
        rows, columns, out = (height - 2) // 2, (width - 2) // 2, weights.shape[2]
        y = torch.empty(
            (batch, out, rows, columns), dtype=weights.dtype, device=x.device, memory_format=torch.channels_last
        )
        place = torch.empty_like(y, dtype=torch.uint8)
        count = batch * rows * columns
        _convolve_pool[(triton.cdiv(count, ROWS),)](
            x, weights, bias, y, place, count, height, width, rows, columns, channels,
            WIDTH=WIDTH, OUT=out, PADDED=_padded(out), ROWS=ROWS, PRECISION=_products(weights.dtype),
            num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(weights, place)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        weights, place = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        rows, columns, out = place.shape[2], place.shape[3], weights.shape[2]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        count = batch * rows * columns
        patches = torch.empty((count, 16 * channels), dtype=torch.float32, device=gradient.device)
        _patch_gradient[(triton.cdiv(count, ROWS),)](
            gradient, place, weights, patches, count, 16 * channels,
            WIDTH=WIDTH, OUT=out, PADDED=_padded(out), ROWS=ROWS, PRECISION=_products(weights.dtype),
            num_warps=8,
        )  # fmt: skip
        x_gradient = torch.empty(ctx.shape, dtype=ctx.dtype, device=gradient.device, memory_format=torch.channels_last)
        total = x_gradient.numel()
        _fold_patches[(triton.cdiv(total, BLOCK),)](
            patches, x_gradient, total, height, width, rows, columns, channels, BLOCK=BLOCK
        )
        return x_gradient, None, None


class _Pool(torch.autograd.Function):
    """Pooling, bias and ReLU of a convolution's sums."""

    @staticmethod
    def forward(ctx, summed: Tensor, bias: Tensor) -> Tensor:
        summed = summed.contiguous(memory_format=torch.channels_last)
        batch, out, height, width = summed.shape
        rows, columns = height // 2, width // 2
        y = torch.empty(
            (batch, out, rows, columns), dtype=summed.dtype, device=summed.device, memory_format=torch.channels_last
        )
        place = torch.empty_like(y, dtype=torch.uint8)
        total = y.numel()
        _pool[(triton.cdiv(total, BLOCK),)](
            summed, bias, y, place, total, height, width, rows, columns, out, BLOCK=BLOCK
        )
        ctx.save_for_backward(place)
        ctx.shape = summed.shape
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        _, out, height, width = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
        total = result.numel()
        _unpool[(triton.cdiv(total, BLOCK),)](
            gradient, place, result, total, height, width, place.shape[2], place.shape[3], out, BLOCK=BLOCK
        )
        return result, None


def _padded(out: int) -> int:
    """Return a number of output channels that a matrix product can have: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(out))


def _products(precision: torch.dtype) -> str:
    """Return how Triton multiplies float32: as cuDNN does here."""
    return "tf32" if precision == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


@triton.jit
def _convolve_pool(
    x, weights, bias, y, place, count, height, width, rows, columns, channels,
    WIDTH: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = at < count
    image, inside = at // (rows * columns), at % (rows * columns)
    first = (image * height + 2 * (inside // columns)) * width + 2 * (inside % columns)  # the patch's first pixel
    feature = tl.arange(0, WIDTH)
    pixel, channel = feature // channels, feature % channels
    offset = ((pixel // 4) * width + pixel % 4) * channels + channel
    mask = there[:, None] & (feature < 16 * channels)[None, :]
    patch = tl.load(x + first[:, None] * channels + offset[None, :], mask=mask, other=0.0)
    patch = patch.to(weights.dtype.element_ty)
    out = tl.arange(0, PADDED)
    known = out < OUT
    taken = feature[:, None] * OUT + out[None, :]
    highest = tl.dot(patch, tl.load(weights + taken, mask=known[None, :], other=0.0), input_precision=PRECISION)
    where = tl.zeros((ROWS, PADDED), dtype=tl.int32)
    for k in tl.static_range(1, 4):
        weight = tl.load(weights + k * WIDTH * OUT + taken, mask=known[None, :], other=0.0)
        value = tl.dot(patch, weight, input_precision=PRECISION)
        where = tl.where(value > highest, k, where)  # the first of equals, as in PyTorch
        highest = tl.maximum(value, highest)
    highest += tl.load(bias + out, mask=known, other=0.0)[None, :]
    where = tl.where(highest > 0, where, DEAD)
    target = at[:, None] * OUT + out[None, :]
    mask = there[:, None] & known[None, :]
    tl.store(y + target, tl.maximum(highest, 0.0).to(y.dtype.element_ty), mask=mask)
    tl.store(place + target, where.to(tl.uint8), mask=mask)


@triton.jit
def _patch_gradient(
    gradient, place, weights, patches, count, features,
    WIDTH: tl.constexpr, OUT: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = at < count
    out, feature = tl.arange(0, PADDED), tl.arange(0, WIDTH)
    known = out < OUT
    source = at[:, None] * OUT + out[None, :]
    mask = there[:, None] & known[None, :]
    above = tl.load(gradient + source, mask=mask, other=0.0).to(weights.dtype.element_ty)
    where = tl.load(place + source, mask=mask, other=4).to(tl.int32)
    taken = out[:, None] + feature[None, :] * OUT  # transposed: [PADDED, WIDTH]
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for k in tl.static_range(4):
        weight = tl.load(weights + k * WIDTH * OUT + taken, mask=known[:, None], other=0.0)
        routed = tl.where(where == k, above, 0.0).to(weights.dtype.element_ty)
        total += tl.dot(routed, weight, input_precision=PRECISION)
    mask = there[:, None] & (feature < features)[None, :]
    tl.store(patches + at[:, None] * features + feature[None, :], total, mask=mask)


@triton.jit
def _fold_patches(patches, result, total, height, width, rows, columns, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel, pixel = at % channels, at // channels
    column, row = pixel % width, (pixel // width) % height
    image = pixel // (width * height)
    value = tl.zeros((BLOCK,), dtype=tl.float32)
    for up in tl.static_range(2):
        for left in tl.static_range(2):
            i, j = row // 2 - up, column // 2 - left  # a patch that covers the pixel, at (row − 2 i, column − 2 j)
            inside = (at < total) & (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
            feature = ((row - 2 * i) * 4 + column - 2 * j) * channels + channel
            source = ((image * rows + i) * columns + j) * (16 * channels) + feature
            value += tl.load(patches + source, mask=inside, other=0.0)
    tl.store(result + at, value.to(result.dtype.element_ty), mask=at < total)


@triton.jit
def _pool(summed, bias, y, place, total, height, width, rows, columns, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < total
    channel, pooled = at % channels, at // channels
    column, row = pooled % columns, (pooled // columns) % rows
    image = pooled // (rows * columns)
    first = ((image * height + 2 * row) * width + 2 * column) * channels + channel
    highest = tl.load(summed + first, mask=there, other=0.0).to(tl.float32)
    where = tl.zeros((BLOCK,), dtype=tl.int32)
    for k in tl.static_range(1, 4):
        step = ((k // 2) * width + k % 2) * channels
        value = tl.load(summed + first + step, mask=there, other=0.0).to(tl.float32)
        where = tl.where(value > highest, k, where)
        highest = tl.maximum(value, highest)
    highest += tl.load(bias + channel, mask=there, other=0.0)
    where = tl.where(highest > 0, where, DEAD)
    tl.store(y + at, tl.maximum(highest, 0.0).to(y.dtype.element_ty), mask=there)
    tl.store(place + at, where.to(tl.uint8), mask=there)


@triton.jit
def _unpool(gradient, place, result, total, height, width, rows, columns, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < total
    channel, pixel = at % channels, at // channels
    column, row = pixel % width, (pixel // width) % height
    image = pixel // (width * height)
    inside = there & (row // 2 < rows) & (column // 2 < columns)
    source = ((image * rows + row // 2) * columns + column // 2) * channels + channel
    where = tl.load(place + source, mask=inside, other=4).to(tl.int32)
    value = tl.load(gradient + source, mask=inside, other=0.0)
    taken = where == (row % 2) * 2 + column % 2
    tl.store(result + at, tl.where(taken, value, 0.0).to(result.dtype.element_ty), mask=there)
