"""A pipeline and its parts in a repository: what must be there and fit, and what comes of it when that changes."""

import asyncio
import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from protos.card import CardError, Defaults, dump_card, load_card
from protos.pipeline import Codec, Pipeline, Tokenizer
from serving.backends import Backend, LoadError
from serving.backends import triton as triton_backend
from serving.backends.opening import Opener
from serving.models.described import defaults_of
from serving.models.folders import scan
from serving.models.loaded import LoadedModels
from serving.models.model import PlainModel, Sampler
from serving.models.pipeline import PartError, Recipe
from serving.models.repository import load, opened
from serving.models.unloaded import UnloadedBackend
from serving.rewards import bind
from serving.rewards.decoded import DecodedReward
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from tests import pipelines
from tests.serving.live import running, until
from tests.serving.pipelines.test_pictures import infer


@pytest.fixture(scope="module")
def parts(picture_models: Path) -> dict[str, object]:
    """The models of the repository without pipelines, as requests find them."""
    found = (each for each in scan(picture_models) if each.kind != "pipeline")
    opener = Opener(1)
    return {each.name: load(each, opener) for each in found}


def recipe(root: Path, change: Callable[[dict[str, Any]], Any] = lambda card: None) -> Recipe:
    """The pipeline `tiny`, its card changed."""
    content = pipelines.card("tiny", "tiny").pipeline
    assert content is not None
    told = content.model_dump()
    change(told)
    (root / "tiny").mkdir(exist_ok=True)
    card = pipelines.card("tiny", "tiny").model_copy(update={"pipeline": Pipeline.model_validate(told)})
    dump_card(card, root / "tiny" / "card.yaml")
    pipelines.write_tokenizer(root / "tiny" / "1" / "tokenizer.json")
    (folder,) = (each for each in scan(root) if each.name == "tiny")
    found = opened(folder, lambda path: pytest.fail("a pipeline has no graph"))
    assert isinstance(found, Recipe)
    return found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.update(sampler="none"), "pipeline.sampler: model 'none': expected a model of the repository"),
        (lambda c: c.update(sampler="tiny.text"), "pipeline.sampler: model 'tiny.text': expected a sampler"),
        (lambda c: c["text"].update(model="tiny.unet"), "pipeline.text: model 'tiny.unet': expected a plain network"),
        (lambda c: c["text"].update(model="redness"), "expected the inputs attention_mask, input_ids, as its"),
        (
            lambda c: c["text"]["tokenizers"]["input_ids"].update(length=7),
            "input 'input_ids': expected whole numbers [n, 7], got int64 [n, 6]",
        ),
        (lambda c: c["text"].update(gives={"said": "hidden"}), "gives.said: expected a condition of 'tiny.unet'"),
        (lambda c: c["text"].update(gives={"time_ids": "hidden"}), "expected floats [n, 6] for the condition 'time_id"),
        (
            lambda c: c["text"].update(gives={"encoder_hidden_states": "pooled"}),
            "gives.encoder_hidden_states: expected an output of hidden, got 'pooled'",
        ),
        (
            lambda c: c["decoder"].update(model="tiny.encoder"),
            "pipeline.decoder: model 'tiny.encoder': input 'picture': expected [n, 4, 4, 4], got float32 [n, 3, 8, 8]",
        ),
        (lambda c: c["decoder"].update(output="image"), "output: expected one of picture, got 'image'"),
        (lambda c: c["encoder"].update(model="tiny.decoder"), "pipeline.encoder: model 'tiny.decoder': input 'latent"),
        (lambda c: c.update(sizes="encoder_hidden_states"), "for sizes: expected float32 [6], got float32 [6, 8]"),
        (lambda c: c.update(sizes="size"), "sizes: expected a condition of 'tiny.unet'"),
        (
            lambda c: c.update(decoder=None, encoder=None, preview=None),
            "pipeline.sampler: model 'tiny.unet': event_shape: expected pictures [3, height, width], got [4, 4, 4]",
        ),
        (
            lambda c: c.update(resolution={"multiple": 2, "most": 256}),
            "pipeline.sampler: model 'tiny.unet': expected a graph of free height and width, as pipeline.resolution",
        ),
    ],
)  # fmt: skip
def test_parts_must_fit(tmp_path: Path, parts: dict[str, object], change: Callable[[dict[str, Any]], Any], why: str):
    with pytest.raises(PartError) as raised:
        recipe(tmp_path, change).bound(parts)
    assert why in str(raised.value)
    assert str(tmp_path / "tiny" / "card.yaml") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tokens_must_be_in_the_networks_table(tmp_path: Path, parts: dict[str, object]):
    with pytest.raises(PartError, match="expected tokens up to 11, its tokenizer has 12"):
        recipe(tmp_path, lambda c: c["text"]["tokenizers"]["input_ids"].update(pad=12)).bound(parts)


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (
            Tokenizer(file="none.json", length=6),
            "tokenizers.input_ids: expected a tokenizer in .*none.json, got: No such",
        ),
        (Tokenizer(file="../card.yaml", length=6), "expected a name in the version's folder, got '../card.yaml'"),
        (Tokenizer(file="card.json", length=6), "expected a tokenizer in .*card.json, got: "),
        (
            Tokenizer(file="tokenizer.json", length=1),
            "length 1: expected room for tokens beside those that begin",
        ),
    ],
)
def test_tokenizers_must_be_readable(tmp_path: Path, tokenizer: Tokenizer, why: str):
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    (tmp_path / "tiny" / "1" / "card.json").write_text("{}")
    with pytest.raises(LoadError, match=why) as raised:
        recipe(tmp_path, lambda c: c["text"].update(tokenizers={"input_ids": tokenizer.model_dump()}))
    assert "\n" not in str(raised.value)


