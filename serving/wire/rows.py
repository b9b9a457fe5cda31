"""How many network rows a request takes, from its parameters alone.

The front chooses replicas by these numbers; a replica, which has the plan, admits by the plan's own. They are never too
few. They are exact for tables whose path has finite log-SNRs, where the request says the end or it is t_min. They are
too many, by a step's rows or two, where the card alone knows that samples end in D or a path's end takes a step of one
row; and for direct solvers, and where guidance acts in an interval alone. Neither a plan nor a network is needed, and
nothing is imported that knows one: the tests compare every solver and method with what `steering` says of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from serving.wire.parameters import Parameters
from serving.wire.tensors import Parameter

TEXT, ENCODER, DECODER, PREVIEW = "text", "encoder", "decoder", "preview"
"""Networks of a pipeline beside its sampler."""
PULLBACK = "pullback"
"""A sampler's vector-Jacobian graph, among `Draws.units`."""
PULLING = ("dps", "lgd_mc", "tfg", "tds")
"""Methods that take one of its rows beside every network row."""
BY_GRADIENTS = ("classifier_guidance", *PULLING)
"""Methods that differentiate rewards."""
DIFFERENTIATED = 3
"""Rows that a decoder takes for a candidate whose gradient is asked for, about: there, and back."""


@dataclass(frozen=True)
class Draws:
    """What must be known of a model that draws samples to count the rows of a request for some.

    Attributes:
        defaults: parameters of a request that does not say others.
        null_rows: whether guidance asks for rows without conditions.
        units: how many rows of the sampler's network a row of each network beside it takes as long as, by its name.
    """

    defaults: Mapping[str, Parameter] = field(default_factory=dict)
    null_rows: bool = True
    units: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Solves:
    """What must be known of a model of dynamics to estimate the rows of a request.

    Attributes:
        starts: inputs whose first axis counts trajectories.
        rows: that a trajectory took lately, about.
    """

    starts: Sequence[str] = ()
    rows: int = 1

    def trajectories(self, lengths: Mapping[str, int], samples: object) -> int:
        """How many a request asks for, whose inputs have so many rows, and its parameter `samples`."""
        said = samples if isinstance(samples, int) and not isinstance(samples, bool) else 1
        return max([1, said, *(lengths.get(name, 0) for name in self.starts)])


@dataclass(frozen=True)
class Beside:
    """Rows of the networks beside a sampler that a request takes, at most.

    Attributes:
        prompts, pictures: that come with it.
        seen: whether its reward judges pictures.
    """

    prompts: int = 0
    pictures: int = 0
    seen: bool = False

    def rows(self, parameters: Parameters, units: Mapping[str, float]) -> int:
        """In rows of the sampler's network."""
        shown = PREVIEW if PREVIEW in units else DECODER
        counts = {TEXT: self.prompts, ENCODER: self.pictures, DECODER: parameters.samples}
        whole = sum(count * units.get(name, 0.0) for name, count in counts.items())
        if parameters.preview_every is not None and parameters.preview_dtype != "none":
            looks = parameters.steps_taken // parameters.preview_every
            whole += looks * parameters.samples * units.get(shown, 0.0)
        if self.seen and parameters.reward is not None:
            each = DIFFERENTIATED if parameters.method in BY_GRADIENTS else 1
            whole += each * candidates(parameters) * units.get(judging(parameters, units), 0.0)
        return math.ceil(whole)


def judging(parameters: Parameters, units: Mapping[str, object]) -> str:
    """The network that decodes candidates for a reward that judges pictures."""
    return PREVIEW if PREVIEW in units and parameters.decode_for_reward in (None, "tiny") else DECODER


