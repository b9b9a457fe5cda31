"""What the client sends to a pipeline and makes of its answer, by keywords of its own and in diffusers' words."""

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from tiltserve import AsyncPipeline, InvalidArgument, Pipeline, PipelineOutput, Samples, operations, pictures, pipelines
from tiltserve.operations import Memory, Wanted
from tiltserve.steps import METADATA, Ask, Open, Patience

HEIGHT, WIDTH = 4, 6
PICTURE = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
EYE = np.eye(HEIGHT, WIDTH, dtype=bool)


def metadata(*outputs: tuple[str, list[int]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> pb.ModelMetadataResponse:
    """Of a pipeline, or of a model with these outputs."""
    reply = pb.ModelMetadataResponse(name="sd", versions=["1"])
    for name, shape in outputs or (("images", [-1, *size, 3]), ("latents", [-1, 4, 2, 2])):
        reply.outputs.add(name=name, shape=shape)
    return reply


def sent(described: pb.ModelMetadataResponse | None = None, n: int | None = None, **keywords: Any) -> dict[str, Any]:
    """The request that keywords come to: its parameters, its inputs and the outputs that it names."""
    wanted, _ = Wanted.of("sd", n, keywords.pop("reward", None), None, None, None, "", "", keywords)
    operation = operations.sample(Memory(), Patience(None, 0), wanted)
    step = next(operation)
    while isinstance(step, Ask) and step.rpc is METADATA:
        step = operation.send(described or metadata())
    assert isinstance(step, Ask)
    return told(step.message)


def told(message: Any) -> dict[str, Any]:
    assert isinstance(message, pb.ModelInferRequest)
    said: dict[str, Any] = {
        name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in message.parameters.items()
    }
    for each, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        if each.datatype == "BYTES":
            said[each.name] = [text.decode() for text in deserialize_bytes_tensor(raw)]
            assert list(each.shape) == [len(said[each.name])]
        else:
            said[each.name] = np.frombuffer(raw, {"UINT8": np.uint8, "FP32": np.float32}[each.datatype])
            said[each.name] = said[each.name].reshape(each.shape)
    if message.outputs:
        said["outputs"] = [each.name for each in message.outputs]
    return said


def test_prompts():
    assert sent(prompt="a red heart", n=4, seed=1) == {"prompt": ["a red heart"], "samples": 4, "seed": 1}
    said = sent(prompt=("a heart", "ein Herz ♥"), negative_prompt="blue", steps=3, seed=1)
    assert said == {
        "prompt": ["a heart", "ein Herz ♥"],
        "negative_prompt": ["blue"],
        "samples": 2,
        "steps": 3,
        "seed": 1,
    }
    assert sent(prompt=["a", "b"], samples=2, seed=1)["samples"] == 2
    assert "samples" not in sent(prompt="a", negative_prompt=None)
    assert sent(prompt="a", latents=True, seed=1)["outputs"] == ["images", "latents"]
    assert sent(prompt="a", latents=True, reward="linear", direction=1.0)["outputs"][-1] == "rewards"


@pytest.mark.parametrize(
    "picture",
    [PICTURE, PICTURE[None], PICTURE / np.float32(255), Image.fromarray(PICTURE), [Image.fromarray(PICTURE)],
     Image.fromarray(PICTURE).convert("RGBA"), torch.from_numpy(PICTURE)],
)  # fmt: skip
def test_pictures_of_any_kind(picture: Any):
    said = sent(image=picture, strength=0.5, seed=1)
    assert (said["image"] == PICTURE[None]).all()
    assert said["image"].dtype == np.uint8
    assert "samples" not in said


@pytest.mark.parametrize(
    "mask",
    [EYE, EYE.astype(np.float64), EYE * np.uint8(255), Image.fromarray(EYE)],
)  # fmt: skip
def test_masks_of_any_kind(mask: Any):
    said = sent(image=[PICTURE, PICTURE], mask=mask, seed=1)
    assert (said["mask"] == EYE[None] * 255).all()
    assert (said["image"].shape, said["samples"]) == ((2, HEIGHT, WIDTH, 3), 2)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"prompt": 3}, "prompt: expected a text or a list of texts, got int"),
        ({"prompt": []}, "prompt: expected a text or a list of texts, got none"),
        ({"prompt": ["a", 1]}, "prompt: expected a text or a list of texts, got list"),
        ({"prompt": "\ud800"}, "prompt: expected a text, got half of a character at 0"),
        ({"image": np.zeros((4, 6), np.uint8)}, "image: expected pictures [h, w, 3] or [n, h, w, 3], got [4, 6]"),
        ({"image": np.zeros((3, 4, 6), np.uint8)}, "image: expected pictures [h, w, 3]"),
        ({"image": PICTURE - 1.0}, "image: expected floats of 0..1, got -1..70"),
        ({"image": np.full((4, 6, 3), np.nan)}, "image: expected floats of 0..1, got nan..nan"),
        ({"image": [PICTURE.tolist()]}, "image: expected bytes of 0..255 or floats of 0..1, got int64"),
        ({"image": "heart.png"}, "image: expected bytes of 0..255 or floats of 0..1, got <U9"),
        ({"image": [PICTURE, PICTURE[:2]]}, "image: expected pictures of one size, got [[2, 6, 3], [4, 6, 3]]"),
        ({"prompt": "a", "mask": np.eye(4, 6, dtype=np.uint8)}, "mask: expected image= beside it, got none"),
        ({"image": PICTURE, "mask": np.eye(4, 6, dtype=np.uint8)}, "mask: expected 0 and 255, or truth values, got"),
        ({"image": PICTURE, "mask": PICTURE[0, 0] * 255}, "mask: expected masks [h, w] or [n, h, w], got [3]"),
        ({"prompt": "a", "height": 8}, "height: expected 4, which pictures of this model have, got 8"),
        ({"prompt": "a", "latents": np.zeros(3)}, "latents: expected True or False, got ndarray; what sampling begins"),
    ],
)  # fmt: skip
def test_what_is_no_picture_and_no_prompt(keywords: dict[str, Any], expected: str):
    with pytest.raises(InvalidArgument) as caught:
        sent(**keywords)
    assert caught.value.message.startswith(expected)


