"""Pictures per second of a pipeline, over those of its parts' bare sessions, run one after another.

    make bench ARGS="pipeline_roofline"

A small random pipeline with the shares of Stable Diffusion: a text network, a U-Net's rows with guidance, a decoder.
The bare figure is the time that ONNX Runtime alone takes for the same rows, in calls of the sizes that the engine
chooses: text, then all steps, then decoding. Requests are one after another, with other prompts each, in this process;
bare and served requests alternate, on as many threads. Where others use the machine, the ratio of processor seconds
says more than that of the clock's: they have the whole server, front and client too, in one process.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc as triton
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as Writer
from tokenizers import models, pre_tokenizers

from protos.card import Card, Condition, Defaults, Inputs, dump_card
from protos.pipeline import Codec, Pipeline, Text, Tokenizer
from serving.models.pipeline import Pipeline as Bound
from tests.serving.live import Live, running

EVENT, SIDE, TOKENS, WIDTH, WORDS, INSIDE = (4, 32, 32), 128, 32, 64, 100, 128
AIM = 0.95
Feeds = dict[str, NDArray[Any]]


def _stack(name: str, start: str, channels: int, inside: int, layers: int, seed: int) -> tuple[list[Any], Feeds]:
    """Nodes of a stack of convolutions from `start` [n, channels, h, w] to `name`, with their weights."""
    rng, last = np.random.default_rng(seed), start
    nodes, weights = list[Any](), Feeds()
    for layer in range(layers):
        before = channels if layer == 0 else inside
        weight = rng.normal(size=(inside, before, 3, 3)).astype(np.float32) / np.sqrt(9 * before)
        weights[f"{name}.{layer}"] = weight
        made = name if layer == layers - 1 else f"{name}_{layer}"
        nodes.append(helper.make_node("Conv", [last, f"{name}.{layer}"], [f"{made}.linear"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Tanh", [f"{made}.linear"], [made]))
        last = made
    return nodes, weights


def _write(
    folder: Path, nodes: list[Any], inputs: list[Any], output: tuple[str, tuple[int, ...]], weights: Feeds
) -> None:
    graph = helper.make_graph(
        nodes,
        folder.name,
        [helper.make_tensor_value_info(name, kind, ["n", *row]) for name, kind, row in inputs],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, ["n", *output[1]])],
        [
            numpy_helper.from_array(value.astype(np.float32) if value.dtype.kind == "f" else value, name)
            for name, value in weights.items()
        ],
    )
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")


def write(root: Path) -> None:
    """The pipeline `sd` and its parts."""
    node, floats = helper.make_node, TensorProto.FLOAT
    nodes, weights = _stack("inside", "x", EVENT[0], INSIDE, 6, 0)
    nodes += [
        node("ReduceMean", ["encoder_hidden_states", "one"], ["said"], keepdims=0),
        node("MatMul", ["said", "words"], ["meant"]),
        node("Unsqueeze", ["meant", "last"], ["spread"]),
        node("Reshape", ["t", "column"], ["when"]),
        node("Add", ["inside", "spread"], ["told"]),
        node("Add", ["told", "when"], ["timed"]),
        node("Conv", ["timed", "out"], ["eps"], pads=[1, 1, 1, 1]),
    ]
    rng = np.random.default_rng(1)
    weights |= {
        "one": np.array([1]),
        "last": np.array([2, 3]),
        "column": np.array([-1, 1, 1, 1]),
        "words": rng.normal(size=(WIDTH, INSIDE)).astype(np.float32),
        "out": rng.normal(size=(4, INSIDE, 3, 3)) / 32,
    }
    encoded = ("encoder_hidden_states", floats, (TOKENS, WIDTH))
    _write(root / "sd.unet", nodes, [("x", floats, EVENT), ("t", floats, ()), encoded], ("eps", EVENT), weights)
    dump_card(
        Card(
            name="sd.unet", path={"kind": "vp_cosine"}, prediction="eps", event_shape=EVENT, inputs=Inputs(),
            output="eps", conditions={encoded[0]: Condition(dtype="float32", shape=(TOKENS, WIDTH))},
        ),
        root / "sd.unet" / "card.yaml",
    )  # fmt: skip
    nodes = [node("Gather", ["table", "ids"], ["rows"]), node("MatMul", ["rows", "mix"], ["hidden"])]
    weights = {"table": rng.normal(size=(WORDS, WIDTH)), "mix": rng.normal(size=(WIDTH, WIDTH))}
    ids = [("ids", TensorProto.INT64, (TOKENS,))]
    _write(root / "sd.text", nodes, ids, ("hidden", (TOKENS, WIDTH)), weights)
    nodes, weights = _stack("small", "latents", EVENT[0], 64, 3, 2)
    nodes.append(node("Resize", ["small", "", "scales"], ["large"], mode="nearest"))
    more, others = _stack("drawn", "large", 64, 16, 2, 3)
    nodes += [*more, node("Conv", ["drawn", "out"], ["picture"], pads=[1, 1, 1, 1])]
    weights |= others | {
        "scales": np.array([1, 1, 4, 4], np.float32),
        "out": rng.normal(size=(3, 16, 3, 3)).astype(np.float32) / 12,
    }
    _write(root / "sd.decoder", nodes, [("latents", floats, EVENT)], ("picture", (3, SIDE, SIDE)), weights)
    writer = Writer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    writer.pre_tokenizer = pre_tokenizers.Whitespace()
    (root / "sd" / "1").mkdir(parents=True)
    writer.save(str(root / "sd" / "1" / "tokenizer.json"))
    text = Text(
        model="sd.text",
        tokenizers={"ids": Tokenizer(file="tokenizer.json", length=TOKENS)},
        gives={"encoder_hidden_states": "hidden"},
    )
    pipeline = Pipeline(sampler="sd.unet", text=text, decoder=Codec(model="sd.decoder"))
    dump_card(Card(name="sd", pipeline=pipeline, defaults=Defaults(guidance=3.0)), root / "sd" / "card.yaml")


class Bare:
    """The parts in sessions of their own."""

    def __init__(self, root: Path, threads: int, pipeline: Bound, n: int, steps: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        rng = np.random.default_rng(0)
        made: dict[str, Feeds] = {
            "sd.text": {"ids": rng.integers(0, WORDS, (256, TOKENS))},
            "sd.unet": {
                "x": rng.normal(size=(256, *EVENT)).astype(np.float32),
                "t": rng.uniform(0.1, 0.9, 256).astype(np.float32),
                "encoder_hidden_states": rng.normal(size=(256, TOKENS, WIDTH)).astype(np.float32),
            },
            "sd.decoder": {"latents": rng.normal(size=(256, *EVENT)).astype(np.float32)},
        }
        assert pipeline.reading is not None
        assert pipeline.decoder is not None
        networks = {
            "sd.text": pipeline.reading.model.network,
            "sd.unet": pipeline.sampler.network,
            "sd.decoder": pipeline.decoder.model.network,
        }
        rows = {"sd.text": [1], "sd.unet": [2 * n] * steps, "sd.decoder": [n]}
        self._sessions = {
            name: onnxruntime.InferenceSession(
                root / name / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name in networks
        }
        self._calls = {
            name: [self._of(made[name], size) for each in rows[name] for size in _sizes(networks[name].costs, each)]
            for name in networks
        }

    @staticmethod
    def _of(feeds: Feeds, size: int) -> Feeds:
        return {name: value[:size] for name, value in feeds.items()}

    def seconds(self) -> dict[str, float]:
        """Of one request's calls, by network."""
        taken = {}
        for name, calls in self._calls.items():
            begin = time.perf_counter()
            for feeds in calls:
                self._sessions[name].run(None, feeds)
            taken[name] = time.perf_counter() - begin
        return taken


