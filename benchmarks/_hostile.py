"""Requests of soak and fuzzer: good ones that are compared by bytes, and bad ones with the status they deserve."""

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


@dataclass(frozen=True)
class Served:
    """What bad requests are about: a sampler, and a reward of its samples with an integer argument."""

    sampler: str = "digits"
    event: tuple[int, ...] = EVENT
    reward: str = "classifier"
    argument: str = "label"


DIGITS = Served()


def bad(queue_rows: int, served: Served = DIGITS) -> list[Bad]:
    """Wrong names, shapes, types, values and bytes; `queue_rows` is what a replica takes on at most."""
    sampler, reward, network = served.sampler, served.reward, f"{served.sampler}.network"
    nan, ones = np.full((1, *served.event), np.nan, F), np.ones((1, *served.event), F)
    number, argument = np.array([10**9]), f"reward_{served.argument}"
    too_much: dict[str, Parameter] = {"samples": 4096, "steps": min(1000, 1 + queue_rows // 4096)}

    def wrong(
        name: str,
        parameters: Mapping[str, Parameter],
        inputs: Mapping[str, NDArray[np.generic]] | None = None,
        cut: int = 0,
    ) -> Bad:
        """A request to the sampler that is INVALID_ARGUMENT; `cut`: bytes missing at the end of its tensor."""
        body = infer_body(sampler, parameters, inputs)
        if cut:
            request = pb.ModelInferRequest.FromString(body)
            request.raw_input_contents[0] = request.raw_input_contents[0][:-cut]
            body = request.SerializeToString()
        return Bad(name, body, (INVALID,))

    return [
        Bad("no message", b"\xff" * 40, (INVALID,)),
        Bad("empty", b"", ("NOT_FOUND",)),
        Bad("unknown method", b"", ("UNIMPLEMENTED",), NOWHERE),
        Bad("unknown model", infer_body("no-such-model", {}), ("NOT_FOUND",)),
        Bad("unknown version", _versioned(sampler, "9"), ("NOT_FOUND",)),
        wrong("unknown solver", {"solver": "made-up"}),
        wrong("unknown parameter", {"stpes": 3}),
        wrong("unknown reward", {"reward": "made_up"}),
        wrong("unknown input", {}, {"y": ones}),
        wrong("no steps", {"steps": 0}),
        wrong("steps in words", {"steps": "many"}),
        wrong("a billion samples", {"samples": 10**9}),
        wrong("negative seed", {"seed": -(2**63)}),
        wrong("beta of NaN", {"reward": reward, argument: 1, "beta": float("nan")}),
        wrong("shape", {}, {"x_init": np.ones((1, 3, 28, 28), F)}),
        wrong("no axes", {}, {"x_init": np.ones((), F)}),
        wrong("empty axes", {}, {"x_init": np.ones((0, *served.event), F)}),
        wrong("type", {}, {"x_init": ones.astype(np.float64)}),
        wrong("NaN", {}, {"x_init": nan}),
        wrong("infinite", {}, {"x_init": ones * np.inf}),
        wrong("torn tensor", {}, {"x_init": ones}, cut=8),
        wrong("argument out of bounds", {"steps": 2, "reward": reward, argument: 10**9}),
        Bad("number out of bounds", infer_body(reward, {}, {"x": ones, served.argument: number}), (INVALID,)),
        Bad("raw NaN", infer_body(network, {}, {"x": nan, "t": np.ones(1, F)}), (INVALID,)),
        Bad("more than the queue holds", infer_body(sampler, too_much), ("RESOURCE_EXHAUSTED",)),
        # finite at the door, not inside the network
        Bad(
            "overflowing", infer_body(sampler, {"steps": 2}, {"x_init": ones * F(3e38)}),
            ("INTERNAL", INVALID, "RESOURCE_EXHAUSTED"),
        ),
    ]  # fmt: skip


def _versioned(model: str, version: str) -> bytes:
    return pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString()
