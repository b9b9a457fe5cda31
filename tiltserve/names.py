"""Which keyword of `sample` is what: a parameter, an input, a condition of the model, or an argument of the reward."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from tiltserve.errors import InvalidArgument
from tiltserve.listings import Metadata

PREFIX = "reward_"
"""What a parameter or input begins with that is an argument of the reward."""
CLIENT = "client"
"""The reward that `score=` computes."""

PARAMETERS = frozenset(
    {
        "samples", "seed", "solver", "steps", "grid", "grid_unit", "strength", "start_t", "eta", "path", "end",
        "start_mean", "reverse", "guidance", "guidance_low", "guidance_high", "guidance_unit",
        "guidance_rescale", "guidance_drop", "guidance_keep", "likelihood", "probes", "reward", "beta",
        "threshold", "particles", "steering", "posterior", "rollout_steps", "residual_draws", "residual_wait",
        "refresh", "reward_budget",
        "population", "keep", "inner", "potential", "chains", "candidates", "spread", "rho", "mu", "preset",
        "timeout", "priority",
        "deterministic", "atol", "bh", "budget", "churn", "churn_max", "churn_min", "churn_noise",
        "corrections", "denoise", "exact", "lower_final", "move", "rtol", "snr", "theta",
        "output_format", "decode_for_reward",
    }
)  # fmt: skip
"""Parameters of a request for samples, and options of solvers. One that a newer server has besides is sent as well."""

STREAMED = frozenset({"preview_every", "preview_dtype", "preview_size", "stream_samples", "trajectory"})
"""Parameters of a stream: how often, and how small, the denoised estimate is shown; whether finished groups come, or
the path."""

TENSORS = {"x_init": "FP32", "known": "FP32", "mean": "FP32", "mask": "BOOL"}
"""Inputs of every sampler, and their datatypes. `grid` may be one."""

TEXTS = frozenset({"prompt", "negative_prompt"})
"""Inputs of pipelines that are texts: one for all samples, or one for each."""
IMAGE, MASK = "image", "mask"
"""Inputs of pipelines that are pictures. Beside a picture, `mask` is one of pictures too."""
SIZES = ("height", "width")
"""Parameters of pipelines: of their pictures."""
LATENTS = "latents"
"""An output of pipelines, for those who ask for it."""

BUILT_IN: Mapping[str, Collection[str]] = {
    "linear": ("direction", "scale"),
    "quadratic": ("center", "scale"),
    "masked_match": ("mask", "target", "scale"),
    "half_space": ("direction", "threshold"),
    "norm_band": ("center", "low", "high"),
}
"""Arguments of the built-in rewards, which ModelMetadata does not know."""


def kind(name: str, model: Metadata | None, reward: str | None, arguments: Collection[str] | None) -> str:
    """What a keyword is that is neither in `PARAMETERS` nor in `TENSORS`: "condition", "argument" or "parameter".

    A condition is an input of the model. An argument is what the reward takes; where nobody knows what that is (an
    expression, a service), it is what is no condition. What is none of both goes out as a parameter, and the server
    says what it expected.

    Args:
        arguments: of the reward, None where they are not known.

    Raises:
        InvalidArgument: it may be both.
    """
    condition = model is not None and model.input(name) is not None
    argument = reward is not None and (arguments is None or name in arguments)
    if condition and argument:
        assert model is not None
        raise InvalidArgument(
            f"{name}: model {model.name!r} has a condition and reward {reward!r} may take an argument of this name, "
            f"expected conditions={{{name!r}: ...}} or reward_args={{{name!r}: ...}}"
        )
    return "condition" if condition else "argument" if argument else "parameter"


def unknown(name: str, model: Metadata | None, reward: str | None, arguments: Collection[str] | None) -> str:
    """What to say of a keyword that the server does not know as a parameter either: what there is, and the nearest."""
    own = {*TENSORS, "grid"}
    inputs = [] if model is None else [each.name for each in model.inputs]
    conditions = sorted(each for each in inputs if each not in own and not each.startswith((PREFIX, "null_")))
    there = [*conditions, *sorted(arguments or ())]
    near = get_close_matches(name, [*there, *PARAMETERS, *own], 1)
    takes = ", ".join(sorted(arguments or ()))
    of_model = f"a condition ({', '.join(conditions) or 'the model has none'})"
    if reward is None:
        said = f"expected a parameter or {of_model}; a reward's arguments need reward="
    else:
        said = f"expected a parameter, {of_model} or an argument of reward {reward!r} ({takes})"
    return f"unknown keyword {name!r}" + (f", did you mean {near[0]!r}?" if near else f": {said}")
