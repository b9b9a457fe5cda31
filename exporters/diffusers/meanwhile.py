"""What a scheduler's configuration says of a card, of the most common schedulers."""

from collections.abc import Mapping
from typing import Any

_EPS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def of_scheduler(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keys of a sampler's card: path, prediction, inputs, clip, defaults.

    Raises:
        ValueError: another scheduler, or a value that is not known; one line.
    """
    kind = str(config.get("_class_name"))
    if kind == "FlowMatchEulerDiscreteScheduler":
        shift = float(config.get("shift", 1.0))
        return {
            "path": {"kind": "rectified_flow"},
            "prediction": "velocity",
            "inputs": {"time": "1000*t"},
            "defaults": {"solver": "euler"} | ({} if shift == 1 else {"grid": f"shifted({shift:g})"}),
        }
    if kind not in ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler", "LCMScheduler"):
        raise ValueError(f"scheduler: expected DDPM, DDIM, PNDM, LCM, Euler or flow matching, got {kind}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _EPS:
        raise ValueError(f"prediction_type: expected one of {', '.join(_EPS)}, got {prediction!r}")
    schedule = config.get("beta_schedule", "linear")
    path: dict[str, Any] = {
        "kind": "vp_betas",
        "schedule": schedule,
        "steps": config.get("num_train_timesteps", 1000),
    }
    if schedule != "squaredcos_cap_v2":
        path |= {"beta_start": config.get("beta_start", 1e-4), "beta_end": config.get("beta_end", 0.02)}
    if config.get("rescale_betas_zero_snr"):
        path["zero_terminal_snr"] = True
    clip = (
        config.get("clip_sample_range", 1.0)
        if config.get("clip_sample", kind in ("DDPMScheduler", "DDIMScheduler"))
        else None
    )
    return {
        "path": path,
        "prediction": _EPS[prediction],
        "inputs": {"time": "N*t-1"},
        "defaults": {"solver": "consistency" if kind == "LCMScheduler" else "ddim"},
    } | ({} if clip is None else {"clip": (-clip, clip)})
