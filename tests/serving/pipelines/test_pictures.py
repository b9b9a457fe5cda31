"""A pipeline through the whole server, with an unmodified client of Triton's."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.front import asked
from serving.models.pipeline import Pipeline
from serving.requests import job
from serving.wire.kserve import InferRequest
from tests import pipelines
from tests.pipelines import EVENT, LENGTH, SCALE, SHIFT
from tests.serving.live import Live
from tests.unmodified import inferred, tensors

SIZES = np.array([[8, 8, 0, 0, 8, 8]], np.float32)


def texts(*prompts: str | bytes) -> NDArray[Any]:
    return np.array([each if isinstance(each, bytes) else each.encode() for each in prompts], np.object_)


def ran(models: Path, name: str, **feeds: NDArray[Any]) -> NDArray[Any]:
    """A graph's first output, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(models / name / "1" / "model.onnx")
    rows = len(next(iter(feeds.values())))
    doubled = {each: np.concatenate([value, value]) for each, value in feeds.items()}  # a row never runs alone
    output: NDArray[Any] = session.run(None, doubled)[0]
    return output[:rows]


def encoded(models: Path, *prompts: str) -> NDArray[np.float32]:
    """What the text network says of prompts."""
    reader = Tokenizer.from_file(str(models / "tiny" / "1" / "tokenizer.json"))
    reader.enable_truncation(LENGTH)
    reader.enable_padding(length=LENGTH, pad_id=1)
    read = [reader.encode(each) for each in prompts]
    ids, mask = (np.array([getattr(each, name) for each in read]) for name in ("ids", "attention_mask"))
    return ran(models, "tiny.text", input_ids=ids, attention_mask=mask)


