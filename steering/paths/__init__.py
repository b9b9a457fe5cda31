"""Gaussian probability paths x_t = alpha(t) x_0 + sigma(t) eps, data at the small end of t, noise at the large end.

Every function takes a path time (a number or a tensor of any shape) and returns a float64 tensor of that shape:
schedule scalars lose all their digits in float32 near the ends (1 - alpha^2 at t = 1e-3).

`vp_cosine`, `vp_linear`, `vp_discrete` (any table of alpha_bar), `vp_betas` (Stable Diffusion's), `sub_vp`, `ve`,
`edm`, `rectified_flow`, `trig_flow`, `one_sided` (stochastic interpolants), `mean_reverting` and `kinetic_optimal`
make them, `reschedule` moves a trained network from one to another, `build` reads the path of a model card, and
`time_input` what its network is fed for a time.
"""

from steering.paths.base import Path
from steering.paths.discrete import VPDiscrete, VPZeroTerminal, vp_betas, vp_discrete
from steering.paths.exploding import EDM, VE, edm, ve
from steering.paths.flows import RectifiedFlow, TrigFlow, rectified_flow, trig_flow
from steering.paths.kinds import KINDS, build
from steering.paths.kinetic import DenoisingError, KineticOptimal, empirical_error, kinetic_energy, kinetic_optimal
from steering.paths.mean_reverting import MeanReverting, mean_reverting
from steering.paths.one_sided import SBDM, one_sided
from steering.paths.reschedule import reschedule
from steering.paths.sub_vp import SubVP, sub_vp
from steering.paths.time_inputs import TIME_INPUTS, counts_steps, time_input, unrounded
from steering.paths.variance_preserving import VPCosine, VPLinear, vp_cosine, vp_linear
from steering.paths.whole_times import whole_grid, whole_times

__all__ = [
    "EDM", "KINDS", "SBDM", "TIME_INPUTS", "VE", "DenoisingError", "KineticOptimal", "MeanReverting", "Path",
    "RectifiedFlow", "SubVP", "TrigFlow", "VPCosine", "VPDiscrete", "VPLinear", "VPZeroTerminal", "build",
    "counts_steps", "edm", "empirical_error", "kinetic_energy", "kinetic_optimal", "mean_reverting", "one_sided",
    "rectified_flow", "reschedule", "sub_vp", "time_input", "trig_flow", "unrounded", "ve", "vp_betas", "vp_cosine",
    "vp_discrete", "vp_linear", "whole_grid", "whole_times",
]  # fmt: skip