def _sizes(costs: object, rows: int) -> list[int]:
    """The calls that the engine makes of so many rows that wait."""
    found = []
    while rows:
        size = costs.holding(min(rows, costs.usual))  # type: ignore[attr-defined]
        found.append(size)
        rows -= min(rows, size)
    return found


def ask(client: triton.InferenceServerClient, number: int, n: int, steps: int) -> float:
    """Seconds of one request."""
    begin = time.perf_counter()
    parameters = {"prompt": f"w1 w2 w{number % WORDS} {number}", "samples": n, "steps": steps, "seed": number}
    client.infer("sd", [], parameters=parameters)
    return time.perf_counter() - begin


def shares(live: Live) -> dict[str, float]:
    """Seconds in calls of each network, and of what else the engine does, until now."""
    names, phases = ("sd.text", "sd.unet", "sd.decoder"), ("pack", "update", "host", "idle")
    calls = {name: live.metric("tiltserve_network_seconds_sum", model=name) for name in names}
    return calls | {name: live.metric("tiltserve_engine_seconds_total", phase=name) for name in phases}


def main(
    samples: int = 4,
    steps: int = 10,
    threads: int = 1,
    rounds: Annotated[int, typer.Option(help="Of one request served and one bare.")] = 12,
) -> None:
    """Print the ratio, and where the engine's time goes."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write(root)
        with running(root, threads=threads) as live, triton.InferenceServerClient(live.address) as client:
            pipeline = live.replicas[0]._models.model("sd")
            assert isinstance(pipeline, Bound)
            bare = Bare(root, threads, pipeline, samples, steps)
            ask(client, 0, samples, steps)
            bare.seconds()
            before, served, alone = shares(live), list[float](), list[dict[str, float]]()
            processor = list[tuple[float, float]]()
            for number in range(1, rounds + 1):
                begin = time.process_time()
                alone.append(bare.seconds())
                middle = time.process_time()
                served.append(ask(client, number, samples, steps))
                processor.append((middle - begin, time.process_time() - middle))
            after = shares(live)
    inside = {name: (after[name] - before[name]) / sum(served) for name in after}
    ratios = [sum(one.values()) / other for one, other in zip(alone, served, strict=True)]
    print(f"{samples} pictures of {SIDE} x {SIDE}, {steps} steps with guidance, {threads} threads")
    bares = {name: statistics.median(each[name] for each in alone) for name in alone[0]}
    print("bare: " + ", ".join(f"{name} {1000 * each:.1f} ms" for name, each in bares.items()))
    print("served, shares of the time: " + ", ".join(f"{name} {each:.3f}" for name, each in inside.items()))
    print(f"a request takes {1000 * statistics.median(served):.1f} ms")
    of_processor = statistics.median(one / other for one, other in processor)
    print(
        f"bare / served: {statistics.median(ratios):.3f} of the clock, {of_processor:.3f} of the processor (aim {AIM})"
    )


if __name__ == "__main__":
    typer.run(main)
