"""The bank: samples of an exported model itself, stored with its graph; steering scores each reward on them once."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import steering
from exporters.network import OnnxNetwork
from protos.digest import graph_sha256
from steering.posteriors.calibration import (
    SEED,  # of the bank: a client's sample with the same seed would be a point of it
)

SIZE = steering.BANK_SIZE
NAME = "bank.npz"


def draw_bank(
    network: OnnxNetwork,
    *,
    samples: int = SIZE,
    solver: str = "dpmpp_2m",
    steps: int = 20,
    seed: int = SEED,
    condition: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Samples [K, *event] of the model by a deterministic solver, under one condition ([1, ...] by name) if it has any.

    Raises:
        ValueError: the solver draws noise, or is unknown.
    """
    card = network.card
    if card.prediction is None:
        raise ValueError(f"model {card.name!r}: expected a sampler, got a plain network")
    end = card.end or ("denoise" if isinstance(network.path, steering.paths.VPDiscrete) else None)  # as it is served
    plan = steering.plan(
        solver,
        path=network.path,
        steps=steps,
        prediction=card.prediction,
        preconditioning=card.preconditioning,
        sigma_data=card.sigma_data,
        limit=network.limit,
        end=end,
    )
    if plan.uses_noise:
        raise ValueError(f"solver: expected a deterministic one, got {solver!r}")
    return steering.run(plan, network, (samples, *card.event_shape), seed, condition=condition)


def write_bank(model: Path, samples: Tensor, condition: Mapping[str, Tensor] | None = None) -> Path:
    """Write `bank.npz` into the folder of `model` (a model.onnx) and return its path.

    Its arrays: `x` float32 [K, *event], `cond_<name>`, and `model_sha256`, which ties it to the graph it came from.
    """
    arrays = {"x": samples.to(torch.float32).numpy(), "model_sha256": np.array(graph_sha256(model))}
    arrays |= {f"cond_{name}": value.numpy() for name, value in (condition or {}).items()}
    file = model.with_name(NAME)
    temporary = file.with_name(f".{NAME}")  # with its suffix, which numpy would add
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    return temporary.replace(file)
