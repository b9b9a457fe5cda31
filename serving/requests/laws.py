"""Which law each sample of a request follows, and the draws that steering needs of each.

Under a condition a model has another law for every condition, and for every guidance and null. No bank is kept for
them: `steering.posteriors.draws` records some draws of each, once (`serving.models.draws`).
"""

import hashlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import serving.models
import steering
from serving.engine.task import Routine
from serving.models.draws import DrawStore, Evaluating, Record, Recording, Wanted
from serving.models.draws_on_disk import Form
from serving.models.evaluations import evaluations
from serving.models.model import Sampler
from serving.requests.shared_setup import recorded
from steering.posteriors.draws import MOST_BYTES, SEED, levels, record, recording_plan
from steering.posteriors.residuals import NEARNESS

MOST_LAWS = 16
"""Laws of a request whose draws are made without being asked for by name."""


@dataclass(frozen=True)
class Law:
    """What is drawn: a problem of one row, a key that is equal for equal draws, and their number.

    Attributes:
        lasting: nothing else decides the draws, so that they may be kept on disk, see `Sampler.lasting`.
    """

    problem: steering.Problem
    key: str
    draws: int
    stages: int
    network_rows: int
    lasting: bool = True

    def form(self) -> Form:
        """What the draws look like."""
        return Form(tuple(levels(self.problem, self.draws).tolist()), self.draws, self.problem.event)

    def in_use(self, store: DrawStore) -> Record:
        """Its record, until who asked leaves it."""
        return store.use(self.key, self.bytes, self.form if self.lasting else None)

    @property
    def bytes(self) -> int:
        """That its draws take, about."""
        numbers = math.prod(self.problem.event)
        residuals, compared = 2 * self.stages * numbers, 4 * self.stages * min(numbers, NEARNESS)
        return min(MOST_BYTES, self.draws * residuals) + self.draws * (4 * numbers + compared)

    def begin(self) -> Recording:
        """Makes the draws."""
        return record(self.problem, self.draws, SEED)

    def alone(self, store: DrawStore, evaluating: Evaluating, interrupt: Callable[[], object]) -> Routine:
        """Makes the draws in the background, for whoever wants them later."""
        mine = self.in_use(store)
        try:
            yield from recorded(mine, self.begin, evaluating, interrupt)
        finally:
            store.leave(mine)


