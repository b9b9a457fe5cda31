"""What other programs call a sampler, as our solver, grid and options: ComfyUI, k-diffusion, A1111's web UI, diffusers.

A name may end in that of a schedule, such as `dpmpp_2m_karras` or "DPM++ 2M Karras". Names are compared in small
letters, with `_` for blanks and `pp` for `++`. Our own names are not listed, and mean what they always did. Where a
program's sampler has no equal here it is listed in `NONE`, with the nearest solver.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST = 100


@dataclass(frozen=True)
class Named:
    """What a name stands for; no grid: the one that the request or the model says."""

    solver: str
    grid: str | None = None
    options: Mapping[str, float] = field(default_factory=dict)


_FEW = {"lower_final": 15.0}
_ALWAYS = {"lower_final": 1001.0}
SAMPLERS: Mapping[str, Named] = {
    # ComfyUI and k-diffusion
    "euler_a": Named("euler_ancestral"),
    "dpm_2": Named("dpm_solver_2"),
    "dpm2": Named("dpm_solver_2"),
    "dpmpp_2m_sde": Named("sde_dpmpp_2m"),
    "dpmpp_2m_sde_gpu": Named("sde_dpmpp_2m"),
    "dpmpp_2m_sde_heun": Named("sde_dpmpp_2m", options={"exact": 1.0}),
    "res_multistep": Named("dpmpp_2m", options={"exact": 1.0}),
    "ddpm": Named("euler_ancestral"),
    "lcm": Named("consistency"),
    "deis": Named("deis_rhoab2"),
    "uni_pc": Named("unipc_3", options={"bh": 1.0, **_ALWAYS}),
    "uni_pc_bh2": Named("unipc_3", options=_ALWAYS),
    "unipc": Named("unipc_3", options=_ALWAYS),
    # diffusers
    "ddimscheduler": Named("ddim"),
    "ddpmscheduler": Named("euler_ancestral"),
    "pndmscheduler": Named("plms"),
    "eulerdiscretescheduler": Named("euler"),
    "eulerancestraldiscretescheduler": Named("euler_ancestral"),
    "heundiscretescheduler": Named("rho_heun"),
    "kdpm2discretescheduler": Named("dpm_solver_2"),
    "dpmsolvermultistepscheduler": Named("dpmpp_2m", options=_FEW),
    "unipcmultistepscheduler": Named("unipc_2", options=_ALWAYS),
    "deismultistepscheduler": Named("deis_logrho1", options=_FEW),
    "lcmscheduler": Named("consistency"),
    "flowmatcheulerdiscretescheduler": Named("flow_euler"),
    "flowmatchheundiscretescheduler": Named("flow_heun"),
    "edmeulerscheduler": Named("euler"),
    "edmdpmsolvermultistepscheduler": Named("dpmpp_2m", options=_FEW),
}
"""Names of samplers that have an equal here."""
SCHEDULES: Mapping[str, str] = {
    "karras": "levels/karras",
    "exponential": "levels/exponential",
    "normal": "linspace",
    "simple": "simple",
    "sgm_uniform": "linspace_open",
    "ddim_uniform": "leading(1)",
    "kl_optimal": "angle",
    "beta": "beta_steps",
}
"""Ends of names: schedules of ComfyUI, and our grids. All but karras, exponential and kl_optimal need a path of trained
steps."""
OURS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2s", "ddim", "ipndm_4", "sde_dpmpp_2m")
"""Our own names that others share, which may end in a schedule too."""
NONE: Mapping[str, str] = {
    "heunpp2": "heun", "dpm_2_ancestral": "dpm_solver_2", "dpm2_a": "dpm_solver_2", "lms": "deis_rhoab3",
    "dpm_fast": "dpm_solver_3", "dpm_adaptive": "dpm_solver_23", "dpmpp_2s_ancestral": "dpmpp_2s",
    "dpmpp_2s_a": "dpmpp_2s", "dpmpp_sde": "sde_dpmpp_2m", "dpmpp_sde_gpu": "sde_dpmpp_2m",
    "dpmpp_3m_sde": "sde_dpmpp_2m", "dpmpp_3m_sde_gpu": "sde_dpmpp_2m", "ipndm": "ipndm_4", "ipndm_v": "ipndm_4",
    "res_multistep_ancestral": "sde_dpmpp_2m", "er_sde": "sde_dpmpp_2m", "seeds_2": "sde_dpmpp_2m",
    "seeds_3": "sde_dpmpp_2m", "gradient_estimation": "dpmpp_2m", "euler_cfg_pp": "euler", "restart": "heun",
    "lmsdiscretescheduler": "deis_rhoab3", "kdpm2ancestraldiscretescheduler": "dpm_solver_2",
    "dpmsolversinglestepscheduler": "dpmpp_2s", "dpmsolversdescheduler": "sde_dpmpp_2m", "ipndmscheduler": "ipndm_4",
    "tcdscheduler": "consistency", "sasolverscheduler": "sde_dpmpp_2m",
    "cmstochasticiterativescheduler": "consistency", "scoresdevescheduler": "pc",
}  # fmt: skip
"""Names of samplers that have no equal here, and the nearest of ours."""


def known(name: str) -> Named | None:
    """What a name of another program stands for; None for our own names, and for unknown ones."""
    plain = _plain(name)
    if plain in SAMPLERS:
        return SAMPLERS[plain]
    for schedule, grid in SCHEDULES.items():
        if plain.endswith("_" + schedule):
            base = plain.removesuffix("_" + schedule)
            if base in SAMPLERS:
                return Named(SAMPLERS[base].solver, grid, SAMPLERS[base].options)
            return Named(base, grid) if base in OURS else None
    return Named(plain) if plain != name and plain in OURS else None


def instead(name: str) -> str | None:
    """The nearest of our solvers to a known sampler that has no equal here."""
    plain = _plain(name)
    for end in ("", *("_" + schedule for schedule in SCHEDULES)):
        if plain.endswith(end) and (nearest := NONE.get(plain.removesuffix(end))):
            return nearest
    return None


def synonyms() -> dict[str, list[str]]:
    """The names of each of our solvers."""
    found: dict[str, list[str]] = {}
    for name, named in SAMPLERS.items():
        found.setdefault(named.solver, []).append(name)
    return found


def _plain(name: str) -> str:
    """A name as the tables have it."""
    if len(name) > LONGEST:
        return name
    plain = re.sub(r"[\s\-]+", "_", name.strip().lower().replace("++", "pp")).removeprefix("sample_")
    whole = f"{plain}scheduler"  # a class without its last word
    return whole if whole in SAMPLERS and plain not in SAMPLERS and plain not in OURS else plain
