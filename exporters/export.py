"""Any torch module -> a model folder: `<version>/model.onnx`, `config.pbtxt` and, if described, `card.yaml`.

With `vjp`, the version's folder also has `vjp.onnx`, the network's vector-Jacobian graph.
"""

import contextlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from exporters import parity, vjp
from exporters.config import triton_config
from exporters.network import open_session
from protos.card import Card, Vjp, dump_card, ranged
from protos.ranges import index_ranges

OPSET = 20
VJP = "vjp.onnx"
TINY = 1e-7
"""Numbers below it may be taken for 0 by the exporter's simplification."""
HALF_TOLERANCE = 2e-2
"""Of float16, which torch and ONNX Runtime round at other places."""
ONE_FILE = 2**31 - 2**24
"""Bytes of weights that lie in a file of their own: protobuf's limit on a message, less room for the graph itself."""


class ExportError(ValueError):
    """A module that cannot be exported as asked; the text is one line."""


def export_model(
    network: nn.Module,
    folder: Path,
    card: Card | None,
    *,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    version: int = 1,
    probe: parity.Probe | None = None,
    sizes: Sequence[int] = parity.SIZES,
    tolerance: float | None = None,
    gradients: bool = False,
    others: Sequence[Mapping[str, Tensor]] = (),
) -> parity.Parity:
    """Export `network` in evaluation mode, compare it with the module, and only then put the folder in place.

    Args:
        folder: the model's folder, whose name is the model's. A version already there is replaced, its bank too.
        card: written into the model's folder, with ranges of labels as the network's tables have them where it has
            none; None writes no card.
        examples: one tensor [n, ...] (n >= 2) on the CPU for each of the module's arguments, in order, by input name.
            The first axis of every input is the batch and is left open; the others are fixed.
        outputs: names of what the module returns, in order.
        probe: draws the inputs of the comparison; by default random ones like the examples, at the card's times.
        tolerance: largest error of the comparison; None for 1e-4, and 2e-2 of a module that takes float16.
        gradients: also write the vector-Jacobian graph, and say so in the card, which must be there: of a sampler's
            output in x; of a plain network's score in what takes the sample. Its errors are in units of the largest
            number of the gradients.
        others: as `examples`, of other lengths: axes along which they differ from them are left open too. The graph is
            traced with the first of them, and compared with the module at all. Not beside `gradients`.

    Raises:
        ExportError: the module cannot be exported, or does not fit its card. Nothing is written.
        ParityError: the graph is not the module, or mixes rows. Nothing is written.
    """
    _check(network, card, examples, outputs)
    draw = probe or parity.probe(examples, card)
    if tolerance is None:
        half = any(example.dtype == torch.float16 for example in examples.values())
        tolerance = HALF_TOLERANCE if half else parity.TOLERANCE
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary, _evaluating(network):
        staged = Path(temporary) / "new"
        (staged / str(version)).mkdir(parents=True)
        file = staged / str(version) / "model.onnx"
        free = {} if card is None else {name: each.fed for name, each in card.conditions.items()}
        if others:
            graph = _graph(network, file, others[0], outputs, free | _open(examples, others), whole=False)
        else:
            graph = _graph(network, file, examples, outputs, free)
        report = parity.check(
            network, open_session(file), draw, time=parity.time_input(card), sizes=sizes, tolerance=tolerance
        )
        for each in others:
            found = parity.check(
                network, open_session(file), parity.probe(each, card), time=parity.time_input(card), sizes=sizes[:2],
                tolerance=tolerance,
            )  # fmt: skip
            report = replace(report, error={name: max(report.error[name], found.error[name]) for name in report.error})
        (staged / "config.pbtxt").write_text(triton_config(folder.name, graph))
        if gradients:
            card, found = _pulled_back(network, file.with_name(VJP), card, examples, outputs, draw, sizes, tolerance)
            report = replace(report, error={**report.error, **found.error})
        if card is not None:
            dump_card(ranged(card, index_ranges(graph)), staged / "card.yaml")
        install(staged, folder, version)
    return report


