"""A dynamics model's part of the card: what its graph is of a differential equation or a map, and how it is solved."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from protos.strict import Strict

KindOfDynamics = Literal["ode", "sde", "cde", "map", "fixed_point"]
MOST_NUMBERS = 2**26
"""Numbers of one state, at most."""


def _file(name: str) -> str:
    if PurePosixPath(name).name != name or name.startswith("."):
        raise ValueError(f"expected the name of a file beside the graph, got {name!r}")
    return name


class Needs(NamedTuple):
    """Roles that a kind cannot do without, and those that it knows besides."""

    outputs: tuple[str, ...]
    also: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


KINDS: Mapping[str, Needs] = {
    "ode": Needs(("drift",)),
    "sde": Needs(("drift", "diffusion"), keys=("noise", "form", "calculus")),
    "cde": Needs(("drift",), keys=("control",)),
    "map": Needs(("next",), keys=("conserve", "control")),
    "fixed_point": Needs(("next",)),
}
"""Outputs of the graph that each kind has, by role, and keys of the card that only some kinds have."""
_OPTIONAL = {key for needs in KINDS.values() for key in needs.keys}


class Roles(Strict):
    """Names of the graph's inputs by role; None where it has no such input. All are [B, ...].

    Attributes:
        y: the state [B, *state]; t: time [B] or [B, 1]; dt: the length of a step [B] or [B, 1].
    """

    y: str
    t: str | None = None
    dt: str | None = None


class Gives(Strict):
    """Names of the graph's outputs by role.

    Attributes:
        drift: dy/dt [B, *state].
        diffusion: what noise is multiplied by: [B, *state], [B, 1], or [B, d, m] for general noise.
        next: the next state [B, *state] of a map or of a fixed-point iteration.
    """

    drift: str | None = None
    diffusion: str | None = None
    next: str | None = None


class Side(Strict):
    """A graph beside the field's, which encodes what a request brings into states or decodes states.

    Attributes:
        graph: its file, in the version's folder.
        inputs: of the encoder, which requests bring instead of `y0`; all of them if left out. Of a decoder the one
            that takes the state, if it has several: the others are conditions of the card.
        output: the state of an encoder, or what a decoder gives; None for the only one.
    """

    graph: str
    inputs: list[str] | None = None
    output: str | None = None

    _here = field_validator("graph")(_file)


class Step(Strict):
    """A graph of a whole step of a solver, whose mathematics is the field's: one row a step instead of one a stage.

    Attributes:
        graph: its file, in the version's folder. Its inputs are the field's and, by the names here, the step's length
            [B] and the first slope [B, *state]; a field without a time has none there, or one called t.
        solver: the solver whose step it is.
        h, k1: inputs. dz, error, slopes: outputs: the state's change and its error's estimate [B, *state], and the
            slopes of the further stages [B, s, *state].
    """

    graph: str
    solver: str = "tsit5"
    h: str = "h"
    k1: str = "k1"
    dz: str = "dz"
    error: str = "error"
    slopes: str = "slopes"

    _here = field_validator("graph")(_file)


class Control(Strict):
    """A path that drives the state: dy = f(y) dX.

    Attributes:
        input: the graph's input that takes the path's derivative [B, channels], or of a map its value.
        interpolation: between the observations that a request brings.
        channels: of the path, time among them if it is one.
    """

    input: str
    channels: int = Field(ge=1, le=2**20)
    interpolation: Literal["hermite", "rectilinear"] = "hermite"


class Conserve(Strict):
    """What a map must keep: the sum over cells of weight times state.

    Attributes:
        weights: a file of weights (numpy's .npy) of the shape of a state, or one that is broadcast to it.
    """

    weights: str

    _here = field_validator("weights")(_file)


class Solving(Strict):
    """How requests are solved that do not say it.

    Attributes:
        rtol, atol: tolerances of a solver that chooses its steps.
        dt: the step of one that does not; dt0: the first step of one that does.
        options: of the solver, by name.
    """

    name: str | None = None
    rtol: Annotated[float, Field(gt=0, le=1)] | None = None
    atol: Annotated[float, Field(gt=0)] | None = None
    dt: Annotated[float, Field(gt=0)] | None = None
    dt0: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=10**6)] | None = None
    options: dict[str, float | int | bool | str] = Field(default={})

    @property
    def said(self) -> dict[str, float | int | bool | str]:
        """As parameters of a request, by name."""
        content = self.model_dump(exclude_none=True, exclude={"name", "options"})
        named = {} if self.name is None else {"solver": self.name}
        return {**self.options, **content, **named}


class Dynamics(Strict):
    """What a graph is of dynamics.

    Attributes:
        kind: an ordinary, stochastic or controlled differential equation, a map from one state to the next, or one
            whose fixed point is the answer.
        state: the shape of one state, without the batch axis; [] for a number.
        inputs, outputs: names in the graph by role.
        noise: of an SDE: "additive" (the same everywhere), "diagonal" (each number its own), "scalar" (one for all) or
            "general" (a matrix).
        form: of an SDE whose stability needs its own scheme: "langevin", "linear" (linear noise) or "geometric".
        calculus: in which an SDE's noise is meant.
        coordinate: the name of a plain model whose output steering's h is a function of.
    """

    kind: KindOfDynamics
    state: tuple[int, ...]
    inputs: Roles
    outputs: Gives
    noise: Literal["additive", "diagonal", "scalar", "general"] | None = None
    form: Literal["plain", "langevin", "linear", "geometric"] | None = None
    calculus: Literal["ito", "stratonovich"] | None = None
    encode: Side | None = None
    decode: Side | None = None
    step: Step | None = None
    control: Control | None = None
    conserve: Conserve | None = None
    solver: Solving = Solving()
    coordinate: str | None = None

    @field_validator("state")
    @classmethod
    def _axes(cls, state: tuple[int, ...]) -> tuple[int, ...]:
        size = 1
        for axis in state:
            size *= axis
            if axis < 1 or size > MOST_NUMBERS:
                raise ValueError(f"expected axes >= 1 of at most {MOST_NUMBERS} numbers, got {list(state)}")
        return state

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needs = KINDS[self.kind]
        for role in Gives.model_fields:
            there = getattr(self.outputs, role) is not None
            if there != (role in needs.outputs):
                wanted = " and ".join(needs.outputs)
                got = role if there else f"no {role}"
                raise ValueError(f"outputs: expected {wanted} of kind {self.kind}, got {got}")
        if self.kind == "cde" and self.control is None:
            raise ValueError("control: expected one beside kind cde, got none")
        for key in sorted(_OPTIONAL - {*needs.keys}):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: expected none beside kind {self.kind}, got one")
        if self.step is not None and self.kind != "ode":
            raise ValueError(f"step: expected none beside kind {self.kind}, got one")
        named = [name for name in (self.inputs.y, self.inputs.t, self.inputs.dt) if name is not None]
        if self.control is not None:
            named.append(self.control.input)
        if len({*named}) < len(named):
            raise ValueError(f"inputs: expected an input for each role, got {', '.join(named)}")
        return self

    @property
    def fed(self) -> dict[str, str]:
        """The graph's inputs by role, that of a control's derivative among them."""
        roles = {role: name for role, name in self.inputs.model_dump().items() if name is not None}
        return roles if self.control is None else {**roles, "dx": self.control.input}

    @property
    def given(self) -> dict[str, str]:
        """The graph's outputs by role."""
        return {role: name for role, name in self.outputs.model_dump().items() if name is not None}

    @property
    def files(self) -> list[str]:
        """Files beside the graph."""
        sides = [each.graph for each in (self.encode, self.decode, self.step) if each is not None]
        return sides if self.conserve is None else [*sides, self.conserve.weights]
