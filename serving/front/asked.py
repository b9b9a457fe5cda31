"""What a front reads of a request, once; the tensors stay the bytes they came in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from serving.wire.defaults import completed
from serving.wire.distillation import Settings, Wanted, Weighted, evaluations
from serving.wire.distillation import rows as rows_of_gradient
from serving.wire.parameters import GRID, IMAGE, NEGATIVE, PROMPT, Parameters, timeout_s
from serving.wire.received import Received
from serving.wire.rows import Beside, Draws, Solves, pullback_rows, rows_of
from serving.wire.tensors import Parameter

_MOST = 2**31


@dataclass(frozen=True)
class Asked:
    """A request for inference, which need not be valid.

    Attributes:
        version: "" for the newest.
        parameters: by name; None for one without a value.
        length: of its first input's first axis, 1 where there is none.
        nodes: of its explicit grid, 0 where there is none.
        prompts, pictures: that come with it.
        lengths: of its inputs' first axes by name.
    """

    model: str
    version: str
    parameters: Mapping[str, Parameter | None]
    length: int = 1
    nodes: int = 0
    prompts: int = 0
    pictures: int = 0
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def seeded(self) -> bool:
        return "seed" in self.parameters

    @property
    def timeout_s(self) -> float | None:
        """Its parameter `timeout` in seconds, None for none; INVALID_ARGUMENT where it has no such value."""
        return timeout_s(self.parameters.get("timeout", 0))

    def rows(self, draws: Draws | None, solves: Solves | None = None) -> int:
        """Network rows that it takes, at most, of dynamics about; a parameter that is not valid counts as its default.

        Args:
            draws: of a model that draws samples. solves: of one of dynamics. None for others, whose rows are those of
                their first input.
        """
        if solves is not None:
            return min(_MOST, solves.trajectories(self.lengths, self.parameters.get("samples")) * solves.rows)
        if draws is None:
            return min(_MOST, max(1, self.length))
        parameters, options = self._sampling(draws)
        beside = Beside(self.prompts + 1, self.pictures, seen=True) if draws.units else Beside()
        rows = rows_of(parameters, options, null_rows=draws.null_rows)
        rows += pullback_rows(parameters, rows, draws.units)
        return min(_MOST, rows + beside.rows(parameters, draws.units))

    def sizes(self, message_bytes: int, draws: Draws | None, solves: Solves | None = None) -> dict[str, int]:
        """What an identity's limits may bound, by their names.

        Args:
            message_bytes: of the request.
            draws, solves: as of `rows`.
        """
        if solves is not None:
            trajectories = solves.trajectories(self.lengths, self.parameters.get("samples"))
            return {"message_bytes": message_bytes, "samples": trajectories}
        if draws is None:
            return {"message_bytes": message_bytes}
        parameters, _ = self._sampling(draws)
        steered = {"particles": parameters.particles} if parameters.reward is not None else {}
        sizes = {"samples": parameters.samples, "steps": parameters.steps, **steered}
        return {"message_bytes": message_bytes, **sizes}

    def _sampling(self, draws: Draws) -> tuple[Parameters, dict[str, Parameter]]:
        """The parameters, as they will be read where they are valid, and the solver's options."""
        mine = {name: value for name, value in self.parameters.items() if name in Parameters.model_fields}
        parameters = valid(mine)
        others = {name: each for name, each in self.parameters.items() if name not in mine and each is not None}
        parameters, options = completed(parameters, others, draws.defaults)
        if self.nodes:
            parameters = parameters.over(self.nodes)
            if parameters.end == "denoise":  # one step more, from the last node to D
                parameters = parameters.model_copy(update={"steps": parameters.steps + 1})
        return parameters, options


def valid(said: Mapping[str, Parameter | None]) -> Parameters:
    """The parameters, without those that are not valid or not of a request for samples."""
    mine = {name: value for name, value in said.items() if name in Parameters.model_fields}
    try:
        return Parameters.model_validate(mine)
    except ValidationError as error:
        wrong = {fault["loc"][0] for fault in error.errors(include_url=False, include_input=False)}
        return Parameters.model_validate({name: each for name, each in mine.items() if name not in wrong})


def of(request: Received, reward: str | None = None) -> Asked:
    """A request as it came, whose reward is `reward` unless it says another."""
    parameters = dict(request.parameters) if reward is None else {"reward": reward, **request.parameters}
    shape = request.inputs[0].shape if request.inputs else ()
    nodes = next((_nodes(each.shape) for each in request.inputs if each.name == GRID), 0)
    rows = {each.name: max(0, each.shape[0]) if each.shape else 1 for each in request.inputs}
    prompts = sum(rows.get(name, int(name in parameters)) for name in (PROMPT, NEGATIVE))
    length = shape[0] if shape else 1
    return Asked(request.model, request.version, parameters, length, nodes, prompts, rows.get(IMAGE, 0), rows)


def _nodes(shape: Sequence[int]) -> int:
    """Nodes of an explicit grid, which need not be valid."""
    return max(0, shape[0]) if len(shape) == 1 else 0


@dataclass(frozen=True)
class AskedGradient:
    """A request for a gradient, whose settings are valid.

    Attributes:
        version: "" for the newest.
        others: further models whose gradients are added.
    """

    model: str
    version: str
    others: Sequence[Weighted]
    settings: Settings
    parameters: Mapping[str, Parameter | None]
    views: int
    prompts: int = 0
    negatives: int = 0

    @classmethod
    def of(cls, wanted: Wanted) -> "AskedGradient":
        """Raises RequestError, INVALID_ARGUMENT or UNIMPLEMENTED, for settings that are not valid."""
        request = wanted.request
        return cls(
            request.model, request.version, wanted.models[1:], wanted.settings(), request.parameters, wanted.views,
            sum(each.shape[0] for each in request.inputs if each.name in (PROMPT, NEGATIVE) and each.shape),
            wanted.negatives_a_view,
        )  # fmt: skip

    @property
    def timeout_s(self) -> float | None:
        """As of `Asked`."""
        return timeout_s(self.parameters.get("timeout", 0))

    def rows(self, draws: Draws | None) -> int:
        """Network rows of one of the models, at most; as of `Asked`."""
        known = draws or Draws()
        parameters = self._steering()
        rollout_rows = 0
        if parameters.reward is not None and parameters.posterior == "rollout":
            rollout_rows = parameters.particles * (parameters.rollout_steps - 1)
        rows = rows_of_gradient(
            self.settings, self.views, null_rows=known.null_rows, negatives=self.negatives, rollout_rows=rollout_rows
        )
        beside = Beside(self.prompts + 1, 0, seen=True) if known.units else Beside()
        return min(_MOST, rows + beside.rows(parameters, known.units))

    def sizes(self, message_bytes: int, draws: Draws | None, solves: Solves | None = None) -> dict[str, int]:
        """As of `Asked`: a view counts as a sample."""
        parameters = self._steering()
        steered = {"particles": parameters.particles} if parameters.reward is not None else {}
        return {"message_bytes": message_bytes, "samples": self.views, **steered}

    def _steering(self) -> Parameters:
        """What of the parameters of a request for inference is valid, which would steer as many estimates."""
        steps = evaluations(self.settings, self.views) // self.views
        return valid({**self.parameters, "samples": self.views, "steps": steps})
