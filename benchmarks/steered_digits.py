"""Steered digits beside the exact tilt's own share and beside rivals, on the demo's digit model (784 dimensions).

    make bench ARGS="steered_digits --task 7 --task 3"

Rewards: the log-probability of a label, of either of two, an event that has no gradient (the thickest twentieth), and
half of an image to match. Shares are read by the judge, a classifier that never steers; distances are between its
features of the samples and of held-out real digits of that kind; `spread` is the mean distance between two samples over
that between two real ones. The exact tilt is the model's own stored samples, reweighted; with `--own`, also so many
plain samples of each method's own solver: with noise the model has another law than without. `+-` is a share's standard
error. Rivals that look ahead may ask the network for `--rows` rows a sample: 20 and a bank's share at 1,024 samples
drawn, by default. Gradients go through the same ONNX graphs, run by torch.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

import steering
from exporters.network import path_of
from protos.card import load_card
from steering import baselines, posteriors
from steering.numerics.weights import effective_size, softmax
from steering.problems import energy_distance
from steering.sampling.sampler import Steering
from steering.targets.target import Target

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "deploy" / "models"
EVENT = (1, 28, 28)
STEPS = 20
REFERENCE = 1024
SOFT = 0.01


def operators() -> Mapping[str, Callable[..., Any]]:
    """What the graphs are made of, with ONNX's attributes by name."""

    def resize(x: Tensor, roi: Any, scales: Tensor, **_: Any) -> Tensor:
        return functional.interpolate(x, scale_factor=scales[2:].tolist(), mode="nearest")

    def cut(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        index, first = [slice(None)] * x.ndim, range(len(starts)) if axes is None else axes.tolist()
        strides = [1] * len(starts) if steps is None else steps.tolist()
        for start, end, axis, stride in zip(starts.tolist(), ends.tolist(), first, strides, strict=True):
            index[axis] = slice(max(start, -x.shape[axis]), min(end, x.shape[axis]), stride)
        return x[tuple(index)]

    def reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
        return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape.tolist())])

    def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
        for axis in sorted(axes.tolist()):
            x = x.unsqueeze(axis)
        return x

    def convolve(x: Tensor, w: Tensor, b: Tensor, strides: list[int], pads: list[int], **_: Any) -> Tensor:
        return functional.conv2d(x, w, b, stride=strides, padding=pads[:2])

    return {
        "Add": torch.add,
        "Mul": torch.mul,
        "MatMul": torch.matmul,
        "Sigmoid": torch.sigmoid,
        "Cos": torch.cos,
        "Sin": torch.sin,
        "Conv": convolve,
        "Gemm": lambda a, b, c, transB=0, **_: a @ (b.T if transB else b) + c,  # noqa: N803
        "InstanceNormalization": lambda x, w, b, epsilon: functional.instance_norm(x, weight=w, bias=b, eps=epsilon),
        "Softmax": lambda x, axis=-1: x.softmax(axis),
        "LogSoftmax": lambda x, axis=-1: x.log_softmax(axis),
        "GatherElements": lambda x, index, axis: x.gather(axis, index),
        "Shape": lambda x, start=0, end=None: torch.tensor(x.shape[start:end]),
        "Reshape": reshape,
        "Transpose": lambda x, perm: x.permute(perm),
        "Unsqueeze": unsqueeze,
        "Squeeze": lambda x, axes: x.squeeze(tuple(axes.tolist())),
        "Concat": lambda *parts, axis: torch.cat(parts, axis),
        "Split": lambda x, sizes=None, axis=0, num_outputs=1: (
            x.chunk(num_outputs, axis) if sizes is None else x.split(sizes.tolist(), axis)
        ),
        "Slice": cut,
        "Resize": resize,
        "DepthToSpace": lambda x, blocksize, mode: functional.pixel_shuffle(x, blocksize),
    }


