"""Ordinary differential equations: errors and rows against scipy and torchdiffeq, orders, events, stiff fields, bits.

    make bench ARGS="dynamics"

A small neural field (3 -> 64 -> 64 -> 2, tanh) is exported and run by ONNX Runtime, as servers run it, in float64 and
in float32; its trajectories are held against scipy's DOP853 at rtol 1e-12. torchdiffeq is a column of the table if it
is installed. Closed forms: a shrinking turn for orders and events, a saddle for Lyapunov exponents, Mittag-Leffler's
function for fractional derivatives. Stiff fields against scipy's Radau at rtol 1e-10. Exits with 1 if a figure is worse
than its bound.
"""

import importlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from exporters.export import export_model
from serving.backends.ort import OrtNetwork
from serving.backends.sizes import FIXED
from steering.dynamics import SOLVERS, Event, Solution, fit, ftle, pose, solve
from steering.dynamics.run import answering
from steering.sampling.rows import answered

N, SPAN, TIMES = 16, 6.0, 25
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
Field = Callable[..., Tensor]


class Net(nn.Module):
    """A neural field with an oscillating input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return 6 * self.net(torch.cat([z, torch.sin(t[:, None])], -1)) - z


def turning(y: Tensor, t: Tensor) -> Tensor:
    """y = exp(-t / 10) (cos(p + 2 t), sin(p + 2 t))."""
    return torch.stack([-0.1 * y[:, 0] - 2 * y[:, 1], 2 * y[:, 0] - 0.1 * y[:, 1]], 1)


def robertson(y: Tensor, t: Tensor) -> Tensor:
    slow, back, fast = 0.04 * y[:, 0], 1e4 * y[:, 1] * y[:, 2], 3e7 * y[:, 1] * y[:, 1]
    return torch.stack([back - slow, slow - back - fast, fast], 1)


def van_der_pol(y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([y[:, 1], 1000 * (1 - y[:, 0] * y[:, 0]) * y[:, 1] - y[:, 0]], 1)


def served(folder: Path, dtype: torch.dtype) -> Field:
    """The neural field, by ONNX Runtime."""
    examples = {"z": torch.randn(3, 2, dtype=dtype), "t": torch.rand(3, dtype=dtype)}
    export_model(Net().to(dtype), folder, None, examples=examples, outputs=["f"])
    network = OrtNetwork(folder / "1" / "model.onnx", 1)

    def field(y: Tensor, t: Tensor) -> Tensor:
        rows = len(y)  # what vectorised code leaves over at the end of a call rounds otherwise: none is left over
        padded = (nn.functional.pad(y, (0, 0, 0, -rows % FIXED)), nn.functional.pad(t, (0, -rows % FIXED)))
        (out,) = network.run({"z": padded[0].numpy(), "t": padded[1].numpy()}, ["f"])
        return torch.from_numpy(out[:rows])

    return field


def reference(field: Field, y0: Tensor, times: Tensor, method: str, rtol: float) -> Tensor:
    """Trajectories one at a time by scipy."""

    def rate(t: float, y: Any) -> Any:
        return field(torch.from_numpy(y.copy())[None], torch.tensor([t], dtype=torch.float64))[0].numpy()

    span = (float(times[0]), float(times[-1]))
    found = [
        solve_ivp(rate, span, row.numpy(), method=method, t_eval=times.numpy(), rtol=rtol, atol=rtol / 10).y.T
        for row in y0
    ]
    return torch.from_numpy(np.stack(found))


class Verdicts:
    """Figures that must keep their bounds."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def hold(self, what: str, figure: float, bound: float) -> None:
        if not figure <= bound:
            self.missed.append(f"{what}: expected at most {bound:.2g}, got {figure:.2g}")


def by_torchdiffeq(y0: Tensor, times: Tensor, exact: Tensor, tolerance: float) -> str:
    """The same by one step size for all trajectories."""
    try:
        odeint = importlib.import_module("torchdiffeq").odeint
    except ImportError:
        return "not installed"
    calls, net = 0, Net().double()

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return net(y, t.expand(len(y)))

    with torch.no_grad():
        y = odeint(field, y0, times, rtol=tolerance, atol=tolerance, method="dopri5").transpose(0, 1)
    return f"{float((y - exact).abs().max()):.1e} at {calls}"


