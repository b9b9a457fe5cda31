"""Rewards as a request names them: one of them, or an expression of several, with the caller's arguments bound."""

from serving.rewards.bind import bind
from serving.rewards.reward import PREFIX, Definition, Reward, Scoring
from serving.wire.tensors import Given

__all__ = ["PREFIX", "Definition", "Given", "Reward", "Scoring", "bind"]
