"""A request for pictures: what a pipeline does around its sampler's latents."""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from serving import rewards
from serving.backends import Array
from serving.engine.task import Step
from serving.models.described import LATENTS, PICTURES, PREVIEWED, STATES, defaults_of
from serving.models.encodings import Encoding, Handle
from serving.models.model import Model
from serving.models.pipeline import SIZE_NUMBERS, Pipeline, Reading
from serving.models.tokenizing import Tokenizing
from serving.pipelines.pictures import at_once, decoded, encoded, told
from serving.pipelines.prompts import Prompts, cut, prompts_of
from serving.pipelines.reading import encodings_of
from serving.pipelines.starts import Beginning, beginning_of
from serving.requests.around import Around, Making
from serving.requests.tensors import Given
from serving.rewards import Definition, Reward
from serving.rewards.decoded import DecodedReward
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import IMAGE, MASK, NEGATIVE, PROMPT, SIZES, Parameters
from serving.wire.rows import DECODER, PREVIEW, Beside, judging
from serving.wire.tensors import Parameter

NUMBER = 4
"""Bytes of a float32."""
_TEXTS = (PROMPT, NEGATIVE)


class Pictured(Around):
    """A request for pictures of a pipeline. Its sampler's rows refer to what prompts say, which comes with `prepare`.

    Args:
        deterministic: bytes must not depend on other requests.
    """

    known = (PICTURES, LATENTS, "rewards", PREVIEWED, STATES)
    pictures = True

    def __init__(self, request: InferRequest, pipeline: Pipeline, *, deterministic: bool) -> None:
        self._tables: dict[str, dict[Handle, Array]] = {}
        pipeline = _sized(request, pipeline)
        others = {name: value for name, value in request.parameters.items() if name not in (*_TEXTS, *SIZES)}
        own = {name: value for name, value in request.inputs.items() if name not in (*_TEXTS, IMAGE, MASK)}
        for name in ("known", "mean"):
            if name in own and name not in pipeline.sampler.card.conditions:
                raise errors.invalid(f"input {name!r}: expected a sampler, got {pipeline.name!r}, which is a pipeline")
        outputs = [] if {*self.known} <= {*request.outputs} else request.outputs
        super().__init__(
            replace(request, parameters=others, inputs=own, outputs=outputs),
            pipeline.sampler.referring(self._tables, pipeline.networks),
        )
        self._asked, self._pipeline, self._deterministic = request, pipeline, deterministic
        self.defaults = defaults_of(pipeline)
        self._texts: tuple[str, ...] = ()
        self._beginning: Beginning | None = None
        self._start: Tensor | None = None
        self._known: Tensor | None = None
        self._masked: list[Handle] = []
        self._format, self._scale = "raw", 1.0
        self._decoding: DecodedReward | None = None
        self._text_rows = self._decode_rows = 0
        self._cut: list[int] = []
        self._notes: list[str] = []
        reading = pipeline.reading
        self.row_bytes = 0 if reading is None else NUMBER * sum(map(math.prod, reading.rows.values()))

    @property
    def name(self) -> str:
        return self._pipeline.name

    @property
    def cautions(self) -> tuple[str, ...]:
        return self._pipeline.cautions

    @property
    def tokenizing(self) -> Tokenizing | None:
        """Implements `Around.tokenizing`."""
        return None if self._pipeline.reading is None else self._pipeline.reading.tokenizing

    def settled(self, parameters: Parameters) -> Parameters:
        """Implements `Around.settled`."""
        if parameters.likelihood is not None or parameters.reverse:
            which = "reverse" if parameters.reverse else "likelihood"
            raise errors.invalid(f"{which}: expected a sampler, got {self.name!r}, which is a pipeline")
        how = parameters.decode_for_reward
        if how is not None and (parameters.reward is None or self._pipeline.decoder is None):
            lacking = "a parameter reward" if parameters.reward is None else "a pipeline with a decoder"
            raise errors.invalid(f"decode_for_reward: expected {lacking} beside it, got none")
        if how == "tiny" and self._pipeline.preview is None:
            raise errors.invalid(
                f"decode_for_reward: expected full or none, {self.name!r} has no small decoder, got tiny"
            )
        self._format = parameters.output_format
        if self._pipeline.card.guidance_input is not None:
            self._scale = parameters.guidance
            return parameters.model_copy(update={"guidance": 1.0})
        prompted = PROMPT in self._asked.inputs or PROMPT in self._asked.parameters
        by_text = {} if self._pipeline.reading is None or not prompted else self._pipeline.reading.gives
        return self.guidable(parameters, {*by_text, *self._pipeline.filled})

    def given(self, parameters: Parameters) -> Given:
        """Implements `Around.given`."""
        card, event = self._pipeline.card, self.model.card.event_shape
        condition, null = self._of_prompts(parameters)
        n = parameters.samples
        if card.sizes is not None:
            _, height, width = self._pipeline.picture
            sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            condition[card.sizes] = sizes.expand(n, SIZE_NUMBERS)
        if card.guidance_input is not None:
            shape = self.model.card.conditions[card.guidance_input].shape
            condition[card.guidance_input] = torch.full((n, *shape), self._scale)
        start = known = mask = None
        self._beginning = begin = self._started(parameters)
        if begin is not None and card.masked is not None and card.mask is not None:
            if begin.mask is None:
                raise errors.invalid(f"input {MASK!r}: expected one, {self.name!r} fills in, got none")
            condition[card.mask] = begin.nearest(event[1:]).expand(n, 1, *event[1:])
            assert self._pipeline.encoder is not None  # the card would be none
            digest = self._pipeline.encoder.digest
            self._masked = [Handle.of(digest, "masked", each) for each in begin.digests()]
            condition[card.masked] = self._handles(self._masked).expand(n, 2)
        elif begin is None and card.masked is not None:
            raise errors.invalid(f"input {IMAGE!r}: expected one and a {MASK}, {self.name!r} fills in, got none")
        elif begin is not None and begin.mask is not None:
            if len(begin.mask) > 1:
                raise errors.invalid(f"input {MASK!r}: expected one mask for all samples, got {len(begin.mask)}")
            known, mask = torch.zeros(len(begin.pictures), *event), begin.kept(event)
        if begin is not None and parameters.strength is not None:
            start = torch.zeros(len(begin.pictures), *event)
        self._start, self._known = start, known
        return Given(condition, null, self._pipeline.filled, start, known, mask, (*_TEXTS, IMAGE, MASK))

    def check_answer(self, parameters: Parameters, longest: int) -> None:
        """Implements `Around.check_answer`."""
        wanted = self._wanted
        a_sample = (math.prod(self._pipeline.picture) if PICTURES in wanted else 0) + (
            NUMBER * math.prod(self.model.card.event_shape) if LATENTS in wanted else 0
        )
        if a_sample and parameters.samples > (most := longest // a_sample):
            raise errors.invalid(
                f"samples: expected at most {most} of {a_sample} bytes in an answer of {longest} bytes, "
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
        """Implements `Around.reward`: one of pictures, if it takes any, else one of latents."""
        pipeline = self._pipeline
        if pipeline.decoder is None or parameters.decode_for_reward == "none":
            return super().reward(parameters, models, arguments, inputs, remotes)
        assert parameters.reward is not None
        decoder = pipeline.preview if judging(parameters, pipeline.units) == PREVIEW else pipeline.decoder
        assert decoder is not None
        try:
            seen = rewards.bind(parameters.reward, models, decoder.given, arguments, inputs, remotes, self.tokenizing)
        except errors.RequestError as error:
            try:
                return super().reward(parameters, models, arguments, inputs, remotes)
            except errors.RequestError:
                raise error from None
        self._decoding = DecodedReward(seen, decoder)
        return self._decoding

    def budgeted(self, parameters: Parameters) -> Parameters:
        """Implements `Around.budgeted`: a candidate that is decoded takes two rows of the budget."""
        if self._decoding is None or parameters.reward_budget is None:
            return parameters
        return parameters.model_copy(update={"reward_budget": max(1, parameters.reward_budget // 2)})

    def rows(self, parameters: Parameters, reward: Reward | None) -> int:
        """Implements `Around.rows`."""
        pictures = 0 if self._beginning is None else len(self._beginning.pictures)
        beside = Beside(len(self._texts), pictures, seen=self._decoding is not None)
        units = {
            name: each for name, each in self._pipeline.units.items() if name != DECODER or PICTURES in self._wanted
        }
        return beside.rows(parameters, units if self._decoding is None else self._pipeline.units)

    def held(self, parameters: Parameters) -> int:
        """Implements `Around.held`."""
        picture = math.prod(self._pipeline.picture)
        together = min(parameters.samples, at_once(self._pipeline.picture))
        given = sum(each.nbytes for each in self._asked.inputs.values())
        prompts = 2 * len(self._texts) * self.row_bytes
        return parameters.samples * picture + 4 * NUMBER * together * picture + 6 * given + prompts

    def prepare(self) -> Generator[Step, list[Array], None]:
        """Implements `Around.prepare`: what prompts say, and the latents of the pictures to begin with."""
        if (reading := self._pipeline.reading) is not None and self._texts:
            yield from self._read(reading)
        begin = self._beginning
        if begin is None:
            return
        if self._start is not None or self._known is not None:
            z = yield from self._encoded(len(begin.pictures), lambda rows: begin.pictures[rows])
            for place in (self._start, self._known):
                if place is not None:
                    place.copy_(z)
        if (name := self._pipeline.card.masked) is not None:
            z = yield from self._encoded(len(self._masked), begin.grey)
            rows = [self.model.adapter.row(name, each) for each in z.numpy()]
            self._tables.setdefault(name, {}).update(zip(self._masked, rows, strict=True))

    def shown(self, x: Tensor) -> Generator[Step, list[Array], Tensor]:
        """Implements `Around.shown`, by the small decoder if there is one."""
        parts = []
        for part in x.split(at_once(self._pipeline.shown)):
            parts.append((yield from decoded(self._pipeline.preview or self._pipeline.decoder, part)))
            self._decode_rows += len(part) if self._pipeline.decoder is not None else 0
        return torch.cat(parts)

    def outputs(self, x: Tensor) -> Making:
        """Implements `Around.outputs`."""
        found: dict[str, Array] = {}
        if PICTURES in self._wanted:
            parts = []
            for part in x.split(at_once(self._pipeline.picture)):
                pictures = yield from decoded(self._pipeline.decoder, part)
                self._decode_rows += len(part) if self._pipeline.decoder is not None else 0
                parts.append((yield from told(pictures, self._format)))
            found[PICTURES] = np.concatenate(parts)
        if LATENTS in self._wanted:
            found[LATENTS] = x.numpy()
        return found

    def fingerprint(self, sampler: str) -> str:
        return self._pipeline.fingerprint(sampler)

    def told(self) -> dict[str, Parameter]:
        """Implements `Around.told`."""
        judged = 0 if self._decoding is None else self._decoding.decode_rows
        return {"text_rows": len(self._texts), "decode_rows": self._decode_rows + judged}

    def notes(self) -> list[str]:
        return [*self._notes, *filter(None, [cut(self._cut)])]

    @property
    def _wanted(self) -> list[str]:
        """The outputs that are made, but for rewards."""
        return list(self.request.outputs) or [PICTURES]

    def _of_prompts(self, parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The conditions that prompts give, and their nulls, as handles of their encodings."""
        n, guided, reading = parameters.samples, parameters.guidance != 1, self._pipeline.reading
        inputs, said = self._asked.inputs, self._asked.parameters
        if reading is None:
            for name in _TEXTS:
                if name in inputs or name in said:
                    raise errors.invalid(f"{name}: expected none, {self.name!r} reads no prompts, got one")
            return {}, {}
        prompts, negative = (prompts_of(name, inputs, said, n) for name in _TEXTS)
        if prompts is None:
            if negative is not None:
                raise errors.invalid(f"{NEGATIVE}: expected a {PROMPT} beside it, got none")
            if any(name not in inputs for name in reading.gives):
                rows = "[1]" if n == 1 else f"[{n}] (samples) or [1]"
                raise errors.invalid(f"{PROMPT}: expected BYTES {rows}, or a parameter {PROMPT}, got none")
            return {}, {}
        if negative is not None and not guided:
            self._notes.append(f"{NEGATIVE}: it was not read, guidance is 1")
        null = Prompts(("",)) if negative is None else negative
        zeros = negative is None and reading.zeros
        read = [prompts, *([null] if guided and not zeros else [])]
        self._texts = tuple(dict.fromkeys(text for each in read for text in each.texts))
        condition = self._handles([self._handle(reading, each) for each in prompts.texts]).expand(n, 2)
        if not guided:
            return dict.fromkeys(reading.gives, condition), {}
        nothing = Handle.of(reading.model.fingerprint, "zeros")
        nulls = self._handles([nothing] if zeros else [self._handle(reading, each) for each in null.texts])
        if zeros:
            for name, row in reading.rows.items():
                zero = self.model.adapter.row(name, np.zeros(row, np.float32))
                self._tables.setdefault(name, {})[nothing] = zero
        return dict.fromkeys(reading.gives, condition), dict.fromkeys(reading.gives, nulls)

    def _handle(self, reading: Reading, text: str) -> Handle:
        return reading.handle(text, deterministic=self._deterministic)

    @staticmethod
    def _handles(handles: list[Handle]) -> Tensor:
        return torch.tensor(handles, dtype=torch.int64)

    def _read(self, reading: Reading) -> Generator[Step, list[Array], None]:
        """Fill the tables that rows refer to."""
        handles = [self._handle(reading, each) for each in self._texts]
        found: dict[Handle, Encoding] = yield from encodings_of(reading, self._pipeline.encodings, self._texts, handles)
        self._cut = [found[each].cut for each in handles]
        for name, output in reading.gives.items():
            rows = {each: self.model.adapter.row(name, found[each].rows[output]) for each in handles}
            self._tables.setdefault(name, {}).update(rows)

    def _started(self, parameters: Parameters) -> Beginning | None:
        """The pictures to begin with."""
        pipeline, inputs = self._pipeline, self._asked.inputs
        if pipeline.encoder is None and pipeline.decoder is not None:
            for name in (IMAGE, MASK):
                if name in inputs:
                    raise errors.invalid(f"input {name!r}: expected none, {self.name!r} has no encoder, got one")
            return None
        begin = beginning_of(inputs, pipeline.picture, parameters.samples)
        if begin is not None and begin.mask is None and parameters.strength is None and pipeline.card.mask is None:
            raise errors.invalid(f"input {IMAGE!r}: expected a parameter strength beside it, got none")
        return begin

    def _encoded(self, n: int, pictures: Callable[[slice], Array]) -> Generator[Step, list[Array], Tensor]:
        """The latents of n pictures, some of which are there at a time."""
        encoder, parts = self._pipeline.encoder, []
        together = at_once(self._pipeline.picture)
        for first in range(0, n, together):
            parts.append((yield from encoded(encoder, pictures(slice(first, min(first + together, n))))))
        return torch.cat(parts)


def _sized(request: InferRequest, pipeline: Pipeline) -> Pipeline:
    """The pipeline with pictures of the size that the request asks for."""
    whose = f"pictures of {pipeline.name!r}"
    height, width = (
        _side(request.parameters.get(name, usual), usual, name, pipeline, whose)
        for name, usual in zip(SIZES, pipeline.picture[1:], strict=True)
    )
    other = pipeline.card.resolution
    if other is not None and (height, width) != pipeline.picture[1:] and height * width > other.most:
        raise errors.invalid(f"height: expected at most {other.most} pixels in {whose}, got {height} x {width}")
    return pipeline.sized(height, width)


def _side(wanted: Parameter, usual: int, name: str, pipeline: Pipeline, whose: str) -> int:
    """A height or width; the usual one is always there."""
    if wanted == usual:
        return usual
    if (other := pipeline.card.resolution) is None:
        raise errors.invalid(f"{name}: expected {usual}, the {name} of the {whose}, got {wanted!r}")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1 or wanted % other.multiple:
        raise errors.invalid(f"{name}: expected a multiple of {other.multiple} for {whose}, got {wanted!r}")
    return wanted