def test_a_card_must_make_sense(tmp_path: Path):
    for wrong, why in (
        ({"mask": "mask"}, "mask and masked: expected both or neither, got one"),
        ({"decoder": None, "preview": None}, "encoder: expected a decoder beside it, got none"),
        ({"encoder": None, "mask": "mask", "masked": "masked"}, "masked: expected an encoder beside it, got none"),
    ):
        with pytest.raises(ValueError, match=why):
            pipelines.card("tiny", "tiny", **wrong)
    file = tmp_path / "card.yaml"
    file.write_text("name: tiny\npipeline: {sampler: a, text: {model: b, tokenizers: {}, gives: {c: d}}}\n")
    with pytest.raises(CardError, match=r"pipeline\.text\.tokenizers"):
        load_card(file)


def test_a_pipeline_is_what_its_parts_are(tmp_path: Path, picture_models: Path):
    """Parts are loaded, unloaded and replaced under it while it serves."""
    for name in ("tiny", "tiny.unet", "tiny.text", "tiny.decoder"):
        shutil.copytree(picture_models / name, tmp_path / name)
    content = pipelines.card("tiny", "tiny", encoder=None, preview=None)
    dump_card(content, tmp_path / "tiny" / "card.yaml")
    shutil.move(tmp_path / "tiny.text", tmp_path / "kept")
    with (
        running(tmp_path.parent / tmp_path.name, allow_model_control=True, front={"allow_model_control": True}) as live,
        triton.InferenceServerClient(live.address) as client,
    ):

        def states() -> dict[str, tuple[str, str]]:
            return {each.name: (each.state, each.reason) for each in client.get_model_repository_index().models}

        lacking = "pipeline.text: model 'tiny.text': expected a model of the repository, got none of that name"
        assert states()["tiny"][0] == "UNAVAILABLE"
        assert lacking in states()["tiny"][1]
        assert not client.is_model_ready("tiny")
        code, text = live.refusal(inputs={}, model="tiny", prompt="a heart")
        assert code == "UNAVAILABLE"
        assert lacking in text
        with pytest.raises(InferenceServerException, match=r"pipeline\.text: model 'tiny\.text'"):
            client.load_model("tiny")

        shutil.move(tmp_path / "kept", tmp_path / "tiny.text")
        client.load_model("tiny.text")
        until(lambda: client.is_model_ready("tiny"))
        first, said = infer(live, "a red heart")

        shutil.rmtree(tmp_path / "tiny.decoder")  # another network takes its place
        pipelines.write_decoder(tmp_path / "tiny.decoder", 9)
        again, unchanged = infer(live, "a red heart")
        assert (again["images"] == first["images"]).all()
        assert unchanged["fingerprint"] == said["fingerprint"]
        client.load_model("tiny.decoder")
        other, changed = infer(live, "a red heart")
        assert (other["images"] != first["images"]).any()
        assert changed["fingerprint"] != said["fingerprint"]
        fingerprint = client.get_model_config("tiny").config.parameters["fingerprint"].string_value
        until(lambda: fingerprint == changed["fingerprint"])

        shutil.rmtree(tmp_path / "tiny.decoder")  # and one that does not fit
        pipelines.write_decoder(tmp_path / "tiny.decoder", 9, channels=4)
        client.load_model("tiny.decoder")
        assert (
            "expected pictures of 3 channels, got float32 [n, 4, 8, 8]"
            in live.refusal(inputs={}, model="tiny", prompt="a heart")[1]
        )
        client.unload_model("tiny.unet")
        until(lambda: "model 'tiny.unet': it is unavailable: unloaded" in states()["tiny"][1])
        client.unload_model("tiny")
        until(lambda: states()["tiny"] == ("UNAVAILABLE", "unloaded"))


