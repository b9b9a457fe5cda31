"""A diffusers scheduler's configuration as what a card says: path, prediction, time, end, limits and defaults.

    schedule(json.loads(Path("scheduler/scheduler_config.json").read_text()))

Every field that changes samples is read. What the network needs (path, prediction, time) is there, or the configuration
is refused; where only the solver has no equal here, the card is made without it and `notes` says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import steering
from exporters.diffusers.fields import DEFAULTS, Fields, ScheduleError
from exporters.diffusers.tables import SPACINGS, checked_spacing, path_of
from protos.card import Defaults, DynamicThreshold, End, Preconditioning, Prediction
from steering.errors import choose

Start = Literal["one", "sigma", "norm"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a card says of a scheduler.

    Attributes:
        time: the formula of the card's `inputs.time`: what diffusers calls the timestep.
        end: what samples are; None where the path ends in data.
        defaults: None where the solver has no equal here.
        start: what diffusers' first state is, unit noise times 1, times sigma, or times sqrt(alpha^2 + sigma^2) of the
            plan's first node. (A plain start of ours has sigma, and so has no part of the data's mean.)
        notes: what was left aside, or differs, in lines for whoever imports.
    """

    path: dict[str, Any]
    prediction: Prediction
    time: str
    t_range: tuple[float, float] | None = None
    end: End | None = None
    clip: tuple[float, float] | None = None
    dynamic_threshold: DynamicThreshold | None = None
    learned_variance: bool | None = None
    output_scale: float | None = None
    preconditioning: Preconditioning = "none"
    sigma_data: float = 0.5
    defaults: Defaults | None = None
    start: Start = "one"
    notes: tuple[str, ...] = field(default=())

    @property
    def card(self) -> dict[str, Any]:
        """Keys of a card, but for `inputs`, whose `time` is ours; what is None is left out."""
        found: dict[str, Any] = {
            "path": self.path, "prediction": self.prediction, "t_range": self.t_range, "end": self.end,
            "clip": self.clip, "dynamic_threshold": self.dynamic_threshold, "learned_variance": self.learned_variance,
            "output_scale": self.output_scale, "defaults": self.defaults,
        }  # fmt: skip
        if self.preconditioning != "none":
            found |= {"preconditioning": self.preconditioning, "sigma_data": self.sigma_data}
        return {key: value for key, value in found.items() if value is not None}


PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "eps", "sample": "x0", "original_sample": "x0", "v_prediction": "v", "flow_prediction": "velocity",
}  # fmt: skip
FEW = 15.0
"""Steps below which diffusers' `lower_order_final` acts."""
ALWAYS = 1001.0
NEARLY_0 = 2.0**-24
"""What solvers in rho have in place of an alpha_bar of 0."""
TOP = 10_000


def schedule(
    config: Mapping[str, Any],
    *,
    steps: int | None = None,
    image_seq_len: int | None = None,
    even: bool = False,
) -> Schedule:
    """What a card says of `scheduler_config.json`.

    Args:
        steps: the pipeline's default number of steps, for `defaults`.
        image_seq_len: tokens of a picture, for a shift that depends on them (`use_dynamic_shifting`).
        even: whether the pipeline brings its own sigmas, 1 .. 1 / steps, as Flux does.

    Raises:
        ScheduleError: one line that names the field and its value.
    """
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ScheduleError(f"scheduler: expected a class's name under '_class_name', got {name!r:.80}")
    if name not in _READERS:
        raise ScheduleError(choose("scheduler", name, _READERS))
    fields = Fields(config, name, DEFAULTS[name])
    found = _READERS[name](fields, Pipeline(image_seq_len, even))
    if fields.unread:
        raise ScheduleError(f"{name}: expected no {', '.join(fields.unread)}: not read")
    defaults = found.defaults
    if steps is not None:
        defaults = (defaults or Defaults()).model_copy(update={"steps": steps})
    made = replace(found, defaults=defaults, notes=(*fields.notes, *found.notes))
    _check(name, made)
    return made


