"""Rivals of `Doob` behind the same interface, for those who want them and for comparisons at equal budgets.

Those marked `needs_gradients` differentiate the network or the reward, and so need torch rather than a forward engine.
Classifier-free guidance is the argument `guidance` of `steering.run`.
"""

from collections.abc import Callable, Mapping

from steering.baselines.bank_resampling import BankResampling
from steering.baselines.best_of import BestOf
from steering.baselines.classifier_guidance import ClassifierGuidance
from steering.baselines.doit import PRESETS, Doit
from steering.baselines.dps import Dps
from steering.baselines.fk_steering import fk_steering
from steering.baselines.lgd_mc import LgdMc
from steering.baselines.svdd import Svdd
from steering.baselines.tds import tds
from steering.baselines.tfg import Tfg
from steering.sampling.sampler import Steering

BASELINES: Mapping[str, Callable[..., Steering]] = {
    "best_of": BestOf,
    "bank_resampling": BankResampling,
    "svdd": Svdd,
    "fk_steering": fk_steering,
    "doit": Doit,
    "classifier_guidance": ClassifierGuidance,
    "dps": Dps,
    "lgd_mc": LgdMc,
    "tds": tds,
    "tfg": Tfg,
}

__all__ = [
    "BASELINES",
    "PRESETS",
    "BankResampling",
    "BestOf",
    "ClassifierGuidance",
    "Doit",
    "Dps",
    "LgdMc",
    "Svdd",
    "Tfg",
    "fk_steering",
    "tds",
]
