"""What a front reads of a request, once; the tensors stay the bytes they came in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from serving.wire.defaults import completed
from serving.wire.parameters import GRID, IMAGE, NEGATIVE, PROMPT, Parameters, timeout_s
from serving.wire.received import Received
from serving.wire.rows import Beside, Draws, rows_of
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
    """

    model: str
    version: str
    parameters: Mapping[str, Parameter | None]
    length: int = 1
    nodes: int = 0
    prompts: int = 0
    pictures: int = 0

    @property
    def seeded(self) -> bool:
        return "seed" in self.parameters

    @property
    def timeout_s(self) -> float | None:
        """Its parameter `timeout` in seconds, None for none; INVALID_ARGUMENT where it has no such value."""
        return timeout_s(self.parameters.get("timeout", 0))

    def rows(self, draws: Draws | None) -> int:
        """Network rows that it takes, at most; a parameter that is not valid counts as its default.

        Args:
            draws: of a model that draws samples; None for others, whose rows are those of their first input.
        """
        if draws is None:
            return min(_MOST, max(1, self.length))
        parameters, options = self._sampling(draws)
        beside = Beside(self.prompts + 1, self.pictures, seen=True) if draws.units else Beside()
        rows = rows_of(parameters, options, null_rows=draws.null_rows)
        return min(_MOST, rows + beside.rows(parameters, draws.units))

    def sizes(self, message_bytes: int, draws: Draws | None) -> dict[str, int]:
        """What an identity's limits may bound, by their names.

        Args:
            message_bytes: of the request.
            draws: as of `rows`.
        """
        if draws is None:
            return {"message_bytes": message_bytes}
        parameters, _ = self._sampling(draws)
        steered = {"particles": parameters.particles} if parameters.reward is not None else {}
        sizes = {"samples": parameters.samples, "steps": parameters.steps, **steered}
        return {"message_bytes": message_bytes, **sizes}

    def _sampling(self, draws: Draws) -> tuple[Parameters, dict[str, Parameter]]:
        """The parameters, as they will be read where they are valid, and the solver's options."""
        mine = {name: value for name, value in self.parameters.items() if name in Parameters.model_fields}
        try:
            parameters = Parameters.model_validate(mine)
        except ValidationError as error:
            wrong = {fault["loc"][0] for fault in error.errors(include_url=False, include_input=False)}
            parameters = Parameters.model_validate({name: each for name, each in mine.items() if name not in wrong})
        others = {name: each for name, each in self.parameters.items() if name not in mine and each is not None}
        parameters, options = completed(parameters, others, draws.defaults)
        if self.nodes:
            parameters = parameters.over(self.nodes)
            if parameters.end == "denoise":  # one step more, from the last node to D
                parameters = parameters.model_copy(update={"steps": parameters.steps + 1})
        return parameters, options


def of(request: Received, reward: str | None = None) -> Asked:
    """A request as it came, whose reward is `reward` unless it says another."""
    parameters = dict(request.parameters) if reward is None else {"reward": reward, **request.parameters}
    shape = request.inputs[0].shape if request.inputs else ()
    nodes = next((_nodes(each.shape) for each in request.inputs if each.name == GRID), 0)
    rows = {each.name: max(0, each.shape[0]) if each.shape else 1 for each in request.inputs}
    prompts = sum(rows.get(name, int(name in parameters)) for name in (PROMPT, NEGATIVE))
    length = shape[0] if shape else 1
    return Asked(request.model, request.version, parameters, length, nodes, prompts, rows.get(IMAGE, 0))


def _nodes(shape: Sequence[int]) -> int:
    """Nodes of an explicit grid, which need not be valid."""
    return max(0, shape[0]) if len(shape) == 1 else 0
