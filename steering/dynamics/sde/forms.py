"""Three forms of SDE that stay stable when trained, and steps that keep what each of them keeps.

Oh, Lim & Kim 2024, "Stable neural stochastic differential equations in analyzing irregular time series data":
Langevin-type dz = f(z) dt + s(t) dW, linear noise dz = f(z, t) dt + s(t) z dW, and geometric dz = z (f(z, t) dt + s(t)
dW). The graph gives f and s; s does not depend on z.

- "langevin": noise is additive, and every scheme of additive noise is of strong order 1.
- "linear": the noise's own factor exp(s dW - s^2 h / 2) is exact, and the drift's step comes before it (Lie and
  Trotter's splitting): strong order 1, no matter how large s is, and no sign changes but by the drift.
- "geometric": log |z| is what is integrated, d log |z| = (f - s^2 / 2) dt + s dW, with additive noise: strong order 1.
  The sign of z never changes, and 0 stays 0; plain Euler-Maruyama changes signs as soon as s dW < -1.

In Stratonovich's calculus s^2 / 2 is left out.
"""

from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.problem import Calculus
from steering.dynamics.sde.laws import Amplitude, States, column


def _growth(s: Amplitude, h: Float64[Tensor, " m"], dw: Float64[Tensor, "m k"], calculus: Calculus) -> States:
    """log of the factor that noise alone multiplies a state by."""
    noise = s.times(dw)
    return noise - s.squared() * column(h.abs() / 2, noise) if calculus == "ito" else noise


def linear(y: States, drift: States, s: Amplitude, h: Tensor, dw: Tensor, calculus: Calculus) -> States:
    return (y + column(h, y) * drift) * _growth(s, h, dw, calculus).exp()


def geometric(y: States, drift: States, s: Amplitude, h: Tensor, dw: Tensor, calculus: Calculus) -> States:
    return y * (column(h, y) * drift + _growth(s, h, dw, calculus)).exp()
