"""What a model takes and gives, as the directory is told of it: every input and output that a request may have."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

import steering
from protos.card import Card, Defaults
from serving.backends import Backend, GraphTensor
from serving.fleet.directory import Device, ModelState
from serving.models.defaults import merged
from serving.models.model import PlainModel, Sampler
from serving.models.pipeline import CHANNELS, Pipeline
from serving.models.trial import MOST
from serving.wire.parameters import GRID, IMAGE, MASK, NEGATIVE, NULL, PROMPT
from serving.wire.rows import PULLBACK, Draws
from serving.wire.tensors import Parameter, TensorSpec, datatype
from steering.targets.rewards import BUILT_IN

LIKELIHOODS = ("log_likelihood", "standard_error")
"""Outputs of a request for log-likelihoods."""
SAMPLED = ("samples", "rewards")
"""Outputs of a request for samples."""
PICTURES, LATENTS = "images", "latents"
"""Outputs of a request for pictures, the second one only where it is asked for."""
PREVIEWED, STATES = "denoised", "states"
"""The outputs of what a streamed request shows before its samples: estimates, or its path."""


def reverts(model: Sampler) -> bool:
    """Whether every request brings the mean its samples revert to."""
    return isinstance(model.path, steering.paths.MeanReverting)


def sampler_state(model: Sampler) -> ModelState:
    """A sampler that takes requests. How many samples a request has is a parameter: none of its axes is a batch."""
    event, backend = model.card.event_shape, model.network.backend
    taken = [*_states(model), *_conditions(model.card)]
    names = {each.name for each in taken}
    return ModelState(
        model.name,
        model.version,
        "sampler",
        "READY",
        fingerprint=model.known.fingerprint,
        inputs=(*taken, *(each for each in _arguments(event) if each.name not in names)),
        outputs=(
            TensorSpec("samples", "FP32", (-1, *event)),
            *(TensorSpec(name, "FP32", (-1,)) for name in (*SAMPLED[1:], *LIKELIHOODS)),
            TensorSpec(PREVIEWED, "FP32", (-1, *event)),
            TensorSpec(STATES, "FP32", (-1, 2, *event)),
        ),
        backend=software_of(backend),
        device=device_of(backend),
        draws=Draws(own(model.card.defaults), bool(model.card.conditions), pullback_units(model)),
    )


def pullback_units(model: Sampler) -> dict[str, float]:
    """How many network rows a row of the vector-Jacobian graph takes as long as; nothing where there is none."""
    return {} if model.backward is None else {PULLBACK: model.backward.units}


def own(defaults: Defaults | None) -> dict[str, Parameter]:
    """Parameters of requests that a card says, by name, options of its solver among them."""
    said = {} if defaults is None else defaults.model_dump(exclude_none=True)
    options = said.pop("options", {})
    return said | options


def defaults_of(pipeline: Pipeline) -> dict[str, Parameter]:
    """Parameters of a pipeline's requests: its own, else its sampler's, but no options of another solver's."""
    return own(merged(pipeline.defaults, pipeline.sampler.card.defaults))


def pipeline_state(model: Pipeline, sampler: ModelState) -> ModelState:
    """A pipeline that takes requests, whose sampler is in the given state."""
    event, picture, conditions = model.sampler.card.event_shape, model.picture, model.sampler.card.conditions
    by_text = {} if model.reading is None else model.reading.gives
    spare = {*by_text, *(NULL + name for name in by_text)}
    hidden = {"known", MASK, *model.filled, *(NULL + name for name in model.filled)} - {*conditions} | {*model.filled}
    taken = [replace(each, optional=True) if each.name in spare else each for each in sampler.inputs]
    texts = (PROMPT, NEGATIVE) if model.reading is not None else ()
    inputs = [TensorSpec(name, "BYTES", (-1,), optional=name == NEGATIVE) for name in texts]
    _, *size = picture
    latents = [*event]
    if model.card.resolution is not None:
        size, latents = [-1, -1], [event[0], -1, -1]
        taken = [replace(each, shape=_free(each.shape, event)) for each in taken]
    if model.encoder is not None or model.decoder is None:
        inputs.append(TensorSpec(IMAGE, "UINT8", (-1, *size, CHANNELS), optional=True))
        inputs.append(TensorSpec(MASK, "UINT8", (-1, *size), optional=True))
    names = {each.name for each in inputs}
    inputs += [each for each in taken if each.name not in names | hidden]
    return replace(
        sampler,
        name=model.name,
        version=model.version,
        kind="pipeline",
        fingerprint=model.fingerprint(sampler.fingerprint),
        inputs=tuple(inputs),
        outputs=(
            TensorSpec(PICTURES, "UINT8", (-1, *size, CHANNELS)),
            TensorSpec(LATENTS, "FP32", (-1, *latents)),
            TensorSpec(SAMPLED[1], "FP32", (-1,)),
            TensorSpec(
                PREVIEWED, "UINT8", (-1, *(model.shown[1:] if model.card.resolution is None else size), CHANNELS)
            ),
            TensorSpec(STATES, "FP32", (-1, 2, *latents)),
        ),
        draws=Draws(defaults_of(model), model.card.guidance_input is None, model.units | pullback_units(model.sampler)),
    )


