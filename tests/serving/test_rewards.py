"""Built-in rewards as a request binds them."""

import numpy as np
import torch

from serving.rewards import bind

EVENT = (3072,)


def direction(first: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    vector = np.zeros(EVENT, np.float32)
    vector[first : first + 100] = 1
    return {"reward_direction": vector}


def test_keys_tell_long_arguments_apart():
    """A bank files its scores under the key: two rewards that are printed alike must not share one."""
    one, same, other = (bind("linear", {}, EVENT, {}, direction(first)) for first in (500, 500, 1500))
    assert one.key == same.key
    assert one.key != other.key


def test_keys_tell_close_numbers_apart():
    one, other = (
        bind("half_space", {}, EVENT, {"reward_threshold": value}, direction(0)) for value in (0.1, 0.1 + 2**-50)
    )
    assert one.key != other.key


def test_a_linear_reward_is_the_product():
    reward = bind("linear", {}, EVENT, {"reward_scale": 2}, direction(0))
    x = torch.ones(3, *EVENT)
    assert reward.score(x).tolist() == [200.0] * 3  # type: ignore[union-attr]
