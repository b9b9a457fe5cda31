"""Measured when a graph is loaded: seconds of calls by size, and sizes at which a row gets other bits.

Vectorised exponentials and sines run over a batch's numbers in strides; other code, with other rounding, computes the
remainder at the end. So if rows are short, a row's last bits depend on the number of rows. Such sizes are not used.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from serving.backends import Array, Backend, OutOfMemoryError, UnavailableError
from serving.backends.costs import Costs
from serving.backends.made_up import Feeds, MadeUp

REFERENCE = 32
"""Rows of the reference call, whose bits all other sizes must give."""
SHORT, TRIALS, TRIALS_S = 1024, 64, 1.5
"""Graphs with fewer than SHORT numbers a row are tried TRIALS times, or for TRIALS_S seconds; others once."""
WARM = 3
"""Trials before times are compared: times of small calls are mostly noise."""
VECTOR = 16
"""Calls of a multiple of this many rows leave no remainder, whatever a row's length."""
CHEAP = 3.0
"""Only such calls are used if their smallest costs at most this many times the smallest of all."""
GAIN = 0.95
"""Beyond the reference, calls grow while doubling the rows lowers a row's price to less than this share."""
LONGEST_S = 0.25
"""Longest call in seconds: a longer one delays all other requests, however cheap its rows."""

LENGTHS = (7, 16)
"""Lengths that are tried where rows have one that varies: a row's remainder depends on it."""


def measured(backend: Backend, most: int, made_up: MadeUp | None = None) -> Costs:
    """Seconds of calls of up to `most` rows, up to the largest worthwhile size, at sizes that keep a row's bits.

    Where rows have a length that varies, the seconds are those of short ones; the engine learns what others take.

    Args:
        made_up: inputs that the graph accepts; None to find some.
    """
    sizes = backend.sizes(most)
    guessed = Costs.guessed(sizes).up_to(REFERENCE)
    try:
        made_up = made_up or MadeUp.accepted(backend, most=sizes[-1])
        if not any(axis is None for each in backend.inputs for axis in each.row):
            return _measured(backend, sizes, [made_up])
        # longer rows may make dear what seemed worthwhile
        return _measured(backend, guessed.sizes, [replace(made_up, length=length) for length in LENGTHS])
    except (OutOfMemoryError, UnavailableError):
        raise
    except Exception:  # values or lengths that are refused, which a graph says in any way
        return guessed


def _measured(backend: Backend, sizes: Sequence[int], inputs: Sequence[MadeUp]) -> Costs:
    """`measured`, with these inputs in turn."""
    seeds = itertools.count()
    numbers = sum(math.prod(axis or inputs[0].length for axis in each.row) for each in backend.inputs)
    short = numbers < SHORT and backend.invariant

    def draw(rows: int, trial: int = -1) -> Feeds:
        return inputs[trial % len(inputs)].draw(rows, next(seeds))

    largest = _worthwhile(backend, sizes, draw)
    tried = [size for size in sizes if size <= largest]
    seconds = dict.fromkeys(tried, math.inf)
    uneven: set[int] = set()
    for trial in range(WARM if short else len(inputs)):
        _try_sizes(backend, tried, draw(max(REFERENCE, largest), trial), seconds, uneven)
    whole = [size for size in tried if size % VECTOR == 0]
    if short and whole and seconds[whole[0]] <= CHEAP * seconds[tried[0]]:
        tried = whole  # a trial may miss rare differences; these sizes have none
    trial, end = WARM, time.monotonic() + TRIALS_S
    while short and trial < TRIALS and time.monotonic() < end:
        trial += 1
        _try_sizes(backend, tried, draw(max(REFERENCE, largest), trial), seconds, uneven)
    even = [size for size in tried if size not in uneven] or tried[-1:]
    return Costs({size: seconds[size] for size in even})


def _worthwhile(backend: Backend, sizes: Sequence[int], draw: Callable[[int], Feeds]) -> int:
    """The largest worthwhile size."""
    best, best_s, done = sizes[0], math.inf, 0
    for size in sizes:
        if size < 2 * done and size != sizes[-1]:
            continue
        done = size
        feeds = draw(size)
        try:
            cost = min(_timed(backend, feeds)[0] for _ in range(3))
        except OutOfMemoryError:
            break
        if size > REFERENCE and cost / size > GAIN * best_s:
            break
        best, best_s = size, min(best_s, cost / size)
        if 2 * cost > LONGEST_S and (backend.invariant or size >= REFERENCE):
            break
    return best


def _try_sizes(
    backend: Backend, sizes: Sequence[int], feeds: Feeds, seconds: dict[int, float], uneven: set[int]
) -> None:
    """Time each size at both ends of the reference, and compare its rows with the reference's."""
    expected = _timed(backend, _rows(feeds, 0, REFERENCE))[1] if backend.invariant else None
    for size in sizes:
        for first in (0, max(0, REFERENCE - size)):
            cost, outputs = _timed(backend, _rows(feeds, first, first + size))
            seconds[size] = min(seconds[size], cost)
            if expected is not None and any(
                not _equal(a[:REFERENCE], b[first : first + size]) for a, b in zip(outputs, expected, strict=True)
            ):
                uneven.add(size)
        if backend.invariant and size > REFERENCE:
            last = _timed(backend, _rows(feeds, size - REFERENCE, size))[1]
            if any(not _equal(a[-REFERENCE:], b) for a, b in zip(outputs, last, strict=True)):
                uneven.add(size)


def _timed(backend: Backend, feeds: Feeds) -> tuple[float, list[Array]]:
    start = time.perf_counter()
    outputs = backend.run(feeds, [each.name for each in backend.outputs])
    return time.perf_counter() - start, outputs


def _rows(feeds: Feeds, first: int, stop: int) -> Feeds:
    return {name: value[first:stop] for name, value in feeds.items()}


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