def test_sizes():
    assert sent(prompt="a", height=HEIGHT, width=np.int64(WIDTH), seed=1) == {"prompt": ["a"], "seed": 1}
    said = sent(metadata(size=(-1, -1)), prompt="a", height=64, width=32, seed=1)
    assert said == {"prompt": ["a"], "height": 64, "width": 32, "seed": 1}


def test_a_model_without_prompts():
    """Its own conditions may have these names; what is neither is refused before anything is sent."""
    plain = metadata(("samples", [-1, 2]))
    given: dict[str, Any] = {"prompt": "a heart", "image": PICTURE}
    for name, value in given.items():
        with pytest.raises(
            InvalidArgument, match=f"^INVALID_ARGUMENT: {name}: expected a pipeline, got 'sd', which takes"
        ):
            sent(plain, **{name: value})
    assert sent(plain, prompt="a", reward="clip(x=1) + 1", seed=1)["reward_prompt"] == "a"
    plain.inputs.add(name="image", datatype="FP32", shape=[-1, 4])
    assert (sent(plain, image=np.ones(4))["image"] == np.ones((1, 4), np.float32)).all()
    with pytest.raises(InvalidArgument, match=r"unknown keyword 'width'"):
        answered(plain, width=3)


def answered(described: pb.ModelMetadataResponse, **keywords: Any) -> None:
    """Ends as a server does that does not know a parameter."""
    wanted, _ = Wanted.of("sd", None, None, None, None, None, "", "", keywords)
    operation = operations.sample(Memory(), Patience(None, 0), wanted)
    next(operation)
    operation.send(described)
    operation.throw(InvalidArgument(f"unknown parameter {next(iter(keywords))!r}"))


def drawn(images: np.ndarray[Any, Any], **outputs: np.ndarray[Any, Any]) -> Samples:
    """What an answer with these pictures is for a caller."""
    reply = pb.ModelInferResponse(model_name="sd", model_version="1")
    reply.parameters["seed"].int64_param = 5
    for name, each in {"images": images, **outputs}.items():
        of = {"O": "BYTES", "u": "UINT8", "f": "FP32"}[each.dtype.kind]
        reply.outputs.add(name=name, datatype=of, shape=each.shape)
        raw = b"".join(serialize_byte_tensor(each).ravel()) if of == "BYTES" else each.tobytes()
        reply.raw_output_contents.append(raw)
    wanted, _ = Wanted.of("sd", None, None, None, None, None, "", "", {})
    operation = operations.sample(Memory(), Patience(None, 0), wanted)
    next(operation)
    with pytest.raises(StopIteration) as ended:
        operation.send((reply, ()))
    return ended.value.value


