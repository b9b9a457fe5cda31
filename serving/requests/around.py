"""What a request takes beside the sampler that draws its states: nothing, where it is for a sampler itself."""

import math
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from serving import rewards
from serving.backends import Array
from serving.engine.task import Step
from serving.models.described import LIKELIHOODS, PREVIEWED, SAMPLED, STATES, own
from serving.models.evaluations import as_it_is
from serving.models.model import Model, Sampler
from serving.models.tokenizing import Tokenizing
from serving.requests.tensors import NOTHING, Given
from serving.rewards import Definition, Reward
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import NULL, PICTURED, Parameters
from serving.wire.tensors import Parameter

Making = Generator[Step, list[Array], dict[str, Array]]


class Around:
    """A request for samples of a sampler: states are the samples.

    Attributes:
        request: its parameters and inputs, as far as they are the sampler's.
        model: the sampler.
        defaults: parameters that the request has where it does not say.
        known: the outputs that it may ask for.
        pictures: whether what it shows are pictures.
        row_bytes: what the conditions of a row take beside those that its tensors hold.
    """

    known: Sequence[str] = (*SAMPLED, *LIKELIHOODS, PREVIEWED, STATES)
    pictures = False
    row_bytes = 0

    def __init__(self, request: InferRequest, model: Sampler) -> None:
        if {*SAMPLED, *LIKELIHOODS} <= {*request.outputs}:  # so do tools that know no model: they want what there is
            request = replace(request, outputs=[])
        self.request, self.model = request, model
        self.defaults: Mapping[str, Parameter] = own(model.card.defaults)

    @property
    def name(self) -> str:
        """Whose request it is."""
        return self.model.name

    @property
    def cautions(self) -> tuple[str, ...]:
        """What its answer must say of the networks beside the sampler's."""
        return ()

    @property
    def tokenizing(self) -> Tokenizing | None:
        """What makes tokens of a text that a reward is to judge by."""
        return None

    def settled(self, parameters: Parameters) -> Parameters:
        """The parameters that the sampler gets; INVALID_ARGUMENT for those that it does not take."""
        for name in PICTURED:
            if name in parameters.model_fields_set:
                raise errors.invalid(f"{name}: expected a pipeline, got {self.name!r}, which is a sampler")
        return self.guidable(parameters)

    def guidable(self, parameters: Parameters, made: Collection[str] = ()) -> Parameters:
        """The parameters, without the card's guidance where the request has no nulls for it.

        Args:
            made: conditions whose nulls are made of what the request sends.
        """
        if parameters.guidance == 1 or "guidance" in parameters.model_fields_set:
            return parameters
        conditions, inputs = self.model.card.conditions, {*self.request.inputs}
        dropped = [name for name, each in conditions.items() if not each.kept]
        there = (name in made or conditions[name].null is not None or NULL + name in inputs for name in dropped)
        return parameters if dropped and all(there) else parameters.model_copy(update={"guidance": 1.0})

    def budgeted(self, parameters: Parameters) -> Parameters:
        """The parameters, once the reward is known."""
        return parameters

    def given(self, parameters: Parameters) -> Given:
        """Tensors that are made of what the request sends; their values may come with `prepare`."""
        return NOTHING

    def check_answer(self, parameters: Parameters, longest: int) -> None:
        """Refuse samples that do not fit into a message of so many bytes, before they are drawn."""
        event = self.model.card.event_shape
        most = longest // (math.prod(event) * np.dtype(np.float32).itemsize)
        if parameters.samples > most and (not self.request.outputs or "samples" in self.request.outputs):
            raise errors.invalid(
                f"samples: expected at most {most} of shape {list(event)} in an answer of {longest} bytes, "
                f"got {parameters.samples}"
            )

    def reward(
        self,
        parameters: Parameters,
        models: Mapping[str, Model],
        arguments: Mapping[str, Parameter],
        inputs: Mapping[str, Array],
        remotes: Mapping[str, Definition] | None,
    ) -> Reward:
        """The reward that the request names."""
        assert parameters.reward is not None
        event = self.model.card.event_shape
        return rewards.bind(parameters.reward, models, event, arguments, inputs, remotes, self.tokenizing)

    def rows(self, parameters: Parameters, reward: Reward | None) -> int:
        """Rows of other networks than the sampler's, in rows of that one, at most."""
        return 0

    def held(self, parameters: Parameters) -> int:
        """Bytes that it holds beside states, about."""
        return 0

    def prepare(self) -> Generator[Step, list[Array], None]:
        """What must be there before samples are drawn."""
        yield from ()

    def shown(self, x: Tensor) -> Generator[Step, list[Array], Tensor]:
        """What is shown of estimates [n, *event]."""
        return as_it_is(x)

    def outputs(self, x: Tensor) -> Making:
        """The outputs that finished states [n, *event] become."""
        yield from ()
        return {"samples": x.numpy()}

    def fingerprint(self, sampler: str) -> str:
        """Of all that the answer rests on but its reward; `sampler` is the sampler's."""
        return sampler

    def told(self) -> dict[str, Parameter]:
        """What the answer says beside what it says of the sampler."""
        return {}

    def notes(self) -> list[str]:
        """Warnings, once the answer is there."""
        return []
