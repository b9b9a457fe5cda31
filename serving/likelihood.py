"""From a request for log-likelihoods to a program: how likely the model finds the samples it is sent."""

from collections.abc import Sequence

import torch

import steering
from serving import errors
from serving.answer import Answer
from serving.engine import Program
from serving.parameters import Parameters
from serving.programs import evaluations
from serving.repository import Sampler
from serving.tensors import Tensors

OUTPUTS = ("log_likelihood", "standard_error")
GROUP = 16
"""Most samples at once: each asks for 1 + 2 probes rows in one evaluation."""


def rows_per_step(probes: int) -> int:
    """Network rows per sample and step: four stages of one value and two differences a probe."""
    return 4 * (1 + 2 * probes)


def program(
    model: Sampler,
    problem: steering.Problem,
    parameters: Parameters,
    tensors: Tensors,
    outputs: Sequence[str],
) -> Program:
    """A program whose answer has `log_likelihood` in nats and its `standard_error` over the probes, [n] each.

    Raises:
        RequestError: INVALID_ARGUMENT for what a likelihood has no use for.
    """
    if tensors.x_init is None:
        raise errors.invalid("likelihood: expected the samples to judge in an input x_init, got none")
    if parameters.reward is not None or tensors.known is not None:
        raise errors.invalid("likelihood: expected no reward and no known values beside it, got some")
    if missing := [name for name in outputs if name not in OUTPUTS]:
        raise errors.invalid(f"output {missing[0]!r}: a request with likelihood has {', '.join(OUTPUTS)}")
    if parameters.guidance != 1 and parameters.likelihood == "data":
        raise errors.invalid(
            "guidance: a guided model has no law of its data, expected 1.0 or likelihood 'sampler', "
            f"got {parameters.guidance}"
        )
    return _judge(model, problem, parameters, tensors.x_init)


def _judge(model: Sampler, problem: steering.Problem, parameters: Parameters, x: torch.Tensor) -> Program:
    assert parameters.likelihood is not None
    fingerprint, parts = model.known.fingerprint, []
    for first in range(0, len(x), GROUP):
        rows = slice(first, min(first + GROUP, len(x)))
        noise = steering.Noise(parameters.seed, range(rows.start, rows.stop))
        judging = steering.log_likelihood(
            problem.rows(rows), x[rows], noise, probes=parameters.probes, law=parameters.likelihood
        )
        parts.append((yield from evaluations(judging, model, None)))
    log_density = torch.cat([part.log_density for part in parts])
    error = torch.cat([part.standard_error for part in parts])
    return Answer(
        {"log_likelihood": log_density.to(torch.float32).numpy(), "standard_error": error.to(torch.float32).numpy()},
        {
            "seed": parameters.seed,
            "network_rows": sum(part.network_rows for part in parts),
            "fingerprint": fingerprint,
            "warnings": "",
        },
    )
