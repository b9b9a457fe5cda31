"""Served plain networks as rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array, GraphTensor, shown
from serving.engine.task import Evaluation
from serving.models.backward import number
from serving.models.dynamics import Dynamics
from serving.models.model import RAW, Model, PlainModel
from serving.models.tokenizing import Tokenizing
from serving.pipelines.prompts import prompts_of
from serving.rewards.reward import PREFIX, Scoring, beside, came, check_names
from serving.rewards.taking import AS_IT_IS, Taking
from serving.wire import errors
from serving.wire.parameters import PROMPT
from serving.wire.tensors import Given, named


@dataclass(frozen=True)
class NetworkReward:
    """A plain network that scores samples: `input` takes the sample, `arguments` are fed to every row."""

    model: PlainModel
    input: str
    taking: Taking
    output: str
    arguments: Mapping[str, Array]
    threshold: float | None = None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name, self.model.fingerprint, exact(self.arguments))

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def cautions(self) -> tuple[str, ...]:
        return (self.model.network.caution,)

    @property
    def no_gradient(self) -> str:
        backward = self.model.backward
        if backward is None:
            return "its network has no vector-Jacobian graph (tiltserve export --vjp)"
        if (backward.card.to, backward.card.of) != (self.input, self.output):
            had = f"{backward.card.of!r} in {backward.card.to!r}"
            return f"its vector-Jacobian graph is of {had}, and the score is {self.output!r} of {self.input!r}"
        return "it takes samples as whole numbers" if self.taking.dtype.kind in "iu" else ""

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`; rewards of one network share its calls, also if their arguments differ."""
        feeds = self._feeds(self.taking(x))
        (scores,) = yield Evaluation(self.model.network, feeds, (self.output,), len(x), "reward")
        if scores.dtype.kind != "f" or scores.dtype == np.float16:
            scores = scores.astype(np.float32)
        return torch.from_numpy(scores.reshape(len(x)))

    def gradients(self, x: Tensor) -> Scoring:
        """Implements `Reward.gradients`: by the network's vector-Jacobian graph, through what becomes of a sample."""
        backward = self.model.backward
        assert backward is not None
        with torch.enable_grad():
            prepared = self.taking.prepared(x := x.detach().requires_grad_())
        feeds, ones = self._feeds(self.taking.typed(prepared)), torch.ones(len(x))
        scores, gradient = yield backward.evaluation(feeds, ones, "reward", both=True)
        with torch.enable_grad():
            (back,) = torch.autograd.grad(prepared, x, number(gradient).reshape(prepared.shape).to(prepared.dtype))
        return beside(number(scores).reshape(len(x)), back)

    def _feeds(self, samples: Array) -> dict[str, Array]:
        rows = len(samples)
        arguments = {name: np.broadcast_to(value, (rows, *value.shape)) for name, value in self.arguments.items()}
        return {self.input: samples, **arguments}