def test_pictures_of_an_answer():
    images = np.stack([PICTURE, PICTURE[::-1]])
    samples = drawn(images, latents=np.ones((2, 4, 2, 2), np.float32), rewards=np.ones(2, np.float32))
    assert (samples.images == images).all()
    assert (np.asarray(samples.pil()[1]) == images[1]).all()
    assert (samples.shape, len(samples), samples.seed) == ((2, HEIGHT, WIDTH, 3), 2, 5)
    assert samples.latents is not None
    assert samples.latents.shape == (2, 4, 2, 2)
    assert drawn(images).latents is None
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")
    files = drawn(np.array([buffer.getvalue()], np.object_))
    assert (files.images == PICTURE[None]).all()
    assert files.samples[0] == buffer.getvalue()


def test_samples_of_models_of_pictures_are_pictures_too():
    grey = pictures.shown(np.array([[[[-1.0, 0.0], [1.0, 7.0]]]], np.float32))
    assert grey.tolist() == [[[[0] * 3, [128] * 3], [[255] * 3, [255] * 3]]]
    colour = pictures.shown(np.stack([np.full((2, 2), level, np.float32) for level in (-1, 0, 1)])[None])
    assert colour.shape == (1, 2, 2, 3)
    assert colour[0, 0, 0].tolist() == [0, 128, 255]
    for wrong in (np.zeros((1, 2)), np.zeros((1, 4, 2, 2)), np.full((1, 1, 2, 2), np.nan)):
        with pytest.raises(InvalidArgument, match="images: expected"):
            pictures.shown(wrong.astype(np.float32))


def test_without_pillow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pil\(\): expected the package pillow"):
        drawn(PICTURE[None]).pil()


def test_previews_of_a_progress_bar_are_not_decoded():
    wanted, _ = Wanted.of("sd", 1, None, None, None, None, "", "", {"prompt": "a", "seed": 1})
    operation = operations.stream(Memory(), Patience(None, 0), wanted, {"preview_every": 1}, small=True)
    next(operation)
    step = operation.send(metadata())
    assert isinstance(step, Open)
    assert told(step.message)["preview_dtype"] == "none"


class Recorder:
    """Takes the place of `Client.sample`, and notes what it is asked for."""

    def __init__(self) -> None:
        self.n, self.keywords = 0, dict[str, Any]()

    def __call__(self, n: int, **keywords: Any) -> Samples:
        self.n, self.keywords = n, keywords
        return drawn(np.stack([PICTURE] * n), latents=np.ones((n, 4, 2, 2), np.float32))


@pytest.fixture
def asked() -> Recorder:
    return Recorder()


def test_a_call_in_the_words_of_diffusers(asked: Recorder):
    pipe = Pipeline(asked).to("cuda")
    out = pipe(
        "a red heart", negative_prompt="blue", num_inference_steps=20, guidance_scale=7.5, num_images_per_prompt=3,
        generator=7, eta=0.0, guidance_rescale=0.7, height=HEIGHT, width=WIDTH, callback_on_step_end=None,
    )  # fmt: skip
    assert isinstance(out, PipelineOutput)
    assert [each.size for each in out.images] == [(WIDTH, HEIGHT)] * 3
    assert out[0] is out.images is out["images"]
    assert (out.samples.seed, out.nsfw_content_detected) == (5, None)
    assert asked.n == 3
    text = {name: asked.keywords.pop(name).tolist() for name in ("prompt", "negative_prompt")}
    assert text == {"prompt": [b"a red heart"], "negative_prompt": [b"blue"]}
    assert asked.keywords == {
        "steps": 20, "guidance": 7.5, "seed": 7, "eta": 0.0, "guidance_rescale": 0.7, "height": HEIGHT, "width": WIDTH,
    }  # fmt: skip


