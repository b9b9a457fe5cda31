"""What a model of dynamics takes and gives, as the directory is told of it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serving.fleet.directory import ModelState
from serving.models.described import device_of, software_of
from serving.models.dynamics import Dynamics
from serving.wire.rows import Solves
from serving.wire.solving import CONTROL, CONTROL_TIMES, EACH, LINEAR, TIMES, Y0
from serving.wire.tensors import TensorSpec, datatype

DECODED = "decoded"
"""What states decode to."""
RESIDUAL = "residual"
"""How far from fixed a state is."""


def dynamics_state(model: Dynamics) -> ModelState:
    """A model that takes requests for trajectories. How many it has is said by its tensors: none of its axes is a batch
    to the protocol, since times may come once for all."""
    backend = model.network.backend
    return ModelState(
        model.name,
        model.version,
        "dynamics",
        "READY",
        fingerprint=model.fingerprint,
        inputs=takes(model),
        outputs=gives(model),
        backend=software_of(backend),
        device=device_of(backend),
        solves=Solves(starts_of(model), model.runs.usual),
    )


def starts_of(model: Dynamics) -> tuple[str, ...]:
    """Inputs whose first axis counts trajectories."""
    return (Y0, *(each.name for each in model.encoder.inputs)) if model.encoder is not None else (Y0,)


def takes(model: Dynamics) -> tuple[TensorSpec, ...]:
    """Every input that a request may have."""
    kind = datatype(model.dtype)
    specs = [
        TensorSpec(Y0, kind, (-1, *model.state), optional=model.encoder is not None),
        TensorSpec(TIMES, "FP64", (-1,), optional=model.spec.kind == "fixed_point"),
    ]
    if model.encoder is not None:
        specs += [
            TensorSpec(each.name, datatype(each.dtype), (-1, *(axis or -1 for axis in each.row)), optional=True)
            for each in model.encoder.inputs
        ]
    named = {each.name for each in specs}
    specs += [
        TensorSpec(name, datatype(np.dtype(each.dtype)), (-1, *each.shape), optional=each.null_rows is not None)
        for name, each in model.conditions.items()
        if name not in named
    ]
    specs += [TensorSpec(name, "FP64", (-1,), optional=True) for name in EACH]
    return (*specs, *further_inputs(model))


def further_inputs(model: Dynamics) -> tuple[TensorSpec, ...]:
    """Inputs that only some kinds take."""
    return tuple(spec for each in TAKES.get(model.spec.kind, ()) for spec in each(model))


def gives(model: Dynamics) -> tuple[TensorSpec, ...]:
    """Every output that a request may ask for."""
    specs = [
        TensorSpec("y", datatype(model.dtype), (-1, -1, *model.state)),
        TensorSpec("status", "INT32", (-1,)),
        TensorSpec("evaluations", "INT64", (-1,)),
        TensorSpec("rewards", "FP32", (-1,)),
    ]
    if model.decoder is not None:
        output = model.decoder.output
        row = (axis or -1 for axis in output.row)
        specs.insert(1, TensorSpec(DECODED, datatype(output.dtype), (-1, -1, *row)))
    further = (spec for each in GIVES.get(model.spec.kind, ()) for spec in each(model))
    return (*specs, *further)


def control(model: Dynamics) -> tuple[TensorSpec, ...]:
    """The path that drives a model, and the times of its observations."""
    if model.spec.control is None:
        return ()
    return (
        TensorSpec(CONTROL, "FP64", (-1, -1, model.spec.control.channels)),
        TensorSpec(CONTROL_TIMES, "FP64", (-1, -1)),
    )


def events(model: Dynamics) -> tuple[TensorSpec, ...]:
    """When and where events were, and which; their number is the request's."""
    return (
        TensorSpec("t_event", "FP64", (-1, -1)),
        TensorSpec("y_event", datatype(model.dtype), (-1, -1, *model.state)),
        TensorSpec("event", "INT64", (-1, -1)),
    )


def exponents(model: Dynamics) -> tuple[TensorSpec, ...]:
    """Of the flow: the greatest, and all."""
    return TensorSpec("ftle", "FP64", (-1, -1)), TensorSpec("exponents", "FP64", (-1, -1, math.prod(model.state)))


def residual(model: Dynamics) -> tuple[TensorSpec, ...]:
    """What is left of a fixed-point iteration."""
    return (TensorSpec(RESIDUAL, "FP64", (-1,)),)


def linear(model: Dynamics) -> tuple[TensorSpec, ...]:
    """A matrix of the flattened state, of solvers that take one."""
    size = math.prod(model.state)
    return (TensorSpec(LINEAR, "FP64", (size, size), optional=True),) if size <= MOST_LINEAR else ()


MOST_LINEAR = 2048
"""Numbers of a state whose matrix fits into a message."""


def weights(model: Dynamics) -> tuple[TensorSpec, ...]:
    """Of steered trajectories."""
    return (TensorSpec("log_weights", "FP64", (-1,)),)


Specs = Callable[[Dynamics], Sequence[TensorSpec]]
TAKES: Mapping[str, Sequence[Specs]] = {"ode": (linear,), "cde": (control,), "map": (control,)}
"""Inputs of requests for some kinds of dynamics, which their pieces (`serving/requests/dynamics/`) read."""
GIVES: Mapping[str, Sequence[Specs]] = {
    "ode": (events, exponents), "cde": (events,), "fixed_point": (residual,), "sde": (weights,),
}  # fmt: skip
"""Outputs of some kinds of dynamics, which their pieces make."""
