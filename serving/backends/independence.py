"""Tried when a graph is loaded: whether a row's outputs depend on nothing but that row's inputs.

The engine puts rows of strangers into one call, fills it up with copies, and runs a request again after a crash. A
graph that takes a mean over its first axis, uses one time for all rows, or draws noise gives wrong numbers then.

What rounding does is told apart from that:

- At one number of rows and in one place, a row goes through the same operations whatever the other rows are. So no more
  than its last digits may change, which some kernels round by where the numbers lie in memory. Other rows that are
  huge, infinite or NaN make a weak influence strong.
- In another place, or among another number of rows, a row may be rounded otherwise (see `profiling`). A difference
  counts if it is large beside the row and beside what a change in the inputs' last digits makes, and if it is there in
  one place for several inputs: then it is no digit on an edge.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.backends import Array, Backend, OutOfMemoryError, UnavailableError
from serving.backends.made_up import ROWS as FEW
from serving.backends.made_up import Feeds, MadeUp, RefusedError

ROWS, MORE = 5, 17
"""Rows of most calls, and of some if they are cheap."""
CHEAP_S = 0.25
"""Seconds within which calls of more rows are tried."""
AGAIN_S, MOST_DRAWS = 0.05, 8
"""Seconds within which other rows are exchanged for others once more, and how often at most."""
SLOW_S = 0.2
"""Seconds of a row from which on as few rows as possible are run."""
EPSILON = 2.0**-23
SAME, SAME_ELSEWHERE = 16 * EPSILON, 1e-3
"""Differences that count at one number of rows, as shares of the row: of backends whose rounding is known, and others,
such as another server, which may put the rows into calls of its own."""
MOVED, FLOOR = 1e-4, 4 * EPSILON
"""Differences that count between numbers of rows: as a share of the row, and whatever the row is."""
NUDGE, NUDGED = 4, 16.0
"""How many of their last digits inputs are changed by, and how many times the effect of that does not count."""
DRAWS = 3
"""Inputs for which a difference between numbers of rows must be there."""
TRIES = 16
"""Draws of which a graph should accept one."""
HUGE = 1e4

Kind = Literal["rows", "neighbours", "size", "again"]


@dataclass(frozen=True)
class Fault:
    """Why rows are not independent.

    Attributes:
        text: what came, on one line.
        feeds: two calls that differ: one again, the same with other neighbours, or the same rows among more.
        finite: whether it shows among finite values.
    """

    kind: Kind
    output: str
    text: str
    feeds: tuple[Feeds, Feeds]
    finite: bool = True


def examine(
    backend: Backend, made_up: MadeUp, outputs: Sequence[str], most: int, *, gently: bool = False
) -> Fault | None:
    """Why rows are not independent in these outputs; None if they are.

    Args:
        most: the most rows of a call.
        gently: send neither NaN nor infinities, and no huge times: indices made of them may not be checked there.

    Raises:
        RefusedError: it refuses too many made-up values to be tried.
        OutOfMemoryError, UnavailableError: as `Backend.run`.
    """
    try:
        _Trial(backend, made_up, outputs, backend.sizes(most), gently).run()
    except _FoundError as found:
        return found.fault
    return None


class _FoundError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Trial:
    def __init__(
        self, backend: Backend, made_up: MadeUp, outputs: Sequence[str], sizes: Sequence[int], gently: bool
    ) -> None:
        self._backend, self._made_up, self._outputs, self._sizes = backend, made_up, outputs, sizes
        self._gently = gently
        self._same = SAME if backend.invariant else SAME_ELSEWHERE
        self._rng, self._seeds = np.random.default_rng(1), itertools.count(1)

    def run(self) -> None:
        """Raises _FoundError at the first fault."""
        most = self._sizes[-1]
        feeds, expected = self._accepted(min(FEW, most))
        start = time.perf_counter()
        again = self._call(feeds, feeds)
        row_s = (time.perf_counter() - start) / len(again[0])
        self._compare("again", again, expected, range(len(again[0])), feeds, feeds)
        slow = row_s > SLOW_S
        if not slow and most > FEW:
            feeds, expected = self._accepted(min(ROWS, most))
        rows = len(expected[0])
        masks = [[bool(i >> k & 1) for i in range(rows)] for k in range((rows - 1).bit_length())]
        end = time.perf_counter() + AGAIN_S
        for draw in range(MOST_DRAWS if rows > 1 else 0):
            if draw and time.perf_counter() > end:
                break
            self._neighbours(feeds, expected, masks)
        self._extremes(feeds, expected, (_infinite,) if slow else (_huge, _infinite))
        numbers = [1, 2, 3]
        for more in sorted({MORE, most}):
            if ROWS < more <= most and 3 * more * row_s < CHEAP_S:
                many = take(feeds, np.arange(more) % rows)
                try:
                    self._neighbours(many, self._call(many, feeds), [list(self._rng.random(more) < 0.5)])
                except OutOfMemoryError:
                    break
                numbers.append(more)
        self._sizes_and_places(feeds, expected, [each for each in numbers if each <= most])

    def _accepted(self, rows: int) -> tuple[Feeds, list[Array]]:
        """Values that the graph accepts, and the outputs for them."""
        for _ in range(TRIES):
            feeds = self._made_up.draw(rows, next(self._seeds))
            if (found := self._outcome(feeds)) is not None:
                return feeds, self._checked(found, feeds, feeds)
        few = min(FEW, rows)
        alone = (self._outcome(take(feeds, np.full(few, row))) for row in range(rows))
        if any(each is None for each in alone):
            raise RefusedError(RuntimeError("some values are refused"), None)
        text = f"a call of {rows} rows that fails, though its rows run in calls of {few}"
        raise _FoundError(Fault("size", self._outputs[0], text, (take(feeds, np.arange(few)), feeds)))

    def _neighbours(self, feeds: Feeds, expected: Sequence[Array], masks: Sequence[Sequence[bool]]) -> None:
        """Exchange the rows of each mask: neither these nor the others may change but by that."""
        rows = len(masks[0])
        for _ in range(TRIES):
            other = self._made_up.others(feeds, next(self._seeds))
            if (found := self._outcome(other)) is not None:
                break
        else:
            return  # by chance, values that the graph refuses
        there = self._checked(found, other, other)
        for mask in masks:
            mixed = exchanged(feeds, other, mask)
            got = self._call(mixed, feeds)
            self._compare("neighbours", got, expected, [i for i in range(rows) if not mask[i]], feeds, mixed)
            self._compare("neighbours", got, there, [i for i in range(rows) if mask[i]], other, mixed)

    def _extremes(self, feeds: Feeds, expected: Sequence[Array], extremes: Sequence[Callable[[Array], Array]]) -> None:
        """Put NaN and infinities, and huge numbers, into every other row: the rest must not change."""
        rows = len(next(iter(feeds.values())))
        least = 2 if self._gently else 1  # times have one axis
        varying = self._made_up.varying
        floats = [
            name for name in feeds if feeds[name].dtype.kind == "f" and name in varying and feeds[name].ndim >= least
        ]
        if not floats:
            return
        for extreme in (_huge,) if self._gently else extremes:  # huge first: what is found so is so for finite rows
            for names in (floats, *([name] for name in floats if len(floats) > 1)):
                refused = False
                for first in (0, 1):
                    mask = [i % 2 == first for i in range(rows)]
                    changed = feeds | {name: extreme(feeds[name]) for name in names}
                    mixed = exchanged(feeds, changed, mask)
                    if (found := self._outcome(mixed)) is None:
                        refused = True  # such as an index made from NaN
                        continue
                    rest = [i for i in range(rows) if not mask[i]]
                    got = self._checked(found, mixed, feeds)
                    self._compare("neighbours", got, expected, rest, feeds, mixed, finite=extreme is _huge)
                if not refused:
                    break

    def _sizes_and_places(self, feeds: Feeds, expected: Sequence[Array], numbers: Sequence[int]) -> None:
        """Run rows in other places among other numbers of rows: differences larger than rounding may not last."""
        rows = len(next(iter(feeds.values())))
        lasting: dict[tuple[int, str], tuple[NDArray[np.bool_], Feeds]] = {}
        for draw in range(DRAWS):
            if draw:
                feeds, expected = self._accepted(rows)
            for number in numbers:
                places = _places(number, rows)
                call = take(feeds, places)
                got = self._outcome(call)
                if number not in self._sizes and (got is None or _miscounted(got, number)):
                    continue  # no call has so few rows
                got = self._call(call, feeds) if got is None else self._checked(got, call, feeds)
                limits = self._limits(MOVED, FLOOR, expected, feeds, got, places)
                for name, off in zip(self._outputs, limits, strict=True):
                    before = lasting.get((number, name))
                    off = off if draw == 0 else off & (np.zeros(number, bool) if before is None else before[0])
                    lasting[number, name] = off, call
            if not any(off.any() for off, _ in lasting.values()):
                return
        for (number, name), (off, call) in lasting.items():
            if off.any():
                text = f"one that changes with its place in a call, or between calls of {rows} and of {number} rows"
                raise _FoundError(Fault("size", name, text, (feeds, call)))

    def _limits(
        self,
        share: float,
        floor: float,
        expected: Sequence[Array],
        feeds: Feeds,
        got: Sequence[Array],
        rows: NDArray[np.int64],
    ) -> list[NDArray[np.bool_]]:
        """Whether each row of `got` differs from the given rows of `expected` by more than rounding, by output."""
        differences = [_difference(a, b[rows]) for a, b in zip(got, expected, strict=True)]
        off = [difference > share * scale + floor for difference, scale in differences]
        if any(each.any() for each in off):
            shaken = self._shaken(feeds, expected)
            for each, (difference, _), effect in zip(off, differences, shaken, strict=True):
                each &= ~(difference <= NUDGED * effect[rows])
        return off

    def _shaken(self, feeds: Feeds, expected: Sequence[Array]) -> list[NDArray[np.float64]]:
        """[n] by output: how much rows change with the last digits of their inputs."""
        effects = [np.zeros(len(each)) for each in expected]
        for _ in range(2):
            nudged = dict(feeds)
            for name, value in feeds.items():
                if value.dtype.kind == "f":
                    rowwise = name in self._made_up.varying
                    signs = self._rng.choice([-1.0, 1.0], value.shape if rowwise else value.shape[1:])
                    step = NUDGE * float(np.spacing(np.ones(1, value.dtype))[0]) * signs
                    nudged[name] = (value.astype(np.float64) * (1 + step)).astype(value.dtype)
            found = self._outcome(nudged)
            if found is not None and not _miscounted(found, len(expected[0])):
                for effect, a, b in zip(effects, found, expected, strict=True):
                    difference = _difference(a, b)[0]
                    np.maximum(effect, np.where(np.isfinite(difference), difference, 0), out=effect)
        return effects

    def _compare(
        self,
        kind: Kind,
        got: Sequence[Array],
        expected: Sequence[Array],
        rows: Sequence[int],
        feeds: Feeds,
        other: Feeds,
        *,
        finite: bool = True,
    ) -> None:
        """Raises _FoundError where rows of one call differ from the same rows of another of equal size."""
        at = np.array(list(rows), np.int64)
        if all(_equal(a[at], b[at]) for a, b in zip(got, expected, strict=True)):
            return
        off = self._limits(self._same, 0.0, expected, feeds, [each[at] for each in got], at)
        for name, each in zip(self._outputs, off, strict=True):
            if each.any():
                raise _FoundError(Fault(kind, name, _TEXTS[kind], (feeds, other), finite))

    def _call(self, feeds: Feeds, before: Feeds) -> list[Array]:
        """The outputs of a call that must not fail, since its rows are accepted in others."""
        try:
            return self._checked(self._backend.run(feeds, self._outputs), feeds, before)
        except (OutOfMemoryError, UnavailableError, _FoundError):
            raise
        except Exception as error:
            rows, reason = len(next(iter(feeds.values()))), " ".join(str(error).split())
            same = rows == len(next(iter(before.values())))
            kind: Kind = "neighbours" if same else "size"
            text = f"a call of {rows} rows that fails, though its rows run in others: {reason}"
            raise _FoundError(Fault(kind, self._outputs[0], text, (before, feeds))) from None

    def _outcome(self, feeds: Feeds) -> list[Array] | None:
        """The outputs of a call; None if it is refused."""
        try:
            return self._backend.run(feeds, self._outputs)
        except (OutOfMemoryError, UnavailableError):
            raise
        except Exception:
            return None

    def _checked(self, outputs: list[Array], feeds: Feeds, before: Feeds) -> list[Array]:
        """The outputs, which have as many rows as the inputs; else raises _FoundError."""
        rows = len(next(iter(feeds.values())))
        for name, value in zip(self._outputs, outputs, strict=True):
            if value.shape[:1] != (rows,):
                text = f"shape {list(value.shape)} for {rows} rows"
                raise _FoundError(Fault("rows", name, text, (before, feeds)))
        return outputs


_TEXTS: Mapping[Kind, str] = {
    "neighbours": "one that changes with the other rows of its call",
    "again": "others when the same call is run again",
}


def take(feeds: Feeds, rows: Array) -> Feeds:
    """These rows of a call, as a call."""
    return {name: value[rows] for name, value in feeds.items()}


def exchanged(feeds: Feeds, other: Feeds, mask: Sequence[bool]) -> Feeds:
    """A call with the rows of the mask from the other one."""
    at = np.flatnonzero(mask)
    mixed = {name: value.copy() for name, value in feeds.items()}
    for name, value in mixed.items():
        value[at] = other[name][at]
    return mixed


def moved(values: Sequence[Array], feeds: Feeds, call: Feeds) -> bool:
    """Whether a tensor's rows differ between these calls, of which the second has rows of the first in other places."""
    rows, number = (len(next(iter(each.values()))) for each in (feeds, call))
    base, other = map(np.asarray, values)
    if base.shape[:1] != (rows,) or other.shape != (number, *base.shape[1:]):
        return False
    difference, scale = _difference(other, base[_places(number, rows)])
    return bool((difference > MOVED * scale + FLOOR).any())


