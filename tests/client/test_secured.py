"""The client and the commands before a server with TLS, tokens and rights."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from serving.access import tokens
from serving.access.certificates import Certificates
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.access.watched import Watched
from tests.serving.certificates import Authority
from tests.serving.live import Live, nearness, running
from tiltserve import (
    TLS,
    AsyncClient,
    Client,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

ALL, FEW, CHANGE, METRICS = (tokens.new_token() for _ in range(4))
IDENTITIES: dict[str, Any] = {
    "all": {"sha256": tokens.hashed(ALL), "rights": "all"},
    "few": {"sha256": tokens.hashed(FEW), "models": ["rings"], "limits": {"samples": 2}},
    "change": {"sha256": tokens.hashed(CHANGE), "rights": ["repository"]},
}


class Secured:
    """A server, the file of its authority, and files of the tokens."""

    def __init__(self, live: Live, folder: Path, ca: Path) -> None:
        self.live, self.ca = live, ca
        self.files = {name: folder / name for name in ("all", "few", "change", "metrics")}
        for file, token in zip(self.files.values(), (ALL, FEW, CHANGE, METRICS), strict=True):
            file.write_text(token + "\n")

    def client(self, token: str | None, **how: Any) -> Client:
        return Client(f"grpcs://{self.live.address}", token=token, tls=TLS(ca=self.ca), timeout=60, **how)

    def run(self, *arguments: str, token: str = "all", code: int = 0) -> str:
        """What a command says."""
        how = ["--address", self.live.address, "--tls-ca", str(self.ca), "--token-file", str(self.files[token])]
        result = CliRunner().invoke(app, [*arguments, *how])
        assert result.exit_code == code, result.output
        assert not any(each in result.output for each in (ALL, FEW, METRICS))
        return result.output


@pytest.fixture(scope="module")
def secured(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, folder / "models" / name)
    authority = Authority(folder)
    pair = authority.sign("server")
    (folder / "tokens.yaml").write_text(yaml.safe_dump({"identities": IDENTITIES}))
    table, inside = tokens.watched(folder / "tokens.yaml", 1.0), Inside(tokens.new_token())
    front = FrontGuards(Certificates(pair.cert, pair.key), table, inside, Watched([], METRICS.encode))
    control = {"front": {"allow_model_control": True}, "allow_model_control": True}
    with running(folder / "models", guards=(front, ReplicaGuards(table, inside)), **control) as live:
        yield Secured(live, folder, authority.file)


def test_who_has_a_token_gets_what_it_allows(secured: Secured):
    with secured.client(ALL) as client:
        drawn = client.sample("rings", 4, steps=4, seed=1)
        assert client.stream("rings", 4, steps=4, seed=1).result().samples.tobytes() == drawn.samples.tobytes()
        assert len(client.sample("rings", 4, score=nearness, steps=4, posterior="gaussian")) == 4
        assert {each.name for each in client.models()} >= {"rings", "nearness"}
    with secured.client(FEW) as client:
        assert client.sample("rings", 2, steps=4, seed=1).samples.tobytes() == drawn.samples[:2].tobytes()
        with pytest.raises(ResourceExhausted, match="samples"):
            client.sample("rings", 4)
        with pytest.raises(NotFound):
            client.score("nearness", drawn, mode=1)
        with pytest.raises(PermissionDenied, match="statistics"):
            client.stats()
        assert {each.name for each in client.models()} == {"rings"}
    for token in (None, tokens.new_token()):
        with secured.client(token) as client:
            assert client.ready("rings")
            for call in (
                lambda client=client: client.sample("rings"),
                lambda client=client: client.stream("rings").result(),
                lambda client=client: client.sample("rings", score=nearness),
            ):
                with pytest.raises(Unauthenticated) as caught:
                    call()
                assert token is None or token not in str(caught.value)

    async def ask() -> None:
        async with AsyncClient(f"grpcs://{secured.live.address}", token=ALL, tls=TLS(ca=secured.ca)) as client:
            assert (await client.sample("rings", 4, steps=4, seed=1)).samples.tobytes() == drawn.samples.tobytes()
            assert len(await client.stream("rings", 2, steps=4).result()) == 2
        async with AsyncClient(f"grpcs://{secured.live.address}", tls=TLS(ca=secured.ca)) as client:
            with pytest.raises(Unauthenticated):
                await client.sample("rings")

    asyncio.run(ask())


def test_who_trusts_another_authority_gets_nothing(secured: Secured, tmp_path: Path):
    other = Authority(tmp_path).file
    with Client(secured.live.address, tls=TLS(ca=other), token=ALL, retries=0) as client, pytest.raises(Unavailable):
        client.sample("rings")
    with Client(secured.live.address, retries=0) as client, pytest.raises(Unavailable):  # in plain text
        client.sample("rings")


def test_commands(secured: Secured):
    metrics = ["--metrics", secured.live.front.metrics_address, "--metrics-token-file", str(secured.files["metrics"])]
    assert "2 of shape [2]" in secured.run("sample", "rings", "-n", "2", "--steps", "2", token="few")
    assert "rings" in secured.run("top", "--once", "--every", "0.1", *metrics)
    assert "queue" in secured.run("stats", "rings")
    assert "error: PERMISSION_DENIED" in secured.run("stats", token="few", code=1)
    assert "error: PERMISSION_DENIED" in secured.run("unload", "rings", token="few", code=1)
    assert secured.run("unload", "nearness") == "nearness is unloaded\n"
    with secured.client(ALL, retries=0) as client:
        assert not client.ready("nearness")
    assert secured.run("load", "nearness") == "nearness is ready, version 1\n"
    with secured.client(ALL) as client:
        assert client.score("nearness", [[0.0, 0.0]], mode=1).shape == (1,)
    assert "error: NOT_FOUND" in secured.run("load", "rnigs", code=2)
    assert "error: NOT_FOUND: unknown model 'nearnes', did you mean 'nearness'?" in secured.run(
        "unload", "nearnes", code=2
    )
    assert secured.run("unload", "nearness", token="change") == "nearness is unloaded\n"  # who may not list models
    assert secured.run("load", "nearness", token="change") == "nearness is ready\n"
