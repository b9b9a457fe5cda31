"""`tiltserve export`: a torch module becomes a folder of a model repository: ONNX, config.pbtxt, card.yaml."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.values import parse_value
from deploy.console import fail

if TYPE_CHECKING:
    from protos.card import Card


def export(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="FILE.py, FILE.py:FACTORY or package.module:FACTORY.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; its name is the model's: models/mine.")],
    card: Annotated[Path | None, typer.Option(metavar="FILE", help="A card to start from; options below win.")] = None,
    path: Annotated[
        str | None, typer.Option(metavar="KIND[:KEY=VALUE,...]", help="vp_cosine, edm:sigma_min=0.02,sigma_max=80, ...")
    ] = None,
    prediction: Annotated[str | None, typer.Option(help="eps, x0, v, velocity or score.")] = None,
    preconditioning: Annotated[str | None, typer.Option(help="none or edm. [none]")] = None,
    sigma_data: Annotated[float | None, typer.Option(help="Of EDM's preconditioning. [0.5]")] = None,
    event_shape: Annotated[str | None, typer.Option(metavar="A,B,...", help="Shape of one sample: 1,28,28")] = None,
    t_range: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Path times the network may be asked.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="What the time input is fed: t, 1000*t, 1-t, N*t-1, sigma, log(rho)/4, ... [t]")
    ] = None,
    output_scale: Annotated[
        float | None, typer.Option(help="Times the output: -1 for a velocity toward the data. [1]")
    ] = None,
    learned_variance: Annotated[
        bool | None, typer.Option("--learned-variance", help="The output's second half is a variance, left out.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Bounds of the denoised estimate; one number for both.")
    ] = None,
    vjp: Annotated[
        bool, typer.Option("--vjp", help="Also export the vector-Jacobian graph, for steering by gradients.")
    ] = False,
    dynamics: Annotated[
        str | None, typer.Option(metavar="KIND", help="A model of dynamics: ode, sde, cde, map or fixed_point.")
    ] = None,
    state: Annotated[str | None, typer.Option(metavar="A,B,...", help="Of dynamics: shape of one state.")] = None,
    encode: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Of dynamics: (module, examples) that makes first states.")
    ] = None,
    decode: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Of dynamics: (module, examples) of what states decode to.")
    ] = None,
    step: Annotated[
        bool,
        typer.Option("--step", help="Of an ode: also a graph of the solver's whole steps, faster for small fields."),
    ] = False,
    double: Annotated[bool, typer.Option("--double", help="Of dynamics: graphs in float64.")] = False,
) -> None:
    """Export a torch module and write its model card.

    FACTORY (default: network) is a module, or a function without arguments that returns one, or returns a pair
    (module, examples): one tensor [n, ...], n >= 2, for each input, by its name. A sampler's examples are made from its
    card; a network without a path (a classifier) needs its own. Nothing is written when the ONNX graph does not give
    torch's numbers.

    With --dynamics, or a card that has them, the module is a field: its first argument is the state, those called t and
    dt are time and step, and others are conditions of the card.
    """
    written = _card(
        card,
        folder,
        path=None if path is None else _path(path),
        prediction=prediction,
        preconditioning=preconditioning,
        sigma_data=sigma_data,
        event_shape=None if event_shape is None else _numbers("--event-shape", event_shape),
        t_range=None if t_range is None else _numbers("--t-range", t_range),
        inputs=None if time is None else {"time": time},
        output_scale=output_scale,
        learned_variance=learned_variance,
        clip=None if clip is None else _ends("--clip", clip),
        dynamics=_spec(card, source, dynamics, state),
    )
    if written.dynamics is not None:
        _field(source, folder, written, encode, decode, step=step, double=double)
        return
    if step or double or encode or decode:
        fail("--step, --double, --encode, --decode: expected --dynamics or a card that has them, got neither")

    from deploy.modules import SourceError, examples_of, float_type, load_network
    from exporters.export import ExportError, export_model
    from exporters.network import path_of
    from exporters.parity import ParityError
    from protos.complaint import unknown
    from steering.paths import KINDS

    if written.path is not None:
        if written.path["kind"] not in KINDS:
            fail(unknown("path", written.path["kind"], KINDS))
        try:
            path_of(written)
        except (TypeError, ValueError) as error:
            fail(f"path: {error}")
    try:
        network, examples = load_network(source)
        report = export_model(
            network,
            folder,
            written,
            examples=examples or examples_of(written, dtype=float_type(network)),
            outputs=[written.output],
            gradients=vjp,
        )
    except (SourceError, ExportError) as error:
        fail(str(error))
    except ParityError as error:
        fail(str(error), code=1)
    print(f"exported {written.name} to {folder}; worst error against torch {max(report.error.values()):.1e}", end="")
    print(" (gradients included)" if vjp else "")


_OUTPUTS = {
    "sde": {"drift": "drift", "diffusion": "diffusion"},
    "map": {"next": "next"},
    "fixed_point": {"next": "next"},
}


def _spec(base: Path | None, source: str, kind: str | None, state: str | None) -> dict[str, Any] | None:
    """What options say of dynamics, as a card has it; None for nothing."""
    if kind is None:
        if state is not None:
            fail("--state: expected --dynamics beside it, got none")
        return None
    if base is not None:
        fail("--dynamics: expected no --card beside it, which says what the model is, got one")
    if state is None:
        fail("--dynamics: expected --state beside it, the shape of one state, got none")
    import inspect

    from deploy.modules import SourceError, load_network

    try:
        network, _ = load_network(source)
    except SourceError as error:
        fail(str(error))
    names = list(inspect.signature(network.forward).parameters)
    if not names:
        fail(f"{source}: expected a module whose first argument is the state, got one without")
    roles = {role: role for role in ("t", "dt") if role in names[1:]}
    return {
        "kind": kind,
        "state": _numbers("--state", state) if state else [],
        "inputs": {"y": names[0], **roles},
        "outputs": _OUTPUTS.get(kind, {"drift": "drift"}),
    }


def _field(
    source: str, folder: Path, card: "Card", encode: str | None, decode: str | None, *, step: bool, double: bool
) -> None:
    """Export a model of dynamics."""
    import torch

    from deploy.modules import SourceError, load_network
    from exporters.dynamics import Beside, export_dynamics
    from exporters.export import ExportError
    from exporters.parity import ParityError

    def beside(option: str, where: str | None) -> Beside | None:
        if where is None:
            return None
        module, examples = load_network(where)
        if examples is None:
            raise SourceError(f"{option}: expected (module, examples) from {where}, got a module alone")
        return Beside(module, examples)

    dtype = torch.float64 if double else torch.float32
    try:
        network, examples = load_network(source)
        report = export_dynamics(
            network, folder, card, dtype=dtype, examples=examples, encoder=beside("--encode", encode),
            decoder=beside("--decode", decode), step=step,
        )  # fmt: skip
    except (SourceError, ExportError) as error:
        fail(str(error))
    except ParityError as error:
        fail(str(error), code=1)
    print(f"exported {card.name} to {folder}; worst error against torch {max(report.error.values()):.1e}")


def _card(base: Path | None, folder: Path, **options: Any) -> "Card":
    """The card of `base` with the given options (None: not given) in place, named as the folder."""
    from pydantic import ValidationError

    from protos.card import Card, CardError, load_card
    from protos.complaint import complaint

    try:
        content = load_card(base).model_dump(exclude_unset=True) if base else {}
    except CardError as error:
        fail(str(error))
    given = {key: value for key, value in options.items() if value is not None}
    if "inputs" in given:
        given["inputs"] = content.get("inputs", {}) | given["inputs"]
    try:
        return Card.model_validate(content | given | {"name": folder.resolve().name})
    except ValidationError as error:
        fail(complaint(error, Card))


def _path(text: str) -> dict[str, Any]:
    """`edm:sigma_min=0.02,sigma_max=80` as a card's path."""
    kind, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    if not kind or any(not (key and value) for key, _, value in pairs):
        fail(f"--path: expected KIND or KIND:KEY=VALUE,..., got {text!r}")
    return {"kind": kind} | {key.strip(): parse_value(value.strip()) for key, _, value in pairs}


def _ends(option: str, text: str) -> list[int | float] | int | float:
    """Two numbers, or one alone."""
    numbers = _numbers(option, text)
    return numbers[0] if len(numbers) == 1 else numbers


def _numbers(option: str, text: str) -> list[int | float]:
    values = [parse_value(part.strip()) for part in text.split(",")]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        fail(f"{option}: expected numbers with commas between them, got {text!r}")
    return numbers