@dataclass(frozen=True)
class Pipeline:
    """What a scheduler is told by the pipeline around it."""

    image_seq_len: int | None
    even: bool


def _check(name: str, made: Schedule) -> None:
    """Refuse what the path, or the plan of a few steps, does not take."""
    try:
        path = steering.paths.build(made.path, made.t_range)
        if made.defaults is not None and made.defaults.solver is not None:
            options: dict[str, Any] = dict(made.defaults.options or {})
            steering.plan(
                made.defaults.solver, path=path, steps=4, prediction=made.prediction, end=made.end,
                grid=made.defaults.grid, preconditioning=made.preconditioning, sigma_data=made.sigma_data,
                **options,
            )  # fmt: skip
    except ValueError as error:
        raise ScheduleError(f"{name}: {error}") from None


def _limits(fields: Fields) -> dict[str, Any]:
    """`clip` or `dynamic_threshold`."""
    clips, thresholds = fields.flag("clip_sample"), fields.flag("thresholding")
    fields.inert("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value")
    if thresholds:
        ratio, most = fields.number("dynamic_thresholding_ratio", 1e-6, 1), fields.number("sample_max_value", 1, 1e6)
        return {"dynamic_threshold": DynamicThreshold(quantile=ratio, bound=1.0, most=most)}
    if clips:
        bound = fields.number("clip_sample_range", 1e-6, 1e6)
        return {"clip": (-bound, bound)}
    return {}


def _prediction(fields: Fields, *allowed: str) -> Prediction:
    return PREDICTIONS[fields.choice("prediction_type", *allowed)]


def _respaced(fields: Fields) -> str:
    """What the levels are respaced by, "" for nothing."""
    named = [name for name in ("karras", "exponential", "beta") if fields.flag(f"use_{name}_sigmas")]
    if fields.flag("use_lu_lambdas"):
        named.append("lu")
    if len(named) > 1:
        raise ScheduleError(
            f"{fields.name}: expected one of karras, exponential, beta and lu, got {' and '.join(named)}"
        )
    return named[0] if named else ""


def _final(fields: Fields) -> End:
    return "denoise" if fields.choice("final_sigmas_type", "zero", "sigma_min") == "zero" else "t_min"


def _ddpm(fields: Fields, _: Pipeline) -> Schedule:
    path, limits = path_of(fields), _limits(fields)
    variance = fields.choice(
        "variance_type", "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"
    )
    grid = _spaced(fields, "leading", "linspace_whole", "trailing")
    notes: tuple[str, ...] = ()
    defaults: Defaults | None = Defaults(solver="euler_ancestral", grid=grid)
    if not variance.startswith("fixed_small"):
        defaults = None
        notes = (
            f"{fields.name}: variance_type {variance!r}: there is no solver with this variance here, "
            "the model is sampled by the default one",
        )
    return Schedule(
        path=path.content, t_range=path.t_range, prediction=_prediction(fields, "epsilon", "sample", "v_prediction"),
        time="N*t-1", end="denoise", learned_variance=True if variance.startswith("learned") else None,
        defaults=defaults, notes=notes, **limits,
    )  # fmt: skip


def _spaced(fields: Fields, leading: str, linspace: str, trailing: str) -> str:
    """The placement of a table's steps."""
    spacing = fields.choice("timestep_spacing", *SPACINGS)
    offset = fields.whole("steps_offset", 0, TOP)
    if spacing == "leading":
        return f"{leading}({offset})" if offset else leading
    return linspace if spacing == "linspace" else trailing


