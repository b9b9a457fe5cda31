"""What a steering method makes once for a target or a law, before it steers anything."""

from collections.abc import Generator

import steering
from serving.backends import Array
from serving.engine.task import Step
from serving.models.evaluations import evaluations
from serving.models.model import Knowledge, Sampler
from serving.requests.methods import Steered
from serving.requests.shared_setup import once
from serving.rewards import Reward
from steering.sampling.sampler import Steering


def ready(
    steered: Steered,
    first: int,
    model: Sampler,
    known: Knowledge,
    problem: steering.Problem,
    reward: Reward | None,
) -> Generator[Step, list[Array], Steering | None]:
    """The method for the samples from `first` on, with what is made once for their law and the target."""
    steer, setup, law = steered.steer, steered.setup, ""
    if (by_law := steered.by_law) is not None:
        number = by_law.laws.of[first]
        if number in by_law.ready:
            return by_law.ready[number]
        steer, setup = yield from by_law.made(number)
        by_law.ready[number] = steer
        problem, law = by_law.laws.laws[number].problem, by_law.laws.laws[number].key
    if setup is not None:
        target = setup.target
        key = (type(setup), target.key, target.beta, target.threshold, problem.plan.path, law)
        yield from once(known.underway, key, evaluations(setup.prepare(problem), model, reward, announced=False))
    return steer
