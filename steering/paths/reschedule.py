"""Sample a network on another path than it was trained on.

Two paths with the same rho = sigma / alpha are one process up to the scale alpha: x / alpha moves alike in both. So
the network is asked at the time of its own path where rho is the same (`steering.predictions.denoise`), and end
points agree once both paths run through the same range of rho.
"""

import math

from steering.paths.base import Path


def reschedule(trained: Path, onto: Path) -> Path:
    """The path `onto` between the times, or noise levels, at which its rho is that of the ends of `trained`.

        plan = steering.plan("ddim", path=reschedule(trained, onto), trained=trained, ...)

    Raises:
        ValueError: `trained` has an infinite log-SNR at an end, or `onto` never comes to it.
    """
    first, last = float(trained.log_snr(trained.t_max)), float(trained.log_snr(trained.t_min))
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"reschedule: expected a finite log-SNR at both ends of the trained path, got {first}..{last}")
    return onto.spanning(first, last)
