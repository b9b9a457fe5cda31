"""Rewards of pictures, for samples that are latents: candidates are decoded, and then judged."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from serving.models.backward import number
from serving.models.pipeline import Coder
from serving.pipelines.pictures import at_once, decoded, read
from serving.rewards.reward import Reward, Scoring, beside


@dataclass
class DecodedReward:
    """A reward of pictures as one of latents.

    Attributes:
        decode_rows: rows of the decoder until now; each is one of the engine's, packed with those of other requests.
    """

    reward: Reward
    decoder: Coder
    decode_rows: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def key(self) -> tuple[object, ...]:
        return ("decoded", self.decoder.digest, *self.reward.key)

    @property
    def fingerprint(self) -> str:
        return f"{self.decoder.model.fingerprint}+{self.reward.fingerprint}"

    @property
    def threshold(self) -> float | None:
        return self.reward.threshold

    @property
    def cautions(self) -> tuple[str, ...]:
        return (self.decoder.model.network.caution, *self.reward.cautions)

    @property
    def no_gradient(self) -> str:
        name, backward = self.decoder.model.name, self.decoder.model.backward
        if backward is None or (backward.card.to, backward.card.of) != (
            self.decoder.takes.name,
            self.decoder.gives.name,
        ):
            return f"it judges pictures, and their decoder {name!r} has no vector-Jacobian graph"
        return self.reward.no_gradient

    def gradients(self, x: Tensor) -> Scoring:
        """Implements `Reward.gradients`: those of the pictures, pulled back through the decoder."""
        backward, parts = self.decoder.model.backward, []
        assert backward is not None
        for part in x.split(at_once(self.decoder.given)):
            pictures = yield from decoded(self.decoder, part, "reward")
            both = yield from self.reward.gradients(pictures)
            self.decode_rows += len(part)
            z = {self.decoder.takes.name: read(self.decoder, part)}
            cotangent, units = both[:, 1:].reshape(pictures.shape), self.decoder.units * backward.units
            (gradient,) = yield backward.evaluation(z, cotangent, "reward", units=units)
            parts.append(beside(both[:, 0], number(gradient) / self.decoder.card.scale))
        return torch.cat(parts)

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`: so many pictures at a time that they fit into memory."""
        parts = []
        for part in x.split(at_once(self.decoder.given)):
            pictures = yield from decoded(self.decoder, part, "reward")
            self.decode_rows += len(part)
            parts.append((yield from self.reward.scores(pictures)))
        return torch.cat(parts)
