"""Pictures over HTTP: whole, streamed, changed; and callers that leave, or stay while the endpoint ends."""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.deploy.http.test_endpoint import EDITS, GENERATIONS, MODELS, Caller, endpoint, form
from tests.serving.live import Live, until
from tiltserve import Client

HEART = {"model": "tiny", "prompt": "a red heart", "seed": 1}
PHOTO = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
UPPER = np.arange(8)[:, None].repeat(8, 1) < 4
FORM = {"content-type": "multipart/form-data; boundary=b"}
LONG = HEART | {"steps": 1000, "n": 10}


@pytest.fixture(scope="module")
def painted(pictured: Live) -> Iterator[Caller]:
    with endpoint(pictured, pictured.address) as caller:
        yield caller


@pytest.fixture
def client(pictured: Live) -> Iterator[Client]:
    with Client(pictured.address, timeout=60) as client:
        yield client


def pictures(told: Any) -> np.ndarray[Any, Any]:
    return np.stack([picture(each) for each in told["data"]])


def picture(data: dict[str, str], form: str = "PNG") -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
    assert image.format == form
    return np.asarray(image)


def events(caller: Caller, body: Any, path: str = GENERATIONS, headers: dict[str, str] | None = None) -> list[Any]:
    """What the events say, each with the name that it was sent under."""
    connection = caller.connect()
    sent = body if isinstance(body, bytes) else json.dumps(body)
    connection.request("POST", path, sent, headers or {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    said = answer.read().decode()
    connection.close()
    found = []
    for each in filter(None, said.split("\n\n")):
        name, data = each.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_pictures_are_those_of_the_grpc_port(painted: Caller, client: Client):
    expected = client.sample("tiny", n=3, prompt="a red heart", seed=1)
    status, _, told = painted.send(GENERATIONS, HEART | {"n": 3, "size": "8x8", "quality": "high"})
    assert status == 200
    assert (pictures(told) == expected.images).all()
    assert (told["output_format"], told["size"], told["tiltserve"]["seed"]) == ("png", "8x8", 1)
    assert told["tiltserve"]["fingerprint"] == expected.fingerprint
    steered: dict[str, Any] = {"reward": "redness", "beta": 0.02, "negative_prompt": "blue", "guidance": 2}
    _, _, told = painted.send(GENERATIONS, HEART | steered)
    expected = client.sample("tiny", prompt="a red heart", seed=1, **steered)
    assert (pictures(told) == expected.images).all()
    assert expected.rewards is not None
    assert told["tiltserve"]["rewards"] == [pytest.approx(float(expected.rewards[0]))]
    assert told["tiltserve"]["warnings"] == expected.warnings
    for name in ("jpeg", "webp"):
        small, large = (
            painted.send(GENERATIONS, HEART | {"output_format": name, "output_compression": each})[2]["data"][0]
            for each in (1, 100)
        )
        assert len(small["b64_json"]) < len(large["b64_json"])
        assert np.abs(picture(large, name.upper()).astype(int) - picture(told["data"][0])).mean() < 128


def test_models_are_the_pipelines(painted: Caller):
    listed = painted.send(MODELS)[2]["data"]
    assert [each["id"] for each in listed] == ["filling", "tiny"]
    assert painted.send(f"{MODELS}/tiny")[2] == listed[1]
    assert painted.refused(f"{MODELS}/redness")[1] == "model: expected one of filling, tiny, got 'redness'"
    assert painted.refused(GENERATIONS, {"prompt": "a"})[1] == "model: expected one of filling, tiny, got none"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"stpes": 3}, None, "unknown parameter 'stpes', did you mean 'steps'?"),
        ({"steps": "many"}, "steps", "parameter steps: expected a valid integer, got 'many'"),
        ({"size": "16x8"}, "width", "width: expected 8, which pictures of this model have, got 16"),
        ({"stream": True, "partial_images": 2, "steps": 0}, "steps", "parameter steps: expected greater than or equal"),
        ({"x_init": [[1]]}, None, "input 'x_init': expected FP32 [1, 4, 4, 4]"),
        ({"reward": "client"}, None, "unknown reward 'client', expected one of"),
    ],
)  # fmt: skip
def test_errors_of_the_server(painted: Caller, body: dict[str, Any], param: str | None, message: str):
    status, _, told = painted.send(GENERATIONS, HEART | body)
    assert (status, told["error"]["param"]) == (400, param)
    assert told["error"]["message"].startswith(message)
    assert painted.refused(GENERATIONS, HEART | {"timeout": 1})[0] == 504


def test_looks_on_the_way(painted: Caller, client: Client):
    expected = client.sample("tiny", n=2, prompt="a red heart", seed=1, steps=8).images
    said = events(painted, HEART | {"n": 2, "steps": 8, "stream": True, "partial_images": 3})
    partial = [each for each in said if each["type"] == "image_generation.partial_image"]
    last = [each for each in said if each["type"] == "image_generation.completed"]
    assert len(partial) + len(last) == len(said)
    assert [each["image_index"] for each in last] == [0, 1]
    assert (np.stack([picture(each) for each in last]) == expected).all()
    numbers = [(each["partial_image_index"], each["image_index"]) for each in partial]
    assert numbers == sorted(numbers)
    assert 1 <= len({number for number, _ in numbers}) <= 3  # one that is late is left out
    assert partial[0]["created_at"]
    (only,) = events(painted, HEART | {"stream": True})
    assert (picture(only) == client.sample("tiny", prompt="a red heart", seed=1).images[0]).all()


def file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_edits(painted: Caller, client: Client):
    photo, mask = file(Image.fromarray(PHOTO)), file(Image.fromarray(UPPER))
    fields = [(name, str(value).encode()) for name, value in (HEART | {"n": 2}).items()]
    same: dict[str, Any] = {"prompt": "a red heart", "seed": 1, "n": 2, "image": PHOTO}
    for parts, expected in (
        ([("image", photo)], client.sample("tiny", strength=0.8, **same)),
        ([("image[]", photo), ("strength", b"0.4")], client.sample("tiny", strength=0.4, **same)),
        ([("image", photo), ("mask", mask)], client.sample("tiny", mask=UPPER, **same)),
    ):
        status, _, told = painted.send(EDITS, form(*fields, *parts), headers=FORM)
        assert status == 200, told
        assert (pictures(told) == expected.images).all()
    streamed = form(*fields, ("image", photo), ("stream", b"true"), ("partial_images", b"1"))
    assert {each["type"] for each in events(painted, streamed, EDITS, FORM)} <= {
        "image_edit.partial_image", "image_edit.completed",
    }  # fmt: skip


def rows(live: Live) -> int:
    return sum(each._engine.backlog_rows for each in live.replicas)


@pytest.mark.parametrize("more", [{}, {"stream": True, "partial_images": 10}])
def test_who_leaves_takes_his_request_along(painted: Caller, pictured: Live, more: dict[str, Any]):
    body = json.dumps(LONG | more).encode()
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", painted.port), 10) as leaving:
        leaving.sendall(head.encode() + b"%d\r\n\r\n" % len(body) + body)
        until(lambda: rows(pictured))
    until(lambda: not rows(pictured))


def test_what_runs_is_finished_when_the_endpoint_ends(pictured: Live):
    answers: list[Any] = []
    with endpoint(pictured, pictured.address) as caller:
        asking = threading.Thread(target=lambda: answers.append(caller.send(GENERATIONS, HEART | {"steps": 300})))
        asking.start()
        until(lambda: rows(pictured))
    asking.join(10)
    assert answers[0][0] == 200