@dataclass(frozen=True)
class NetworkDefinition:
    """A plain network with a sample as one input and a number as one output.

    Attributes:
        sample: the input that takes the sample: the card's `sample.input`, `x`, or the first that fits.
        taking: how it takes it.
        score: the output that is the reward: the card's `score_output`, `reward`, or the first number.
        arguments: the other inputs.
        tokenizing: makes tokens of a text, which some arguments may be given as; None where nothing does.
    """

    model: PlainModel
    sample: GraphTensor
    taking: Taking
    score: GraphTensor
    arguments: Sequence[GraphTensor]
    tokenizing: Tokenizing | None = None

    @classmethod
    def of(cls, model: Model, event: tuple[int, ...], tokenizing: Tokenizing | None = None) -> Self | None:
        """The model as a scorer of samples of this shape; None if it cannot score them, see `misfit`."""
        if misfit(model, event):
            return None
        assert isinstance(model, PlainModel)
        sample, score = _takers(model, event)[0], _scores(model)[0]
        arguments = [each for each in model.network.backend.inputs if each.name != sample.name]
        reads = model.prompt and PROMPT not in {each.name for each in arguments}
        return cls(model, sample, _taking(model, sample), score, arguments, tokenizing if reads else None)

    @property
    def name(self) -> str:
        return self.model.name

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`."""
        return [*(each.name for each in self.arguments), *([] if self.tokenizing is None else [PROMPT])]

    def bind(self, given: Mapping[str, Given]) -> NetworkReward:
        """Implements `Definition.bind`."""
        if self.tokenizing is not None and PROMPT in given:
            given = self._read(self.tokenizing, given)
        names = [each.name for each in self.arguments]
        check_names(self.name, given, names, self.takes(given))
        bound = {each.name: tensor_argument(self.name, each, given[each.name]) for each in self.arguments}
        for name, value in bound.items():
            if why := self.model.out_of_range(name, value):
                raise errors.invalid(f"{PREFIX}{name} of reward {self.name!r}: {why}")
        return NetworkReward(self.model, self.sample.name, self.taking, self.score.name, bound)

    def _read(self, tokenizing: Tokenizing, given: Mapping[str, Given]) -> dict[str, Given]:
        """The arguments with the tokens of a text in its place."""
        name, others = PREFIX + PROMPT, {key: value for key, value in given.items() if key != PROMPT}
        prompt = given[PROMPT]
        if not isinstance(prompt, str) or not _is_unicode(prompt):
            raise errors.invalid(f"{name}: expected a text in UTF-8, got {came(prompt)}")
        prompts = prompts_of(name, {}, {name: prompt}, 1)
        assert prompts is not None
        tokens = tokenizing(prompts.texts[0])
        if tokens.cut:
            raise errors.invalid(f"{name}: expected a shorter text, got {tokens.cut} tokens too many")
        for argument, source in self.model.prompt.items():
            if argument in others:
                raise errors.invalid(f"{name}: expected no {PREFIX}{argument} beside it, got one")
            if source not in tokens.rows:
                there = ", ".join(tokens.rows)
                raise errors.invalid(
                    f"{name}: reward {self.name!r} takes the tokens {source!r}, this pipeline's tokenizers give {there}"
                )
            others[argument] = tokens.rows[source]
        return others


def _is_unicode(text: str) -> bool:
    """Whether it has no halves of characters, which expressions may hold."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def misfit(model: Model, event: tuple[int, ...]) -> str:
    """Why a model cannot score samples of this shape: what was expected and what came; empty if it can."""
    if not isinstance(model, PlainModel) or model.name.endswith(RAW):
        got = "dynamics" if isinstance(model, Dynamics) else "a sampler's"
        return f"expected a network without a path, got {got}"
    if not _takers(model, event):
        had = ", ".join(f"{each.name} {each.dtype} {shown(('n', *each.row))}" for each in model.network.backend.inputs)
        if model.sample is None:
            return (
                f"expected an input of floats {shown(('n', *event))} for the sample, got {had}; how else it takes one, "
                "`sample` in its card says"
            )
        try:
            first = next(each for each in model.network.backend.inputs if model.sample.input in (None, each.name))
            wanted = shown(("n", *_taking(model, first).shape(event)))
        except ValueError as error:
            return f"sample: {error}"
        whole = (
            ", whole numbers only with `range` and `to`"
            if model.sample.range is None and first.dtype.kind in "iu"
            else ""
        )
        return f"expected an input of numbers {wanted} for the sample, as its card says{whole}, got {had}"
    if not _scores(model):
        gives = model.network.backend.outputs
        gave = ", ".join(f"{each.name} {each.dtype} {shown(('n', *each.row))}" for each in gives)
        return f"expected an output [n] or [n, 1] of numbers for the score, got {gave}"
    return ""


def _taking(model: PlainModel, tensor: GraphTensor) -> Taking:
    return Taking(model.sample or AS_IT_IS, tensor.dtype)


def _takers(model: PlainModel, event: tuple[int, ...]) -> list[GraphTensor]:
    """The inputs that can take a sample, the one to use first. Without `sample` in the card none but floats can."""

    def fits(each: GraphTensor) -> bool:
        kinds = "f" if model.sample is None or model.sample.range is None else "fiu"
        named = model.sample is None or model.sample.input in (None, each.name)
        try:
            wanted = _taking(model, each).shape(event)
        except ValueError:
            return False
        return named and each.dtype.kind in kinds and each.fits(wanted)

    # inputs with rows first, and float32: what is shared, or of another type, is more likely an argument
    found = [each for each in model.network.backend.inputs if fits(each)]
    return sorted(found, key=lambda each: (each.name != "x", each.shared is not None, each.dtype != np.float32))


def _scores(model: PlainModel) -> list[GraphTensor]:
    """The outputs that can be the score, the one to use first: the one named so, then [n] before [n, 1], floats before
    other numbers."""
    found = [
        each
        for each in model.network.backend.outputs
        if each.dtype.kind in "fiub" and all(axis == 1 for axis in each.row) and model.score_output in (None, each.name)
    ]
    return sorted(found, key=lambda each: (each.name != "reward", len(each.row), each.dtype.kind != "f"))


_CASTS = {"f": "iuf", "i": "iu", "u": "iu", "b": "biu"}  # kinds of numbers a graph's input takes


def tensor_argument(reward: str, tensor: GraphTensor, value: Given) -> Array:
    """An argument as one row of a graph's input."""
    array = np.asarray(value)
    if array.shape == (1, *(axis or 0 for axis in tensor.row)):
        array = array[0]
    fits = array.dtype.kind in _CASTS.get(tensor.dtype.kind, "") and tensor.fits(array.shape)
    if fits:
        with np.errstate(over="ignore"):
            cast = array.astype(tensor.dtype)
        # a cast must not wrap around, nor end in infinity
        fits = bool(np.isfinite(cast).all() if tensor.dtype.kind == "f" else (cast == array).all())
    if not fits:
        wanted = f"{named(tensor.dtype)} of shape {['?' if axis is None else axis for axis in tensor.row]}"
        raise errors.invalid(f"{PREFIX}{tensor.name} of reward {reward!r}: expected {wanted}, got {came(value)}")
    return cast


def exact(arguments: Mapping[str, Array]) -> tuple[object, ...]:
    """A hashable key of arrays by name, equal for equal bits."""
    return tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in sorted(arguments.items()))
