"""What a recipe is, and the figures that prove a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """A measured number and the bound it is held to.

    Attributes:
        side: the value is to be "at most" or "at least" the bound.
    """

    name: str
    value: float
    side: Literal["at most", "at least"]
    bound: float

    @property
    def holds(self) -> bool:
        """NaN holds to nothing."""
        return self.value <= self.bound if self.side == "at most" else self.value >= self.bound

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.3g} ({self.side} {self.bound:.3g}{'' if self.holds else ', FAILED'})"


def at_most(name: str, value: float | Tensor, bound: float) -> Figure:
    return Figure(name, float(value), "at most", bound)


def at_least(name: str, value: float | Tensor, bound: float) -> Figure:
    return Figure(name, float(value), "at least", bound)


@dataclass(frozen=True)
class Recipe:
    """One paper's system, or one classical problem, as models of a repository.

    Attributes:
        name: of the recipe; its models' names begin with it.
        paper: whose system it stands for.
        replaced: what of that is replaced here, and where the data come from.
        models: names of the folders that `build` writes into the repository.
        build: `(repository, effort)` writes them. Effort 1 is the whole training, a smaller one that share of its
        batches;
            what is not trained is always whole.
        check: figures of the models in a repository, held to bounds.
        judge: figures that need data which are fetched; None where there are none.
        trained: whether `build` trains (else it takes seconds).
    """

    name: str
    paper: str
    replaced: str
    models: tuple[str, ...]
    build: Callable[[Path, float], None]
    check: Callable[[Path], list[Figure]]
    judge: Callable[[Path], list[Figure]] | None = None
    trained: bool = False