def shown(latents: NDArray[np.float32], models: Path, decoder: str = "tiny.decoder") -> NDArray[np.uint8]:
    """Latents as pictures, by the formulas of the documentation."""
    pictures = ran(models, decoder, latents=latents / np.float32(SCALE) + np.float32(SHIFT))
    whole: NDArray[np.uint8] = np.round(np.clip(pictures / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
    return whole.transpose(0, 2, 3, 1)


def infer(live: Live, *prompts: str | bytes, outputs: Sequence[str] = (), inputs: Any = None, **parameters: Any) -> Any:
    """The answer of the pipeline `tiny`, whose seed is 1 where none is asked for."""
    given = {"prompt": texts(*prompts), **(inputs or {})}
    asked = [triton.InferRequestedOutput(each) for each in outputs] or None
    with triton.InferenceServerClient(live.address) as client:
        answer = inferred(
            client.infer("tiny", tensors(given), outputs=asked, parameters={"seed": 1, "steps": 4, **parameters})
        )
    return answer.outputs, answer.parameters


def test_a_prompt_becomes_pictures(pictured: Live, picture_models: Path):
    """As its parts make them one after another."""
    answer, said = infer(pictured, "a red heart", outputs=["images", "latents"], samples=3)
    conditions = {
        "encoder_hidden_states": encoded(picture_models, "a red heart"),
        "null_encoder_hidden_states": encoded(picture_models, ""),
        "time_ids": SIZES,
    }
    alone, of_sampler = pictured.infer(conditions, model="tiny.unet", samples=3, seed=1, steps=4, guidance=3.0)
    assert np.array_equal(answer["latents"], alone["samples"])
    assert answer["images"].dtype == np.uint8
    assert np.array_equal(answer["images"], shown(alone["samples"], picture_models))
    assert said["network_rows"] == of_sampler["network_rows"] == 3 * 4 * 2
    assert (said["text_rows"], said["decode_rows"], said["solver"], said["warnings"]) == (2, 3, "ddim", "")
    assert said["fingerprint"] != of_sampler["fingerprint"]
    spread = answer["images"].astype(float)
    assert spread.std(axis=0).mean() > 5, "seeds must show"


def test_prompts_show_and_guidance_does(pictured: Live):
    red, blue = (infer(pictured, each)[0]["images"].astype(float) for each in ("a red heart", "a blue sky"))
    unguided = infer(pictured, "a red heart", guidance=1.0)
    assert abs(red - blue).mean() > 10
    assert abs(red - unguided[0]["images"]).mean() > 5
    assert unguided[1]["text_rows"] == 1


def test_a_picture_is_the_same_in_any_company(pictured: Live):
    """Alone, among others of its request, beside other requests, on another replica."""
    prompts = ["a red heart", "a blue sky", "a red heart", "green square"]
    negative = {"negative_prompt": texts("blue", "red", "blue", "")}
    whole, _ = infer(pictured, *prompts, samples=4, inputs=negative)
    first, _ = infer(pictured, "a red heart", inputs={"negative_prompt": texts("blue")})
    assert np.array_equal(first["images"], whole["images"][:1])
    with ThreadPoolExecutor(6) as pool:  # as many replicas as there are take some
        again = [pool.submit(infer, pictured, *prompts, samples=4, inputs=negative) for _ in range(3)]
        others = [pool.submit(infer, pictured, each, samples=7) for each in ("a heart of the sky", "green", "blue")]
        assert all(np.array_equal(each.result()[0]["images"], whole["images"]) for each in again)
        assert len({each.result()[0]["images"].tobytes() for each in others}) == 3
    of_replicas = set()
    for replica in pictured.replicas:
        with triton.InferenceServerClient(replica._address) as client:
            sent = tensors({"prompt": texts("a red heart"), "negative_prompt": texts("blue")})
            answer = client.infer("tiny", sent, parameters={"seed": 1, "steps": 4})
            of_replicas.add(answer.as_numpy("images").tobytes())
    assert of_replicas == {first["images"].tobytes()}


def test_a_steered_picture_is_the_same_in_any_company(pictured: Live):
    """It is a function of its prompt, seed and number; and the reward of what the answer shows is the one it tells."""
    how: dict[str, Any] = {"reward": "redness", "beta": 0.05, "particles": 8, "decode_for_reward": "full"}
    whole, said = infer(pictured, "a red heart", samples=20, **how)
    with ThreadPoolExecutor(2) as pool:
        one, other = (pool.submit(infer, pictured, "a red heart", **how) for _ in range(2))
        beside = infer(pictured, "a blue sky", samples=3, reward="redness", beta=0.05)
        assert np.array_equal(one.result()[0]["images"], whole["images"][:1])
        assert one.result()[0]["rewards"] == whole["rewards"][:1] == other.result()[0]["rewards"]
    assert beside[1]["steering"] == said["steering"] == "doob"


def test_a_reward_judges_what_is_shown(pictured: Live):
    """Candidates are decoded by the small decoder where there is one, or by the other; or not at all."""
    how: dict[str, Any] = {"reward": "redness", "steering": "best_of", "chains": 6}
    plain, _ = infer(pictured, "a heart", samples=4, outputs=["images", "rewards"], reward="redness", steering="none")
    full, said = infer(pictured, "a heart", samples=4, decode_for_reward="full", outputs=["images", "rewards"], **how)
    assert np.allclose(full["rewards"], redness(full["images"]), atol=0.02)
    assert redness(full["images"]).mean() > redness(plain["images"]).mean()
    assert said["reward_rows"] == 4 * 6
    assert said["decode_rows"] == 4 * 6 + 4
    tiny, _ = infer(pictured, "a heart", samples=4, outputs=["images", "latents", "rewards"], **how)
    again, _ = infer(pictured, "a heart", samples=4, decode_for_reward="tiny", **how)
    assert np.array_equal(tiny["images"], again["images"])
    assert not np.array_equal(tiny["rewards"], full["rewards"])
    latents, said = infer(pictured, "a heart", reward="linear", inputs={"reward_direction": np.ones(EVENT, np.float32)})
    assert said["decode_rows"] == 1
    assert latents["rewards"].shape == (1,)
    _, text = pictured.refusal(inputs={"prompt": texts("a")}, model="tiny", reward="redness", decode_for_reward="none")
    assert "redness" in text


def test_a_decoded_candidate_is_two_rows_of_the_budget(pictured: Live):
    _, said = infer(pictured, "a heart", samples=2, reward="redness", reward_budget=9)
    assert said["reward_rows"] <= 2 * 4
    assert said["decode_rows"] + said["reward_rows"] <= 2 * 9 + 2, "and two for the answer"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"samples": 5, "steps": 7, "guidance": 1.0},
        {"samples": 3, "reward": "redness", "particles": 4, "posterior": "gaussian"},
        {"samples": 3, "reward": "redness", "particles": 4, "decode_for_reward": "full", "posterior": "gaussian"},
        {"samples": 2, "reward": "redness", "steering": "best_of", "chains": 5},
        {"samples": 2, "reward": "redness", "steering": "svdd", "candidates": 4, "solver": "ddim", "eta": 1.0},
    ],
)
def test_the_front_counts_no_fewer_rows_than_a_replica(pictured: Live, parameters: dict[str, Any]):
    """The sampler's, and those of the networks beside it in its units; draws of a law, made once, are not counted."""
    replica = pictured.replicas[0]
    (state,) = (each for each in replica._models.states() if each.name == "tiny")
    assert state.draws is not None
    assert state.draws.defaults == {"solver": "ddim", "steps": 5, "guidance": 3.0}
    assert {*state.draws.units} == {"text", "decoder", "encoder", "preview"}
    given = {"seed": 0, **parameters}
    front = asked.Asked("tiny", "", {"prompt": "a", **given}, prompts=1).rows(state.draws)
    models = replica._models.models
    request = InferRequest("tiny", parameters={"prompt": "a", **given})
    task = job.task_for(request, replica._models.model("tiny"), models)
    task.program.close()
    assert task.network_rows <= front <= 2.5 * task.network_rows + 3


