"""Base class of steering methods that aim at a target."""

from steering.sampling.sampler import Steering
from steering.targets.target import Reward, Target


class Aimed(Steering):
    """A steering method toward a `Target`."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def reward(self) -> Reward:
        """Implements `Steering.reward`."""
        return self.target.reward

    @property
    def name(self) -> str:
        """Implements `Steering.name`: the reward's."""
        return self.target.name
