"""Requests in OpenAI's words."""

from typing import Any

import numpy as np
import pytest

from deploy.http.asked import Asked, asked
from deploy.http.errors import HttpError

HEART = {"prompt": "a red heart"}


def test_a_request_of_openai():
    body = {
        **HEART, "model": "sd", "n": 2, "size": "512x768", "quality": "hd", "style": "vivid", "background": "auto",
        "moderation": "low", "user": "u1", "response_format": "b64_json", "output_format": "webp",
        "output_compression": 80, "stream": False,
    }  # fmt: skip
    assert asked(body) == Asked("sd", 2, {"prompt": "a red heart", "width": 512, "height": 768}, {}, "webp", 80, None)
    assert asked(HEART | {"size": "auto", "n": None}) == Asked(None, 1, HEART)


def test_own_parameters_go_on_under_their_names():
    own = {
        "steps": 20,
        "guidance": 5.0,
        "seed": 3,
        "negative_prompt": "blue",
        "reward": "a + b",
        "reward_direction": [1, 0],
    }
    wanted = asked(HEART | own | {"timeout": 5_000_000, "conditions": {"label": 3}, "beta": None})
    assert wanted.keywords == HEART | own | {"conditions": {"label": 3}}
    assert wanted.parameters == {"timeout": 5_000_000}


@pytest.mark.parametrize(
    ("body", "partial", "every"),
    [
        ({"stream": True}, 0, 3),
        ({"stream": True, "partial_images": 0}, 0, 3),
        ({"stream": True, "partial_images": 3}, 3, 3),
        ({"stream": True, "partial_images": 3, "steps": 40}, 3, 10),
        ({"stream": True, "partial_images": 3, "steps": 2}, 3, 1),
        ({"stream": True, "partial_images": 3, "steps": "x"}, 3, 3),
    ],
)
def test_streams(body: dict[str, Any], partial: int, every: int):
    wanted = asked(HEART | body)
    assert (wanted.partial, wanted.every) == (partial, every)


def test_pictures_of_an_edit():
    image = np.zeros((2, 2, 3), np.uint8)
    assert asked(HEART, {"image": image}).keywords == HEART | {"image": image, "strength": 0.8}
    assert asked(HEART | {"strength": 0.3}, {"image": image}).keywords["strength"] == 0.3
    assert "strength" not in asked(HEART, {"image": image, "mask": image[..., 0]}).keywords


NOT_HERE = ("version", "score", "latents", "progress", "self", "parameters")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": None}, "prompt: expected a text, got none"),
        ({"prompt": ["a"]}, "prompt: expected a text, got ['a']"),
        ({"model": 3}, "model: expected a text, got 3"),
        ({"n": 0}, "n: expected a number of 1..10, got 0"),
        ({"n": True}, "n: expected a number of 1..10, got True"),
        ({"n": 11}, "n: expected a number of 1..10, got 11"),
        ({"samples": 3}, "samples: expected no such field; the number of pictures is n"),
        ({"response_format": "url"}, "response_format: expected b64_json, got 'url': this server keeps"),
        ({"output_format": "gif"}, "output_format: expected png, jpeg, webp, got 'gif'"),
        ({"output_compression": 50}, "output_compression: expected jpeg or webp as output_format"),
        ({"quality": "best"}, "quality: expected auto, low, medium, high, standard, hd, got 'best'"),
        ({"background": "transparent"}, "background: expected auto, opaque, got 'transparent'"),
        ({"size": "big"}, "size: expected WIDTHxHEIGHT, such as 512x512, or auto, got 'big'"),
        ({"size": 512}, "size: expected WIDTHxHEIGHT"),
        ({"size": "8x8", "height": 8}, "size: expected size, or height and width, got both"),
        ({"stream": "yes"}, "stream: expected true or false, got 'yes'"),
        ({"partial_images": 2}, "partial_images: expected stream: true beside it, got none"),
        ({"stream": True, "partial_images": 11}, "partial_images: expected a number of 0..10, got 11"),
        ({"image": [1]}, "image: expected no such field"),
        ({"conditions": 3}, "conditions: expected an object, got 3"),
        *(({name: 1}, f"{name}: expected no such field") for name in NOT_HERE),
    ],
)  # fmt: skip
def test_what_is_refused(body: dict[str, Any], message: str):
    with pytest.raises(HttpError) as caught:
        asked(HEART | body)
    assert caught.value.message.startswith(message)
    assert caught.value.told()["error"]["param"] == message.partition(":")[0]
    assert caught.value.told()["error"]["type"] == "invalid_request_error"
    assert caught.value.status == 400