def _ddim(fields: Fields, _: Pipeline) -> Schedule:
    path, limits = path_of(fields), _limits(fields)
    grid, notes = _spaced(fields, "leading", "linspace_whole", "trailing"), []
    defaults: Defaults | None = Defaults(solver="ddim", grid=grid)
    end: End = "denoise" if fields.flag("set_alpha_to_one") else "t_min"
    if grid == "linspace_whole":
        defaults = None
        notes.append(
            f"{fields.name}: timestep_spacing 'linspace': its steps of num_train_timesteps // steps do not meet its "
            "own timesteps, for which there is no plan here: the model is sampled by the default solver"
        )
    if limits:
        which = "thresholding" if "dynamic_threshold" in limits else "clip_sample"
        notes.append(
            f"{fields.name}: {which}: where it binds, noise follows from the bounded estimate, as with "
            "use_clipped_model_output=True"
        )
    return Schedule(
        path=path.content, t_range=path.t_range, prediction=_prediction(fields, "epsilon", "sample", "v_prediction"),
        time="N*t-1", end=end, defaults=defaults, notes=tuple(notes), **limits,
    )  # fmt: skip


def _pndm(fields: Fields, _: Pipeline) -> Schedule:
    path = path_of(fields)
    grid = _spaced(fields, "leading", "linspace_whole", "trailing")
    end: End = "denoise" if fields.flag("set_alpha_to_one") else "t_min"
    skips, prediction = fields.flag("skip_prk_steps"), _prediction(fields, "epsilon", "v_prediction")
    why = ""
    if not skips:
        why = "skip_prk_steps false: its first steps are of another method"
    elif end == "denoise":
        why = "set_alpha_to_one true: its last step extrapolates to no noise"
    elif prediction != "eps":
        why = "prediction_type 'v_prediction': it averages predictions made of different states"
    elif grid == "linspace_whole":
        why = "timestep_spacing 'linspace': its steps do not meet its own timesteps"
    defaults, notes = Defaults(solver="plms", grid=grid), tuple[str, ...]()
    if why:
        notes = (f"{fields.name}: {why}, for which there is no plan here: the model is sampled by the default solver",)
        defaults = Defaults()
    return Schedule(
        path=path.content, t_range=path.t_range, prediction=prediction, time="N*t-1", end=end, defaults=defaults,
        notes=notes,
    )  # fmt: skip


def _in_rho(fields: Fields, solver: str, allowed: tuple[str, ...]) -> Schedule:
    """Euler, Heun and their kind, which work in rho at the levels of timesteps with fractions."""
    respaced = _respaced(fields)
    fractions = fields.take("timestep_spacing") == "linspace" and not respaced
    path = path_of(fields, NEARLY_0, straight_in="rho" if fractions else "log_rho")
    grid = _spaced(fields, "leading", "linspace", "trailing")
    start: Start = "norm" if grid.startswith("leading") else "sigma"
    grid, t_range = f"{grid}/{respaced}" if respaced else grid, path.t_range
    if fields.known("interpolation_type"):
        fields.choice("interpolation_type", "linear")
    low, high = fields.take("sigma_min"), fields.take("sigma_max")
    prediction, time = _prediction(fields, *allowed), "N*t-1"
    content = path.content
    continuous = (
        fields.known("timestep_type") and fields.choice("timestep_type", "discrete", "continuous") == "continuous"
    )
    if continuous and prediction == "v":
        time = "log(rho)/4"
    if respaced and (low is not None or high is not None):
        low = path.rho_min if low is None else fields.number("sigma_min", 1e-6, 1e6)
        high = path.rho_max if high is None else fields.number("sigma_max", low, 1e6)
        grid = f"levels/{respaced}"
        if time == "log(rho)/4":  # any level has a time
            content, t_range = {"kind": "trig_flow"}, (_angle(low), _angle(high))
        elif path.rho_min * (1 - 1e-6) <= low < high <= path.rho_max * (1 + 1e-6):
            t_range = path.between(low, high)
        else:
            raise ScheduleError(
                f"{fields.name}: sigma_min, sigma_max: expected numbers in {path.rho_min:.6g}..{path.rho_max:.6g}, the "
                f"levels of its betas, got {low:g} and {high:g}"
            )
    end: End = _final(fields) if fields.known("final_sigmas_type") else "denoise"
    notes: tuple[str, ...] = ()
    if end == "t_min":
        if t_range != path.t_range:
            raise fields.error("final_sigmas_type", "'zero' beside sigma_min and sigma_max")
        alpha = 1 / math.hypot(1, path.rho_min)
        notes = (
            f"{fields.name}: final_sigmas_type 'sigma_min': diffusers leaves x / alpha, {1 / alpha - 1:.2g} larger",
        )
    limits = _limits(fields) if fields.known("clip_sample") else {}
    return Schedule(
        path=content, t_range=t_range, prediction=prediction, time=time, end=end, start=start,
        defaults=Defaults(solver=solver, grid=grid), notes=notes, **limits,
    )  # fmt: skip


