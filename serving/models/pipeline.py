"""A pipeline: models of the repository that make pictures of prompts together.

A pipeline's folder has no graph. What it says is a `Recipe`; the models that it names are found anew for each request,
so that a part that was reloaded serves the next one, and a `Pipeline` is the recipe with them. They must fit: what does
not is one line.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from protos.card import Card, Condition, Defaults, dump_text
from protos.pipeline import Codec
from protos.pipeline import Pipeline as Parts
from serving.backends import GraphTensor, LoadError, shown
from serving.models.defaults import fault, merged
from serving.models.encodings import Encodings, Handle
from serving.models.folders import Folder
from serving.models.model import Model, PlainModel, Sampler
from serving.models.tokenizing import Tokenizing

CHANNELS = 3
"""Of a picture."""
SIZE_NUMBERS = 6
"""Numbers of the condition that is told heights and widths."""


Why = Callable[[str], tuple[str, bool]]
"""Why there is no model of that name that is ready, and whether there will soon be one."""


def nothing_known(name: str) -> tuple[str, bool]:
    """A `Why` where nothing is known of others."""
    return "expected a model of the repository that is ready, got none", False


class PartError(LoadError):
    """A part of a pipeline is missing, or does not fit; one line.

    Attributes:
        soon: whether it is only being loaded.
    """

    def __init__(self, why: str, *, soon: bool = False) -> None:
        super().__init__(why)
        self.soon = soon


@dataclass(frozen=True, eq=False)
class Coder:
    """A network between latents and pictures.

    Attributes:
        takes, gives: its input and its output.
        units: how many rows of the sampler's network one of its rows takes as long as, as both were measured.
        given: the shape of what it gives.
    """

    model: PlainModel
    card: Codec
    takes: GraphTensor
    gives: GraphTensor
    units: float
    given: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Equal for equal networks whose numbers stand for the same: pipelines may read one network differently."""
        read = (self.model.fingerprint, self.takes.name, self.gives.name, self.card.scale, self.card.shift)
        return hashlib.sha256(repr(read).encode()).hexdigest()[:16]

    def sized(self, given: tuple[int, ...]) -> "Coder":
        """This one for pictures or latents of another height and width, which its graph must leave free."""
        network = self.model.network.at(given, math.prod(given) / math.prod(self.given))
        return replace(self, model=replace(self.model, network=network, backward=None), given=given)