def test_pictures_of_a_prompt_come_one_after_another(asked: Recorder):
    pipe = Pipeline(asked, {"reward": "clip", "num_inference_steps": 5})
    pipe(["a", "b"], negative_prompt=["c", "d"], num_images_per_prompt=2, num_inference_steps=6)
    assert asked.n == 4
    assert asked.keywords["prompt"].tolist() == [b"a", b"a", b"b", b"b"]
    assert asked.keywords["negative_prompt"].tolist() == [b"c", b"c", b"d", b"d"]
    assert (asked.keywords["reward"], asked.keywords["steps"]) == ("clip", 6)


def test_image_to_image_and_inpainting(asked: Recorder):
    pipe = Pipeline(asked)
    pipe("a", image=Image.fromarray(PICTURE))
    assert asked.keywords["strength"] == 0.8
    pipe(
        "a", image=[PICTURE, PICTURE], mask_image=np.ones((HEIGHT, WIDTH), bool), strength=0.5, num_images_per_prompt=2
    )
    assert asked.n == 4
    assert (asked.keywords["image"].shape, asked.keywords["mask"].shape) == ((4, HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH))
    assert asked.keywords["strength"] == 0.5
    pipe("a", image=PICTURE, mask_image=np.ones((HEIGHT, WIDTH), bool))
    assert "strength" not in asked.keywords


def test_kinds_of_output(asked: Recorder):
    pipe = Pipeline(asked)
    floats = pipe("a", output_type="np").images
    assert (floats.dtype, floats.shape, floats.max()) == (np.float32, (1, HEIGHT, WIDTH, 3), np.float32(71 / 255))
    assert pipe("a", output_type="latent").images.shape == (1, 4, 2, 2)
    assert asked.keywords["latents"] is True
    (images,) = pipe("a", return_dict=False)
    assert len(images) == 1


@pytest.mark.parametrize(("scale", "expected"), [(0, 1.0), (0.0, 1.0), (1, 1.0), (1.5, 1.5)])
def test_little_guidance_is_none(asked: Recorder, scale: float, expected: float):
    Pipeline(asked)("a", guidance_scale=scale)
    assert asked.keywords["guidance"] == expected


def test_generators(asked: Recorder):
    """The seed of a generator; the next call with it draws other pictures, the same ones after each seed."""

    def seeds(make: Callable[[], torch.Generator]) -> list[int]:
        generator, found = make(), []
        for _ in range(3):
            Pipeline(asked)("a", generator=generator)
            found.append(asked.keywords["seed"])
        return found

    first = seeds(lambda: torch.Generator().manual_seed(3))
    assert first[0] == 3
    assert len({*first}) == 3
    assert seeds(lambda: torch.Generator().manual_seed(3)) == first
    assert all(0 <= each < 2**63 for each in seeds(lambda: torch.Generator().manual_seed(2**64 - 1)))
    Pipeline(asked)("a")
    assert "seed" not in asked.keywords


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        *(({name: 1}, f"{name}: {told}") for name, told in pipelines.REFUSED.items()),
        ({"output_type": "pt"}, "output_type: expected pil, np or latent, got 'pt'"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: expected a number from 1, got 0"),
        ({"mask_image": np.ones((4, 6), bool)}, "mask_image: expected image= beside it, got none"),
        ({"num_inference_step": 4}, "unknown keyword 'num_inference_step', did you mean 'num_inference_steps'?"),
        ({"negative_prompt": ["a", "b", "c"]}, "prompt: expected 1 or 3, got 2"),
        ({"generator": [1, 2]}, "generator: expected one torch.Generator for all samples, or its seed, got list"),
        ({"num_inference_steps": 3, "steps": 3}, "steps: expected it once, got it in this server's words and in diff"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(asked: Recorder, keywords: dict[str, Any], expected: str):
    with pytest.raises(InvalidArgument) as caught:
        Pipeline(asked)(["a", "b"], **keywords)
    assert caught.value.message.startswith(expected)
    assert not asked.keywords


def test_with_asyncio(asked: Recorder):
    async def sample(n: int, **keywords: Any) -> Samples:
        return asked(n, **keywords)

    out = asyncio.run(AsyncPipeline(sample)("a", num_images_per_prompt=2))
    assert len(out.images) == 2