def _free(shape: tuple[int, ...], event: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that ends in a sample's height and width, with these free."""
    return (*shape[:-2], -1, -1) if shape[-2:] == event[1:] and len(shape) >= len(event) else shape


def plain_state(model: PlainModel) -> ModelState:
    """A network that takes requests of any number of rows, the first axis of all of its inputs."""
    network = model.network
    return ModelState(
        model.name,
        model.version,
        "network",
        "READY",
        fingerprint=model.fingerprint,
        inputs=tuple(map(_input, network.backend.inputs)),
        outputs=tuple(TensorSpec(each.name, _datatype(each), _rows(each)) for each in network.backend.outputs),
        backend=software_of(network.backend),
        device=device_of(network.backend),
        most_rows=max(network.backend.sizes(MOST), default=network.costs.largest),
        usual_rows=network.costs.usual,
    )


def _states(model: Sampler) -> Iterator[TensorSpec]:
    """Inputs shaped like samples, and the grid; a condition of the card takes the place of one that has its name."""
    event = model.card.event_shape
    found = [TensorSpec("x_init", "FP32", (-1, *event), optional=True)]
    if reverts(model):
        found.append(TensorSpec("mean", "FP32", (-1, *event)))
    found += [
        TensorSpec("known", "FP32", (-1, *event), optional=True),
        TensorSpec("mask", "BOOL", event, optional=True),
        TensorSpec(GRID, "FP64", (-1,), optional=True),
    ]
    return (each for each in found if each.name not in model.card.conditions)


def _conditions(card: Card) -> Iterator[TensorSpec]:
    """The conditions of a card, and what a request may give as their nulls."""
    for prefix in ("", NULL):
        for name, each in card.conditions.items():
            if not prefix or prefix + name not in card.conditions:
                kind = datatype(np.dtype(each.dtype))
                optional = bool(prefix) or each.null_rows is not None
                yield TensorSpec(prefix + name, kind, (-1, *each.shape), optional=optional)


def _arguments(event: tuple[int, ...]) -> Iterator[TensorSpec]:
    """Arguments of built-in rewards that are tensors. Those of other rewards are up to the reward."""
    kinds = {name: each.kind for built_in in BUILT_IN.values() for name, each in built_in.arguments.items()}
    for name, kind in sorted(kinds.items()):
        if kind != "number":
            yield TensorSpec(f"reward_{name}", "BOOL" if kind == "mask" else "FP32", event, optional=True)


def _input(each: GraphTensor) -> TensorSpec:
    """An input of a network; one number a row is shown as a column, which is taken too."""
    shape = _rows(each)
    return TensorSpec(each.name, _datatype(each), shape if each.row else (*shape, 1), column=not each.row)


def _datatype(each: GraphTensor) -> str:
    return "BF16" if each.bfloat16 else datatype(each.dtype)


def _rows(each: GraphTensor) -> tuple[int, ...]:
    return (-1, *_lengths(each.row))


def _lengths(row: Iterable[int | None]) -> Iterator[int]:
    return (-1 if axis is None else axis for axis in row)


def software_of(backend: Backend) -> str:
    """What runs a network, such as `onnxruntime`."""
    return backend.kind.partition(" ")[0]


def device_of(backend: Backend) -> Device:
    return "GPU" if {"CUDA", "TensorRT"} & {*backend.kind.split()} else "CPU"