@dataclass(frozen=True, eq=False)
class Reading:
    """The network that reads prompts.

    Attributes:
        rows: the shape of each condition that it gives, by the condition's name.
        units: as `Coder.units`.
    """

    model: PlainModel
    tokenizing: Tokenizing
    gives: Mapping[str, str]
    rows: Mapping[str, tuple[int, ...]]
    zeros: bool
    units: float

    def handle(self, prompt: str, *, deterministic: bool) -> Handle:
        """What the encoding of a prompt is called; another one where calls of one size give other bytes."""
        fixed = deterministic and not self.model.network.backend.invariant
        gives = repr(
            sorted(self.gives.items())
        )  # else pipelines that read other outputs would share draws for steering
        return Handle.of(self.model.fingerprint, self.tokenizing.digest, gives, str(fixed), prompt)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A recipe with its parts.

    Attributes:
        picture: the shape of a picture, [3, height, width].
        encodings: of prompts.
        cautions: of networks whose answers call for some.
    """

    name: str
    version: str
    card: Parts
    defaults: Defaults
    digest: str
    sampler: Sampler
    reading: Reading | None
    decoder: Coder | None
    encoder: Coder | None
    preview: Coder | None
    picture: tuple[int, ...]
    encodings: Encodings

    @property
    def shown(self) -> tuple[int, ...]:
        """The shape of a preview, [3, height, width]."""
        return self.picture if self.preview is None else self.preview.given

    @property
    def networks(self) -> tuple[PlainModel, ...]:
        """Those beside the sampler's."""
        parts = (self.reading, self.decoder, self.encoder, self.preview)
        return tuple(part.model for part in parts if part is not None)

    @property
    def cautions(self) -> tuple[str, ...]:
        return tuple(each.network.caution for each in self.networks)

    @property
    def filled(self) -> tuple[str, ...]:
        """Conditions of the sampler that the server fills in beside those that text gives."""
        names = (self.card.sizes, self.card.guidance_input, self.card.mask, self.card.masked)
        return tuple(name for name in names if name is not None)

    @property
    def units(self) -> dict[str, float]:
        """`Coder.units` of each part beside the sampler."""
        parts = {"text": self.reading, "decoder": self.decoder, "encoder": self.encoder, "preview": self.preview}
        return {name: part.units for name, part in parts.items() if part is not None}

    def sized(self, height: int, width: int) -> "Pipeline":
        """This pipeline with pictures of another size, one that its card's `resolution` allows."""
        usual, event = self.picture, self.sampler.card.event_shape
        if (height, width) == usual[1:]:
            return self
        row = (event[0], height * event[1] // usual[1], width * event[2] // usual[2])
        picture = (usual[0], height, width)
        spatial = {self.card.mask: (1, *row[1:]), self.card.masked: row}
        sampler = self.sampler.sized(row, {name: shape for name, shape in spatial.items() if name is not None})
        times = math.prod(row) / math.prod(event)
        return replace(
            self,
            sampler=sampler,
            reading=None if self.reading is None else replace(self.reading, units=self.reading.units / times),
            decoder=None if self.decoder is None else self.decoder.sized(picture),
            encoder=None if self.encoder is None else self.encoder.sized(row),
            preview=None if self.preview is None else self.preview.sized(picture),
            picture=picture,
        )

    def fingerprint(self, sampler: str) -> str:
        """Of all parts together, that of the sampler being `sampler`."""
        parts = (self.digest, sampler, *(each.fingerprint for each in self.networks))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a pipeline's folder says.

    Attributes:
        tokenizing: None for a pipeline without prompts.
        digest: equal for equal cards and files.
    """

    name: str
    version: str
    folder: Folder
    card: Parts
    defaults: Defaults
    tokenizing: Tokenizing | None
    digest: str
    encodings: Encodings = field(default_factory=Encodings)

    @classmethod
    def of(cls, folder: Folder, card: Card) -> "Recipe":
        """What a pipeline's folder and its card say; LoadError where its tokenizers cannot be read."""
        assert card.pipeline is not None
        text = card.pipeline.text
        tokenizing = None if text is None else Tokenizing(folder.root / folder.version, folder.card, text)
        said = dump_text(card) + ("" if tokenizing is None else tokenizing.digest)
        digest = hashlib.sha256(said.encode()).hexdigest()
        return cls(folder.name, folder.version, folder, card.pipeline, card.defaults or Defaults(), tokenizing, digest)

    def bound(self, models: Mapping[str, object], why: Why = nothing_known) -> Pipeline:
        """The pipeline with its parts among these models.

        Args:
            why: why a model is not among them.

        Raises:
            PartError: one is not there, is of the wrong kind, or does not fit.
        """
        binding = _Binding(self, models, why)
        sampler = binding.sampler()
        decoder = binding.coder("decoder", self.card.decoder, sampler, sampler.card.event_shape, None)
        picture = sampler.card.event_shape if decoder is None else decoder.given
        if len(picture) != CHANNELS or picture[0] != CHANNELS:
            what = "event_shape" if decoder is None else "output"
            raise binding.fault("sampler" if decoder is None else "decoder",
                                f"{what}: expected pictures [3, height, width], got {shown(picture)}")  # fmt: skip
        preview = binding.coder("preview", self.card.preview, sampler, sampler.card.event_shape, None)
        encoder = binding.coder("encoder", self.card.encoder, sampler, picture, sampler.card.event_shape)
        reading = binding.reading(sampler)
        binding.check_filled(sampler, reading)
        binding.check_sizes(sampler, picture, {"decoder": decoder, "encoder": encoder, "preview": preview})
        if self.card.guidance_input is None and (wrong := fault(sampler, merged(self.defaults, sampler.card.defaults))):
            raise PartError(f"{self.folder.card}: with the sampler {sampler.name!r}: {wrong}")
        return Pipeline(
            self.name, self.version, self.card, self.defaults, self.digest, sampler, reading, decoder, encoder, preview,
            picture, self.encodings,
        )  # fmt: skip


@dataclass(frozen=True)
class _Binding:
    """Finds parts, and says what does not fit."""

    recipe: Recipe
    models: Mapping[str, object]
    why: Why

    def fault(self, part: str, why: str, *, soon: bool = False) -> PartError:
        name = self.recipe.card.parts[part]
        return PartError(f"{self.recipe.folder.card}: pipeline.{part}: model {name!r}: {why}", soon=soon)

    def sampler(self) -> Sampler:
        model = self._there("sampler")
        if not isinstance(model, Sampler):
            raise self.fault("sampler", "expected a sampler (a card with a path), got a plain network")
        return model

    def _there(self, part: str) -> object:
        name = self.recipe.card.parts[part]
        if name not in self.models:
            why, soon = self.why(name)
            raise self.fault(part, why, soon=soon)
        return self.models[name]

    def _network(self, part: str) -> PlainModel:
        model = self._there(part)
        if not isinstance(model, PlainModel):
            raise self.fault(part, "expected a plain network, got another kind of model")
        return model

    def coder(
        self, part: str, card: Codec | None, sampler: Sampler, takes: tuple[int, ...], gives: tuple[int, ...] | None
    ) -> Coder | None:
        """A network from rows of one shape to those of another, None for pictures of any size."""
        if card is None:
            return None
        model = self._network(part)
        backend = model.network.backend
        given = self._one(part, "input", card.input, backend.inputs)
        output = self._one(part, "output", card.output, backend.outputs)
        if len(backend.inputs) > 1:
            raise self.fault(part, f"expected one input, got {', '.join(each.name for each in backend.inputs)}")
        if given.dtype.kind != "f" or not given.fits(takes):
            raise self.fault(part, f"input {given.name!r}: expected {shown(('n', *takes))}, got {_described(given)}")
        whole = output.dtype.kind == "f" and None not in output.row
        if not whole or (gives is None and len(output.row) != CHANNELS) or (gives is not None and output.row != gives):
            wanted = f"n, {CHANNELS}, height, width of known size" if gives is None else shown(("n", *gives))
            raise self.fault(part, f"output {output.name!r}: expected floats [{wanted.strip('[]')}], "
                                   f"got {_described(output)}")  # fmt: skip
        if gives is None and output.row[0] != CHANNELS:
            raise self.fault(part, f"output {output.name!r}: expected pictures of 3 channels, got {_described(output)}")
        shape = tuple(axis or 0 for axis in output.row)
        return Coder(model, card, given, output, _units(model, sampler), shape)

    def _one(
        self, part: str, what: str, name: str | None, there: "tuple[GraphTensor, ...] | list[GraphTensor]"
    ) -> GraphTensor:
        names = [each.name for each in there]
        if name is None and len(there) != 1:
            raise self.fault(part, f"{what}: expected its name, of {', '.join(names)}, got none")
        found = [each for each in there if name in (None, each.name)]
        if not found:
            raise self.fault(part, f"{what}: expected one of {', '.join(names)}, got {name!r}")
        return found[0]

    def reading(self, sampler: Sampler) -> Reading | None:
        card, tokenizing = self.recipe.card.text, self.recipe.tokenizing
        if card is None or tokenizing is None:
            return None
        model = self._network("text")
        inputs = {each.name: each for each in model.network.backend.inputs}
        outputs = {each.name: each for each in model.network.backend.outputs}
        if inputs.keys() != tokenizing.lengths.keys():
            wanted, came = (", ".join(sorted(names)) for names in (tokenizing.lengths, inputs))
            raise self.fault("text", f"expected the inputs {wanted}, as its tokenizers say, got {came}")
        for name, length in tokenizing.lengths.items():
            if inputs[name].dtype.kind not in "iu" or not inputs[name].fits((length,)):
                raise self.fault("text", f"input {name!r}: expected whole numbers [n, {length}], "
                                         f"got {_described(inputs[name])}")  # fmt: skip
        for name, most in tokenizing.largest.items():
            if (known := model.ranges.get(name)) is not None and known.max is not None and most > known.max:
                raise self.fault(
                    "text", f"input {name!r}: expected tokens up to {known.max:g}, its tokenizer has {most}"
                )
        rows: dict[str, tuple[int, ...]] = {}
        for name, output in card.gives.items():
            if output not in outputs:
                raise self.fault("text", f"gives.{name}: expected an output of {', '.join(outputs)}, got {output!r}")
            spec, row = self._condition(sampler, "text", f"gives.{name}", name), outputs[output].row
            floats = spec.dtype == "float32" and outputs[output].dtype.kind == "f"
            if not floats or None in row or not spec.fits(tuple(axis or 0 for axis in row)) or spec.pad is not None:
                raise self.fault("text", f"output {output!r}: expected floats {shown(('n', *spec.shape))} for the "
                                         f"condition {name!r}, got {_described(outputs[output])}")  # fmt: skip
            rows[name] = tuple(axis or 0 for axis in row)
        return Reading(model, tokenizing, card.gives, rows, card.empty == "zeros", _units(model, sampler))

    def check_filled(self, sampler: Sampler, reading: Reading | None) -> None:
        """Conditions that the server fills in have the shapes that it gives them."""
        card, event = self.recipe.card, sampler.card.event_shape
        for key, name, shapes in (
            ("sizes", card.sizes, [(SIZE_NUMBERS,)]),
            ("guidance_input", card.guidance_input, [(), (1,)]),
            ("mask", card.mask, [(1, *event[1:])]),
            ("masked", card.masked, [event]),
        ):
            if name is None:
                continue
            spec = self._condition(sampler, "sampler", key, name)
            if spec.dtype != "float32" or spec.shape not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in shapes)
                raise self.fault("sampler", f"condition {name!r} for {key}: expected float32 {wanted}, "
                                            f"got {spec.dtype} {list(spec.shape)}")  # fmt: skip
            if reading is not None and name in reading.gives:
                raise self.fault("sampler", f"condition {name!r} for {key}: expected one that text does not give")

    def check_sizes(self, sampler: Sampler, picture: tuple[int, ...], coders: "Mapping[str, Coder | None]") -> None:
        """Where other sizes may be asked for, all graphs leave them free, and each is a whole number of latents."""
        if (other := self.recipe.card.resolution) is None:
            return
        networks = {"sampler": sampler.network} | {
            part: each.model.network for part, each in coders.items() if each is not None
        }
        for part, network in networks.items():
            if not network.sizable:
                raise self.fault(part, "expected a graph of free height and width, as pipeline.resolution says")
        event, card = sampler.card.event_shape, self.recipe.folder.card
        wanted = len(event) == len(picture)
        if not wanted or any(
            other.multiple * latent % pixel for latent, pixel in zip(event[1:], picture[1:], strict=True)
        ):
            raise PartError(
                f"{card}: pipeline.resolution: multiple: expected whole latents of {shown(event)} for pictures "
                f"{shown(picture)}, got {other.multiple} pixels"
            )

    def _condition(self, sampler: Sampler, part: str, key: str, name: str) -> Condition:
        if name not in sampler.card.conditions:
            there = ", ".join(sampler.card.conditions) or "none"
            raise self.fault(part, f"{key}: expected a condition of {sampler.name!r} ({there}), got {name!r}")
        return sampler.card.conditions[name]


def _units(model: PlainModel, sampler: Sampler) -> float:
    return model.network.costs.row_s / sampler.network.costs.row_s


def _described(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {shown(('n', *tensor.row))}"


Opened = Model | Recipe
"""What is loaded from a folder."""
AnyModel = Model | Pipeline
"""What a request may ask for."""
