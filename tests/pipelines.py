"""A tiny pipeline that needs no training: latents [4, 4, 4], pictures [3, 8, 8], prompts of colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as Writer
from tokenizers import models, pre_tokenizers, processors

from protos.card import Card, Condition, Defaults, Inputs, dump_card
from protos.pipeline import Codec, Pipeline, Text, Tokenizer

EVENT, PICTURE, LENGTH, WIDTH = (4, 4, 4), (3, 8, 8), 6, 8
SCALE, SHIFT = 0.5, 0.25
WORDS = ("[begin]", "[end]", "[unknown]", "a", "red", "green", "blue", "heart", "square", "of", "the", "sky")

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


def _numbers(seed: int, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def _write(
    folder: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int]]],
    outputs: Sequence[tuple[str, Sequence[int]]],
    constants: dict[str, NDArray[Any]],
) -> None:
    """A graph of rows as version 1 of the model `folder`."""
    graph = helper.make_graph(
        nodes,
        folder.name,
        [helper.make_tensor_value_info(name, kind, ["n", *row]) for name, kind, row in inputs],
        [helper.make_tensor_value_info(name, _FLOAT, ["n", *row]) for name, row in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")


def write_sampler(folder: Path, *, fills_in: bool = False) -> None:
    """A denoised estimate that depends on x, t, the prompt and the picture's size; `fills_in`, on a mask too."""
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["encoder_hidden_states", "tokens"], ["said"], keepdims=0),
        node("MatMul", ["said", "words"], ["drawn"]),
        node("Reshape", ["drawn", "shape"], ["meant"]),
        node("ReduceMean", ["time_ids", "last"], ["size"], keepdims=0),
        node("Reshape", ["size", "column"], ["sized"]),
        node("Reshape", ["t", "column"], ["when"]),
        node("Conv", ["x", "filter"], ["near"], pads=[1, 1, 1, 1]),
        node("Add", ["near", "when"], ["now"]),
        node("Mul", ["sized", "little"], ["slightly"]),
        node("Add", ["now", "slightly"], ["larger"]),
        node("Add", ["larger", "meant"], ["sum"]),
    ]
    inputs = [
        ("x", _FLOAT, EVENT),
        ("t", _FLOAT, ()),
        ("encoder_hidden_states", _FLOAT, (LENGTH, WIDTH)),
        ("time_ids", _FLOAT, (6,)),
    ]
    conditions = {
        "encoder_hidden_states": Condition(dtype="float32", shape=(LENGTH, WIDTH)),
        "time_ids": Condition(dtype="float32", shape=(6,), guidance="keep"),
    }
    last = "sum"
    if fills_in:
        nodes += [
            node("Mul", ["mask", "masked"], ["hidden"]),
            node("Add", ["hidden", "masked"], ["beside"]),
            node("Add", ["sum", "beside"], ["whole"]),
        ]
        inputs += [("mask", _FLOAT, (1, *EVENT[1:])), ("masked", _FLOAT, EVENT)]
        conditions["mask"] = Condition(dtype="float32", shape=(1, *EVENT[1:]), guidance="keep")
        conditions["masked"] = Condition(dtype="float32", shape=EVENT, guidance="keep")
        last = "whole"
    nodes.append(node("Tanh", [last], ["x0"]))
    constants = {
        "tokens": np.array([1]),
        "last": np.array([1]),
        "column": np.array([-1, 1, 1, 1]),
        "shape": np.array([-1, *EVENT]),
        "little": np.array([0.01], np.float32),
        "words": _numbers(1, WIDTH, 64, scale=0.7),
        "filter": _numbers(2, 4, 4, 3, 3, scale=0.2),
    }
    _write(folder, nodes, inputs, [("x0", EVENT)], constants)
    card = Card(
        name=folder.name, path={"kind": "rectified_flow"}, prediction="x0", event_shape=EVENT, inputs=Inputs(time="t"),
        output="x0", conditions=conditions, defaults=Defaults(steps=5, solver="ddim"),
    )  # fmt: skip
    dump_card(card, folder / "card.yaml")