def _angle(rho: float) -> float:
    """The time of a level on trig flow."""
    return math.atan(rho) * 2 / math.pi


def _euler(fields: Fields, _: Pipeline) -> Schedule:
    return _in_rho(fields, "euler", ("epsilon", "sample", "original_sample", "v_prediction"))


def _euler_ancestral(fields: Fields, _: Pipeline) -> Schedule:
    return _in_rho(fields, "euler_ancestral", ("epsilon", "v_prediction"))


def _heun(fields: Fields, _: Pipeline) -> Schedule:
    return _in_rho(fields, "rho_heun", ("epsilon", "v_prediction"))


def _kdpm2(fields: Fields, _: Pipeline) -> Schedule:
    found = _in_rho(fields, "dpm_solver_2", ("epsilon", "v_prediction"))
    if fields.flag("use_karras_sigmas"):
        raise fields.error("use_karras_sigmas", "false: some of its timesteps are rounded, some are not")
    if fields.take("timestep_spacing") == "linspace" and fields.take("beta_schedule") == "squaredcos_cap_v2":
        raise fields.error("timestep_spacing", "leading or trailing beside this beta_schedule")
    return found


@dataclass(frozen=True)
class Levels:
    """Where a multistep scheduler works: on the path of its betas, or on a flow."""

    path: dict[str, Any]
    t_range: tuple[float, float] | None
    time: str
    grid: str
    end: End | None


def _levels(fields: Fields, respaced: str, end: End, pipeline: Pipeline) -> Levels:
    rounding = "N*t-1"
    if fields.flag("use_flow_sigmas"):
        return _flow_levels(fields, respaced, end, pipeline)
    fields.inert("flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal")
    if respaced:
        cosine = fields.take("beta_schedule") == "squaredcos_cap_v2" and fields.name.startswith("DPM")
        nearest = respaced in ("karras", "lu") and not cosine
        rounding = "round(N*t-1)" if nearest else "floor(N*t-1)"
    path = path_of(fields, NEARLY_0, straight_in="log_rho" if respaced else "log_alpha")
    grid = _spaced(fields, "leading_inner", "linspace_inner", "trailing")
    t_range = path.t_range
    if fields.known("lambda_min_clipped"):
        clipped = fields.take("lambda_min_clipped")
        clipped = -math.inf if clipped is None else float(clipped)
        if clipped > -math.inf and not respaced:
            t_range = path.above(clipped)
            if grid == "trailing" and t_range is not None:
                raise fields.error("lambda_min_clipped", "-Infinity beside timestep_spacing 'trailing'")
    for name in ("sigma_min", "sigma_max"):
        if fields.known(name) and fields.take(name) is not None and respaced:
            raise fields.error(name, "null")
    return Levels(path.content, t_range, rounding, f"levels/{respaced}" if respaced else grid, end)


