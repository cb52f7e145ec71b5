"""A model in eval mode with batch norms folded into convolutions, and on CUDA with fused pooling: the same function in
fewer passes over memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_weights

Pair = tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]
Fused = tuple[nn.Conv2d, Any]  # with a `pooled.ConvPoolReLU`: that module needs Triton, which not every machine has
View = tuple[fx.GraphModule, list[Pair], list[Fused]]
_FOLDED: WeakKeyDictionary[nn.Module, dict[str, View | None]] = WeakKeyDictionary()

logger = logging.getLogger(__name__)


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """Return the function of `model` in eval mode with its current weights; only for gradients of its input.

    A batch norm that is the only layer after a convolution becomes part of it: with s = γ / √(σ² + ε),
    w ← s · w and b ← β + s · (b − μ) (Jacob et al. 2018, section 3.2), once for all the passes of an attack. Under
    autocast the folded weights are kept in its precision, so that no pass casts them; all other modules are the model's
    own. On CUDA, a 3×3 convolution, 2×2 max pooling and ReLU in a row become the kernels of `pooled`. Up to rounding,
    logits and input gradients are the model's. Limit cases: without such layers, or if torch.fx cannot trace the
    forward pass (control flow that depends on the input), it is the model itself.
    """
    device = next((weight.device.type for weight in model.parameters()), "cpu")
    views = _FOLDED.setdefault(model, {})
    if device not in views:
        views[device] = _fold(model, fuse=device == "cuda")
    if (found := views[device]) is None:
        return model
    view, pairs, fused = found
    for convolution, kernel in fused:
        kernel.prepare(convolution)
    for convolution, norm, both in pairs:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        device = weight.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        both.weight = nn.Parameter(weight.to(precision), requires_grad=False)
        both.bias = nn.Parameter(bias.to(precision), requires_grad=False)
    return view


class _Tracer(fx.Tracer):
    """A tracer that stops at convolutions, batch norms, pooling, ReLU, and modules that contain none of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU)
        return isinstance(m, layers) or not any(isinstance(inside, layers) for inside in m.modules())


def _fold(model: nn.Module, *, fuse: bool) -> View | None:
    try:
        graph = _Tracer().trace(model)
    except (TraceError, TypeError, RuntimeError):
        return None
    view = fx.GraphModule(model, graph)  # modules of its own for the graph's places, which hold the model's layers
    pairs = []
    for before, norm, node in list(_pairs(graph, view)):
        place = str(before.target)
        convolution = view.get_submodule(place)
        assert isinstance(convolution, nn.Conv2d)
        both = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            padding_mode=convolution.padding_mode,  # type: ignore[arg-type]
            device="meta",
        )
        view.set_submodule(place, both.eval())
        pairs.append((convolution, norm, both))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    fused = _fuse(graph, view) if fuse else []
    view.delete_all_unused_submodules()
    view.recompile()
    return (view, pairs, fused) if pairs or fused else None


def _fuse(graph: fx.Graph, view: fx.GraphModule) -> list[Fused]:
    """Put the kernels of `pooled` in the place of convolution, pooling and ReLU; return each convolution with its
    kernel.
    """
    found = list(_chains(graph, view))
    try:
        from fedrobust.models.pooled import ConvPoolReLU
    except ImportError:  # Triton comes with PyTorch's CUDA builds, but not on every system
        if found:
            logger.warning("Triton is not installed: pooling in attacks runs layer by layer, more slowly")
        return []
    fused = []
    for nodes, (convolution, pool, activation) in found:
        if not ConvPoolReLU.fits(convolution, pool, activation):
            continue
        kernel, (first, second, third) = ConvPoolReLU(convolution), nodes
        view.set_submodule(str(third.target), kernel)
        third.args = first.args
        for node in (second, first):
            graph.erase_node(node)
        fused.append((convolution, kernel))
    return fused


def _chains(
    graph: fx.Graph, view: fx.GraphModule
) -> Iterator[tuple[tuple[fx.Node, fx.Node, fx.Node], tuple[nn.Conv2d, nn.MaxPool2d, nn.ReLU]]]:
    """Yield nodes and layers of convolution, pooling and ReLU where each is the only successor of the one before and no
    layer occurs twice.
    """
    times = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for first in graph.nodes:
        nodes = [first]
        while len(nodes) < 3 and len(nodes[-1].users) == 1:
            nodes.append(next(iter(nodes[-1].users)))
        if len(nodes) < 3 or any(node.op != "call_module" or times[node.target] > 1 for node in nodes):
            continue
        convolution, pool, activation = (view.get_submodule(str(node.target)) for node in nodes)
        if (
            isinstance(convolution, nn.Conv2d)
            and isinstance(pool, nn.MaxPool2d)
            and isinstance(activation, nn.ReLU)
            and convolution.weight.device.type != "meta"
        ):
            yield (nodes[0], nodes[1], nodes[2]), (convolution, pool, activation)


def _pairs(graph: fx.Graph, view: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.BatchNorm2d, fx.Node]]:
    """Yield a convolution's node, the batch norm that is its only successor, and that one's node; no layer occurs
    twice.
    """
    times = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        if times[before.target] > 1:
            continue
        first, second = view.get_submodule(str(before.target)), view.get_submodule(str(node.target))
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.running_mean is not None:
            yield before, second, node
