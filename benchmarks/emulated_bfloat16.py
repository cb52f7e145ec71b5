"""Run `fedrobust` with bfloat16 matrix products computed in float32 and rounded: for processors without such units.

    python -m benchmarks.emulated_bfloat16 run cifar10-smoke --variant calfat --precision bfloat16 --engine local

Units for bfloat16 multiply bfloat16 numbers exactly, sum in float32 and round the result to bfloat16. That is what is
done here, forward and backward, for each convolution and matrix product that autocast hands over in bfloat16; all other
operations are PyTorch's own. Only the order of the sums differs, as it does between processors. PyTorch's own fallback
computes the same some twenty times slower. In one process: engine local, or `fedrobust central`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fedrobust.cli import main

aten = torch.ops.aten
PRODUCTS = {
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
}


class EmulatedProducts(TorchDispatchMode):
    """The matrix products of bfloat16 tensors, computed in float32 and rounded once."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not any(isinstance(a, Tensor) and a.dtype == torch.bfloat16 for a in args):
            return func(*args, **kwargs)
        exact = tree_map_only(Tensor, lambda tensor: tensor.float(), (args, kwargs))
        return tree_map_only(Tensor, lambda tensor: tensor.bfloat16(), func(*exact[0], **exact[1]))


if __name__ == "__main__":
    with EmulatedProducts():
        sys.exit(main(sys.argv[1:]))