@dataclass
class Laws:
    """The laws of a request for samples of one model.

    Attributes:
        of: the number of each sample's law.
        counted: laws whose rows the request is admitted with: those that nobody had begun when it came.
        used: their records, in use until `leave`.
        reward_rows: that scoring their draws takes, of those that are scored.
        scales: of residuals, by level, of the laws that have some.
    """

    model: Sampler
    laws: Sequence[Law]
    of: Sequence[int]
    counted: frozenset[int] = frozenset()
    used: dict[int, Record] = field(default_factory=dict)
    reward_rows: int = 0
    scales: list[float] = field(default_factory=list)

    @classmethod
    def among(cls, model: Sampler, problem: steering.Problem, n: int, draws: int, fixed: bool) -> "Laws":
        """The laws of n samples of a problem, each to be known by so many draws.

        Args:
            fixed: the draws are made in calls of one size: their bits may be others.
        """
        tensors = dict(problem.condition)
        if problem.guidance != 1:
            tensors |= {f"null {name}": tensor for name, tensor in problem.null.items()}
        told = [_rows(name, tensors[name], n) for name in sorted(tensors)]
        numbers: dict[bytes, int] = {}
        of = [numbers.setdefault(b"".join(each), len(numbers)) for each in zip(*told, strict=True)] or [0] * n
        first = [of.index(number) for number in range(max(len(numbers), 1))]
        plan = recording_plan(problem.plan)
        times = torch.tensor([stage.denoise.t for stage in plan.stages], dtype=torch.float64)
        guided = problem.guided(times)
        rows = draws * (len(plan.stages) + (0 if guided is None else len(times[guided])))
        common = _common(model, problem, plan, draws, fixed)
        keys = list(numbers) or [b""]
        steady = model.lasting
        laws = [
            Law(_only(problem, i), hashlib.sha256(common + key).hexdigest(), draws, len(plan.stages), rows, steady)
            for i, key in zip(first, keys, strict=True)
        ]
        store = model.draws
        return cls(model, laws, of, frozenset(i for i, each in enumerate(laws) if not store.begun(each.key)))

    @property
    def network_rows(self) -> int:
        """Of all laws' draws, whoever made them."""
        return sum(each.network_rows for each in self.laws)

    @property
    def choice(self) -> str:
        """What is chosen, and why."""
        each, many = self.laws[0].draws, len(self.laws)
        where = "of the request's law" if many == 1 else f"of each of the request's {many} laws"
        return f"posterior residuals: {each} draws {where}, since no bank belongs to it"

    @property
    def lacking(self) -> Sequence[Law]:
        """Those whose draws the request was expected to make."""
        return [each for i, each in enumerate(self.laws) if i in self.counted]

    def runs(self, together: int) -> Sequence[slice]:
        """Neighbouring samples of one law; all of them where that would divide those that belong together."""
        starts = [i for i, law in enumerate(self.of) if not i or law != self.of[i - 1]]
        if any(start % together for start in starts):
            return [slice(0, len(self.of))]
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(self.of)], strict=True)]

    def record(self, number: int) -> Routine:
        """The record of a law, with draws, which this request makes where nobody else does."""
        if number not in self.used:
            self.used[number] = self.laws[number].in_use(self.model.draws)
        mine, announced = self.used[number], number in self.counted
        yield from recorded(
            mine, self.laws[number].begin, partial(evaluations, model=self.model, reward=None, announced=announced)
        )
        return mine

    def wanted(self, fixed: bool) -> Sequence[Wanted]:
        """Those of the draws that are not there, to be made in the background."""
        model, store = self.model, self.model.draws
        missing = [each for each in self.laws if not store.made(each.key)]
        event = model.card.event_shape if model.other_size else None
        of = partial(Wanted, model=model.name, digest=model.own.digest, fixed=fixed, event=event)
        return [of(each.key, program=partial(each.alone, store)) for each in missing]

    def leave(self, after: int) -> None:
        """The request uses no record any more that no sample from number `after` on needs."""
        for number in set(self.used).difference(self.of[after:]):
            self.model.draws.leave(self.used.pop(number))


def _only(problem: steering.Problem, i: int) -> steering.Problem:
    """The problem of sample i alone."""
    one = problem.rows(slice(i, i + 1))
    condition, null = (
        {name: tensor.clone() for name, tensor in each.items()} for each in (one.condition, one.null)
    )  # what is kept holds no tensors of the whole request
    return replace(one, condition=condition, null=null, start_mean=None, show_every=0, show_path=False)


def _rows(name: str, tensor: Tensor, n: int) -> Sequence[bytes]:
    """Digests of the rows [n or 1, ...] of a tensor."""
    about = f"{name} {tensor.dtype} {list(tensor.shape[1:])}".encode()
    shared = len(tensor) == 1 or not tensor.stride(0)
    each = [hashlib.sha256(about + row.numpy().tobytes()).digest() for row in (tensor[:1] if shared else tensor)]
    return each * n if shared else each


def _common(model: Sampler, problem: steering.Problem, plan: steering.Plan, draws: int, fixed: bool) -> bytes:
    """What all laws of a request have in common: equal bytes for equal draws of equal conditions."""
    levels = [(each.t, each.update.at.alpha, each.update.at.sigma, each.denoise.t) for each in plan.stages]
    guidance = (problem.guidance, problem.guidance_interval, problem.guidance_rescale)
    where = (guidance if problem.guidance != 1 else 1, levels, plan.end, draws, SEED, fixed)
    return _BY + model.digest.encode() + repr(where).encode()


def _by() -> bytes:
    """What draws of a law are made by, but for the network: draws on disk outlive an upgrade."""
    whole = hashlib.sha256()
    for package in (steering, serving.models):
        for file in sorted(Path(*package.__path__).rglob("*.py")):
            whole.update(file.read_bytes())
    rounding = f"torch {torch.__version__} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{whole.hexdigest()} {rounding} ".encode()


_BY = _by()
