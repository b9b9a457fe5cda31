"""From a request for log-likelihoods to a program that computes them for the samples it is sent."""

import math
from collections.abc import Mapping, Sequence

import torch

import steering
from serving.engine.task import Routine
from serving.models.described import LIKELIHOODS
from serving.models.evaluations import evaluations
from serving.models.model import Sampler
from serving.requests.parameters import OPTIONS
from serving.requests.tensors import Tensors
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.parameters import STEERING, STREAMED, Parameters
from serving.wire.tensors import Parameter

GROUP = 16
"""Most samples computed together."""
NUMBERS = 2**20
"""Most numbers in the probes of a group: bounds memory, and how long a request holds the engine's thread at a time."""
USELESS = ("solver", "eta", "reverse", "strength", "start_t", "end", "start_mean", *STEERING, *STREAMED)
"""Parameters of sampling, which a likelihood refuses: it has an integrator of its own."""


def checked(parameters: Parameters, asked: Mapping[str, Parameter]) -> Parameters:
    """The parameters of a likelihood, whose steps lie evenly in log-SNR unless a grid is asked for.

    Raises:
        RequestError: INVALID_ARGUMENT for parameters that only sampling uses.
    """
    for name in asked:
        if name in USELESS or name in OPTIONS or name.startswith(PREFIX):
            raise errors.invalid(f"{name}: expected none beside likelihood, got {asked[name]!r}")
    return parameters.model_copy(update={"solver": "ddim", "grid": parameters.grid or "logsnr"})


def program(
    model: Sampler,
    problem: steering.Problem,
    parameters: Parameters,
    tensors: Tensors,
    outputs: Sequence[str],
) -> Routine:
    """A program whose answer has `log_likelihood` in nats and its `standard_error` over the probes, [n] each.

    Raises:
        RequestError: INVALID_ARGUMENT for inputs or outputs that a likelihood does not use.
    """
    if tensors.x_init is None:
        raise errors.invalid("likelihood: expected the samples to judge in an input x_init, got none")
    if tensors.known is not None or tensors.reward:
        raise errors.invalid("likelihood: expected no inputs known and reward_<argument> beside it, got some")
    ends = problem.plan.path.t_max, problem.plan.path.t_min
    if problem.plan.grid == "explicit" and (problem.plan.nodes[0].t, problem.plan.nodes[-1].t) != ends:
        raise errors.invalid(
            f"likelihood: expected a grid from t={ends[0]:g} to t={ends[1]:g}, the ends of the path, got one from "
            f"{problem.plan.nodes[0].t:g} to {problem.plan.nodes[-1].t:g}"
        )
    if missing := [name for name in outputs if name not in LIKELIHOODS]:
        raise errors.invalid(f"output {missing[0]!r}: a request with likelihood has {', '.join(LIKELIHOODS)}")
    if parameters.guidance != 1 and parameters.likelihood == "data":
        raise errors.invalid(
            "guidance: a guided model has no law of its data, expected 1.0 or likelihood 'sampler', "
            f"got {parameters.guidance}"
        )
    return _judge(model, problem, parameters, tensors.x_init)


def group_size(probes: int, event: Sequence[int]) -> int:
    """How many samples are computed together."""
    return min(GROUP, max(1, NUMBERS // (probes * math.prod(event))))


def _judge(model: Sampler, problem: steering.Problem, parameters: Parameters, x: torch.Tensor) -> Routine:
    assert parameters.likelihood is not None
    fingerprint, parts = model.known.fingerprint, []
    group = group_size(parameters.probes, problem.event)
    for first in range(0, len(x), group):
        rows = slice(first, min(first + group, len(x)))
        noise = steering.Noise(parameters.seed, range(rows.start, rows.stop))
        judging = steering.log_likelihood(
            problem.rows(rows), x[rows], noise, probes=parameters.probes, law=parameters.likelihood
        )
        parts.append((yield from evaluations(judging, model, None)))
    log_density = torch.cat([part.log_density for part in parts])
    error = torch.cat([part.standard_error for part in parts])
    if not bool(log_density.isfinite().all()):
        i = int((~log_density.isfinite()).nonzero()[0])
        raise steering.NetworkError(
            f"log_likelihood: expected finite numbers, got NaN or infinity for sample {i}: the network's outputs are "
            "too large on the way to noise"
        )
    return Answer(
        {"log_likelihood": log_density.to(torch.float32).numpy(), "standard_error": error.to(torch.float32).numpy()},
        {
            "seed": parameters.seed,
            "network_rows": sum(part.network_rows for part in parts),
            "fingerprint": fingerprint,
            "warnings": "",
        },
    )