def _flow_levels(fields: Fields, respaced: str, end: End, pipeline: Pipeline) -> Levels:
    checked_spacing(fields)
    fields.inert("timestep_spacing", "steps_offset", "beta_schedule", "beta_start", "beta_end", "trained_betas",
                 "rescale_betas_zero_snr", "lambda_min_clipped", "sigma_min", "sigma_max")  # fmt: skip
    if respaced:
        raise fields.error("use_flow_sigmas", f"false beside use_{respaced}_sigmas")
    if end == "t_min":
        raise fields.error("final_sigmas_type", "'zero' beside use_flow_sigmas")
    if fields.flag("use_dynamic_shifting"):
        raise fields.error("use_dynamic_shifting", "false beside use_flow_sigmas")
    fields.inert("time_shift_type")
    if fields.known("shift_terminal") and fields.take("shift_terminal") is not None:
        raise fields.error("shift_terminal", "null")
    shift, trained = fields.number("flow_shift", 0.01, 100), fields.whole("num_train_timesteps", 2, 100_000)
    name = "flow_outer" if fields.name.startswith("UniPC") else "flow_inner"
    return Levels(
        {"kind": "rectified_flow"}, (0.0, 1 - 1e-6 if name == "flow_outer" else 1.0), f"floor({trained}*t)",
        f"{name}({shift:g},{trained})", None,
    )  # fmt: skip


def _multistep(fields: Fields, pipeline: Pipeline, end: End, solver: str, options: dict[str, float]) -> Schedule:
    respaced = _respaced(fields)
    if end == "t_min" and respaced and solver == "dpmpp_3m_compat":
        raise fields.error("solver_order", f"1 or 2 beside final_sigmas_type 'sigma_min' and use_{respaced}_sigmas")
    levels = _levels(fields, respaced, end, pipeline)
    notes: tuple[str, ...] = ()
    if levels.time.startswith("floor"):
        notes = (
            f"{fields.name}: use_{respaced or 'flow'}_sigmas: timesteps are cut to whole numbers; where rounding makes "
            "one of them less than whole, diffusers asks at the one before",
        )
    flow = levels.path["kind"] == "rectified_flow"
    allowed = ("epsilon", "sample", "flow_prediction") if flow else ("epsilon", "sample", "v_prediction")
    learned = fields.take("variance_type") if fields.known("variance_type") else None
    if learned not in (None, "learned", "learned_range"):
        raise fields.error("variance_type", "learned, learned_range or null")
    return Schedule(
        path=levels.path, t_range=levels.t_range, prediction=_prediction(fields, *allowed), time=levels.time,
        end=levels.end, learned_variance=True if learned else None,
        defaults=Defaults(solver=solver, grid=levels.grid, options=options or None),
        notes=notes, **_limits(fields),
    )  # fmt: skip


def _dpm_solver(fields: Fields) -> tuple[str, dict[str, float], End]:
    """The solver of DPMSolverMultistepScheduler and its kin."""
    order, end = fields.whole("solver_order", 1, 3), _final(fields)
    algorithm = fields.choice("algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis", "dpmsolver")
    exact = fields.choice("solver_type", "midpoint", "heun", "logrho", "bh1", "bh2") == "heun"
    lower, euler = fields.flag("lower_order_final"), fields.flag("euler_at_final")
    if algorithm == "dpmsolver" and order > 1:
        raise fields.error("algorithm_type", "dpmsolver++ or sde-dpmsolver++")
    if algorithm == "sde-dpmsolver++":
        if order == 3:
            raise fields.error("solver_order", "1 or 2 beside algorithm_type 'sde-dpmsolver++'")
        solver = ("sde_dpmpp_1", "sde_dpmpp_2m")[order - 1]
    else:
        solver = ("ddim", "dpmpp_2m", "dpmpp_3m_compat")[order - 1]
    options: dict[str, float] = {"exact": 1.0} if exact and order == 2 else {}
    if exact and order == 3:
        raise fields.error("solver_type", "midpoint beside solver_order 3")  # its second step would be another
    if order > 1 and lower:
        options["lower_final"] = FEW
    if order > 1 and euler and end == "t_min":
        if order == 3:
            raise fields.error("euler_at_final", "false beside solver_order 3 and final_sigmas_type 'sigma_min'")
        options["lower_final"] = ALWAYS
    return solver, options, end