def _places(number: int, rows: int) -> NDArray[np.int64]:
    """Which of so many rows is in each place of a call of `number` rows: none in its own."""
    return (np.arange(number) + 1) % rows


def _infinite(values: Array) -> Array:
    """NaN and infinity in turn, row by row."""
    found = np.full_like(values, np.nan)
    found[::4] = found[1::4] = np.inf
    return found


def _huge(values: Array) -> Array:
    with np.errstate(over="ignore"):  # infinite is huge too
        return (values.astype(np.float64) * HUGE).astype(values.dtype)


def _difference(got: Array, expected: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] each: the largest difference within a row, and the row's scale: the largest finite number expected."""
    rows = len(expected)
    if got.shape != expected.shape:
        return np.full(rows, np.inf), np.zeros(rows)
    if expected.dtype.kind != "f":
        return np.where((got != expected).reshape(rows, -1).any(axis=1), np.inf, 0.0), np.zeros(rows)
    a, b = (each.reshape(rows, -1).astype(np.float64) for each in (got, expected))
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    scale = np.where(np.isfinite(b), np.abs(b), 0.0)
    return apart.max(axis=1, initial=0.0), scale.max(axis=1, initial=0.0)


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _miscounted(outputs: Sequence[Array], rows: int) -> bool:
    return any(each.shape[:1] != (rows,) for each in outputs)