def test_an_older_version_serves_where_the_newest_does_not_fit(tmp_path: Path, picture_models: Path):
    for name in ("tiny", "tiny.unet", "tiny.text", "tiny.decoder", "tiny.encoder", "tiny.tiny"):
        shutil.copytree(picture_models / name, tmp_path / name)
    (tmp_path / "tiny" / "config.pbtxt").write_text("version_policy: { all {} }")
    newer = tmp_path / "tiny" / "2" / "tokenizer.json"
    newer.parent.mkdir()
    words = (tmp_path / "tiny" / "1" / "tokenizer.json").read_text()
    newer.write_text(words.replace('"sky":11', '"sky":11,"sea":99').replace('"sky": 11', '"sky": 11, "sea": 99'))

    async def run() -> None:
        shelf = LoadedModels(tmp_path, 1)
        await shelf.load_all()
        try:
            assert {(each.name, each.version, each.state) for each in shelf.states() if each.name == "tiny"} == {
                ("tiny", "1", "READY"), ("tiny", "2", "UNAVAILABLE"),
            }  # fmt: skip
            async with shelf.holding(InferRequest("tiny")) as held:
                assert held.model.version == "1"
            with pytest.raises(RequestError, match="expected tokens up to 11, its tokenizer has 99"):
                shelf.model("tiny", "2")
        finally:
            shelf.close()

    asyncio.run(run())


def test_options_that_the_samplers_solver_does_not_take_are_refused(tmp_path: Path, parts: dict[str, object]):
    found = recipe(tmp_path)
    wrong = replace(found, defaults=Defaults(options={"corrections": 2.0}))
    with pytest.raises(PartError, match=r"card.yaml: with the sampler 'tiny.unet': defaults: .*corrections"):
        wrong.bound(parts)
    assert replace(found, defaults=Defaults(solver="pc", options={"corrections": 2.0})).bound(parts).name == "tiny"


def test_draws_of_prompts_that_are_read_elsewhere_do_not_last(parts: dict[str, object]):
    """They are told apart by prompts, and another server's network may change without a word."""
    sampler, text = parts["tiny.unet"], parts["tiny.text"]
    assert isinstance(sampler, Sampler)
    assert isinstance(text, PlainModel)

    class Elsewhere(UnloadedBackend):
        def __init__(self, backend: Backend) -> None:
            super().__init__(backend)
            self.kind = f"{triton_backend.KIND} there 1 text 1"

    remote = replace(text, network=replace(text.network, backend=Elsewhere(text.network.backend)))
    assert sampler.lasting
    assert sampler.referring({}, [text]).lasting
    assert not sampler.referring({}, [remote]).lasting