def test_nothing_is_left_of_a_request_that_is_done(pictured: Live):
    """Decoded candidates are taken off what is still to do, by which deadlines are judged, as sampler's rows are."""
    replica = pictured.replicas[0]
    pipeline = replica._models.model("tiny")
    assert isinstance(pipeline, Pipeline)
    how: dict[str, Any] = {"prompt": "a", "seed": 0, "samples": 2, "reward": "redness"}
    how |= {"steering": "best_of", "chains": 30}
    task = job.task_for(InferRequest("tiny", parameters=how), pipeline, replica._models.models)
    most = task.network_rows
    replica._engine.submit(task).result(30)
    assert task.network_rows == most
    unknown = 2 * pipeline.units["text"]  # rows that are not needed where the prompts were known
    assert 0 <= task.backlog < unknown + 2, "the whole and what is left of it are rounded up"


def test_what_rows_refer_to_is_counted_once_a_call(pictured: Live):
    """Encodings of 32 MiB: the request's draws are 256 rows and as many nulls, of which a call has some."""
    pipeline = pictured.replicas[0]._models.model("tiny")
    assert isinstance(pipeline, Pipeline)
    assert pipeline.reading is not None
    row = 2**25
    large = replace(pipeline, reading=replace(pipeline.reading, rows={"encoder_hidden_states": (row // 4,)}))
    how: dict[str, Any] = {"prompt": "a", "seed": 0, "samples": 60, "reward": "redness", "guidance": 2.0}
    task = job.task_for(InferRequest("tiny", parameters=how), large, pictured.replicas[0]._models.models)
    task.program.close()
    largest = pipeline.sampler.network.costs.largest
    assert largest * row < task.bytes < (largest + 2 * 60 + 8) * row < 2 * 256 * row


def redness(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The reward, of what is shown of pictures that are nowhere cut off."""
    x = pictures.astype(float) / 127.5 - 1
    mean: NDArray[np.float64] = (2 * x[..., 0] - x[..., 1] - x[..., 2]).mean(axis=(1, 2)) / 3
    return mean


def test_prompts_are_encoded_once(pictured: Live):
    replica = pictured.replicas[0]

    def rows(model: str) -> float:
        return pictured.metric("tiltserve_rows_total", model=model, replica_id=replica.id)

    def asked(*prompts: str, **others: Any) -> None:
        with triton.InferenceServerClient(replica._address) as client:
            sent = {"prompt": texts(*prompts), "negative_prompt": texts("of the sky")}
            client.infer("tiny", tensors(sent), parameters={"steps": 2, **others})

    before, decoded = rows("tiny.text"), rows("tiny.decoder")
    asked("a a", "a a", "a a a", samples=3)
    assert rows("tiny.text") == before + 3  # and the negative one
    asked("a a a", samples=2)
    assert rows("tiny.text") == before + 3
    asked("a a a", "a a a a", samples=2)
    assert rows("tiny.text") == before + 4
    assert rows("tiny.decoder") == decoded + 3 + 2 + 2
    pipeline = replica._models.model("tiny")
    assert isinstance(pipeline, Pipeline)
    kept = pipeline.encodings
    assert kept.nbytes >= 4 * LENGTH * pipelines.WIDTH * 4


def test_outputs_that_are_not_asked_for_are_not_made(pictured: Live):
    before = pictured.metric("tiltserve_rows_total", model="tiny.decoder")
    latents, said = infer(pictured, "green", outputs=["latents"], samples=2)
    assert latents["latents"].shape == (2, *EVENT)
    assert said["decode_rows"] == 0
    assert pictured.metric("tiltserve_rows_total", model="tiny.decoder") == before


def test_a_prompt_that_is_cut_is_said(pictured: Live):
    long, said = infer(pictured, "a red heart of the sky")
    short, quiet = infer(pictured, "a red heart of")
    assert np.array_equal(long["images"], short["images"])
    assert "cut: up to 2 tokens" in said["warnings"]
    assert quiet["warnings"] == ""


def test_the_empty_text_is_a_prompt(pictured: Live):
    """And the negative prompt of a request that has none."""
    one, _ = infer(pictured, "a red heart")
    other, _ = infer(pictured, "a red heart", inputs={"negative_prompt": texts("")})
    assert np.array_equal(one["images"], other["images"])
    nothing, _ = infer(pictured, "")
    unguided, _ = infer(pictured, "", guidance=1.0)
    assert np.abs(nothing["images"].astype(int) - unguided["images"]).max() <= 1


def test_conditions_may_be_sent_instead(pictured: Live, picture_models: Path):
    sent = {
        "encoder_hidden_states": encoded(picture_models, "a red heart"),
        "null_encoder_hidden_states": encoded(picture_models, ""),
    }
    answer, said = pictured.infer(sent, model="tiny", seed=1, steps=4)
    assert np.array_equal(answer["images"], infer(pictured, "a red heart")[0]["images"])
    assert said["text_rows"] == 0


@pytest.mark.parametrize(
    ("inputs", "parameters", "why"),
    [
        ({}, {}, "prompt: expected BYTES [1], or a parameter prompt, got none"),
        ({"prompt": texts(b"\xff\xfe")}, {}, "prompt: expected texts in UTF-8, got invalid start byte at byte 0"),
        ({"prompt": texts("a", "b")}, {}, "input 'prompt': expected BYTES [1], got BYTES [2]"),
        ({"prompt": texts("a", "b")}, {"samples": 3}, "expected BYTES [3] (samples) or [1], got BYTES [2]"),
        ({"prompt": texts()}, {}, "input 'prompt': expected BYTES [1], got BYTES [0]"),
        ({"prompt": np.zeros(1, np.float32)}, {}, "input 'prompt': expected BYTES [1], got float32 [1]"),
        ({"prompt": texts("a" * 9000)}, {}, "prompt: expected at most 8192 bytes a prompt, got 9000"),
        (
            {"prompt": np.array([f"{i} {'a' * 4000}".encode() for i in range(4096)], np.object_)},
            {"samples": 4096},
            "expected at most 1048576 bytes of different prompts",
        ),
        ({"prompt": texts("a")}, {"prompt": "b"}, "prompt: expected an input or a parameter, got both"),
        ({}, {"prompt": 3}, "parameter prompt: expected a text, got 3"),
        ({"negative_prompt": texts("a")}, {}, "negative_prompt: expected a prompt beside it, got none"),
        (
            {"prompt": texts("a"), "encoder_hidden_states": np.zeros((1, LENGTH, 8), np.float32)},
            {},
            "input 'encoder_hidden_states': expected none, it is made of what else was sent, got one",
        ),
        ({"prompt": texts("a"), "time_ids": SIZES}, {}, "input 'time_ids': expected none"),
        ({"prompt": texts("a")}, {"output_format": "jpeg"}, "output_format: expected 'raw' or 'png', got 'jpeg'"),
        ({"prompt": texts("a")}, {"decode_for_reward": "tiny"}, "decode_for_reward: expected a parameter reward"),
        ({"prompt": texts("a")}, {"likelihood": "data"}, "likelihood: expected a sampler, got 'tiny'"),
        ({"prompt": texts("a")}, {"reverse": True}, "reverse: expected a sampler, got 'tiny', which is a pipeline"),
        ({"prompt": texts("a")}, {"colour": 1}, "unknown parameter 'colour'"),
        ({"prompt": texts("a"), "imge": SIZES}, {}, "unknown input 'imge', did you mean 'image'?"),
        ({"prompt": texts("a")}, {"height": 16}, "height: expected 8, the height of the pictures of 'tiny', got 16"),
        ({"prompt": texts("a")}, {"reward": "blueness"}, "unknown reward 'blueness'"),
    ],
)  # fmt: skip
def test_what_is_refused(pictured: Live, inputs: Any, parameters: Any, why: str):
    code, text = pictured.refusal(inputs=inputs, model="tiny", **parameters)
    assert code == "INVALID_ARGUMENT"
    assert why in text
    assert "\n" not in text


def test_a_sampler_takes_none_of_it(pictured: Live):
    for name, value in (("output_format", "png"), ("decode_for_reward", "full")):
        _, text = pictured.refusal(model="tiny.unet", inputs={}, **{name: value})
        assert f"{name}: expected a pipeline, got 'tiny.unet', which is a sampler" in text


def test_what_it_takes_and_gives_is_listed(pictured: Live):
    with triton.InferenceServerClient(pictured.address) as client:
        metadata = client.get_model_metadata("tiny")
        config = client.get_model_config("tiny").config
        index = {each.name: each.state for each in client.get_model_repository_index().models}
        assert client.is_model_ready("tiny")
    inputs = {each.name: (each.datatype, list(each.shape)) for each in metadata.inputs}
    assert inputs["prompt"] == inputs["negative_prompt"] == ("BYTES", [-1])
    assert inputs["image"] == ("UINT8", [-1, 8, 8, 3])
    assert inputs["mask"] == ("UINT8", [-1, 8, 8])
    assert inputs["x_init"] == ("FP32", [-1, *EVENT])
    assert "time_ids" not in inputs
    assert "known" not in inputs
    assert {each.name: (each.datatype, list(each.shape)) for each in metadata.outputs} == {
        "images": ("UINT8", [-1, 8, 8, 3]),
        "latents": ("FP32", [-1, *EVENT]),
        "rewards": ("FP32", [-1]),
        "denoised": ("UINT8", [-1, 8, 8, 3]),
        "states": ("FP32", [-1, 2, 4, 4, 4]),
    }
    assert config.parameters["kind"].string_value == "pipeline"
    assert config.model_transaction_policy.decoupled
    assert {name for name, each in index.items() if each == "READY"} >= {"tiny", "tiny.unet", "tiny.text", "redness"}