def candidates(parameters: Parameters) -> int:
    """Candidates that a reward judges while samples are drawn, and the finished samples, at most."""
    n, steps, method = parameters.samples, parameters.steps_taken, parameters.method
    if method == "doob":
        most = parameters.particles * steps
        return n * (1 + (most if parameters.reward_budget is None else min(most, parameters.reward_budget)))
    if method in ("smc", "fk_steering"):
        chains = -(-n // parameters.kept) * parameters.chains_together
        local = parameters.particles if method == "smc" and parameters.inner == "doob" else 0
        return n + chains * steps * (1 + local)
    if method in ("best_of", "doit"):
        return n * parameters.chains_a_sample
    if method == "tds":
        return n + -(-n // parameters.kept) * parameters.chains_together * steps
    if method in ("lgd_mc", "tfg"):
        return n * (1 + parameters.gradient_draws * steps * (TFG_STEPS if method == "tfg" else 1))
    if method in ("dps", "classifier_guidance"):
        return n * (1 + steps)
    return n * (1 + (parameters.candidates * steps if method == "svdd" else 0))


TFG_STEPS = 2
"""Steps of `tfg`'s mean guidance."""
RowsOf = Callable[[int, Callable[[str, int], int]], int]
"""Network rows of a sample, given the number of steps and how to look up a solver's option with its default."""


def _each_step(rows: int) -> RowsOf:
    return lambda steps, option: rows * steps


def _adaptive(rows: int) -> RowsOf:
    """`rows` an attempt of a step; the budget bounds the attempts."""
    return lambda steps, option: max(rows * steps, option("budget", 1000))


SOLVERS: Mapping[str, RowsOf] = {
    **dict.fromkeys(
        ("dpm_solver_2", "dpmpp_2s", "rho_midpoint", "rho_heun", "interpolant_ode"),
        _each_step(2),
    ),
    **dict.fromkeys(("dpm_solver_3", "dpmpp_3s", "rho_kutta3"), _each_step(3)),
    "rho_rk4": _each_step(4),
    # their last step is one of Euler's
    **dict.fromkeys(("heun", "flow_heun"), lambda steps, option: 2 * steps - 1),
    "plms": lambda steps, option: steps + 1,  # its first step is made twice
    "reversible_heun": lambda steps, option: steps + 1,  # and the row at the end
    "pc": lambda steps, option: steps * (1 + option("corrections", 1)),
    "annealed_langevin": lambda steps, option: (steps + 1) * option("corrections", 5),
    "dlg": lambda steps, option: 3 * steps + 4 * option("denoise", 10),
    "dpm_solver_12": _adaptive(2),
    "dpm_solver_23": _adaptive(3),
    "rk45": _adaptive(6),
}
"""Solvers by name; any other takes one row a step."""
DIRECT = ("dlg", "dpm_solver_12", "dpm_solver_23", "rk45")
"""Solvers that are no tables."""
IN_TIME = ("flow_heun", "interpolant_ode")
"""Solvers of several rows a step which, on a flow, go to a sigma of 0 by steps of their own."""


def rows_of(
    parameters: Parameters, options: Mapping[str, Parameter], a_sample: int | None = None, *, null_rows: bool = True
) -> int:
    """Network rows of a request for samples or likelihoods, at most; what its target's setup takes aside.

    Args:
        options: those of the solver, by name; what is no finite number >= 0 counts as the solver's default.
        a_sample: most network rows of a plain sample, where the plan is known.
        null_rows: whether guidance asks for rows without conditions.
    """

    def option(name: str, default: int) -> int:
        given = options.get(name, default)
        counts = isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < math.inf
        return int(given) if counts else default

    doubled = 1 if parameters.guidance == 1 or not null_rows else 2
    if parameters.likelihood is not None:
        return parameters.samples * parameters.steps_taken * likelihood_rows(parameters.probes) * doubled
    sample = _rows_of_a_sample(parameters, option) if a_sample is None else a_sample
    rows, samples = stage_rows(parameters)
    return -(-parameters.samples // samples) * rows * sample * doubled


def _rows_of_a_sample(parameters: Parameters, option: Callable[[str, int], int]) -> int:
    """Network rows of a plain sample, at most.

    With an end in D, the last step is one row. Direct solvers may take one more at either end of their path.
    """
    solver, steps = SOLVERS.get(parameters.solver, _each_step(1)), parameters.steps_taken
    whole = solver(steps, option)
    if parameters.solver in DIRECT:
        return whole + 2
    if parameters.end != "denoise" or parameters.solver in IN_TIME:
        return whole
    return solver(steps - 1, option) + 1 if steps > 1 else 1


def stage_rows(parameters: Parameters) -> tuple[int, int]:
    """Network rows that steering takes where a plain sampler takes one, and how many samples they are for."""
    method = parameters.method
    rollouts = 0
    if parameters.posterior == "rollout":
        rollouts = parameters.particles * (parameters.rollout_steps - 1)
    if method == "smc":
        return parameters.chains_together * (1 + (rollouts if parameters.inner == "doob" else 0)), parameters.kept
    if method in ("fk_steering", "tds"):
        return parameters.chains_together, parameters.kept
    if method in ("best_of", "doit"):
        return parameters.chains_a_sample, 1
    if method == "svdd":
        return parameters.candidates, 1
    if method == "bank_resampling":
        return 0, 1
    if method == "doob" and not parameters.residual_wait:  # SVDD steers where draws are not there
        return max(1 + rollouts, parameters.candidates), 1
    return 1 + (rollouts if method == "doob" else 0), 1


def pullback_rows(parameters: Parameters, rows: int, units: Mapping[str, float]) -> int:
    """Rows of the vector-Jacobian graph of a request that takes so many network rows, in these, at most."""
    return math.ceil(rows * units.get(PULLBACK, 0.0)) if parameters.method in PULLING else 0


def likelihood_rows(probes: int) -> int:
    """Network rows of a likelihood, a sample and step: of four stages, and the ends."""
    return 5 * likelihood_rows_at_once(probes)


def likelihood_rows_at_once(probes: int) -> int:
    """Network rows of a likelihood, a sample at a time: one value and two differences a probe."""
    return 1 + 2 * probes
