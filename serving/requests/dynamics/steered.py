"""Trajectories of an SDE that are steered toward a reward: p(path) exp(r / beta), or p(path) given r >= threshold.

All trajectories of such a request are one population from one first state. What Doob's transform learns before its
first path depends on the model, the start, the times and the reward, not on the request's seed or on how many paths it
wants: it is kept, so that the next request of the kind takes one network row a path and step.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array
from serving.models.dynamics import Dynamics
from serving.requests.dynamics.answering import Answering
from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece, Solved
from serving.rewards import Reward, bind
from serving.wire import errors
from serving.wire.tensors import Parameter
from steering.dynamics import Ask, Problem, Program, Solution, Status
from steering.dynamics.doob import (
    Aim,
    Chain,
    Method,
    Settings,
    Weighted,
    by_splitting,
    learnt,
    nodes,
    plain,
    steered,
)
from steering.dynamics.doob.log_h import LogH
from steering.errors import PlanError
from steering.numerics.weights import checked_rewards
from steering.sampling.rows import counted

PARAMETERS = ("reward", "beta", "threshold", "steering", "particles", "coordinate", "over", "explorers")
OWN = ("steering", "particles", "coordinate", "over", "explorers")
"""Those that mean nothing without steering."""
COORDINATES = ("reward", "state", "grid")
NEAR = 1
"""Numbers of a state up to which log h is a function of all of them, unless the request or the card says otherwise."""
MOST_STATES, MOST_CANDIDATES, MOST_PATHS = 2**15, 2**23, 2**24
"""Numbers of a state times steps; of all candidates of a step; and of all paths at all steps: memory of a request."""
MOST_JUDGED, MOST_JUDGED_IN_ALL = 2**16, 2**26
"""Candidates of a step, which hold the engine's second thread for some tenths of a second, and of all steps."""
BANK_COPIES = 3
"""Tensors like a state that are kept of one that was visited: itself, its drift, its diffusion."""
MOST_CELLS = 2**22
"""Cells of a grid at all steps: 32 MiB."""
MOST_KEPT = 2**12
"""Numbers of a state times steps of what is kept: 16 MiB of neighbours."""
SEED = 0
"""Of what is learnt, for requests of all seeds."""
KEPT = 4
"""Learnt log h of a model that are kept."""
SHOWN = 200
"""Characters of a coordinate that an answer repeats."""
FEW = 0.1
"""Share of effective paths below which an answer warns."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a request wants of steering.

    Attributes:
        by: a reward whose value log h is a function of; None for the settings' own coordinate.
    """

    method: Method
    aim: Aim
    settings: Settings
    by: Reward | None


_WANTED: WeakKeyDictionary[Asked, Wanted] = WeakKeyDictionary()
"""Of the requests under way: their rows are asked for many times."""
_LEARNT: WeakKeyDictionary[Dynamics, OrderedDict[Hashable, LogH]] = WeakKeyDictionary()
_LOCK = Lock()


def method_of(asked: Asked) -> Method | None:
    """The method; None where trajectories are only scored, or not even that."""
    said, parameters = asked.parameters.model_fields_set, asked.parameters
    if parameters.steering is not None:
        return parameters.steering
    own_event = asked.reward is not None and asked.reward.threshold is not None
    return "doob" if own_event or said & {"beta", "threshold", *OWN} else None


