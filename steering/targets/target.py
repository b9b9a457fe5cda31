"""What steering aims at: p(x) exp(r(x) / beta), or p(x) given r(x) >= threshold; r is only called forwards."""

import math
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import SteeringError
from steering.numerics.weights import checked_rewards, effective_size, log_weights, softmax
from steering.sampling.rows import Rows

Reward = Callable[[Tensor], Tensor]
BISECTIONS = 30


@dataclass(frozen=True, eq=False)
class Target:
    """A reward, and how it changes the model's law.

    Attributes:
        reward: scores samples, [B, *event] -> [B]; -inf is legal (weight 0), NaN and +inf are errors.
        beta: temperature > 0 of the weight exp(r / beta); smaller is stronger.
        threshold: the weight is 1 where r >= threshold and 0 elsewhere, and beta is not used.
        key: equal keys score equally; the reward itself by default.
    """

    reward: Reward
    beta: float = 1.0
    threshold: float | None = None
    key: Hashable = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if not _number(self.beta) or not 0 < self.beta < float("inf"):
            raise SteeringError(f"beta: expected a finite number > 0, got {self.beta!r}")
        if self.threshold is not None and not (_number(self.threshold) and math.isfinite(self.threshold)):
            raise SteeringError(f"threshold: expected a finite number, got {self.threshold!r}")
        if self.key is None:
            hashable = isinstance(self.reward, Hashable)  # a dataclass that can be called need not be
            object.__setattr__(self, "key", self.reward if hashable else id(self.reward))
        object.__setattr__(self, "name", getattr(self.reward, "__name__", type(self.reward).__name__))

    def score(
        self, x: Float[Tensor, "b *event"], dtype: torch.dtype | None = None
    ) -> Generator[Rows, Tensor, Float[Tensor, " b"]]:
        """Ask for the rewards of samples, and check them."""
        scores = yield Rows.reward(x)
        return checked_rewards(scores, len(x), self.name, dtype)

    def log_weights(self, rewards: Float[Tensor, "... m"]) -> Float[Tensor, "... m"]:
        """log w, shifted so that the best of each row is 0; a row without any weight becomes flat."""
        if self.threshold is None:
            return log_weights(rewards, self.beta)
        return log_weights(self._indicator(rewards), 1.0)

    def log_scale(self, rewards: Float[Tensor, "... m"]) -> Float[Tensor, "..."]:
        """What `log_weights` took off each row: the largest log w; 0 where no candidate has weight."""
        values = rewards / self.beta if self.threshold is None else self._indicator(rewards)
        return values.max(dim=-1).values.nan_to_num(neginf=0.0)

    def log_weight(self, rewards: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log w of each candidate as it is, -inf where it has none."""
        return rewards / self.beta if self.threshold is None else self._indicator(rewards)

    def hit(self, rewards: Float[Tensor, "... m"]) -> Tensor:
        """Rows in which some candidate has weight."""
        values = rewards if self.threshold is None else self._indicator(rewards)
        return (values > -torch.inf).any(dim=-1)

    def eased(self, rewards: Float[Tensor, " m"], prior: Float[Tensor, " m"], size: float) -> Self | None:
        """The strongest target no stronger than this that leaves `size` effective candidates; None if there is none.

        Args:
            prior: log-weights of the candidates as samples of the model.
        """

        def enough(target: Self) -> bool:
            weights = softmax(prior + target.log_weights(rewards))
            return bool(target.hit(rewards)) and float(effective_size(weights)) >= size

        if enough(self):
            return self
        if self.threshold is not None:
            # only the reward's own values are possible levels
            levels = rewards[(rewards < self.threshold) & rewards.isfinite()].unique()
            first, last = 0, len(levels)
            while first < last:
                half = (first + last) // 2
                first, last = (half + 1, last) if enough(self.at(levels[half])) else (first, half)
            return self.at(levels[first - 1]) if first else None
        weak, strong = 0.0, 1 / self.beta
        for _ in range(BISECTIONS):
            middle = (weak + strong) / 2
            weak, strong = (middle, strong) if enough(replace(self, beta=1 / middle)) else (weak, middle)
        return replace(self, beta=1 / weak) if weak else None

    @property
    def strength(self) -> float:
        """The strength that grows from level to level: the threshold, or 1 / beta."""
        return 1 / self.beta if self.threshold is None else self.threshold

    def at(self, threshold: float | Tensor) -> Self:
        """The same event with another threshold."""
        return replace(self, threshold=float(threshold))

    def _indicator(self, rewards: Tensor) -> Tensor:
        assert self.threshold is not None
        return torch.where(rewards >= self.threshold, 0.0, -torch.inf).to(rewards.dtype)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
