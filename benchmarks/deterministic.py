"""Deterministic requests replayed a hundred times, and how well data come back from their latents.

    make bench ARGS="deterministic"

Each way of asking is replayed: alone through the front, alone on either replica, among other requests, and again after
the server was stopped and started. Counted are the different hashes that the server said (`samples_sha256`), those of
the bytes that came, and the fingerprints; one of each is what is promised. Then samples of the demo's models go to
their latents and back, at growing numbers of steps: the error is that of both ways, over all pixels of -1..1.
"""

import hashlib
import itertools
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks._server import MODELS, machine, replicas
from deploy.process import Running, running_server
from tiltserve import Client, Samples

PICTURES = MODELS.parent / "text_models"
PARTS = {MODELS: ("digits", "classifier"), PICTURES: ("emoji", "emoji.text", "emoji.unet")}
STEPS = (20, 60, 120, 240)
PROMPT = "a red heart"
RED = np.stack([np.full((32, 32), each, np.float32) for each in (0.01, -0.01, -0.01)])
"""What a picture is scored along."""
OTHERS: tuple[dict[str, Any], ...] = (
    {"model": "digits", "n": 3, "steps": 7, "solver": "heun"},
    {"model": "digits", "n": 17, "steps": 5, "solver": "sde_dpmpp_2m"},
    {"model": "digits", "n": 2, "steps": 6, "reward": "classifier", "label": 3, "posterior": "gaussian"},
    {"model": "emoji", "n": 2, "steps": 4, "prompt": "a green leaf"},
)
"""What runs beside the replays that are not alone."""


@dataclass
class Seen:
    """What the replays of one way of asking gave."""

    said: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    fingerprints: set[str] = field(default_factory=set)
    times: int = 0

    def add(self, drawn: Samples) -> None:
        self.said.add(drawn.samples_sha256 or "none")
        self.own.add(hashlib.sha256(drawn.samples.tobytes()).hexdigest())
        self.fingerprints.add(drawn.fingerprint)
        self.times += 1

    @property
    def holds(self) -> bool:
        return len(self.said) == len(self.fingerprints) == 1 and self.said == self.own


def ways(state: Any) -> dict[str, Callable[[Client], Samples]]:
    """Ways of asking, by name; `state` [2, 1, 28, 28] is a client's own start."""
    plain: dict[str, Any] = {"seed": 11, "deterministic": True}
    return {
        "digits": lambda client: client.sample("digits", 4, **plain),
        "digits from a client's noise": lambda client: client.sample("digits", x_init=state, **plain),
        "digits steered": lambda client: client.sample("digits", 2, reward="classifier", label=7, **plain),
        "noise steered": lambda client: client.decode("digits", state, steps=20, reward="classifier", label=7),
        "digits to noise": lambda client: client.encode("digits", state, steps=20),
        "emoji of a prompt, guided": lambda client: client.sample("emoji", 2, prompt=PROMPT, **plain),
        "emoji of a prompt, steered": lambda client: client.sample(
            "emoji", 1, prompt=PROMPT, steps=6, reward="linear", direction=RED, posterior="gaussian", **plain
        ),
    }


@contextmanager
def others(address: str) -> Iterator[None]:
    """Other requests run meanwhile."""
    over = threading.Event()

    def run(first: int) -> None:
        with Client(address, timeout=600) as client:
            for number in itertools.count(first):
                if over.is_set():
                    return
                client.sample(**OTHERS[number % len(OTHERS)])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(OTHERS))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def replay(server: Running, asked: dict[str, Callable[[Client], Samples]], times: int, found: dict[str, Seen]) -> None:
    """Each way so many times: a quarter alone at the front, a quarter on each replica, the rest among others."""
    addresses = [server.grpc, *(str(each.address) for each in replicas(server))]
    where = [addresses[i % len(addresses)] for i in range(times - times // 4)]
    clients = {address: Client(address, timeout=600) for address in addresses}
    for name, ask in asked.items():
        for address in where:
            found[name].add(ask(clients[address]))
    with others(server.grpc):
        for name, ask in asked.items():
            for _ in range(times // 4):
                found[name].add(ask(clients[server.grpc]))
    for client in clients.values():
        client.close()


def closing(client: Client) -> None:
    """How far data come back from their latents, by steps."""
    print(f"\n{'there and back':34}" + "".join(f"{f'{steps} steps':>22}" for steps in STEPS))
    digits = client.sample("digits", 8, seed=3, steps=40).samples
    label = client.sample("emoji", 2, prompt=PROMPT, seed=3, latents=True)
    assert label.latents is not None
    rows: list[tuple[str, str, Any, dict[str, Any]]] = [("digits", "digits", digits, {})]
    zeros = np.zeros((1, 12, 64), np.float32)
    for guidance in (1.0, 3.0):
        keywords = {"encoder_hidden_states": zeros + 0.1, "null_encoder_hidden_states": zeros, "guidance": guidance}
        rows.append((f"emoji.unet, guidance {guidance:g}", "emoji.unet", label.latents, keywords))
    for title, model, x, keywords in rows:
        errors = []
        for steps in STEPS:
            back = client.decode(model, client.encode(model, x, steps=steps, **keywords), steps=steps, **keywords)
            off = np.abs(back.samples - x)
            errors.append(f"{off.max():.1e} (rms {np.sqrt((off**2).mean()):.1e})")
        print(f"{title:34}" + "".join(f"{each:>22}" for each in errors), flush=True)


def main(
    replays: Annotated[int, typer.Option(help="Of each way of asking.")] = 100,
    latents: Annotated[bool, typer.Option(help="Also go to latents and back.")] = True,
) -> None:
    print(machine())
    state = np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32)
    asked, found = ways(state), defaultdict[str, Seen](Seen)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for source, names in PARTS.items():
            for name in names:
                shutil.copytree(source / name, root / name)
        for start in range(2):
            with running_server(root, replicas=2, options=["--threads-per-replica", "1"]) as server:
                replay(server, asked, replays // 2, found)
                if start:
                    report(found)
                if start and latents:
                    with Client(server.grpc, timeout=600) as client:
                        closing(client)
    sys.exit(not all(seen.holds for seen in found.values()))


def report(found: dict[str, Seen]) -> None:
    """A line for each way of asking."""
    print(f"{'replays on two replicas':34}{'times':>8}{'hashes':>8}{'of bytes':>10}{'fingerprints':>14}")
    for name, seen in found.items():
        counts = f"{seen.times:8}{len(seen.said):8}{len(seen.own):10}{len(seen.fingerprints):14}"
        print(f"{name:34}{counts}  {'PASS' if seen.holds else 'FAIL'}", flush=True)


if __name__ == "__main__":
    typer.run(main)
