"""What TLS and tokens cost: one row of `digits.network` through the front, and what the front answers by itself.

    make bench ARGS="security_cost"

One server in plain text without tokens, one with TLS, tokens and a limit, and one with TLS on the inside too; they take
turns, so that what else the machine does falls on each, and the table has the medians.
"""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tritonclient.grpc as triton
import typer

from benchmarks._load import percentile
from benchmarks._server import MODELS, machine
from deploy.process import running_server
from serving.access import tokens
from tests.serving.certificates import Authority
from tests.unmodified import tensors

ROW = {"x": np.zeros((1, 1, 28, 28), np.float32), "t": np.full(1, 0.5, np.float32)}
WARM_S = 1.0
Ask = Callable[[triton.InferenceServerClient, dict[str, str]], None]


@dataclass(frozen=True)
class Target:
    """Where a server listens, and what a client of it needs."""

    address: str
    authority: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(
            self.address, ssl=self.authority is not None, root_certificates=self.authority
        )


@contextlib.contextmanager
def targets(threads: int) -> Iterator[dict[str, Target]]:
    """The three servers, while all of them run."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        authority, inner = Authority(folder / "public"), Authority(folder / "inner", "ca")
        public, _ = authority.sign("server"), inner.sign("tls")
        token = tokens.new_token()
        limits = "{rows_per_second: 1000000, concurrent: 100}"
        (folder / "tokens.yaml").write_text(
            f"identities: {{alice: {{sha256: {tokens.hashed(token)}, limits: {limits}}}}}"
        )
        common = [f"--threads-per-replica={threads}"]
        guarded = [
            *common, f"--tls-cert={public.cert}", f"--tls-key={public.key}", f"--tokens={folder / 'tokens.yaml'}",
        ]  # fmt: skip
        kinds = {
            "plain, no tokens": common,
            "TLS and tokens": guarded,
            "TLS inside too": [*guarded, f"--internal-tls={folder / 'inner'}"],
        }
        found = {}
        for name, options in kinds.items():
            address = held.enter_context(running_server(MODELS, options=options)).grpc
            shown = {"authorization": f"Bearer {token}"}
            found[name] = Target(address) if options is common else Target(address, str(authority.file), shown)
        yield found


def row(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    """One row: to a replica, and through its network."""
    client.infer("digits.network", tensors(ROW), headers=headers)


def metadata(client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
    """ServerMetadata, which the front answers by itself: what is left is the call."""
    client.get_server_metadata(headers=headers)


ASKS = {"one row": row, "ServerMetadata": metadata}


def seconds_of(target: Target, ask: Ask, clients: int, seconds: float) -> list[float]:
    """Latencies of requests of so many clients, one after another each, in seconds; a client has a connection."""

    def one(_: int) -> list[float]:
        found = []
        with target.client() as client:
            ask(client, target.headers)
            end = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                ask(client, target.headers)
                found.append(time.perf_counter() - begin)
        return found

    with ThreadPoolExecutor(clients) as pool:
        return [each for part in pool.map(one, range(clients)) for each in part]


def main(
    seconds: Annotated[float, typer.Option(help="Of each line.")] = 3.0,
    rounds: Annotated[int, typer.Option(help="Turns of each server.")] = 5,
    clients: Annotated[list[int] | None, typer.Option(help="Again for more. [1, 8]")] = None,
    threads: Annotated[int, typer.Option(help="Of the network.")] = 1,
) -> None:
    """Print medians of the rounds; latencies are in milliseconds."""
    print(machine())
    print(f"{'request':16}{'server':20} {'clients':>8} {'requests/s':>11} {'p50':>8} {'p99':>8}")
    with targets(threads) as servers:
        for target in servers.values():
            seconds_of(target, row, 2, WARM_S)
        for (what, ask), n in itertools.product(ASKS.items(), clients or [1, 8]):
            seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
            for _ in range(rounds):
                for name, target in servers.items():
                    latency = [1000 * each for each in seconds_of(target, ask, n, seconds)]
                    seen[name].append((len(latency) / seconds, percentile(latency, 50), percentile(latency, 99)))
            for name, lines in seen.items():
                rate, middle, tail = (statistics.median(column) for column in zip(*lines, strict=True))
                print(f"{what:16}{name:20} {n:8d} {rate:11.0f} {middle:8.2f} {tail:8.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
