"""What a front reads of a request, once; the tensors stay the bytes they came in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from serving.wire.parameters import GRID, Parameters, timeout_s
from serving.wire.received import Received
from serving.wire.rows import rows_of
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
    """

    model: str
    version: str
    parameters: Mapping[str, Parameter | None]
    length: int = 1
    nodes: int = 0

    @property
    def seeded(self) -> bool:
        return "seed" in self.parameters

    @property
    def timeout_s(self) -> float | None:
        """Its parameter `timeout` in seconds, None for none; INVALID_ARGUMENT where it has no such value."""
        return timeout_s(self.parameters.get("timeout", 0))

    def rows(self, *, sampler: bool) -> int:
        """Network rows that it takes, at most; a parameter that is not valid counts as its default.

        Args:
            sampler: whether the model draws samples; else the rows are those of its first input.
        """
        if not sampler:
            return min(_MOST, max(1, self.length))
        parameters, options = self._sampling()
        return min(_MOST, rows_of(parameters, options))

    def sizes(self, message_bytes: int, *, sampler: bool) -> dict[str, int]:
        """What an identity's limits may bound, by their names.

        Args:
            message_bytes: of the request.
            sampler: as of `rows`.
        """
        if not sampler:
            return {"message_bytes": message_bytes}
        parameters, _ = self._sampling()
        steered = {"particles": parameters.particles} if parameters.reward is not None else {}
        sizes = {"samples": parameters.samples, "steps": parameters.steps, **steered}
        return {"message_bytes": message_bytes, **sizes}

    def _sampling(self) -> tuple[Parameters, dict[str, Parameter]]:
        """The parameters, as they will be read where they are valid, and the solver's options."""
        mine = {name: value for name, value in self.parameters.items() if name in Parameters.model_fields}
        try:
            parameters = Parameters.model_validate(mine)
        except ValidationError as error:
            wrong = {fault["loc"][0] for fault in error.errors(include_url=False, include_input=False)}
            parameters = Parameters.model_validate({name: each for name, each in mine.items() if name not in wrong})
        options = {name: each for name, each in self.parameters.items() if name not in mine and each is not None}
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
    return Asked(request.model, request.version, parameters, shape[0] if shape else 1, nodes)


def _nodes(shape: Sequence[int]) -> int:
    """Nodes of an explicit grid, which need not be valid."""
    return max(0, shape[0]) if len(shape) == 1 else 0
