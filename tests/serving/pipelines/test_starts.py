"""Pictures to begin with, PNG files, and what is shown on the way: through the whole server."""

import io
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from PIL import Image

from tests.pipelines import EVENT, SCALE, SHIFT
from tests.serving.live import Live
from tests.serving.pipelines.test_pictures import infer, ran, shown, texts
from tests.unmodified import inferred, tensors

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
MASK = np.zeros((1, 8, 8), np.uint8)
MASK[0, :4, :3] = 255


def latents(models: Path, pictures: NDArray[Any]) -> NDArray[np.float32]:
    """Of pictures of 0..255, by the formula of the documentation."""
    x = (pictures.astype(np.float32) / np.float32(127.5) - 1).transpose(0, 3, 1, 2)
    return (ran(models, "tiny.encoder", picture=x) - np.float32(SHIFT)) * np.float32(SCALE)


def streamed(
    live: Live, model: str = "tiny", **parameters: Any
) -> list[tuple[dict[str, NDArray[Any]], dict[str, Any]]]:
    """The outputs and parameters of each response."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(live.address) as client:
        client.start_stream(lambda result, error: came.put((result, error)))
        client.async_stream_infer("tiny", tensors({"prompt": texts("a red heart")}), parameters=parameters)
        found: list[tuple[dict[str, NDArray[Any]], dict[str, Any]]] = []
        while not found or not found[-1][1]["triton_final_response"]:
            result, error = came.get(timeout=60)
            assert error is None, error
            answer = inferred(result)
            found.append((answer.outputs, answer.parameters))
        client.stop_stream()
    return found


def test_an_image_is_changed(pictured: Live, picture_models: Path):
    """As the sampler itself starts from its latents with noise."""
    given = {"image": PICTURES}
    answer, said = infer(pictured, "a red heart", outputs=["images", "latents"], inputs=given, samples=2, strength=0.5)
    from_latents, _ = infer(
        pictured, "a red heart", outputs=["latents"], samples=2, strength=0.5,
        inputs={"x_init": latents(picture_models, PICTURES)},
    )  # fmt: skip
    assert np.array_equal(answer["latents"], from_latents["latents"])
    assert np.array_equal(answer["images"], shown(answer["latents"], picture_models))
    assert said["network_rows"] == 2 * 2 * 2
    one, _ = infer(pictured, "a red heart", inputs={"image": PICTURES[:1]}, samples=2, strength=0.5)
    assert np.array_equal(one["images"][0], answer["images"][0])
    assert not np.array_equal(one["images"][1], answer["images"][1])


def test_a_part_is_drawn_anew(pictured: Live, picture_models: Path):
    """What touches no such pixel keeps its latents, but for the noise of the end."""
    given = {"image": PICTURES[:1], "mask": MASK}
    answer, said = infer(pictured, "green", outputs=["latents"], inputs=given, samples=2, end="denoise")
    kept = latents(picture_models, PICTURES[:1])[0]
    anew = np.zeros(EVENT, bool)
    anew[:, :2, :2] = True
    assert np.allclose(answer["latents"][:, ~anew], kept[~anew], atol=1e-5)
    assert np.abs(answer["latents"][:, anew] - kept[anew]).mean() > 0.1
    assert said["steering"] == "project"


def test_samplers_that_fill_in_are_told_what(pictured: Live, picture_models: Path):
    def asked(**inputs: Any) -> Any:
        given = {"prompt": texts("green"), **inputs}
        return pictured.infer(given, model="filling", samples=2, seed=1, steps=3, guidance=1.0)[0]["images"]

    first = asked(image=PICTURES, mask=MASK)
    beside = {
        "encoder_hidden_states": ran_text(picture_models),
        "time_ids": np.array([[8, 8, 0, 0, 8, 8]], np.float32),
        "mask": np.pad(np.ones((2, 1, 2, 2), np.float32), ((0, 0), (0, 0), (0, 2), (0, 2))),
        "masked": latents(picture_models, np.where(MASK[..., None] >= 128, 127.5, PICTURES)),
    }
    of_sampler, _ = pictured.infer(beside, model="filling.unet", samples=2, seed=1, steps=3)
    assert np.array_equal(first, shown(of_sampler["samples"], picture_models))
    for inputs, why in (
        ({}, "input 'image': expected one and a mask, 'filling' fills in, got none"),
        ({"image": PICTURES}, "input 'mask': expected one, 'filling' fills in, got none"),
    ):
        _, text = pictured.refusal(model="filling", inputs={"prompt": texts("a"), **inputs}, samples=2)
        assert why in text


def ran_text(models: Path) -> NDArray[np.float32]:
    ids = np.array([[0, 5, 1, 1, 1, 1]])
    return ran(models, "tiny.text", input_ids=ids, attention_mask=np.array([[1, 1, 1, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("inputs", "parameters", "why"),
    [
        ({"image": PICTURES[:1]}, {}, "input 'image': expected a parameter strength beside it, got none"),
        ({"image": PICTURES}, {"strength": 0.5}, "input 'image': expected UINT8 [1, 8, 8, 3], got uint8 [2, 8, 8, 3]"),
        ({"image": PICTURES[:1, :4]}, {"strength": 0.5}, "expected UINT8 [1, 8, 8, 3], got uint8 [1, 4, 8, 3]"),
        ({"image": PICTURES[:1].astype(np.float32)}, {"strength": 0.5}, "got float32 [1, 8, 8, 3]"),
        ({"mask": MASK}, {}, "input 'mask': expected an input image beside it, got none"),
        ({"image": PICTURES[:1], "mask": MASK > 0}, {}, "input 'mask': expected UINT8 [1, 8, 8], got bool [1, 8, 8]"),
        ({"image": PICTURES[:1], "x_init": np.zeros((1, *EVENT), np.float32)}, {"strength": 0.5}, "beside an image"),
        ({"known": np.zeros((1, *EVENT), np.float32)}, {}, "input 'known': expected a sampler, got 'tiny'"),
        ({"image": PICTURES[:1], "mask": MASK}, {"reward": "redness"}, "known: expected no reward beside it"),
        ({}, {"preview_every": 1}, "preview_every: expected a request on ModelStreamInfer"),
    ],
)  # fmt: skip
def test_what_is_refused(pictured: Live, inputs: Any, parameters: Any, why: str):
    code, text = pictured.refusal(inputs={"prompt": texts("a"), **inputs}, model="tiny", **parameters)
    assert code == "INVALID_ARGUMENT"
    assert why in text


def test_png_files(pictured: Live):
    raw, _ = infer(pictured, "a red heart", samples=3)
    files, _ = infer(pictured, "a red heart", samples=3, output_format="png")
    assert files["images"].shape == (3,)
    read = [np.asarray(Image.open(io.BytesIO(each))) for each in files["images"]]
    assert np.array_equal(np.stack(read), raw["images"])


def test_previews_are_pictures(pictured: Live, picture_models: Path):
    """By the small decoder; what they cost is counted, and the answer is the same."""
    *before, (last, said) = streamed(pictured, seed=1, steps=4, samples=2, preview_every=2)
    alone, quiet = infer(pictured, "a red heart", samples=2)
    assert np.array_equal(last["images"], alone["images"])
    assert [told["stage"] for _, told in before] == [2, 4]
    assert all(outputs["denoised"].shape == (2, 8, 8, 3) for outputs, _ in before)
    assert all(outputs["denoised"].dtype == np.uint8 for outputs, _ in before)
    assert said["decode_rows"] == quiet["decode_rows"] + 2 * 2
    latents, _ = infer(pictured, "a red heart", samples=2, outputs=["latents"], end="denoise")
    *_, (shown_last, _), _ = streamed(pictured, seed=1, steps=4, samples=2, preview_every=4, end="denoise")
    expected = shown(latents["latents"], picture_models, "tiny.tiny")
    assert np.array_equal(shown_last["denoised"], expected)
    small, *_ = streamed(pictured, seed=1, steps=4, preview_every=4, preview_size=4)
    assert small[0]["denoised"].shape == (1, 4, 4, 3)


def test_groups_of_pictures_come_as_they_are_finished(pictured: Live):
    whole, _ = infer(pictured, "a red heart", samples=80)
    came = streamed(pictured, seed=1, steps=4, samples=80, stream_samples=True)
    assert len(came) > 1
    assert np.array_equal(np.concatenate([outputs["images"] for outputs, _ in came]), whole["images"])


def test_floats_are_no_pictures(pictured: Live):
    with triton.InferenceServerClient(pictured.address) as client:
        came: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: came.put(error))
        parameters = {"preview_every": 1, "preview_dtype": "float32"}
        client.async_stream_infer("tiny", tensors({"prompt": texts("a")}), parameters=parameters)
        assert "for pictures, got 'float32'" in str(came.get(timeout=60))
        client.stop_stream()