def accuracy(folder: Path, verdicts: Verdicts) -> None:
    torch.manual_seed(1)
    y0 = torch.randn(N, 2, dtype=torch.float64)
    times = torch.linspace(0, SPAN, TIMES, dtype=torch.float64)
    fine, coarse = served(folder / "net64", torch.float64), served(folder / "net32", torch.float32)
    exact = reference(fine, y0, times, "DOP853", 1e-12)
    print(f"neural field, {N} trajectories to t = {SPAN:g}: greatest error against DOP853 at rows a trajectory")
    print(f"{'rtol = atol':>12} | " + " | ".join(f"{name:>18}" for name in ("tsit5", "dopri5", "bosh3", "torchdiffeq")))
    for tolerance in TOLERANCES:
        cells = []
        for name in ("tsit5", "dopri5", "bosh3"):
            found = solve(fine, y0, times, solver=name, rtol=tolerance, atol=tolerance)
            error, rows = float((found.y - exact).abs().max()), float(found.evaluations.double().mean())
            cells.append(f"{error:.1e} at {rows:.0f}")
            if name == "tsit5" and tolerance == 1e-5:
                verdicts.hold("error of tsit5 at rtol 1e-5", error, 1e-5)
                verdicts.hold("its rows a trajectory", rows, 140)
        cells.append(by_torchdiffeq(y0, times, exact, tolerance))
        print(f"{tolerance:12.0e} | " + " | ".join(f"{cell:>18}" for cell in cells))
    for tolerance in (1e-3, 1e-5, 1e-9):
        found = solve(coarse, y0, times, rtol=tolerance, atol=tolerance, dtype=torch.float32)
        error, rows = float((found.y - exact).abs().max()), float(found.evaluations.double().mean())
        print(f"float32, tsit5, rtol {tolerance:g}: {error:.1e} at {rows:.0f} rows {'; '.join(found.warnings)}")
    there = solve(fine, y0, times, rtol=1e-9, atol=1e-9)
    back = solve(fine, there.y[:, -1], times.flip(0), rtol=1e-9, atol=1e-9)
    print(f"there and back at rtol 1e-9: {float((back.y[:, -1] - y0).abs().max()):.1e}")
    bits(fine, coarse, y0, times, verdicts)


def bits(fine: Field, coarse: Field, y0: Tensor, times: Tensor, verdicts: Verdicts) -> None:
    """Rows of many tolerances and times beside each one alone."""
    rtol = torch.logspace(-3, -6, N, dtype=torch.float64)
    own = times * torch.linspace(0.3, 1, N, dtype=torch.float64)[:, None]
    other = 0
    for name in ("tsit5", "dopri5", "bosh3", "esdirk4"):
        for field, dtype in ((fine, torch.float64), (coarse, torch.float32)):
            together = solve(field, y0, own, solver=name, rtol=rtol, atol=rtol, dtype=dtype)
            for i in range(N):
                alone = solve(
                    field, y0[i : i + 1], own[i : i + 1], solver=name, rtol=rtol[i], atol=rtol[i], dtype=dtype
                )
                other += not torch.equal(alone.y[0], together.y[i])
    print(f"rows of 16 tolerances and spans, 4 solvers, 2 precisions: {other} of {8 * N} differ from the row alone")
    verdicts.hold("rows that differ from the row alone", other, 0)


def orders(verdicts: Verdicts) -> None:
    y0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    turn = torch.tensor([[-0.1, -2.0], [2.0, -0.1]], dtype=torch.float64)
    exact = y0 @ torch.matrix_exp(2 * turn).T
    said = []
    for name, steps in (("euler", (400, 800)), ("heun", (100, 200)), ("rk4", (40, 80))):
        errors = [
            float((solve(turning, y0, [0.0, 2.0], solver=name, dt=2 / n).y[:, -1] - exact).abs().max()) for n in steps
        ]
        order = math.log2(errors[0] / errors[1])
        said.append(f"{name} {order:.2f}")
        verdicts.hold(f"order of {name}", abs(order - SOLVERS[name].order), 0.15)
    print("orders by slope: " + ", ".join(said))


def events(verdicts: Verdicts) -> None:
    phase = torch.linspace(0.2, 6, 30, dtype=torch.float64)
    y0 = torch.stack([phase.cos(), phase.sin()], 1)
    exact = torch.remainder(math.pi - phase, 2 * math.pi) / 2
    for what, event, network in (
        ("a coordinate", Event(1, direction=-1), None),
        ("a network", Event(direction=-1), lambda y, t: torch.tanh(y[:, 1])),
    ):
        problem = pose(SOLVERS["tsit5"], y0, [0.0, 6.0], rtol=1e-11, atol=1e-11, events=[event])
        rows: Counter[str] = Counter()
        answer = answering(problem, turning, event=network)

        def counted(ask: Any, rows: Counter[str] = rows, answer: Any = answer) -> Any:
            rows[ask.part] += len(ask)
            return answer(ask)

        found: Solution = answered(SOLVERS["tsit5"].program(problem), counted)
        error = float((found.t_event[:, 0] - exact).abs().max())
        sought = rows["event"] - int(found.accepted.sum()) - len(y0)
        seeking = f", {sought / len(y0):.1f} rows to locate each" if network else ""
        print(f"events of {what} at rtol 1e-11: greatest error of the time {error:.1e}{seeking}")
        verdicts.hold(f"time of events of {what}", error, 1e-8)