def _pulled_back(
    network: nn.Module,
    file: Path,
    card: Card | None,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    draw: parity.Probe,
    sizes: Sequence[int],
    tolerance: float,
) -> tuple[Card, parity.Parity]:
    """Write the vector-Jacobian graph of a network in evaluation mode, and compare it with torch's gradients; the card
    that says so, and the errors."""
    said = _vjp(card, examples, outputs)
    assert card is not None  # else nothing could be said
    module = vjp.Pullback(network, outputs.index(said.of), list(examples).index(said.to))
    with torch.no_grad():
        made = network(*examples.values())
    output: Tensor = made if isinstance(made, Tensor) else list(made)[outputs.index(said.of)]
    row, dtype = output.shape[1:], output.dtype
    rows = {name: each.fed for name, each in card.conditions.items()}
    free = {name: [1 + i for i, axis in enumerate(fed) if axis == -1] for name, fed in rows.items()}
    tensors = vjp.distinct({**examples, said.cotangent: torch.randn(len(output), *row).to(dtype)}, free)
    try:
        with _quiet():
            moves = bool(module(*tensors.values())[1].any())
            graph = vjp.traced(module, list(tensors.values()))
    except Exception as error:  # tracing a user's module may raise anything
        raise ExportError(f"{type(network).__name__}: its gradient cannot be exported: {_gist(error)}") from error
    if not moves and not card.is_sampler:  # such as a rounded score
        raise ExportError(f"gradients: expected some of {said.of!r} in {said.to!r} other than 0, got 0 everywhere")
    _graph(graph, file, tensors, [said.of, said.gradient], rows)
    report = parity.check(
        module,
        open_session(file),
        vjp.probe(draw, said.cotangent, row, dtype),
        time=parity.time_input(card),
        sizes=sizes,
        tolerance=tolerance,
        relative=(said.gradient,),
    )
    return card.model_copy(update={"vjp": said}), report


def _vjp(card: Card | None, examples: Mapping[str, Tensor], outputs: Sequence[str]) -> Vjp:
    """Which output is differentiated in which input, and the names of cotangent and gradient."""
    if card is None:
        raise ExportError("gradients: expected a card, which says that they are there, got none")
    if card.is_sampler:
        of, to = card.output, card.inputs.x
    else:
        floats = [name for name, each in examples.items() if each.is_floating_point()]
        if not floats:
            raise ExportError(f"gradients: expected an input of floats, got {', '.join(examples)}")
        to = (card.sample and card.sample.input) or ("x" if "x" in floats else floats[0])
        of = card.score_output or ("reward" if "reward" in outputs else outputs[0])
        if to not in floats or of not in outputs:
            raise ExportError(f"gradients: expected input {to!r} (floats) and output {of!r}, as the card says")
    cotangent, gradient = (_unused(name, {*examples, *outputs}) for name in ("cotangent", "gradient"))
    return Vjp(of=of, to=to, cotangent=cotangent, gradient=gradient)


