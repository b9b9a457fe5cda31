"""An expression of rewards as one reward."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from serving.rewards.expressions import Apply, Expression, Term, evaluate
from serving.rewards.reward import Reward, Scoring, beside
from steering.errors import SteeringError
from steering.numerics.weights import checked_rewards
from steering.targets.rewards import event


@dataclass(frozen=True)
class Compound:
    """The expression as a reward. A term that is an event is 0 where it holds and -inf elsewhere.

    Attributes:
        name: the expression as it was written.
        rewards: the reward of each term; equal rewards are scored once.
    """

    name: str
    expression: Expression
    rewards: Mapping[Term, Reward]
    threshold: float | None = None

    @cached_property
    def identities(self) -> Mapping[Term, tuple[object, ...]]:
        """Identities of the terms' rewards."""
        return {term: (reward.threshold, *reward.key) for term, reward in self.rewards.items()}

    @cached_property
    def scored(self) -> Mapping[tuple[object, ...], Reward]:
        """The different rewards, each scored once."""
        return {self.identities[term]: reward for term, reward in self.rewards.items()}

    @cached_property
    def structure(self) -> object:
        """The expression, its terms replaced by their positions in `scored`."""
        places = {identity: place for place, identity in enumerate(self.scored)}

        def of(expression: Expression) -> object:
            if isinstance(expression, Apply):
                return (expression.function, *map(of, expression.parts))
            return (places[self.identities[expression]],) if isinstance(expression, Term) else expression

        return of(self.expression)

    @property
    def key(self) -> tuple[object, ...]:
        return ("expression", self.structure, *self.scored)

    @property
    def fingerprint(self) -> str:
        parts = "+".join(reward.fingerprint for reward in self.scored.values())
        return f"{parts}-{hashlib.sha256(repr(self.structure).encode()).hexdigest()[:8]}"

    @property
    def cautions(self) -> tuple[str, ...]:
        return tuple(each for reward in self.scored.values() for each in reward.cautions)

    @property
    def no_gradient(self) -> str:
        each = (f"of {reward.name!r}: {why}" for reward in self.scored.values() if (why := reward.no_gradient))
        return next(each, "")

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`; each term's scores are checked under its own name."""
        found: dict[tuple[object, ...], Tensor] = {}
        for identity, reward in self.scored.items():
            scores = checked_rewards((yield from reward.scores(x)), len(x), reward.name, torch.float32)
            found[identity] = scores if reward.threshold is None else event(scores, reward.threshold)
        return self._value(found)

    def gradients(self, x: Tensor) -> Scoring:
        """Implements `Reward.gradients`: the chain rule through the expression, whose derivatives are torch's."""
        found, slopes = dict[tuple[object, ...], Tensor](), dict[tuple[object, ...], Tensor]()
        for identity, reward in self.scored.items():
            both = yield from reward.gradients(x)
            scores = checked_rewards(both[:, 0], len(x), reward.name, torch.float32)
            found[identity], slopes[identity] = scores.detach().requires_grad_(), both[:, 1:]
        with torch.enable_grad():
            value = self._value(found)
            # a term that the expression does not depend on has no derivative
            by_term = torch.autograd.grad(value, [*found.values()], torch.ones_like(value), allow_unused=True)
        total = torch.zeros(len(x), x[0].numel())
        for slope, of_term in zip(by_term, slopes.values(), strict=True):
            if slope is not None:
                total = total + of_term * slope[:, None]
        return beside(value, total)

    def _value(self, found: Mapping[tuple[object, ...], Tensor]) -> Tensor:
        """The expression of the scores."""
        value = evaluate(self.expression, {term: found[identity] for term, identity in self.identities.items()})
        finite = torch.stack([each.isfinite() for each in found.values()]).all(dim=0)
        if bool((value.isinf() & finite).any()):
            raise SteeringError(f"reward {self.name!r}: expected values in the range of float32, got one beyond")
        return value
