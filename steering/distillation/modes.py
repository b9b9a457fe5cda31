"""The modes of distillation by name."""

from collections.abc import Mapping

from steering.distillation import cds, ism, reward_sds, sds
from steering.distillation.mode import Mode
from steering.errors import PlanError, choose

_ALL = (
    Mode("sds", sds.direction, "iteration", False, "Poole et al. 2022, arXiv:2209.14988"),
    Mode("cds", cds.direction, "fixed", True, "Wu et al. 2024, arXiv:2401.09050"),
    Mode("ism", ism.direction, None, True, "Liang et al. 2023, arXiv:2311.11284"),
    Mode("reward_sds", reward_sds.direction, "iteration", False, "Chachy et al. 2025, arXiv:2503.09601", weighs=True),
)
MODES: Mapping[str, Mode] = {mode.name: mode for mode in _ALL}
VSD = "vsd"
"""Variational score distillation (Wang et al. 2023, arXiv:2305.16213): known, and not possible here."""


class UntrainableError(ValueError):
    """A mode that trains a network beside the optimisation."""


def mode(name: str) -> Mode:
    """The mode of a name.

    Raises:
        UntrainableError: "vsd".
        PlanError: an unknown name.
    """
    if name == VSD:
        raise UntrainableError(
            "mode 'vsd' needs a network of the scene's own renders that is trained on the fly, and networks here only "
            f"run forwards: expected one of {', '.join(MODES)}"
        )
    if name not in MODES:
        raise PlanError(choose("mode", name, MODES))
    return MODES[name]