def _unused(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    return name


def _check(network: nn.Module, card: Card | None, examples: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
    for name, example in examples.items():
        if example.ndim == 0 or len(example) < 2:
            raise ExportError(f"input {name!r}: expected an example [n, ...] with n >= 2, got {list(example.shape)}")
        if example.dtype == torch.bfloat16:
            raise ExportError(f"input {name!r}: expected float16, float32 or float64 (module.float()), got bfloat16")
    if card is None or card.path is None:
        return
    masks = [each.mask for each in card.conditions.values() if each.mask is not None]
    wanted = [card.inputs.x, card.inputs.t, *card.conditions, *masks]
    if sorted(wanted) != sorted(examples):
        raise ExportError(f"inputs: expected those of the card ({', '.join(wanted)}), got {', '.join(examples)}")
    if card.output not in outputs:
        raise ExportError(f"outputs: expected the card's {card.output!r} among them, got {', '.join(outputs)}")
    for name, event in ((card.inputs.x, card.event_shape), (card.inputs.t, ())):
        got = list(examples[name].shape)
        if got[1:] != list(event):
            raise ExportError(f"input {name!r}: expected {['n', *event]} as its card says, got {got}")


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the whole module, each part's own mode restored afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _graph(
    network: nn.Module,
    file: Path,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    rows: Mapping[str, tuple[int, ...]],
    *,
    whole: bool = True,
) -> onnx.GraphProto:
    """Write the graph and return it, without its weights where they lie beside it.

    Args:
        rows: shapes of inputs, -1 for what is free.
        whole: any number of rows is to be proved to trace alike. Where heights are free too, modules ask how many
            numbers there are (to copy them in pieces, say), and parity alone answers for other numbers of rows.
    """
    batch = torch.export.Dim("n") if whole else torch.export.Dim.AUTO
    free = {
        name: {1 + i: torch.export.Dim.AUTO for i, axis in enumerate(row) if axis == -1} for name, row in rows.items()
    }
    shapes: list[Any] = [{0: batch, **free.get(name, {})} for name in examples]
    shapes = _as_arguments(network, shapes)
    apart = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers())) >= ONE_FILE
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                tuple(examples.values()),
                dynamo=True,
                verbose=False,
                optimize=False,
                external_data=False,
                opset_version=OPSET,
                input_names=list(examples),
                output_names=list(outputs),
                dynamic_shapes=tuple(shapes),
            )
            assert program is not None
            _simplify(program)
    except Exception as error:  # tracing a user's module may raise anything
        raise ExportError(f"{type(network).__name__}: the ONNX exporter refused it: {_gist(error)}") from error
    if apart:  # the weights of such a graph never are one message
        program.save(file, external_data=True)
        model = onnx.load(file, load_external_data=False)
    else:
        model = program.model_proto
    model.ClearField("metadata_props")
    _strip(model.graph)
    for each in () if whole else (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, file)
    onnx.checker.check_model(str(file) if apart else model)
    return model.graph


def _open(examples: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs whose lengths are not those of all others, -1 for these."""
    found = {}
    for name, example in examples.items():
        same = [len({each[name].shape[axis] for each in (examples, *others)}) == 1 for axis in range(1, example.ndim)]
        if not all(same):
            found[name] = tuple(n if one else -1 for n, one in zip(example.shape[1:], same, strict=True))
    return found


def _simplify(program: torch.onnx.ONNXProgram) -> None:
    """What `optimize=True` does, unless the graph has numbers that it would take for 0: it drops x + 1e-15, which
    keeps a quotient of two zeros from being NaN."""
    made = (out for node in program.model.graph if node.op_type == "Constant" for out in node.outputs)
    tensors = map(onnx_ir.convenience.get_const_tensor, [*program.model.graph.initializers.values(), *made])
    numbers = (each.numpy() for each in tensors if each is not None and each.size == 1)
    if any(each.dtype.kind == "f" and 0 < abs(float(each.reshape(()))) < TINY for each in numbers):
        onnxscript.optimizer.fold_constants(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
    else:
        program.optimize()


def _as_arguments(network: nn.Module, shapes: list[Any]) -> list[Any]:
    """One entry for each argument of `forward`; those that `*arguments` takes are one tuple."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    first = next((i for i, each in enumerate(parameters) if each.kind is each.VAR_POSITIONAL), None)
    return shapes if first is None or len(shapes) <= first else [*shapes[:first], tuple(shapes[first:])]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own deprecations and its remarks on packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes: they hold source lines and folders of this machine."""
    for noted in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    for branch in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _strip(branch)


def _gist(error: BaseException) -> str:
    """The innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def install(staged: Path, folder: Path, version: int) -> None:
    """Move a staged folder's parts into place by renaming; the version first: a card never precedes its graph."""
    folder.mkdir(exist_ok=True)
    target = folder / str(version)
    if target.exists():
        target.rename(staged / "replaced")  # goes with the temporary folder
    (staged / str(version)).rename(target)
    for name in ("config.pbtxt", "card.yaml"):
        if (staged / name).exists():
            (staged / name).replace(folder / name)