def _posed(asked: Asked) -> Mapping[str, Any]:
    method, parameters, reward = method_of(asked), asked.parameters, asked.reward
    if method is None:
        if "log_weights" in asked.outputs:
            raise errors.invalid("output 'log_weights': expected a parameter beta or threshold beside it, got none")
        return {}
    if reward is None:
        name = next(each for each in PARAMETERS if each in parameters.model_fields_set)
        raise errors.invalid(f"{name}: expected a parameter reward beside it, got none")
    if parameters.threshold is not None and "beta" in parameters.model_fields_set:
        raise errors.invalid("threshold: expected no beta beside it (an event has no temperature), got both")
    if parameters.threshold is not None and reward.threshold is not None:
        raise errors.invalid(f"threshold: expected none beside reward {reward.name!r}, which has its own, got one")
    if asked.solver.name != "euler_maruyama":
        raise errors.invalid(
            f"steering: expected solver euler_maruyama, whose chain it steers, got {asked.solver.name}"
        )
    if parameters.stream:
        raise errors.invalid("stream: expected none beside steering, whose paths are known at their end, got one")
    coordinate = _coordinate(asked)
    by = None
    if coordinate not in COORDINATES:
        by = bind(coordinate, asked.served.models, asked.model.state, {}, {}, asked.served.remotes)
    spec = asked.model.spec
    if coordinate == "grid":
        _check_grid(asked)
    particles = parameters.particles or Settings.candidates
    if particles % 4 or particles > 1024:
        raise errors.invalid(f"particles: expected a multiple of 4 in 4..1024 beside dynamics, got {particles}")
    aim = Aim(
        parameters.beta,
        parameters.threshold if parameters.threshold is not None else reward.threshold,
        parameters.over or "end",
    )
    settings = Settings(
        coordinate="network" if by is not None else coordinate,
        candidates=particles,
        explorers=parameters.explorers or Settings.explorers,
        cells=128 if math.prod(asked.model.state) == 1 else 64,
        steady=spec.inputs.t is None,
    )
    wanted = Wanted(method, aim, settings, by)
    _check_alike(asked)
    _check_size(asked, wanted)
    _WANTED[asked] = wanted
    return {}


def _check_grid(asked: Asked) -> None:
    spec, over = asked.model.spec, asked.parameters.over
    if math.prod(asked.model.state) > 2:
        raise errors.invalid(f"coordinate grid: expected a state of 1 or 2 numbers, got {list(asked.model.state)}")
    if spec.noise in ("scalar", "general") or spec.form in ("linear", "geometric"):
        raise errors.invalid("coordinate grid: expected additive or diagonal noise of plain form, got other")
    if over not in (None, "end"):
        raise errors.invalid(f"coordinate grid: expected over end, got {over}")


def _coordinate(asked: Asked) -> str:
    """The request's coordinate, the card's, or what suits the state."""
    said = asked.parameters.coordinate or asked.model.spec.coordinate
    return said or ("state" if math.prod(asked.model.state) <= NEAR else "reward")


def _check_alike(asked: Asked) -> None:
    """Refuse several starts, times or conditions: the paths of a population share them."""
    t = asked.t_eval
    rows: dict[str, Array | Tensor] = {"y0": asked.y0, **asked.condition, **(asked.encoded or {})}
    rows |= {"t_eval": t} if t.dim() == 2 else {}
    rows |= {name: each for name, each in asked.each.items() if isinstance(each, Tensor)}
    for name, each in rows.items():
        array = each if isinstance(each, np.ndarray) else each.numpy()
        if len(array) > 1 and not (array.strides[0] == 0 or bool((array == array[:1]).all())):
            raise errors.invalid(
                f"{name}: expected the same for all trajectories beside steering, got several: send a request for "
                "each, and samples for how many paths"
            )


def _times(asked: Asked) -> tuple[Tensor, Tensor]:
    """Nodes of the chain, and which of them are asked for."""
    t = asked.t_eval[0] if asked.t_eval.dim() == 2 else asked.t_eval
    dt = asked.each.get("dt")
    try:
        return nodes(t, None if dt is None else float(dt[0] if isinstance(dt, Tensor) else dt))
    except PlanError as error:
        raise errors.invalid(str(error)) from None


