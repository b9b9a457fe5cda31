"""A cheap guess of which programs are good: small networks fitted to the ranks of those tried (USF, section 5).

Errors spread over orders of magnitude, so their ranks are what is learned; averaging a few networks steadies the guess.
In float64, rounding does not decide between programs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from steering.program import MAX_ORDER, Program, Target, Variable

NETWORKS = 3
HIDDEN = 64
ITERATIONS = 200
DECAY = 1e-2


def features(programs: Sequence[Program]) -> Float64[Tensor, "k features"]:
    """Gaps, nodes and choices, step by step; an order counts the evaluations there really are."""
    rows = []
    for program in programs:
        row = list(program.fractions[1:-1])
        for i, (choice, (a, b)) in enumerate(zip(program.choices, pairwise(program.fractions), strict=True)):
            order = min(choice.order, i + 1)
            corrected = choice.corrector and i + 1 < program.steps
            row += [math.log((b - a) * program.steps), float(corrected)]
            row += [float(choice.target == each) for each in get_args(Target)]
            row += [float(order > 1 and choice.variable == each) for each in get_args(Variable)]
            row += [float(order == each) for each in range(1, MAX_ORDER + 1)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


class Predictor:
    """Fitted to programs and their errors; `rank` gives lower numbers to better programs."""

    def __init__(self, programs: Sequence[Program], errors: Sequence[float], seed: int) -> None:
        x = features(programs)
        self.mean, self.scale = x.mean(dim=0), x.std(dim=0) + 1e-3
        ranks = torch.tensor(errors, dtype=torch.float64).argsort(stable=True).argsort().to(torch.float64)
        target = (ranks / max(1, len(programs) - 1) - 0.5) * 2
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self.networks = [self._fitted(self._scaled(x), target) for _ in range(NETWORKS)]

    def rank(self, programs: Sequence[Program]) -> Float64[Tensor, " k"]:
        with torch.no_grad():
            x = self._scaled(features(programs))
            return torch.stack([network(x)[:, 0] for network in self.networks]).mean(dim=0)

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    @staticmethod
    def _fitted(x: Tensor, target: Tensor) -> nn.Module:
        network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1)).double()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=DECAY)
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            (network(x)[:, 0] - target).square().mean().backward()
            optimizer.step()
        return network


def kendall_tau(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> float:
    """How far two orderings agree: concordant less discordant pairs, in parts of all pairs (Kendall 1938)."""
    a, b = (torch.as_tensor(each, dtype=torch.float64) for each in (a, b))
    upper = torch.ones(len(a), len(a), dtype=torch.bool).triu(1)
    agree = torch.sign(a[:, None] - a) * torch.sign(b[:, None] - b)
    return float(agree[upper].nan_to_num().mean())