def test_parts_come_back_into_memory_together(picture_models: Path):
    """A bound that all parts of one pipeline just fit into: they are loaded again when it is asked for."""

    async def run() -> None:
        shared = ("tiny.text", "tiny.decoder", "tiny.encoder", "tiny.tiny")
        names = {name: {name, f"{name}.unet", *shared} for name in ("tiny", "filling")}
        files = ((picture_models / name / "1").iterdir() for name in names["filling"])
        shelf = LoadedModels(picture_models, 1, sum(file.stat().st_size for each in files for file in each) + 100)
        await shelf.load_all()
        fingerprints = {each.name: each.fingerprint for each in shelf.states()}
        async with shelf.holding(InferRequest("filling")) as held:
            assert {each.split("/")[0] for each in shelf._memory.loaded} == names["filling"]
            assert held.model.name == "filling"
        async with shelf.holding(InferRequest("tiny")):
            assert {each.split("/")[0] for each in shelf._memory.loaded} >= names["tiny"]
            assert "filling.unet/1" not in shelf._memory.loaded
            assert {each.name: each.fingerprint for each in shelf.states()} == fingerprints
        shelf.close()

    asyncio.run(run())


def test_defaults_are_the_pipelines_then_the_samplers(tmp_path: Path, picture_models: Path, parts: dict[str, object]):
    bound = recipe(tmp_path).bound(parts)
    assert defaults_of(bound) == {"steps": 5, "solver": "ddim", "guidance": 3.0}
    assert Defaults(steps=3).model_dump(exclude_none=True) == {"steps": 3}
    assert Codec(model="a").scale == 1.0


def test_options_of_one_solver_are_not_for_another(tmp_path: Path, parts: dict[str, object]):
    """The sampler's card has options of its solver; the pipeline's names another solver, which may not know them."""
    bound = recipe(tmp_path).bound(parts)
    said = Defaults(solver="dpmpp_2m", options={"lower_final": 15.0})
    sampler = copy.copy(bound.sampler)
    sampler.card = sampler.card.model_copy(update={"defaults": said})
    bound = replace(bound, sampler=sampler)
    assert defaults_of(bound) == {"solver": "dpmpp_2m", "lower_final": 15.0, "guidance": 3.0}
    assert defaults_of(replace(bound, defaults=Defaults(solver="euler"))) == {"solver": "euler"}
    theirs = replace(bound, defaults=Defaults(solver="unipc_2", options={"bh": 1.0}))
    assert defaults_of(theirs) == {"solver": "unipc_2", "bh": 1.0}


def test_pipelines_that_read_one_network_differently_share_nothing(tmp_path: Path, parts: dict[str, object]):
    """Names of encodings and keys of scores are also those of draws for steering, which pipelines of one sampler
    share."""

    def bound(change: Callable[[dict[str, Any]], Any] = lambda card: None) -> Any:
        return recipe(tmp_path, change).bound(parts)

    def names(pipeline: Any) -> tuple[object, ...]:
        reward = bind("redness", models, pipelines.PICTURE, {}, {}, None)
        return pipeline.encoder.digest, DecodedReward(reward, pipeline.decoder).key

    models: Any = parts
    first = bound()
    assert names(bound()) == names(first)
    for change in (lambda c: c["decoder"].update(scale=0.25), lambda c: c["decoder"].update(shift=0.0)):
        assert names(bound(change))[1] != names(first)[1]
    assert bound(lambda c: c["encoder"].update(scale=0.25)).encoder.digest != first.encoder.digest
    other = replace(first.reading, gives={"encoder_hidden_states": "pooled"})
    assert other.handle("a", deterministic=False) != first.reading.handle("a", deterministic=False)
    assert bound().reading.handle("a", deterministic=False) == first.reading.handle("a", deterministic=False)
