"""Does the exported graph compute what the module computes? Asked on mixed times, at several batch sizes, row by row.

Two ways of being wrong are told apart. The graph may differ from the module; or both may agree and yet a row's output
depends on its neighbours, as when one time is broadcast to the whole batch. A server packs rows of strangers into one
call, so the second is as wrong as the first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import steering
from exporters.network import path_of
from protos.card import Card

SIZES = (1, 2, 3, 8, 17)
TOLERANCE = 1e-4
LISTED = 6

Arrays = dict[str, np.ndarray]
Probe = Callable[[int, torch.Generator], dict[str, Tensor]]
"""Draws the graph's inputs for that many rows, by name, in the order of the module's arguments."""


class ParityError(ValueError):
    """A graph that must not be served; the text names the worst error, the tolerance, the batch size and the rows."""


@dataclass(frozen=True)
class Parity:
    """What was measured. Errors are |difference| / (1 + |value|), the worst element of all rows and batch sizes.

    Attributes:
        error: graph against module, by output.
        mixing: a row among others against the same row alone, both through the graph.
        rows: rows compared.
    """

    error: dict[str, float]
    mixing: float
    rows: int
    sizes: tuple[int, ...]
    tolerance: float


def probe(examples: Mapping[str, Tensor], card: Card | None = None) -> Probe:
    """Random inputs like the examples: times of the card, all different; floats of like spread; integers seen there.

    Args:
        examples: [n, ...] by input name, n >= 2.
    """
    time = time_input(card)

    def draw_one(name: str, example: Tensor, rows: int, generator: torch.Generator) -> Tensor:
        if card is not None and name == time:
            path = path_of(card)
            u = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
            t = path.t_min + (path.t_max - path.t_min) * u.to(torch.float64)
            return steering.paths.time_input(card.inputs.time)(path, t[torch.randperm(rows, generator=generator)]).to(
                example.dtype
            )
        shape = (rows, *example.shape[1:])
        if example.is_floating_point():
            spread = example.std() if example.numel() > 1 else torch.ones(())
            return (torch.randn(shape, generator=generator) * spread + example.mean()).to(example.dtype)
        seen = example.flatten()
        return seen[torch.randint(len(seen), shape, generator=generator)]

    def draw(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: draw_one(name, example, rows, generator) for name, example in examples.items()}

    return draw


def time_input(card: Card | None) -> str | None:
    """The name of the graph's time input, if it has one."""
    return card.inputs.t if card is not None and card.path is not None else None


def check(
    network: nn.Module,
    session: onnxruntime.InferenceSession,
    draw: Probe,
    *,
    time: str | None = None,
    sizes: Sequence[int] = SIZES,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    relative: Collection[str] = (),
) -> Parity:
    """Compare the graph with the module at each batch size, and each row in its batch with the same row alone.

    Args:
        network: in evaluation mode; called with the drawn inputs in order.
        time: the input whose values are named in errors.
        relative: outputs whose errors are in units of the largest number of a call: gradients may be of any size.

    Raises:
        ParityError: at the first batch size where either comparison exceeds the tolerance.
    """
    names = [output.name for output in session.get_outputs()]
    generator = torch.Generator().manual_seed(seed)
    worst, mixing = dict.fromkeys(names, 0.0), 0.0
    for size in sizes:
        feeds = draw(size, generator)
        times = feeds[time].flatten().tolist() if time is not None else None
        expected = _module(network, feeds, names)
        got = _graph(session, names, {name: value.numpy() for name, value in feeds.items()})
        rows = [{name: value[i : i + 1].numpy() for name, value in feeds.items()} for i in range(size)]
        alone = [_graph(session, names, row) for row in rows]
        for name in names:
            if got[name].shape != expected[name].shape or got[name].shape[:1] != (size,):
                shapes = f"{list(expected[name].shape)} from the module and {list(got[name].shape)} from the graph"
                raise ParityError(f"output {name!r} at batch size {size}: expected [{size}, ...], got {shapes}")
            errors = row_errors(got[name], expected[name], relative=name in relative)
            worst[name] = max(worst[name], float(errors.max()))
            if worst[name] > tolerance:
                what = f"output {name!r} of the graph differs from the module's"
                raise ParityError(_text(what, errors, tolerance, times))
            together = np.concatenate([one[name] for one in alone])
            errors = row_errors(got[name], together, relative=name in relative)
            mixing = max(mixing, float(errors.max()))
            if mixing > tolerance:
                what = f"output {name!r} of a row depends on the other rows of its batch"
                if time is not None:
                    what += f" (is {time!r} used as one time for all of them?)"
                raise ParityError(_text(what, errors, tolerance, times))
    return Parity(worst, mixing, sum(sizes), tuple(sizes), tolerance)


def row_errors(got: np.ndarray, expected: np.ndarray, *, relative: bool = False) -> np.ndarray:
    """[B, ...] twice -> [B]: each row's worst |got - expected| / (1 + |expected|); inf - inf is 0, NaN is inf.

    Args:
        relative: divide by the largest |expected| instead.
    """
    a, b = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scale = np.abs(b).max(initial=np.finfo(np.float32).tiny) if relative else 1 + np.abs(b)
        error = np.where(a == b, 0.0, np.abs(a - b) / scale)
    return np.nan_to_num(error, nan=np.inf, posinf=np.inf).reshape(len(a), -1).max(axis=1)


def _module(network: nn.Module, feeds: Mapping[str, Tensor], names: Sequence[str]) -> Arrays:
    with torch.no_grad():
        output = network(*feeds.values())
    outputs = [output] if isinstance(output, Tensor) else list(output)
    if len(outputs) != len(names):
        raise ParityError(f"outputs: expected {len(outputs)} as the module gives, got {len(names)}: {', '.join(names)}")
    return {name: value.detach().cpu().numpy() for name, value in zip(names, outputs, strict=True)}


def _graph(session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Arrays) -> Arrays:
    # an exporter drops inputs that no output depends on
    known = {value.name for value in session.get_inputs()}
    try:
        outputs = session.run(list(names), {name: value for name, value in feeds.items() if name in known})
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        size = len(next(iter(feeds.values())))
        raise ParityError(f"the graph does not run on batch size {size}: {' '.join(str(error).split())}") from error
    return dict(zip(names, outputs, strict=True))


def _text(what: str, errors: np.ndarray, tolerance: float, times: Sequence[float] | None) -> str:
    bad = np.flatnonzero(errors > tolerance)
    rows = [f"{i} (t={times[i]:.4g})" if times is not None else str(i) for i in bad[:LISTED].tolist()]
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return (
        f"{what}: worst error {errors.max():.3g} at batch size {len(errors)}, expected at most {tolerance:.3g}; "
        f"{'rows' if len(bad) > 1 else 'row'} {', '.join(rows)}{more}"
    )
