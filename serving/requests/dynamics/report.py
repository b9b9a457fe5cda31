"""The response parameters that tell how trajectories were solved."""

from torch import Tensor

from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.evaluations import Meter
from serving.requests.dynamics.pieces import pieces_of
from serving.wire.tensors import Parameter
from steering.dynamics import Problem, Solution, Status


def told(asked: Asked, problem: Problem, solution: Solution, meter: Meter) -> dict[str, Parameter]:
    """Seed, solver, rows, fingerprint, and what to be warned of."""
    model = asked.model
    parts = [model.fingerprint, *([] if asked.reward is None else [asked.reward.fingerprint])]
    warnings = [*solution.warnings, *_unused(asked), *_failed(solution), *cautions(asked)]
    parts += [each for piece in pieces_of(model.spec.kind) for each in piece.fingerprints(asked)]
    return {
        "seed": asked.parameters.seed,
        "solver": asked.solver.name,
        "network_rows": meter.network,
        "reward_rows": meter.reward,
        "accepted_steps": int(solution.accepted.sum()),
        "rejected_steps": int(solution.rejected.sum()),
        "fingerprint": "-".join(parts),
        "warnings": "; ".join(dict.fromkeys(warnings)),
    }


def _unused(asked: Asked) -> list[str]:
    """Numbers that the request has, and its solver does not look at."""
    if asked.model.spec.kind == "fixed_point":
        return []
    names, why = (
        (("dt",), "chooses its steps") if asked.solver.adaptive else (("rtol", "atol", "dt0"), "has fixed ones")
    )
    given = asked.said | {name for name, each in asked.each.items() if isinstance(each, Tensor)}
    return [f"{name}: not used, since {asked.solver.name} {why}" for name in names if name in given]


def _failed(solution: Solution) -> list[str]:
    """How many trajectories ended in each way that is a failure."""
    n = len(solution.status)
    said = []
    for status in Status:
        count = int((solution.status == status).sum())
        if count and status not in (Status.OK, Status.EVENT):
            said.append(f"{count} of {n} trajectories ended early: {status.name.lower()}")
    return said


def cautions(asked: Asked) -> list[str]:
    """What answers that rest on these networks must say."""
    said = [each.caution for each in asked.model.networks]
    said += [] if asked.reward is None else asked.reward.cautions
    return [each for each in said if each]
