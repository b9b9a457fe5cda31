"""Requests for the soak: good ones whose answers are compared by bytes, and bad ones with the status they deserve."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from benchmarks._load import INFER, Parameter, infer_body

EVENT = (1, 28, 28)
F = np.float32
SOLVERS = ("ddim", "euler", "heun", "dpmpp_2m", "unipc_2", "sde_dpmpp_2m", "trig_adams_2", "deis_tab2")
INVALID = "INVALID_ARGUMENT"
NOWHERE = "/inference.GRPCInferenceService/NoSuchMethod"


@dataclass(frozen=True)
class Bad:
    """A request that must end with one of these statuses and nothing else."""

    name: str
    body: bytes
    statuses: tuple[str, ...]
    method: str = INFER


def good(count: int, seed: int) -> list[bytes]:
    """Requests with fixed seeds: plain ones, a third steered, every tenth to a raw network or a classifier."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((4, *EVENT)).astype(F)
    directions = (0.1 * rng.standard_normal((4, *EVENT))).astype(F)
    bodies = []
    for number in range(count):
        if number % 20 == 9:
            bodies.append(infer_body("digits.network", {}, {"x": images, "t": rng.uniform(0.1, 0.9, 4).astype(F)}))
            continue
        if number % 20 == 19:
            bodies.append(infer_body("classifier", {}, {"x": images, "label": rng.integers(0, 10, 4)}))
            continue
        parameters: dict[str, Parameter] = {
            "solver": str(rng.choice(SOLVERS)),
            "steps": int(rng.integers(3, 13)),
            "samples": int(rng.integers(1, 5)),
            "seed": number,
        }
        inputs: dict[str, NDArray[np.generic]] = {}
        if number % 6 == 0:
            parameters |= {"reward": "classifier", "reward_label": int(rng.integers(10))}
        elif number % 6 == 3:
            parameters |= {"reward": "linear"}
            inputs["reward_direction"] = directions[rng.integers(4)]
        bodies.append(infer_body("digits", parameters, inputs))
    return bodies


def bad(queue_rows: int) -> list[Bad]:
    """Wrong names, shapes, types, values and bytes; `queue_rows` is what a replica takes on at most."""
    nan, ones = np.full((1, *EVENT), np.nan, F), np.ones((1, *EVENT), F)
    label = np.array([10**9])
    too_much: dict[str, Parameter] = {"samples": 4096, "steps": min(1000, 1 + queue_rows // 4096)}
    return [
        Bad("no message", b"\xff" * 40, (INVALID,)),
        Bad("empty", b"", ("NOT_FOUND",)),
        Bad("unknown method", b"", ("UNIMPLEMENTED",), NOWHERE),
        Bad("unknown model", infer_body("no-such-model", {}), ("NOT_FOUND",)),
        Bad("unknown version", _versioned("digits", "9"), ("NOT_FOUND",)),
        _bad("unknown solver", {"solver": "made-up"}),
        _bad("unknown parameter", {"stpes": 3}),
        _bad("unknown reward", {"reward": "made_up"}),
        _bad("unknown input", {}, {"y": ones}),
        _bad("no steps", {"steps": 0}),
        _bad("steps in words", {"steps": "many"}),
        _bad("a billion samples", {"samples": 10**9}),
        _bad("negative seed", {"seed": -(2**63)}),
        _bad("beta of NaN", {"reward": "classifier", "reward_label": 1, "beta": float("nan")}),
        _bad("shape", {}, {"x_init": np.ones((1, 3, 28, 28), F)}),
        _bad("no axes", {}, {"x_init": np.ones((), F)}),
        _bad("empty axes", {}, {"x_init": np.ones((0, *EVENT), F)}),
        _bad("type", {}, {"x_init": ones.astype(np.float64)}),
        _bad("NaN", {}, {"x_init": nan}),
        _bad("infinite", {}, {"x_init": ones * np.inf}),
        _bad("torn tensor", {}, {"x_init": ones}, cut=8),
        _bad("label out of bounds", {"steps": 2, "reward": "classifier", "reward_label": 10**9}),
        Bad("class out of bounds", infer_body("classifier", {}, {"x": ones, "label": label}), (INVALID,)),
        Bad("raw NaN", infer_body("digits.network", {}, {"x": nan, "t": np.ones(1, F)}), (INVALID,)),
        Bad("more than the queue holds", infer_body("digits", too_much), ("RESOURCE_EXHAUSTED",)),
        # finite at the door, not inside the network
        Bad(
            "overflowing", infer_body("digits", {"steps": 2}, {"x_init": ones * F(3e38)}),
            ("INTERNAL", INVALID, "RESOURCE_EXHAUSTED"),
        ),
    ]  # fmt: skip


def _bad(
    name: str,
    parameters: Mapping[str, Parameter],
    inputs: Mapping[str, NDArray[np.generic]] | None = None,
    cut: int = 0,
) -> Bad:
    """A request to the sampler that is INVALID_ARGUMENT; `cut`: bytes missing at the end of its message's tensor."""
    body = infer_body("digits", parameters, inputs)
    if cut:
        request = pb.ModelInferRequest.FromString(body)
        request.raw_input_contents[0] = request.raw_input_contents[0][:-cut]
        body = request.SerializeToString()
    return Bad(name, body, (INVALID,))


def _versioned(model: str, version: str) -> bytes:
    return pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString()
