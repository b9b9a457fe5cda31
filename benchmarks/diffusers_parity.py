"""How far samples of our plans are from those of diffusers' own schedulers, from the same noise.

    make bench ARGS=diffusers_parity

The network is a Gaussian mixture in closed form that is asked at diffusers' own timesteps. For each scheduler, over
configurations and 5, 20 and 50 steps: the largest root mean square difference, and the largest of one number, in parts
of the samples' standard deviation. Both compute in float32.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.utils import logging

from benchmarks._diffusers import Compared, compare

STEPS = (5, 20, 50)
SAMPLES = 256
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_schedule": "linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
ZERO = {**STABLE, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
BETAS = (STABLE, LINEAR, COSINE, ZERO)
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
FINAL: tuple[dict[str, Any], ...] = ({}, {"final_sigmas_type": "sigma_min"})
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}

Config = Mapping[str, Any]


def each(*choices: tuple[Config, ...]) -> Iterator[dict[str, Any]]:
    """Every combination."""
    if not choices:
        yield {}
        return
    for first in choices[0]:
        for rest in each(*choices[1:]):
            yield {**first, **rest}


ORDERS = tuple({"solver_order": order} for order in (1, 2, 3))
CASES: Mapping[str, tuple[str, tuple[Config, ...]]] = {
    "DDIM": ("DDIMScheduler", tuple(each(({"clip_sample": False},), BETAS, (LEADING, TRAILING)))),
    "PNDM": ("PNDMScheduler", tuple(each(({"skip_prk_steps": True},), (STABLE, LINEAR), (LEADING, TRAILING)))),
    "DPM-Solver++": (
        "DPMSolverMultistepScheduler", tuple(each(BETAS, (LEADING, LINSPACE, TRAILING), ORDERS, FINAL)),
    ),
    "DPM-Solver++, Karras": ("DPMSolverMultistepScheduler", tuple(each((STABLE, LINEAR, ZERO), (KARRAS,), ORDERS))),
    "DPM-Solver++, exponential, beta": (
        "DPMSolverMultistepScheduler", tuple(each((STABLE, LINEAR, ZERO), (EXPONENTIAL, BETA), ORDERS[:2])),
    ),
    "DPM-Solver++, flow": ("DPMSolverMultistepScheduler", tuple(each((FLOW,), ORDERS))),
    "UniPC": ("UniPCMultistepScheduler", tuple(each(BETAS, (LEADING, LINSPACE, TRAILING), ORDERS, FINAL))),
    "UniPC, Karras": ("UniPCMultistepScheduler", tuple(each((STABLE, LINEAR, ZERO), (KARRAS,), ORDERS))),
    "UniPC, flow": ("UniPCMultistepScheduler", tuple(each((FLOW,), ORDERS))),
    "DEIS": ("DEISMultistepScheduler", tuple(each((STABLE, LINEAR), (LEADING, LINSPACE, KARRAS), ORDERS))),
    "Euler": (
        "EulerDiscreteScheduler",
        tuple(each((STABLE, LINEAR), (LEADING, LINSPACE, TRAILING), ({}, KARRAS, EXPONENTIAL))),
    ),
    "Euler, zero terminal SNR": ("EulerDiscreteScheduler", tuple(each((ZERO,), (LEADING, LINSPACE, TRAILING)))),
    "Heun": ("HeunDiscreteScheduler", tuple(each((STABLE, LINEAR), (LEADING, LINSPACE, TRAILING), ({}, KARRAS)))),
    "KDPM2": ("KDPM2DiscreteScheduler", tuple(each((STABLE, LINEAR), (LEADING, LINSPACE)))),
    "flow Euler": (
        "FlowMatchEulerDiscreteScheduler",
        tuple(each(({"shift": 1.0}, {"shift": 3.0}), ({}, KARRAS, EXPONENTIAL, BETA))),
    ),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", ({"shift": 1.0}, {"shift": 3.0})),
    "EDM Euler": ("EDMEulerScheduler", ({}, {"sigma_schedule": "exponential"}, FINAL[1])),
    "EDM DPM-Solver++": (
        "EDMDPMSolverMultistepScheduler",
        ({}, {"sigma_schedule": "exponential"}, {"solver_order": 3})),
}  # fmt: skip


def measured(name: str, configs: tuple[Config, ...]) -> list[Compared]:
    return [compare({"_class_name": name, **config}, steps, SAMPLES) for config in configs for steps in STEPS]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    print("| scheduler | configurations | root mean square | largest |\n| --- | --- | --- | --- |")
    for title, (name, configs) in CASES.items():
        found = measured(name, configs)
        rms, largest = max(each.rms for each in found), max(each.largest for each in found)
        print(f"| {title} | {len(configs)} | {rms:.0e} | {largest:.0e} |", flush=True)


if __name__ == "__main__":
    main()
