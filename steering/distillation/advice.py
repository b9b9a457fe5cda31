"""What a caller should be told of settings that are allowed and seldom wanted."""

from jaxtyping import Float64
from torch import Tensor

from steering.distillation.mode import Mode
from steering.distillation.settings import Settings

FAR = 4.0
"""Times the data's standard deviation, from which on `cds` sees little but its own noise."""


def warnings(settings: Settings, rho2: Float64[Tensor, " b"], deviation: float | None) -> list[str]:
    """One line each.

    Args:
        deviation: the data's standard deviation within a view's condition, None if it is not known.
    """
    kind, told = settings.kind, []
    if _fixed(settings, kind) and kind.noise == "iteration":
        told.append(
            f"mode {settings.mode!r} with one noise for the whole optimisation leads to the prior's mean plus that "
            "noise times s^2 / rho, not to data: take noise 'iteration', or mode 'cds'"
        )
    if kind.noise == "fixed" and deviation is not None and float(rho2.max()) > FAR * deviation:
        told.append(
            f"mode {settings.mode!r} looks at rho {float(rho2.max()):.3g}, over {FAR:g} times the data's standard "
            f"deviation of {deviation:.3g}: its signal to noise is 1 / rho there, that of 'sds' rho / s^2"
        )
    return told


def _fixed(settings: Settings, kind: Mode) -> bool:
    return (settings.noise or kind.noise) == "fixed"
