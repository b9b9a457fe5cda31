"""The same requests give the same bytes as they did when `golden.json` was written.

    make bench ARGS="golden"             # draw them again and compare
    make bench ARGS="golden --write"     # after a change of bytes that is meant

Every solver, steering method, posterior and kind of request of the demo's models, through a real server. Bytes are
compared where the processor is the one that wrote the file. On another processor the last digits differ, so there each
output is compared by its leading numbers, to `--tolerance`; methods that pick among candidates may then pick others.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import steering
from benchmarks._server import MODELS, machine
from deploy.process import running_server
from tiltserve import Client, TiltserveError

FILE = Path(__file__).with_suffix(".json")
LEADING = 24
Request = tuple[str, dict[str, Any], dict[str, NDArray[Any]]]


def requests() -> dict[str, Request]:
    """The requests by name: model, parameters, inputs."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((3, 1, 28, 28)).astype(np.float32)
    image = np.clip(rng.standard_normal((3, 1, 28, 28)), -1, 1).astype(np.float32)
    half = np.zeros((1, 28, 28), np.bool_)
    half[:, :, :14] = True
    direction = {"reward_direction": np.linspace(-0.1, 0.1, 784, dtype=np.float32).reshape(1, 28, 28)}
    seven = {"reward": "classifier", "reward_label": 7}
    found: dict[str, Request] = {
        f"solver {name}": ("digits", {"samples": 3, "seed": 11, "steps": 10, "solver": name}, {})
        for name in steering.solvers
    }

    def add(name: str, parameters: dict[str, Any], inputs: dict[str, NDArray[Any]] | None = None) -> None:
        found[name] = ("digits", {"samples": 3, "seed": 12, "steps": 10, **parameters}, inputs or {})

    for grid in ("logsnr", "uniform", "karras(5)", "angle", "shifted(3)"):
        add(f"grid {grid}", {"grid": grid})
    for path in ("edm", "rectified_flow", "ve"):
        add(f"path {path}", {"path": path})
    add("eta 1", {"solver": "ddim", "eta": 1.0})
    add("x_init", {}, {"x_init": noise})
    add("reverse", {"solver": "ddim", "reverse": True}, {"x_init": image})
    add("known and mask", {}, {"known": image, "mask": half})
    for law in ("data", "sampler"):
        add(f"likelihood {law}", {"likelihood": law, "steps": 4}, {"x_init": image})
    add("scored", {**seven, "steering": "none"})
    for posterior in ("bank", "gaussian", "neighbours"):
        add(f"posterior {posterior}", {**seven, "posterior": posterior})
    add("posterior rollout", {**seven, "posterior": "rollout", "particles": 4, "steps": 4})
    add("doob, stochastic", {**seven, "solver": "sde_dpmpp_2m"})
    add("threshold", {**seven, "threshold": -0.5})
    add("budget", {**seven, "reward_budget": 100})
    add("linear", {"reward": "linear"}, direction)
    add("expression", {"reward": "logsumexp(classifier(label=7), classifier(label=3))"})
    density = {"reward": "log_density", "reward_model": "digits", "reward_steps": 2, "reward_probes": 2}
    add("log density", {**density, "steering": "none", "samples": 2, "steps": 2})
    noisy = {**seven, "solver": "ddim", "eta": 1.0}
    for inner in ("doob", "none"):
        add(f"smc {inner}", {**noisy, "steering": "smc", "inner": inner, "population": 4})
    add("fk_steering", {**noisy, "steering": "fk_steering", "population": 4})
    add("svdd", {**noisy, "steering": "svdd", "candidates": 3})
    add("best_of", {**seven, "steering": "best_of", "chains": 3})
    add("doit", {**noisy, "steering": "doit", "chains": 2})
    add("bank_resampling", {**seven, "steering": "bank_resampling"})
    add("a crowd", {"samples": 40, "steps": 5})
    times = np.array([0.2, 0.5, 0.9], np.float32)
    found["raw network"] = ("digits.network", {}, {"x": noise, "t": times})
    found["classifier"] = ("classifier", {}, {"x": image, "label": np.array([1, 2, 3])})
    return found


def drawn() -> dict[str, Any]:
    """What came of each request: digests and leading numbers of its outputs, or what was said."""
    came: dict[str, Any] = {}
    with running_server(MODELS) as server, Client(server.grpc) as client:
        for name, (model, parameters, inputs) in requests().items():
            try:
                result = client.infer(model, inputs, parameters=parameters)
            except TiltserveError as error:
                came[name] = {"refused": str(error)}
                continue
            came[name] = {
                output: {
                    "sha256": hashlib.sha256(value.tobytes()).hexdigest(),
                    "leading": [float(f"{number:.5g}") for number in value.ravel()[:LEADING]],
                }
                for output, value in sorted(result.outputs.items())
            }
            came[name]["rows"] = [result.parameters.get(each) for each in ("network_rows", "reward_rows")]
            print(f"drawn: {name}", file=sys.stderr)
    return came


def differences(before: dict[str, Any], now: dict[str, Any], tolerance: float | None) -> list[str]:
    """A line for each request whose answer is another one; `tolerance` None compares bytes."""
    found = []
    for name in sorted({*before, *now}):
        a, b = before.get(name), now.get(name)
        if a == b:
            continue
        if a is None or b is None or tolerance is None or {*a} != {*b} or "refused" in a or a["rows"] != b["rows"]:
            found.append(f"{name}: {json.dumps(a)[:200]} became {json.dumps(b)[:200]}")
            continue
        off = max(np.abs(np.subtract(a[each]["leading"], b[each]["leading"])).max() for each in a if each != "rows")
        if off > tolerance:
            found.append(f"{name}: off by {off:.3g}")
    return found


def main(write: bool = False, tolerance: Annotated[float, typer.Option(min=0)] = 2e-3) -> None:
    """Compare, or write the file."""
    now, here = drawn(), machine()
    if write:
        FILE.write_text(json.dumps({"machine": here, "answers": now}, indent=1) + "\n")
        print(f"wrote {len(now)} answers to {FILE}")
        return
    kept = json.loads(FILE.read_text())
    same = kept["machine"] == here
    lines = differences(kept["answers"], now, None if same else tolerance)
    print("\n".join(lines))
    how = "byte by byte" if same else f"to {tolerance:g}, since they were drawn on {kept['machine']}"
    print(f"{len(now)} requests compared {how}: {len(lines)} differ")
    raise typer.Exit(bool(lines))


if __name__ == "__main__":
    typer.run(main)
