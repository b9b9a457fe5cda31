"""How previews look: their type, their range and their size."""

from typing import Any

import numpy as np
import pytest
import torch

from protos.card import Card
from serving.requests.previews import Look, Preview, smaller, watched_for
from serving.wire.errors import RequestError
from serving.wire.parameters import Parameters


def card(shape: tuple[int, ...] = (1, 4, 4), **more: Any) -> Card:
    return Card.model_validate(
        {"name": "m", "path": {"kind": "rectified_flow"}, "prediction": "x0", "event_shape": shape, **more}
    )


def look(parameters: dict[str, Any], card: Card) -> Look:
    watched = watched_for(Parameters(**{"preview_every": 1, **parameters}), card, lambda part: None)
    assert watched is not None
    assert watched.look is not None
    return watched.look


def test_bytes_stand_for_the_cards_range():
    x = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0, 9.0]])
    assert look({"preview_dtype": "uint8"}, card((6,))).of(x).tolist() == [[0, 0, 128, 191, 255, 255]]
    assert look({"preview_dtype": "uint8"}, card((6,), clip=[0, 1])).of(x).tolist() == [[0, 0, 0, 128, 255, 255]]
    wide = look({"preview_dtype": "uint8"}, card((6,), dynamic_threshold={"bound": 2.0}))
    assert (wide.range[0], wide.range[1]) == (-2, 2)
    said = Preview(wide, x, 16, 3, 20, 48).answer().parameters
    assert said == {"first": 16, "stage": 3, "stages": 20, "network_rows": 48, "low": -2.0, "high": 2.0}


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", "f4"), ("fp32", "f4"), ("float16", "f2"), ("fp16", "f2"), ("uint8", "u1")]
)
def test_types(name: str, dtype: str):
    assert look({"preview_dtype": name}, card()).of(torch.zeros(2, 1, 4, 4)).dtype == np.dtype(dtype)


def test_smaller_images_are_averages_of_areas():
    x = torch.arange(2 * 3 * 4 * 8, dtype=torch.float32).reshape(2, 3, 4, 8)
    half = smaller(x, 4)
    torch.testing.assert_close(half, x.reshape(2, 3, 2, 2, 4, 2).mean(dim=(3, 5)))
    assert torch.equal(smaller(x[:, 0], 4), half[:, 0])  # [h, w]
    assert smaller(x, 8) is x
    assert smaller(x, 100) is x
    assert smaller(x, 3).shape == (2, 3, 2, 3)
    torch.testing.assert_close(smaller(x, 1), x.mean(dim=(2, 3), keepdim=True))
    assert smaller(torch.zeros(1, 1, 1000, 2), 10).shape == (1, 1, 10, 1)


@pytest.mark.parametrize(
    ("parameters", "shape", "text"),
    [
        ({"preview_dtype": "uint8"}, (2,), "preview_dtype: expected a parameter preview_every beside it, got none"),
        ({"preview_size": 3}, (1, 4, 4), "preview_size: expected a parameter preview_every beside it, got none"),
        (
            {"preview_every": 1, "preview_size": 3},
            (2,),
            "preview_size: expected samples of shape [c, h, w] or [h, w], got [2]",
        ),
    ],
)
def test_what_cannot_be_shown(parameters: dict[str, Any], shape: tuple[int, ...], text: str):
    with pytest.raises(RequestError) as caught:
        watched_for(Parameters(**parameters), card(shape), lambda part: None)
    assert caught.value.detail == text