def _check_size(asked: Asked, wanted: Wanted) -> None:
    steps, size, n = len(_times(asked)[0]) - 1, math.prod(asked.model.state), asked.n
    paths = n if wanted.method != "doob" else max(n, wanted.settings.explorers)
    cells = wanted.settings.cells**size if wanted.settings.coordinate == "grid" else 0
    for what, whole, most in (
        ("cells at all steps", cells * steps, MOST_CELLS),
        ("steps", steps, asked.parameters.max_steps),
        ("numbers of a state at all steps", steps * size, MOST_STATES if wanted.method == "doob" else MOST_PATHS),
        ("numbers of the candidates of a step", paths * size * wanted.settings.candidates, MOST_CANDIDATES),
        ("numbers of all paths at all steps", paths * size * steps, MOST_PATHS),
        ("paths times particles", n * wanted.settings.candidates, MOST_JUDGED),
        ("paths times particles of all steps", n * steps * wanted.settings.candidates, MOST_JUDGED_IN_ALL),
    ):
        if wanted.method != "doob" and ("candidate" in what or "particle" in what):
            continue
        if whole > most:
            raise errors.invalid(f"steering: expected at most {most} {what}, got {whole}")


def expected_rows(asked: Asked) -> int | None:
    """Network rows of a request's paths; what is learnt before them joins them when it is asked for. None where it is
    not steered."""
    wanted = _WANTED.get(asked)
    return None if wanted is None else asked.n * (len(_times(asked)[0]) - 1)


def held(asked: Asked) -> int:
    """Bytes that steering holds beside the answer, about: candidates, and visited states with their slopes."""
    wanted = _WANTED.get(asked)
    if wanted is None or wanted.method == "none":
        return 0
    size, steps = math.prod(asked.model.state), len(_times(asked)[0]) - 1
    paths = max(asked.n, wanted.settings.explorers)
    visited = steps * (paths + 2 * BANK_COPIES * wanted.settings.most)
    return 8 * size * (visited + 4 * paths * wanted.settings.candidates)


def _program(asked: Asked, problem: Problem) -> Program[Solved] | None:
    wanted = _WANTED.get(asked)
    return None if wanted is None else _solved(asked, problem, wanted)


def _solved(asked: Asked, problem: Problem, wanted: Wanted) -> Program[Solved]:
    if not bool((problem.y0 == problem.y0[:1]).all()):
        raise errors.invalid("y0: expected one first state beside steering, got several from the encoder")
    if not bool(problem.y0[0].isfinite().all()):
        raise errors.invalid("y0: expected finite numbers beside steering, got NaN or infinity")
    if problem.calculus == "stratonovich" and problem.noise != "additive" and problem.form in ("plain", "langevin"):
        raise errors.invalid("steering: expected calculus ito or additive noise, got stratonovich")
    times, keep = _times(asked)
    chain = Chain(
        start=problem.y0[0], times=times, noise=problem.noise, form=problem.form, calculus=problem.calculus
    )  # fmt: skip
    setup, rows = Counter[str](), Counter[str]()
    if wanted.method == "doob":
        log_h = yield from _log_h(asked, chain, wanted, setup)
        paths = yield from _counted(
            steered(chain, wanted.aim, log_h, asked.n, problem.seed, keep, wanted.settings), rows
        )
    else:
        draw = by_splitting if wanted.method == "splitting" else plain
        paths = yield from _counted(draw(chain, wanted.aim, asked.n, problem.seed, keep), rows)
    taken = math.ceil(rows["field"] / asked.n)
    outputs: dict[str, Array] = {
        "rewards": torch.where(paths.failed, torch.nan, paths.s).to(torch.float32).numpy(),
        "log_weights": paths.log_weights.numpy(),
    }  # fmt: skip
    solution = _solution(problem, paths, taken)
    told = _told(wanted, paths, solution)
    told |= {"setup_rows": setup["field"], "network_rows": rows["field"]}
    return Solved(solution, outputs, told, wanted.method)