def _dpm(fields: Fields, pipeline: Pipeline) -> Schedule:
    solver, options, end = _dpm_solver(fields)
    return _multistep(fields, pipeline, end, solver, options)


def _unipc(fields: Fields, pipeline: Pipeline) -> Schedule:
    order, end = fields.whole("solver_order", 1, 3), _final(fields)
    kind = fields.choice("solver_type", "bh1", "bh2", "midpoint", "heun", "logrho")
    if not fields.flag("predict_x0"):
        raise fields.error("predict_x0", "true")
    if fields.take("disable_corrector"):
        raise fields.error("disable_corrector", "none")
    if fields.take("solver_p") is not None:
        raise fields.error("solver_p", "null")
    options: dict[str, float] = {"bh": 1.0} if kind == "bh1" else {}
    if fields.flag("lower_order_final"):
        options["lower_final"] = ALWAYS
    elif end == "denoise" and order > 1:
        raise fields.error("lower_order_final", "true beside final_sigmas_type 'zero', where it has no number else")
    return _multistep(fields, pipeline, end, f"unipc_{order}", options)


def _deis(fields: Fields, pipeline: Pipeline) -> Schedule:
    order = fields.whole("solver_order", 1, 3)
    fields.choice("algorithm_type", "deis", "dpmsolver", "dpmsolver++")
    fields.choice("solver_type", "logrho", "midpoint", "heun", "bh1", "bh2")
    lower = fields.flag("lower_order_final")
    if fields.take("use_flow_sigmas"):
        raise fields.error("use_flow_sigmas", "false")
    options = {"lower_final": FEW} if lower and order > 1 else {}
    return _multistep(fields, pipeline, "t_min", "ddim" if order == 1 else f"deis_logrho{order - 1}", options)


