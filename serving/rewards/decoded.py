"""Rewards of pictures, for samples that are latents: candidates are decoded, and then judged."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from serving.models.pipeline import Coder
from serving.pipelines.pictures import at_once, decoded
from serving.rewards.reward import Reward, Scoring


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

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`: so many pictures at a time that they fit into memory."""
        parts = []
        for part in x.split(at_once(self.decoder.given)):
            pictures = yield from decoded(self.decoder, part, "reward")
            self.decode_rows += len(part)
            parts.append((yield from self.reward.scores(pictures)))
        return torch.cat(parts)