class Graph:
    """An ONNX graph run by torch, and so differentiable."""

    def __init__(self, name: str) -> None:
        graph = onnx.load(MODELS / name / "1" / "model.onnx").graph
        self.constants = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
        self.outputs = [o.name for o in graph.output]
        known = operators()
        attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in graph.node]
        self.nodes = [(known[n.op_type], n.input, n.output, a) for n, a in zip(graph.node, attributes, strict=True)]

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        values = {**self.constants, **inputs}
        for operator, names, outputs, attributes in self.nodes:
            result = operator(*(values[n] if n else None for n in names), **attributes)
            values.update(zip(outputs, result if isinstance(result, list | tuple) else (result,), strict=True))
        return {name: values[name] for name in self.outputs}


class Model:
    """The digit model: by ONNX Runtime, or by torch where gradients are asked for."""

    def __init__(self) -> None:
        self.card = load_card(MODELS / "digits" / "card.yaml")
        self.bank = torch.from_numpy(np.load(MODELS / "digits" / "1" / "bank.npz")["x"])
        self.session = onnxruntime.InferenceSession(MODELS / "digits" / "1" / "model.onnx")
        self.graph = Graph("digits")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(["v"], {"x": x.numpy(), "t": t.to(torch.float32).numpy()})[0])

    def differentiable(self, x: Tensor, t: Tensor) -> Tensor:
        return self.graph(x=x, t=t.to(torch.float32))["v"]

    def posterior(self) -> posteriors.Bank:
        assert self.card.calibration is not None
        curve = steering.Calibration(tuple(self.card.calibration.t), tuple(self.card.calibration.mse))
        return posteriors.bank(self.bank, calibration=curve)


@dataclass(frozen=True)
class Read:
    """What the judge makes of images: labels [n] and features [n, 96]."""

    labels: Tensor
    features: Tensor


class Reader:
    def __init__(self) -> None:
        self.judge, self.classifier = Graph("judge"), Graph("classifier")

    def read(self, x: Tensor) -> Read:
        with torch.no_grad():
            parts = [self.judge(x=rows) for rows in x.split(512)]
        log = torch.cat([p["log_probabilities"] for p in parts])
        return Read(log.argmax(dim=1), torch.cat([p["features"] for p in parts]).to(torch.float64))

    def log_probabilities(self, x: Tensor) -> Tensor:
        return self.classifier(x=x, label=torch.zeros(len(x), dtype=torch.int64))["log_probabilities"]


@dataclass(frozen=True)
class Task:
    """A target, what counts as right [n] (of images and what the judge read), and the real digits that are."""

    name: str
    target: Target
    right: Callable[[Tensor, Read], Tensor]
    gradient: bool = True


def ink(x: Tensor) -> Tensor:
    """Share of bright pixels: piecewise constant."""
    return (x > 0).to(torch.float32).flatten(1).mean(dim=1)


def tasks(reader: Reader, model: Model, images: Tensor, labels: Tensor) -> dict[str, Task]:
    found: dict[str, Task] = {}

    def of(label: int, x: Tensor) -> Tensor:
        return reader.log_probabilities(x)[:, label]

    def reads(label: int, x: Tensor, read: Read) -> Tensor:
        return read.labels == label

    for label in range(10):
        found[str(label)] = Task(str(label), Target(partial(of, label)), partial(reads, label))

    def either(x: Tensor) -> Tensor:
        return reader.log_probabilities(x)[:, [3, 7]].logsumexp(dim=1)

    found["3 or 7"] = Task("3 or 7", Target(either), lambda x, read: (read.labels == 3) | (read.labels == 7))
    edge = float(ink(model.bank).quantile(0.95))
    found["thick"] = Task("thick", Target(ink, threshold=edge), lambda x, read: ink(x) >= edge, gradient=False)
    whole, label = images[:1], int(labels[0])

    def left(x: Tensor) -> Tensor:  # as measured with noise of standard deviation 0.4
        return (x - whole)[..., :14].square().flatten(1).sum(dim=1) * (-0.5 / 0.4**2)

    found["left half"] = Task("left half", Target(left), partial(reads, label))
    return found