def _log_h(asked: Asked, chain: Chain, wanted: Wanted, rows: Counter[str]) -> Program[LogH]:
    """What was learnt for this kind of request, or is now."""
    assert asked.reward is not None
    condition = tuple((name, each[0].tobytes()) for name, each in asked.condition.items())
    key = (
        chain.start.numpy().tobytes(), chain.times.numpy().tobytes(), condition, asked.reward.fingerprint,
        asked.reward.key, None if wanted.by is None else wanted.by.key, wanted.aim, wanted.settings,
    )  # fmt: skip
    with _LOCK:
        kept = _LEARNT.setdefault(asked.model, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
    found = yield from _counted(learnt(chain, wanted.aim, SEED, wanted.settings), rows)
    if wanted.settings.coordinate == "state" and chain.steps * chain.start.numel() > MOST_KEPT:
        return found
    with _LOCK:
        kept[key] = found
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return found


def _counted(program: Program[Result], rows: Counter[str]) -> Program[Result]:
    """The program; its rows are counted by part."""
    return counted(program, rows, lambda ask: ask.part)


def _solution(problem: Problem, paths: Weighted, taken: int) -> Solution:
    n = problem.n
    status = torch.where(paths.failed, int(Status.NOT_FINITE), int(Status.OK)).to(torch.int32)
    y = torch.where(paths.failed.reshape(-1, *(1,) * (paths.y.dim() - 1)), torch.nan, paths.y)
    none = torch.full((n, 0), torch.nan, dtype=torch.float64)
    return Solution(
        y=y,
        status=status,
        evaluations=torch.full((n,), taken, dtype=torch.int64),
        accepted=torch.full((n,), taken, dtype=torch.int64),
        rejected=torch.zeros(n, dtype=torch.int64),
        t_event=none,
        y_event=none.reshape(n, 0, *(1,) * len(problem.state)).expand(n, 0, *problem.state),
        event=torch.full((n, 0), -1, dtype=torch.int64),
        t_last=problem.t_eval[:, -1],
        y_last=y[:, -1],
        warnings=(*problem.warnings, *_warned(paths)),
    )


def _warned(paths: Weighted) -> list[str]:
    n = len(paths.log_weights)
    if paths.ess == 0:
        return ["steering: no path has weight"]
    if paths.ess < FEW * n:
        return [f"steering: {paths.ess:.1f} of {n} paths are effective; more explorers or another coordinate may help"]
    return []


def _told(wanted: Wanted, paths: Weighted, solution: Solution) -> dict[str, Parameter]:
    """The estimate of E[w], with its error where islands tell one, and what steering was."""
    told: dict[str, Parameter] = {
        "steering": wanted.method,
        "ess": paths.ess,
        "reach": float((paths.log_weights > -torch.inf).to(torch.float64).mean()),
        "log_normaliser": paths.log_normaliser,
    }
    error = paths.relative_error
    if math.isfinite(error):
        told["log_normaliser_error"] = error
    if wanted.aim.threshold is not None:
        told["probability"] = math.exp(paths.log_normaliser)
        if math.isfinite(error):
            told["probability_error"] = error * math.exp(paths.log_normaliser)
    if wanted.method == "doob":
        told["coordinate"] = wanted.settings.coordinate if wanted.by is None else wanted.by.name[:SHOWN]
    return told


def _coordinates(asked: Asked, ask: Ask) -> Answering:
    """Values [m] of the reward that log h is a function of."""
    by = _WANTED[asked].by
    assert by is not None  # nothing asks for it without
    found = yield from by.scores(ask.y.to(torch.float32))
    return {"coordinate": checked_rewards(found, len(ask), by.name, torch.float64)}


def _fingerprints(asked: Asked) -> list[str]:
    wanted = _WANTED.get(asked)
    return [] if wanted is None or wanted.by is None else [wanted.by.fingerprint]


PIECE = Piece(
    name="steering",
    kinds=("sde",),
    parameters=PARAMETERS,
    pose=_posed,
    answers={"coordinate": _coordinates},
    fingerprints=_fingerprints,
    program=_program,
)
