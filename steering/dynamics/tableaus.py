"""Coefficients of explicit Runge-Kutta methods.

k_1 = f(t, y),   k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),   y' = y + h sum_i b_i k_i
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Attributes: order of y'; a: rows of stages 2, 3, ..., of 1, 2, ... entries; c: their times; b: weights."""

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row


EULER = Tableau(1, (), (), (1.0,))
HEUN = Tableau(2, (1.0,), ((1.0,),), (0.5, 0.5))
"""The explicit trapezoidal rule (Heun 1900)."""
RK4 = Tableau(4, (0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method (Kutta 1901)."""


@dataclass(frozen=True)
class Pair(Tableau):
    """An embedded pair whose last stage is at y', so that its slope is the first of the next step.

    Attributes:
        error: weights of the slopes in y' less the other estimate.
        dense: of every slope, the coefficients of part, part^2, ... in its weight on the way: the interpolant.
    """

    error: Row
    dense: tuple[Row, ...]

    def weights(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """The slopes' weights [m, s] at parts [m] of the step."""
        column, total = part[:, None], np.zeros((len(part), len(self.dense)))
        for coefficients in np.array(self.dense).T[::-1]:
            total = (total + coefficients) * column
        return total


def _product(factor: float, *polynomials: Row) -> Row:
    """factor times polynomials [constant, linear, ...], without the constant of the result, which is 0."""
    total = np.array([factor])
    for each in polynomials:
        total = np.convolve(total, each)
    return tuple(float(v) for v in np.pad(total[1:], (0, 5 - len(total))))


TSIT5 = Pair(
    order=5,
    c=(0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0),
    error=(
        -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629, 0.5823571654525552,
        -0.45808210592918697, 1 / 66,
    ),
    dense=(
        _product(-1.0530884977290216, (0, 1), (-1.3299890189751412, 1), (0.7139816917074209, -1.4364028541716351, 1)),
        _product(0.1017, (0, 0, 1), (1.2949852507374631, -2.1966568338249754, 1)),
        _product(2.490627285651252793, (0, 0, 1), (1.57803468208092486, -2.38535645472061657, 1)),
        _product(-16.54810288924490272, (0, 0, 1), (-1.21712927295533244, 1), (-0.61620406037800089, 1)),
        _product(47.37952196281928122, (0, 0, 1), (-1.203071208372362603, 1), (-0.658047292653547382, 1)),
        _product(-34.87065786149660974, (0, 0, 1), (-1.2, 1), (-0.666666666666666667, 1)),
        _product(2.5, (0, 0, 1), (-1, 1), (-0.6, 1)),
    ),
)  # fmt: skip
"""Tsitouras 2011, Computers & Mathematics with Applications 62, 770; its interpolant of order 4."""

DOPRI5 = Pair(
    order=5,
    c=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dense=(
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
)
"""Dormand & Prince 1980, J. Comp. Appl. Math. 6, 19; Shampine's interpolant of order 4 (1986, Math. Comp. 46, 135)."""


def _hermite(b: Row) -> tuple[Row, ...]:
    """The cubic through both states with both slopes, as weights of the slopes."""
    rows = [[0.0, 3 * weight, -2 * weight] for weight in b]
    rows[0] = [rows[0][0] + 1, rows[0][1] - 2, rows[0][2] + 1]
    rows[-1] = [rows[-1][0], rows[-1][1] - 1, rows[-1][2] + 1]
    return tuple(tuple(row) for row in rows)


BOSH3 = Pair(
    order=3,
    c=(1 / 2, 3 / 4, 1.0),
    a=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    dense=_hermite((2 / 9, 1 / 3, 4 / 9, 0.0)),
)
"""Bogacki & Shampine 1989, Appl. Math. Lett. 2, 321; the cubic Hermite interpolant."""
