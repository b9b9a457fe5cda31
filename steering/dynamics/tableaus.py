"""Coefficients of explicit Runge-Kutta methods.

k_1 = f(t, y),   k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),   y' = y + h sum_i b_i k_i
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steering.numerics import dormand_prince

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
        return interpolant(self.dense, part)


def _product(factor: float, *polynomials: Row) -> Row:
    """factor times polynomials [constant, linear, ...], without the constant of the result, which is 0."""
    total = np.array([factor])
    for each in polynomials:
        total = np.convolve(total, each)
    return tuple(float(v) for v in np.pad(total[1:], (0, 5 - len(total))))


def interpolant(dense: tuple[Row, ...], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """The slopes' weights [m, s] at parts [m] of a step; `dense`: of each the coefficients of part, part^2, ..."""
    column, total = part[:, None], np.zeros((len(part), len(dense)))
    for coefficients in np.array(dense).T[::-1]:
        total = (total + coefficients) * column
    return total


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
    c=dormand_prince.C,
    a=dormand_prince.A,
    b=(*dormand_prince.A[-1], 0.0),
    error=dormand_prince.ERROR,
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


@dataclass(frozen=True)
class Additive:
    """An additive pair: stages z_i = y + h sum_j (explicit_ij f_j + implicit_ij g_j) + h gamma g_i.

    The weights, those of the error and the interpolant are the same for both parts.
    """

    c: Row
    explicit: tuple[Row, ...]
    implicit: tuple[Row, ...]
    b: Row
    error: Row
    dense: tuple[Row, ...]

    def weights(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """The slopes' weights [m, s] at parts [m] of the step."""
        return interpolant(self.dense, part)


GAMMA = 0.25
_B4 = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, GAMMA)
_B3 = (
    4586570599 / 29645900160, 0.0, 178811875 / 945068544, 814220225 / 1159782912, -3700637 / 11593932, 61727 / 225920,
)  # fmt: skip

ARK4 = Additive(
    c=(1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0),
    explicit=(
        (1 / 2,),
        (13861 / 62500, 6889 / 62500),
        (-116923316275 / 2393684061468, -2731218467317 / 15368042101831, 9408046702089 / 11113171139209),
        (
            -451086348788 / 2902428689909, -2682348792572 / 7519795681897, 12662868775082 / 11960479115383,
            3355817975965 / 11060851509271,
        ),
        (
            647845179188 / 3216320057751, 73281519250 / 8382639484533, 552539513391 / 3454668386233,
            3354512671639 / 8306763924573, 4040 / 17871,
        ),
    ),
    implicit=(
        (1 / 4,),
        (8611 / 62500, -1743 / 31250),
        (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
        (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
        _B4[:5],
    ),
    b=_B4,
    error=tuple(better - other for better, other in zip(_B4, _B3, strict=True)),
    dense=(
        (6943876665148 / 7220017795957, -54480133 / 30881146, 6818779379841 / 7100303317025),
        (0.0, 0.0, 0.0),
        (7640104374378 / 9702883013639, -11436875 / 14766696, 2173542590792 / 12501825683035),
        (-20649996744609 / 7521556579894, 174696575 / 18121608, -31592104683404 / 5083833661969),
        (8854892464581 / 2390941311638, -12120380 / 966161, 61146701046299 / 7138195549469),
        (-11397109935349 / 6675773540249, 3843 / 706, -17219254887155 / 4939391667607),
    ),
)  # fmt: skip
"""ARK4(3)6L[2]SA (Kennedy & Carpenter 2003, Applied Numerical Mathematics 44, 139)."""