def stiff(verdicts: Verdicts) -> None:
    for name, field, start, times, bound in (
        ("Robertson", robertson, [1.0, 0.0, 0.0], [0.0, 0.4, 40.0, 4000.0], 1e-3),
        ("van der Pol, mu = 1000", van_der_pol, [2.0, 0.0], [0.0, 500.0, 1000.0, 1500.0], 3e-3),
    ):
        y0, t = torch.tensor([start], dtype=torch.float64), torch.tensor(times, dtype=torch.float64)
        exact = reference(field, y0, t, "Radau", 1e-10)
        for dtype in (torch.float64, torch.float32):
            cells = []
            for tolerance in (1e-4, 1e-6):
                found = solve(field, y0, t, solver="esdirk4", rtol=tolerance, atol=tolerance * 1e-4, dtype=dtype)
                error = float(((found.y - exact).abs()[..., 0] / exact.abs()[..., 0]).max())
                cells.append(f"rtol {tolerance:g}: {error:.1e} at {int(found.evaluations)} rows")
                if tolerance == 1e-6:
                    verdicts.hold(f"{name}, {dtype}", error, bound)
            print(f"{name}, esdirk4, {str(dtype)[6:]}: relative error of y_0: " + "; ".join(cells))
        explicit = solve(field, y0, t, rtol=1e-4, atol=1e-8, max_steps=2000)
        print(f"{name}, tsit5: {int(explicit.evaluations)} rows and got to t = {float(explicit.t_last):.3g}")


def others(verdicts: Verdicts) -> None:
    points = torch.randn(20, 2, dtype=torch.float64)
    found = ftle(lambda y, t: torch.stack([y[:, 0], -y[:, 1]], 1), points, [0.0, 3.0])
    error = float((found.exponents[:, 1, 0] - 1).abs().max())
    print(f"Lyapunov exponent of a saddle (1): greatest error {error:.1e}")
    verdicts.hold("exponent of a saddle", error, 1e-7)
    times = torch.linspace(0, 6, 13, dtype=torch.float64)
    rates = torch.tensor([1.1, 0.7, 0.4, 0.8], dtype=torch.float64)

    def hunting(y: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return torch.stack([y[:, 0] * (r[:, 0] - r[:, 1] * y[:, 1]), y[:, 1] * (r[:, 2] * y[:, 0] - r[:, 3])], 1)

    y0 = torch.tensor([[1.0, 0.5], [0.6, 1.2]], dtype=torch.float64)
    seen = solve(hunting, y0, times, rtol=1e-10, atol=1e-10, condition={"r": rates[None]}).y
    fitted, named = fit(hunting, y0, times, seen, {"r": torch.tensor([0.8, 1.0, 0.6, 0.5])})
    error = float((named["r"] / rates - 1).abs().max())
    print(
        f"Lotka-Volterra, 4 rates fitted: relative error {error:.1e}, {fitted.iterations} solves, "
        f"{fitted.evaluations} rows"
    )
    verdicts.hold("fitted rates", error, 1e-6)
    for alpha in (0.5,):
        errors = []
        for steps in (50, 100, 200):
            grid = 2 * (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (2 / alpha)
            y = solve(lambda y, t: -y, torch.ones(1, 1), grid, solver="fractional", alpha=alpha).y
            errors.append(abs(float(y[0, -1, 0]) - math.exp(2) * math.erfc(math.sqrt(2))))
        print(
            f"D^{alpha} y = -y at t = 2 by 50, 100, 200 steps that crowd at the start: "
            + ", ".join(f"{each:.1e}" for each in errors)
        )


def cost(sizes: Sequence[tuple[int, int]]) -> None:
    """What a step takes beside the field."""
    for n, d in sizes:
        torch.manual_seed(0)
        spin = torch.randn(d, d, dtype=torch.float64) / d**0.5
        spin = spin - spin.T
        spent = calls = 0.0

        def field(y: Tensor, t: Tensor, spin: Tensor = spin) -> Tensor:
            nonlocal spent, calls
            began = time.thread_time()
            out = y @ spin.T
            spent, calls = spent + time.thread_time() - began, calls + 1
            return out

        began = time.thread_time()
        found = solve(field, torch.randn(n, d, dtype=torch.float64), [0.0, 10.0])
        host = time.thread_time() - began - spent
        steps, rows = int((found.accepted + found.rejected).max()), int(found.evaluations.sum())
        print(
            f"host, {n} trajectories of {d} numbers: {host / steps * 1e6:.0f} us a step of all, "
            f"{host / rows * 1e6:.1f} us a row"
        )


def main(
    host: Annotated[bool, typer.Option(help="Measure what a step costs the host, too.")] = True,
) -> None:
    torch.set_num_threads(1)
    verdicts = Verdicts()
    with tempfile.TemporaryDirectory() as folder:
        accuracy(Path(folder), verdicts)
    orders(verdicts)
    events(verdicts)
    stiff(verdicts)
    others(verdicts)
    if host:
        cost(((1, 2), (16, 2), (16, 64), (256, 64), (64, 784)))
    if verdicts.missed:
        print("\n".join(verdicts.missed))
        raise SystemExit(1)
    print("every figure keeps its bound")


if __name__ == "__main__":
    typer.run(main)