@dataclass(frozen=True)
class Draw:
    steer: Steering | None
    solver: str = "dpmpp_2m"
    steps: int = STEPS
    gradients: bool = False


def methods(rows: int) -> dict[str, Callable[[Target, Model], Draw]]:
    def aim(t: Target) -> dict[str, Any]:
        return {"reward": t.reward, "beta": t.beta, "threshold": t.threshold}

    def soft(t: Target) -> Callable[[Tensor], Tensor]:
        """An event's edge as a sigmoid, for methods that go by r(D)."""
        edge, score = t.threshold, t.reward
        return score if edge is None else lambda x: functional.logsigmoid((score(x) - edge) / SOFT)

    chains = max(1, rows // STEPS)
    slow = max(2, rows // 3)
    return {
        "none": lambda t, m: Draw(None),
        "doob": lambda t, m: Draw(steering.Doob(**aim(t), posterior=m.posterior())),
        "doob-sde": lambda t, m: Draw(steering.Doob(**aim(t), posterior=m.posterior()), "sde_dpmpp_2m"),
        "bank_resampling": lambda t, m: Draw(baselines.BankResampling(**aim(t), samples=m.bank)),
        "best_of": lambda t, m: Draw(baselines.BestOf(t.reward, chains)),
        "svdd": lambda t, m: Draw(baselines.Svdd(soft(t), candidates=chains), "sde_dpmpp_2m"),
        "fk": lambda t, m: Draw(baselines.fk_steering(soft(t), particles=max(2, chains)), "sde_dpmpp_2m"),
        "fk-large": lambda t, m: Draw(baselines.fk_steering(soft(t), particles=32 * chains, keep=32), "sde_dpmpp_2m"),
        "guidance": lambda t, m: Draw(baselines.ClassifierGuidance(t.reward), steps=rows, gradients=True),
        "dps": lambda t, m: Draw(baselines.Dps(t.reward), steps=slow, gradients=True),
        "lgd_mc": lambda t, m: Draw(baselines.LgdMc(t.reward, draws=8), steps=slow, gradients=True),
        "tfg": lambda t, m: Draw(baselines.Tfg(t.reward), steps=slow, gradients=True),
    }


def spread(features: Tensor) -> float:
    """Mean distance between two."""
    return float(torch.cdist(features, features).sum()) / (len(features) * (len(features) - 1))


def error(weights: Tensor, right: Tensor) -> float:
    """The standard error of a reweighted share."""
    off = right.to(torch.float64) - weights @ right.to(torch.float64)
    return float((weights * off).square().sum().sqrt())


def show_own(solver: str, x: Tensor, task: Task, reader: Reader, real: Tensor, g: torch.Generator) -> None:
    """The exact tilt of plain samples of one solver."""
    read = reader.read(x)
    with torch.no_grad():
        scores = torch.cat([task.target.reward(rows) for rows in x.split(512)]).to(torch.float64)
    weights, right = softmax(task.target.log_weights(scores)), task.right(x, read)
    again = read.features[torch.multinomial(weights, REFERENCE, replacement=True, generator=g)]
    print(
        f"  exact tilt of {len(x)} plain samples by {solver} ({effective_size(weights):.0f} effective): share "
        f"{float(weights @ right.to(torch.float64)):.3f} +- {error(weights, right):.3f}, mean reward "
        f"{float((weights * scores)[weights > 0].sum()):.3f}, distance {energy_distance(again, real):.4f}",
        flush=True,
    )


def main(
    names: Annotated[list[str] | None, typer.Option("--task", "-t", help="0..9, '3 or 7', thick, 'left half'.")] = None,
    chosen: Annotated[list[str] | None, typer.Option("--method", "-m")] = None,
    seed: int = 0,
    samples: Annotated[int, typer.Option(help="Per task and method.")] = 128,
    rows: Annotated[int, typer.Option(help="Network rows a sample that rivals may spend.")] = 100,
    own: Annotated[int, typer.Option(help="Plain samples of each solver, whose exact tilt is shown too.")] = 0,
    threads: int = 2,
) -> None:
    """Print a table per task."""
    torch.set_num_threads(threads)
    model, reader = Model(), Reader()
    data = np.load(ROOT / "deploy" / "demo_data" / "held_out.npz")
    images = torch.from_numpy(data["images"][:, None].astype(np.float32) / 127.5 - 1)
    real, bank = reader.read(images), reader.read(model.bank)
    table, known = tasks(reader, model, images, torch.from_numpy(data["labels"])), methods(rows)
    path = path_of(model.card)
    plain: dict[str, Tensor] = {}
    for name in names or list(table):
        task = table[name]
        with torch.no_grad():
            scores = torch.cat([task.target.reward(x) for x in model.bank.split(512)]).to(torch.float64)
        weights = softmax(task.target.log_weights(scores))
        mean = float((weights * scores)[weights > 0].sum())
        exact = float(weights @ task.right(model.bank, bank).to(torch.float64))
        mine = real.features[task.right(images, real)]
        g = torch.Generator().manual_seed(seed)
        floors = []
        for _ in range(20):
            order = torch.randperm(len(mine), generator=g)
            floors.append(abs(energy_distance(mine[order[: len(mine) // 2]], mine[order[len(mine) // 2 :]])))
        tilt = bank.features[torch.multinomial(weights, REFERENCE, replacement=True, generator=g)]
        print(
            f"\n{name}: exact tilt (of {effective_size(weights):.0f} effective stored samples) share {exact:.3f} +- "
            f"{error(weights, task.right(model.bank, bank)):.3f}, mean "
            f"reward {mean:.3f}, distance to {len(mine)} real ones {energy_distance(tilt, mine):.4f} (floor "
            f"{sum(floors) / len(floors):.4f})\nmethod            share  reward  distance  spread  network  rewards  "
            "seconds"
        )
        for method in chosen or list(known):
            draw = known[method](task.target, model)
            if draw.gradients and not task.gradient:
                continue
            plan = steering.plan(draw.solver, path=path, steps=draw.steps, prediction="v")
            network = model.differentiable if draw.gradients else model.forward
            if own and draw.solver not in plain:
                plain[draw.solver] = steering.run(plan, network, (own, *EVENT), seed + 1000, tile=64)
            if own:
                show_own(draw.solver, plain[draw.solver], task, reader, mine, g)
            begin = time.perf_counter()
            x, report = steering.run(plan, network, (samples, *EVENT), seed, draw.steer, report=True, tile=64)
            seconds = time.perf_counter() - begin
            read = reader.read(x)
            right = task.right(x, read).to(torch.float64)
            with torch.no_grad():
                reward = float(task.target.reward(x).mean())
            extra = ""
            if name == "3 or 7":
                threes, sevens = (int((read.labels == k).sum()) for k in (3, 7))
                wanted = [float(weights @ (bank.labels == k).to(torch.float64)) for k in (3, 7)]
                extra = f"  3s {threes / max(1, threes + sevens):.2f} (exact {wanted[0] / sum(wanted):.2f})"
            if name == "left half":
                extra = f"  off by {math.sqrt(-reward * 2 * 0.4**2 / 392):.3f} a pixel"
            print(
                f"{method:16} {float(right.mean()):6.3f} {reward:7.3f} "
                f"{energy_distance(read.features, mine):9.4f} {spread(read.features) / spread(mine):7.3f} "
                f"{(report.network_rows + 2 * report.gradient_rows) / samples:8.1f} "
                f"{(report.reward_rows + 3 * report.reward_gradient_rows) / samples:8.1f} {seconds:8.1f}{extra}"
                f"  +-{float(right.std()) / samples**0.5:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
