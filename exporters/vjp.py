"""A network's vector-Jacobian graph: its output and J^T v, J the Jacobian of the output in one input, v a cotangent.

Forward engines have no autograd. Here the backward pass is recorded as operators: torch's rules are traced on shapes
alone (`make_fx`), and decomposed into operators that ONNX has. Weights are constants: no gradient reaches them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from exporters.parity import Probe

aten = torch.ops.aten
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
"""Lengths to trace with."""


class Pullback(nn.Module):
    """`(*inputs, cotangent [B, *row of the output]) -> (output [B, ...], gradient, like the input)`.

    Rows of the network must be independent: a row's gradient is then that of its own output.

    Args:
        of, to: the positions of the output and of the input.
    """

    def __init__(self, network: nn.Module, of: int, to: int) -> None:
        super().__init__()
        self.network, self._of, self._to = network, of, to

    @torch.enable_grad()
    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *inputs, cotangent = tensors
        inputs[self._to] = x = inputs[self._to].detach().requires_grad_()
        made = self.network(*inputs)
        output: Tensor = made if isinstance(made, Tensor) else list(made)[self._of]
        gradient = None
        if output.requires_grad:
            (gradient,) = torch.autograd.grad(output, x, cotangent, allow_unused=True)
        if gradient is None:
            raise ValueError("expected an output that depends on the input differentiably, got one that does not")
        return output.detach(), gradient


def traced(pullback: Pullback, tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The pullback as a module of operators alone, for tensors of any such shapes.

    Args:
        tensors: as `forward` takes them, on the CPU, see `distinct`.
    """
    rules: dict[Any, Callable[..., Any]] = {**core_aten_decompositions(), aten.convolution_backward.default: _convolved}
    with _constant(pullback), sdpa_kernel(SDPBackend.MATH):  # the others' backward passes are no operators of ONNX
        made = make_fx(pullback, rules, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*tensors)
    return made.eval()


def distinct(tensors: Mapping[str, Tensor], free: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors with other lengths along the batch and free axes, each different from all other lengths: a trace
    takes equal lengths for one and the same.

    Args:
        free: by name, the axes beside the first whose length is free.
    """
    fixed = {n for name, each in tensors.items() for i, n in enumerate(each.shape) if i and i not in free.get(name, ())}
    lengths = (n for n in PRIMES if n not in fixed)
    batch, made = next(lengths), dict[str, Tensor]()
    for name, tensor in tensors.items():
        for axis in (0, *free.get(name, ())):
            length = batch if axis == 0 else next(lengths)
            tensor = tensor.index_select(axis, torch.arange(length) % tensor.shape[axis])
        made[name] = tensor
    return made


def probe(draw: Probe, cotangent: str, row: Sequence[int], dtype: torch.dtype) -> Probe:
    """What `draw` draws, and standard normal cotangents [rows, *row]."""

    def both(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        inputs = draw(rows, generator)
        return {**inputs, cotangent: torch.randn(rows, *row, generator=generator).to(dtype)}

    return both


@contextlib.contextmanager
def _constant(network: nn.Module) -> Iterator[None]:
    """Without gradients of the weights."""
    trained = [each for each in network.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)


def _convolved(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """A convolution's backward pass in x: the transposed convolution, or the plain one of a transposed."""
    if mask[1] or mask[2]:
        raise ValueError("expected weights without gradients")
    axes = weight.ndim - 2
    steps, pads, gaps = (list(each) * (axes if len(each) == 1 else 1) for each in (stride, padding, dilation))
    if transposed:
        return aten.convolution(gradient, weight, None, steps, pads, gaps, False, [0] * axes, groups), None, None
    rest = [  # what a stride left over at the end of x
        x.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * steps[i] - 2 * pads[i] + gaps[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(axes)
    ]
    return aten.convolution(gradient, weight, None, steps, pads, gaps, True, rest, groups), None, None