def write_text(folder: Path, *, words: int = len(WORDS), width: int = WIDTH) -> None:
    """Each token's row of a table, with what is filled up left out of it."""
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("Cast", ["attention_mask"], ["there"], to=_FLOAT),
        node("Unsqueeze", ["there", "last"], ["beside"]),
        node("Mul", ["rows", "beside"], ["hidden"]),
    ]
    inputs = [("input_ids", _INT, (LENGTH,)), ("attention_mask", _INT, (LENGTH,))]
    constants = {"table": _numbers(3, words, width), "last": np.array([2])}
    _write(folder, nodes, inputs, [("hidden", (LENGTH, width))], constants)


def write_decoder(folder: Path, seed: int, channels: int = 3) -> None:
    """Latents to pictures of twice their size."""
    node = helper.make_node
    nodes = [
        node("Conv", ["latents", "filter"], ["small"]),
        node("Resize", ["small", "", "scales"], ["picture"], mode="nearest"),
    ]
    constants = {
        "filter": _numbers(seed, channels, 4, 1, 1, scale=0.2),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    _write(folder, nodes, [("latents", _FLOAT, EVENT)], [("picture", (channels, *PICTURE[1:]))], constants)


def write_encoder(folder: Path) -> None:
    """Pictures to latents."""
    node = helper.make_node
    nodes = [
        node("AveragePool", ["picture"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["small", "filter"], ["latents"]),
    ]
    constants = {"filter": _numbers(5, 4, 3, 1, 1)}
    _write(folder, nodes, [("picture", _FLOAT, PICTURE)], [("latents", EVENT)], constants)


def write_redness(folder: Path) -> None:
    """How red a picture is: the mean of its first channel less those of the others."""
    node = helper.make_node
    nodes = [
        node("Mul", ["picture", "weights"], ["weighted"]),
        node("ReduceMean", ["weighted", "axes"], ["reward"], keepdims=0),
    ]
    weights = np.array([2, -1, -1], np.float32).reshape(1, 3, 1, 1)
    constants = {"weights": weights, "axes": np.array([1, 2, 3])}
    _write(folder, nodes, [("picture", _FLOAT, PICTURE)], [("reward", ())], constants)


def write_tokenizer(file: Path) -> None:
    """Words, between one that begins and one that ends."""
    writer = Writer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[unknown]"))
    writer.pre_tokenizer = pre_tokenizers.Whitespace()
    writer.post_processor = processors.TemplateProcessing(
        single="[begin] $A [end]", special_tokens=[("[begin]", 0), ("[end]", 1)]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    writer.save(str(file))


def card(name: str, of: str, *, fills_in: bool = False, **changed: Any) -> Card:
    """The pipeline's card; its parts but the sampler are those of the pipeline `of`, `changed` are other ones."""

    def codec(part: str) -> Codec:
        return Codec(model=f"{of}.{part}", scale=SCALE, shift=SHIFT)

    parts: dict[str, Any] = {
        "sampler": f"{name}.unet",
        "text": Text(
            model=f"{of}.text",
            tokenizers={
                "input_ids": Tokenizer(file="tokenizer.json", length=LENGTH, pad=1, mask="attention_mask"),
            },
            gives={"encoder_hidden_states": "hidden"},
        ),
        "decoder": codec("decoder"),
        "encoder": codec("encoder"),
        "preview": codec("tiny"),
        "sizes": "time_ids",
    }
    if fills_in:
        parts |= {"mask": "mask", "masked": "masked"}
    return Card(name=name, pipeline=Pipeline(**(parts | changed)), defaults=Defaults(guidance=3.0))


def write_pipeline(root: Path, name: str = "tiny", of: str = "tiny", *, fills_in: bool = False) -> None:
    """The pipeline and its parts as models of the repository `root`; those of the pipeline `of`, if it is another one,
    are there."""
    write_sampler(root / f"{name}.unet", fills_in=fills_in)
    if of == name:
        write_text(root / f"{name}.text")
        write_decoder(root / f"{name}.decoder", 4)
        write_decoder(root / f"{name}.tiny", 6)
        write_encoder(root / f"{name}.encoder")
    write_tokenizer(root / name / "1" / "tokenizer.json")
    dump_card(card(name, of, fills_in=fills_in), root / name / "card.yaml")
