"""UniPC: algorithms 1 and 2 of its paper written out, where B(h) counts, and orders."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.plan import Node

from ..conftest import CLOSED_PATHS, PATHS
from ..test_solvers import GAUSSIAN, MIXTURE, flowed, slopes, start

Network = Callable[[Tensor, Tensor], Tensor]


def combination(lambdas: list[float], values: list[Tensor], h: float, bh: int, halved: bool) -> Tensor:
    """B(h) sum_m a_m (D_m - D_s) / r_m, s first; r_m = (lambda_m - lambda_s) / h (arXiv:2302.04867, section 3.2).

    a solves sum_m r_m^(n-1) a_m = n! (-h) phi_(n+1)(-h) / B(h), n = 1, 2, ..., or is 1/2.
    """
    b_h = -h if bh == 1 else math.expm1(-h)
    r = torch.tensor([(other - lambdas[0]) / h for other in lambdas[1:]], dtype=torch.float64)
    count = len(r)
    rows, right = [], []
    phi = math.expm1(-h) / -h  # phi_1(-h), and phi_(n+1)(z) = (phi_n(z) - 1 / n!) / z
    for n in range(1, count + 1):
        phi = (phi - 1 / math.factorial(n)) / -h
        rows.append(r ** (n - 1))
        right.append(math.factorial(n) * phi * -h / b_h)
    a = torch.linalg.solve(torch.stack(rows), torch.tensor(right, dtype=torch.float64))
    a = torch.full_like(a, 0.5) if halved else a
    terms = [a[m] * (value - values[0]) / r[m] for m, value in enumerate(values[1:])]
    return b_h * torch.stack(terms).sum(dim=0)


def unipc(p: int, bh: int, nodes: tuple[Node, ...], network: Network, x: Tensor) -> Tensor:
    """UniP (algorithm 2) and, after every step but the last, UniC (algorithm 1) for data prediction."""

    def denoised(x: Tensor, node: Node) -> Tensor:
        return network(x, torch.full(x.shape[:1], node.t, dtype=torch.float64))

    lambdas, values = [nodes[0].log_snr], [denoised(x, nodes[0])]  # newest first
    for i in range(1, len(nodes)):
        s, t, order = nodes[i - 1], nodes[i], min(p, i)
        h = t.log_snr - s.log_snr
        base = t.sigma / s.sigma * x - t.alpha * math.expm1(-h) * values[0]
        x = base
        if order > 1:
            x = base - t.alpha * combination(lambdas[:order], values[:order], h, bh, halved=order == 2)
        if i < len(nodes) - 1:
            new = denoised(x, t)
            levels, known = [*lambdas[:order], t.log_snr], [*values[:order], new]
            x = base - t.alpha * combination(levels, known, h, bh, halved=order == 1)
            lambdas, values = [t.log_snr, *lambdas], [new, *values]
    return x


@pytest.mark.parametrize("bh", [1, 2])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("name", CLOSED_PATHS)
def test_it_is_what_the_paper_writes(name: str, p: int, bh: int):
    path = PATHS[name]
    network, x_init = MIXTURE.network(path), start(path, 2)
    for steps in (1, 2, 3, 8):
        plan = steering.plan(f"unipc_{p}", path=path, steps=steps, prediction="x0", bh=bh)
        x = steering.run(plan, network, (16, 2), x_init=x_init, dtype=torch.float64, tile=None)
        torch.testing.assert_close(x, unipc(p, bh, plan.nodes, network, x_init), rtol=1e-8, atol=1e-8)


def test_b_counts_only_where_a_weight_is_set_to_a_half(path: Path):
    """UniPC-3: in the corrector of its first step and the predictor of its second."""
    one, other = (steering.plan("unipc_3", path=path, steps=8, prediction="x0", bh=bh) for bh in (1, 2))
    alike = [a.update == b.update for a, b in zip(one.stages, other.stages, strict=True)]
    assert alike == [False, False, True, True, True, True, True, True]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_order_is_one_more_than_the_predictors_with_the_other_b_too(p: int):
    path, errors = PATHS["vp_cosine"], []
    network, x_init = GAUSSIAN.network(path), start(path, 3)
    for steps in (100, 200, 400):
        plan = steering.plan(f"unipc_{p}", path=path, steps=steps, prediction="x0", bh=1)
        x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64, tile=None)
        errors.append(float((x - flowed(path, x_init)).norm()))
    assert slopes(errors) == pytest.approx([p + 1] * 2, abs=0.25)
    assert steering.solvers[f"unipc_{p}"].order == p + 1


@pytest.mark.parametrize("p", [2, 3])
def test_from_a_state_midway_the_first_step_leaves_order_3(p: int):
    path = PATHS["vp_cosine"].between(1e-3, 0.5)
    network, x_init, errors = GAUSSIAN.network(path), start(path, 3), []
    for steps in (40, 80, 160):
        plan = steering.plan(f"unipc_{p}", path=path, steps=steps, prediction="x0")
        x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64, tile=None)
        errors.append(float((x - flowed(path, x_init)).norm()))
    assert slopes(errors) == pytest.approx([3, 3], abs=0.15)


def test_there_are_two_choices_of_b():
    for bh, complaint in ((1.5, "bh: expected 1, B"), (3, r"bh: expected a number in 1\.\.2, got 3")):
        with pytest.raises(PlanError, match=complaint):
            steering.plan("unipc_2", path=PATHS["edm"], steps=4, prediction="x0", bh=bh)
