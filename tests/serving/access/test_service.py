"""Rewards and networks on servers of others that want TLS and a token."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc
from serving.access import tokens
from serving.access.certificates import Certificates
from serving.access.guards import OPEN_REPLICA, FrontGuards
from serving.access.service import Service
from serving.backends import LoadError
from serving.backends.triton import TritonNetwork
from tests.serving.certificates import Authority, Pair
from tests.serving.live import nearness, running

TOKEN = tokens.new_token()


class Wary(grpc.ServerInterceptor):
    """Lets in whoever shows the token."""

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: Any) -> Any:
        if ("authorization", f"Bearer {TOKEN}") in handler_call_details.invocation_metadata:
            return continuation(handler_call_details)

        def refuse(request: object, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected a token")

        return grpc.unary_unary_rpc_method_handler(refuse)


class Scorer(reward_pb2_grpc.RewardServicer):
    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreReply:
        x = np.frombuffer(request.candidates.data, "<f4").reshape(request.candidates.shape)
        return reward_pb2.ScoreReply(scores=nearness(x))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def service(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A reward behind mutual TLS and a token."""
    folder = tmp_path_factory.mktemp("service")
    here, mine = authority.sign("reward"), authority.sign("replica")
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[Wary()])
    reward_pb2_grpc.add_RewardServicer_to_server(Scorer(), server)
    pairs = [(here.key.read_bytes(), here.cert.read_bytes())]
    credentials = grpc.ssl_server_credentials(pairs, authority.file.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    (folder / "token").write_text(TOKEN + "\n")
    yield Service(f"127.0.0.1:{port}", True, authority.file, mine.cert, mine.key, folder / "token")
    server.stop(None)


def test_a_reward_with_tls_and_a_token(small_models: Path, service: Service, tmp_path: Path) -> None:
    """And what it says where either is wrong; nothing tells the token or where it is."""
    stranger = Authority(tmp_path, "other")
    wrong = tmp_path / "token"
    wrong.write_text(tokens.new_token())
    rewards = {
        "good": service,
        "unknown": replace(service, token_file=wrong),
        "untrusted": replace(service, ca=stranger.file),
        "plain": Service(service.address),
    }
    with running(small_models, rewards=rewards, reward_s=3.0) as live:
        outputs, _ = live.infer(samples=2, reward="good", particles=4, steps=5)
        assert outputs["rewards"].shape == (2,)
        said = {name: live.refusal(samples=1, reward=name, particles=4, steps=5) for name in rewards if name != "good"}
    assert said["unknown"][0] == "FAILED_PRECONDITION"
    assert said["unknown"][1].endswith("from its service, got UNAUTHENTICATED: expected a token")
    for name in ("untrusted", "plain"):
        assert said[name][0] == "UNAVAILABLE"
        assert "its service cannot be reached" in said[name][1] or "within 3 s, got none" in said[name][1]
    for _, text in said.values():
        assert TOKEN not in text
        assert service.address not in text


def test_a_network_on_a_server_with_tls_and_tokens(small_models: Path, authority: Authority, tmp_path: Path) -> None:
    pair: Pair = authority.sign("front")
    table = tmp_path / "tokens.yaml"
    table.write_text(f"identities: {{us: {{sha256: {tokens.hashed(TOKEN)}, models: nearness}}}}")
    (tmp_path / "token").write_text(TOKEN)
    front = FrontGuards(Certificates(pair.cert, pair.key), tokens.watched(table))
    with running(small_models, guards=(front, OPEN_REPLICA)) as live:
        where = Service(live.address, True, authority.file, token_file=tmp_path / "token")
        network = TritonNetwork("far", where, "nearness", seconds=5)
        x, mode = np.zeros((3, 2), np.float32), np.full(3, 1)
        assert network.run({"x": x, "mode": mode}, ["reward"])[0].shape == (3,)
        network.close()
        with pytest.raises(LoadError, match=r"got StatusCode.UNAUTHENTICATED: expected a bearer token"):
            TritonNetwork("far", replace(where, token_file=None), "nearness", seconds=5)
        with pytest.raises(LoadError, match=r"it is not ready|NOT_FOUND"):
            TritonNetwork("far", where, "rings.network", seconds=0.5)