def _lcm(fields: Fields, _: Pipeline) -> Schedule:
    path, limits = path_of(fields), _limits(fields)
    original, scaling = fields.whole("original_inference_steps", 1, 1000), fields.number("timestep_scaling", 0, 1e9)
    fields.inert("timestep_spacing", "steps_offset", "set_alpha_to_one")
    trained = fields.whole("num_train_timesteps", 2, 100_000)
    if (least := scaling * (trained // original - 1)) < 100:
        raise fields.error(
            "timestep_scaling",
            f"so much that the least timestep times it is 100 or more, not {least:g}: from there on the boundary "
            "condition of the consistency function is not seen",
        )
    return Schedule(
        path=path.content, t_range=path.t_range, prediction=_prediction(fields, "epsilon", "sample", "v_prediction"),
        time="N*t-1", end="denoise", defaults=Defaults(solver="consistency", grid=f"lcm({original})"), **limits,
    )  # fmt: skip


def _flow_euler(fields: Fields, pipeline: Pipeline) -> Schedule:
    trained, respaced = fields.whole("num_train_timesteps", 2, 100_000), _respaced(fields)
    terminal = fields.take("shift_terminal")
    if fields.flag("invert_sigmas"):
        raise fields.error("invert_sigmas", "false")
    fields.inert("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
    if fields.flag("use_dynamic_shifting"):
        shift = _dynamic(fields, pipeline)
        grid = f"flow_even({shift:.9g})" if pipeline.even else f"flow_once({shift:.9g},{trained})"
    else:
        shift = fields.number("shift", 0.01, 100)
        grid = f"flow_even({shift:g})" if pipeline.even else f"flow({shift:g},{trained})"
    if terminal:
        last = fields.number("shift_terminal", 0, 0.99)
        if not pipeline.even:
            raise fields.error("shift_terminal", "null, but for pipelines with sigmas of their own")
        grid = f"{grid[:-1]},{last:g})"
    solver = "consistency" if fields.flag("stochastic_sampling") else "flow_euler"
    return Schedule(
        path={"kind": "rectified_flow"}, t_range=(0.0, 1.0), prediction="velocity", time=f"{trained}*t",
        defaults=Defaults(solver=solver, grid=f"{grid}/{respaced}" if respaced else grid),
    )  # fmt: skip


def _dynamic(fields: Fields, pipeline: Pipeline) -> float:
    """The shift for a picture of so many tokens: mu rises in a straight line with them (Esser et al. 2024)."""
    if pipeline.image_seq_len is None:
        raise fields.error("use_dynamic_shifting", "false, or a pipeline that says how many tokens a picture has")
    low, high = fields.number("base_shift", -10, 100), fields.number("max_shift", -10, 100)
    fewest, most = fields.whole("base_image_seq_len", 1, 10**9), fields.whole("max_image_seq_len", 2, 10**9)
    if fewest >= most:
        raise fields.error("max_image_seq_len", f"more than base_image_seq_len {fewest}")
    mu = low + (high - low) * (pipeline.image_seq_len - fewest) / (most - fewest)
    shift = math.exp(mu) if fields.choice("time_shift_type", "exponential", "linear") == "exponential" else mu
    if not 0.01 <= shift <= 100:
        raise fields.error("max_shift", f"a shift in 0.01..100 for {pipeline.image_seq_len} tokens, not {shift:g}")
    return shift


def _flow_heun(fields: Fields, _: Pipeline) -> Schedule:
    trained, shift = fields.whole("num_train_timesteps", 2, 100_000), fields.number("shift", 0.01, 100)
    return Schedule(
        path={"kind": "rectified_flow"}, t_range=(0.0, 1.0), prediction="velocity", time=f"{trained}*t",
        defaults=Defaults(solver="flow_heun", grid=f"flow({shift:g},{trained})"),
    )  # fmt: skip


def _edm(fields: Fields, solver: str, options: dict[str, float], end: End) -> Schedule:
    low, high = fields.number("sigma_min", 1e-6, 1e6), fields.number("sigma_max", 1e-6, 1e6)
    fields.inert("num_train_timesteps", "rho")
    respaced = "exponential"
    if fields.choice("sigma_schedule", "karras", "exponential") == "karras":
        respaced = f"karras({fields.number('rho', 1, 100):g})"
    return Schedule(
        path={"kind": "edm", "sigma_min": low, "sigma_max": high}, prediction="x0", time="log(sigma)/4", end=end,
        preconditioning="edm", sigma_data=fields.number("sigma_data", 1e-6, 1e6), start="norm",
        output_scale=-1.0 if fields.choice("prediction_type", "epsilon", "v_prediction") == "v_prediction" else None,
        defaults=Defaults(solver=solver, grid=f"levels/{respaced}", options=options or None),
        **(_limits(fields) if fields.known("thresholding") else {}),
    )  # fmt: skip


def _edm_euler(fields: Fields, _: Pipeline) -> Schedule:
    return _edm(fields, "euler", {}, _final(fields))


def _edm_dpm(fields: Fields, _: Pipeline) -> Schedule:
    solver, options, end = _dpm_solver(fields)
    return _edm(fields, solver, options, end)


_READERS: Mapping[str, Callable[[Fields, Pipeline], Schedule]] = {
    "DDPMScheduler": _ddpm,
    "DDIMScheduler": _ddim,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "HeunDiscreteScheduler": _heun,
    "KDPM2DiscreteScheduler": _kdpm2,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "LCMScheduler": _lcm,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
    "EDMEulerScheduler": _edm_euler,
    "EDMDPMSolverMultistepScheduler": _edm_dpm,
}
