"""The 1 × 1 convolution of a shortcut."""

from torch import Tensor, nn
from torch.nn import functional as F

SAFE = 8  # input channels


class _Subsampled(nn.Conv2d):
    """A strided 1 × 1 convolution as one of stride 1 on every `stride`-th pixel: the same sums."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def pointwise(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """Return a 1 × 1 convolution without a bias.

    On processors with AVX2 alone, oneDNN's weight gradient of a strided one with fewer than 8 input channels, in
    channels-last order, writes beyond its memory (PyTorch 2.15: "double free or corruption"). Such narrow networks take
    the pixels first.
    """
    kind = _Subsampled if stride > 1 and inputs < SAFE else nn.Conv2d
    return kind(inputs, outputs, 1, stride, bias=False)
