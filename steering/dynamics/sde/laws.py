"""How noise of each law acts: g dW, for g as the model's graph gives it."""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.problem import Law
from steering.errors import NetworkError

States = Float64[Tensor, "m *state"]


@dataclass(frozen=True, eq=False)
class Amplitude:
    """g(y, t) of some rows.

    Attributes:
        values: [m, *state], or [m, *state, k] where it is a matrix.
        sources: how many independent Brownian motions drive a trajectory.
    """

    values: Tensor
    sources: int
    matrix: bool

    def times(self, dw: Float64[Tensor, "m k"]) -> States:
        """g dW. Terms of a matrix's row are added from the first to the last, so that a row's bits are its own."""
        values = self.values
        if self.matrix:
            total = values[..., 0] * column(dw[:, 0], values[..., 0])
            for k in range(1, self.sources):
                total = total + values[..., k] * column(dw[:, k], total)
            return total
        if self.sources == 1:
            return values * column(dw[:, 0], values)
        return values * dw.reshape(values.shape)

    def squared(self) -> States:
        """The variance of g dW per unit of time."""
        squares = self.values * self.values
        if not self.matrix:
            return squares
        total = squares[..., 0]
        for k in range(1, self.sources):
            total = total + squares[..., k]
        return total

    def __getitem__(self, rows: Tensor) -> "Amplitude":
        return Amplitude(self.values[rows], self.sources, self.matrix)


def amplitude(law: Law, diffusion: Tensor, y: States) -> Amplitude:
    """Read the graph's output.

    Raises:
        NetworkError: its shape is none that noise of this law has: [m, *state], or one number a row; of general noise
            [m, *state, k] or [m, d, k] with d the numbers of a state. Additive noise may have [m, *state, k], too.
    """
    m, size = len(y), y[0].numel()
    shape = diffusion.shape
    if law == "general" and diffusion.ndim == 3 and shape[:2] == (m, size) and shape[2]:
        return Amplitude(diffusion.reshape(*y.shape, shape[2]), shape[2], True)
    if law in ("general", "additive") and shape[:-1] == y.shape and shape[-1]:
        return Amplitude(diffusion, shape[-1], True)
    if law == "general" or not (shape == y.shape or diffusion.numel() == m):
        expected = f"[{m}, {size}, k]" if law == "general" else str(list(y.shape))
        raise NetworkError(f"diffusion: expected {expected} beside {law} noise, got {list(shape)}")
    values = diffusion if shape == y.shape else column(diffusion.reshape(m), y).expand_as(y)
    return Amplitude(values, 1 if law == "scalar" else size, False)


def column(values: Float64[Tensor, " m"], y: Tensor) -> Tensor:
    """One number a row, to be multiplied with tensors like y."""
    return values.reshape(-1, *[1] * (y.ndim - 1))
