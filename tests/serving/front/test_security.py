"""Who is let in: TLS, tokens, rights and limits, on a real front and real replicas, with clients of others."""

import importlib
import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from protos.tiltserve.v1 import distillation_pb2, fleet_pb2, fleet_pb2_grpc, sampling_pb2
from serving.access import tokens
from serving.access.caller import HEADER
from serving.access.certificates import Certificates
from serving.access.gate import INTERNAL
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.access.methods import GROUPS
from serving.access.watched import Watched
from serving.engine.task import Task
from serving.wire.streamed import AS_STATUS
from serving.wire.tensors import tensor
from tests.serving.access.test_jwts import claims, keys, signed
from tests.serving.certificates import Authority, Pair
from tests.serving.live import Live, running, until
from tiltserve import TLS, Client

pytestmark = pytest.mark.usefixtures("log_levels")  # every method of a replica is called, one of which changes them

ALICE, BOB, EVE, LIMITED = (tokens.new_token() for _ in range(4))
METRICS, INNER = tokens.new_token(), tokens.new_token()
FILE: dict[str, Any] = {
    "identities": {
        "alice": {"sha256": tokens.hashed(ALICE), "rights": "all"},
        "bob": {"sha256": [tokens.hashed("an older one"), tokens.hashed(BOB)], "models": ["stripes*", "nea?ness"]},
        "eve": {"sha256": tokens.hashed(EVE), "rights": ["statistics"]},
        "limited": {
            "sha256": tokens.hashed(LIMITED),
            "limits": {"samples": 8, "steps": 10, "particles": 16, "message_bytes": "64KiB", "concurrent": 2},
        },
    }
}
EVERY_S = 0.05
"""Seconds between two looks at files that change."""


class Guarded:
    """A server with TLS outside and inside, tokens, and a token for its metrics."""

    def __init__(self, live: Live, authority: Authority, files: Path, public: Pair, *inner: Any) -> None:
        self.live, self.authority, self.files, self.public, self.inner = live, authority, files, public, inner
        self.address = live.address
        self.direct = live.replicas[0].state().address

    def client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.address, ssl=True, root_certificates=str(self.authority.file))

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.authority.file.read_bytes()))


@pytest.fixture(scope="module")
def guarded(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority, inner = Authority(folder / "public"), Authority(folder / "inner", "inner")
    public, within = authority.sign("server"), inner.sign("replica")
    files = folder / "tokens.yaml"
    files.write_text(yaml.safe_dump(FILE))
    table = tokens.watched(files, EVERY_S)
    inside = Inside(INNER, Certificates(within.cert, within.key, inner.file, EVERY_S))
    front = FrontGuards(
        Certificates(public.cert, public.key, every_s=EVERY_S), table, inside, Watched([], METRICS.encode)
    )
    control = {"front": {"allow_model_control": True, "allow_shared_memory": True}, "allow_model_control": True}
    with running(small_models, guards=(front, ReplicaGuards(table, inside)), **control) as live:
        yield Guarded(live, authority, files, public, inner, within)


@pytest.fixture(scope="module")
def plain(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The same without TLS, whose replicas a client may ask itself."""
    folder = tmp_path_factory.mktemp("plain")
    files = folder / "tokens.yaml"
    files.write_text(yaml.safe_dump(FILE))
    table, inside = tokens.watched(files, EVERY_S), Inside(INNER)
    guards = FrontGuards(None, table, inside), ReplicaGuards(table, inside)
    with running(small_models, guards=guards, front={"allow_shared_memory": True}) as live:
        yield Guarded(live, Authority(folder), files, Pair(folder, folder))


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def infer(client: triton.InferenceServerClient, token: str | None, model: str = "rings", **parameters: Any) -> Any:
    return client.infer(model, [], parameters={"seed": 1, **parameters}, headers=bearer(token), client_timeout=30)


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """The status and the text of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode."), str(error.message())
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    raise AssertionError("expected a refusal, got an answer")


def call(channel: grpc.Channel, path: str, request: bytes, token: str | None, **more: str) -> grpc.StatusCode:
    """The status of a method of any kind, called with one message."""
    metadata = [*bearer(token).items(), *more.items(), AS_STATUS]
    answers = channel.stream_stream(path)(iter([request]), metadata=metadata, timeout=20)
    try:
        next(iter(answers), None)
        answers.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


INSIDE = ("tiltserve.v1.Replica", "tiltserve.v1.Directory")
"""How services are called that no front serves."""


def served() -> dict[str, bytes]:
    """Every method of a front by its path, with a request about the rings."""
    views = tensor(np.zeros((1, 2), np.float32))
    gradient = distillation_pb2.GradientRequest(model="rings", input=views, iteration=0)
    about = {
        "ModelInfer": service_pb2.ModelInferRequest(model_name="rings"),
        "ModelStreamInfer": service_pb2.ModelInferRequest(model_name="rings"),
        "SampleInteractive": sampling_pb2.InteractiveRequest(sample=sampling_pb2.SampleRequest(model="rings")),
        "Gradient": gradient,
        "Session": distillation_pb2.SessionRequest(gradient=gradient),
        "ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services=""),
    }
    named = {"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"}
    found = {}
    for file in (service_pb2, sampling_pb2, distillation_pb2, fleet_pb2, health_pb2, reflection_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            if service.full_name.startswith(INSIDE):
                continue
            for method in service.methods:
                message = about.get(method.name, b"")
                data = message if isinstance(message, bytes) else message.SerializeToString()
                if method.name in named:
                    data = service_pb2.ModelReadyRequest(name="rings").SerializeToString()
                found[f"/{service.full_name}/{method.name}"] = data
    return found


PROTOS = [
    importlib.import_module(f"protos.tiltserve.v1.{file.stem}")
    for file in (Path(fleet_pb2.__file__).parent).glob("*_pb2.py")
]
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", served())
def test_every_method_with_every_kind_of_token(guarded: Guarded, path: str) -> None:
    """No token, a wrong one, one without the right, one with it, and one with it for other models."""
    data, group = served()[path], GROUPS[path]
    with guarded.channel() as channel:
        without, wrong = (call(channel, path, data, token) for token in (None, tokens.new_token()))
        if group == "health":
            assert {without, wrong} <= {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
            return
        assert (without, wrong) == (UNAUTHENTICATED, UNAUTHENTICATED)
        rightless = call(channel, path, data, EVE)
        assert (rightless == DENIED) == (group != "statistics")
        right = call(channel, path, data, ALICE)
        assert right not in (UNAUTHENTICATED, DENIED)
        if group == "inference" and right == grpc.StatusCode.OK:
            assert call(channel, path, data, BOB) == grpc.StatusCode.NOT_FOUND


def test_every_method_belongs_to_a_group() -> None:
    """A new service of ours or method of the protocol is in no group, and so refused, until the table has it."""
    ours = {
        f"/{service.full_name}/{method.name}"
        for file in PROTOS
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if service.name != "Reward"  # which others serve
    }
    assert set(served()) | ours <= set(GROUPS)
    internal = {path for path in ours if path.removeprefix("/").startswith(INSIDE)}
    assert {path for path, group in GROUPS.items() if group == "internal"} == internal


def test_what_is_in_no_group_is_refused_and_what_does_not_exist_says_nothing(guarded: Guarded) -> None:
    with guarded.channel() as channel:
        assert call(channel, "/made.up/Method", b"", None) == UNAUTHENTICATED
        assert call(channel, "/made.up/Method", b"", ALICE) == grpc.StatusCode.UNIMPLEMENTED


def test_an_unmodified_client_over_tls_with_a_token_draws(guarded: Guarded) -> None:
    with guarded.client() as client:
        answer = infer(client, ALICE, samples=2, reward="nearness", reward_mode=3)
        assert answer.as_numpy("samples").shape == (2, 2)
        assert client.get_server_metadata(headers=bearer(ALICE)).name == "tiltserve"


def test_our_own_client_over_tls_with_a_token(guarded: Guarded) -> None:
    with Client(guarded.address, token=ALICE, tls=TLS(ca=guarded.authority.file)) as client:
        assert client.sample("rings", n=2, seed=1).samples.shape == (2, 2)
        assert {each.name for each in client.fleet().models} >= {"rings", "stripes"}


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "expected a bearer token in metadata authorization, got none"),
        ({"authorization": "Basic YTpi"}, "expected a bearer token in metadata authorization, got something else"),
        ({"authorization": "Bearer "}, "expected the token of a known identity, got another one"),
        ({"authorization": f"Bearer {ALICE[:-1]}"}, "expected the token of a known identity, got another one"),
        ({"authorization": "Bearer a.b.c"}, "expected the token of a known identity, got another one"),
    ],
)
def test_what_is_no_token_is_one_line(guarded: Guarded, headers: Mapping[str, str], text: str) -> None:
    with guarded.client() as client:
        assert refusal(lambda: client.get_server_metadata(headers=headers)) == ("UNAUTHENTICATED", text)


def test_a_missing_right_is_named(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert refusal(lambda: infer(client, EVE)) == (
            "PERMISSION_DENIED",
            "ModelInfer: expected the right 'inference', 'eve' has statistics",
        )


def test_who_is_refused_has_a_line_in_the_access_log(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guarded.live.front.metrics.watching, "access_log", True)
    with caplog.at_level("INFO", "tiltserve.access"), guarded.client() as client, guarded.channel() as channel:
        assert refusal(lambda: infer(client, EVE))[0] == "PERMISSION_DENIED"
        assert refusal(lambda: infer(client, "tilt_nobody's"))[0] == "UNAUTHENTICATED"
        fleet_pb2_grpc.FleetStub(channel).ListModels(
            fleet_pb2.ListModelsRequest(), metadata=[*bearer(ALICE).items()], timeout=20
        )
        region = client.get_system_shared_memory_status
        assert refusal(lambda: region("rings", headers=bearer(ALICE)))[0] == "NOT_FOUND"  # a region's name, no model's
    records: list[Any] = [each for each in caplog.records if each.name == "tiltserve.access"]
    lines = [each.fields for each in records]
    assert [(each["identity"], each["method"], each["model"], each["status"]) for each in lines] == [
        ("eve", "ModelInfer", "", "PERMISSION_DENIED"),
        ("", "ModelInfer", "", "UNAUTHENTICATED"),
        ("alice", "ListModels", "", "OK"),
        ("alice", "SystemSharedMemoryStatus", "", "NOT_FOUND"),
    ]
    assert all(each["peer"].startswith("ipv4:127.0.0.1:") for each in lines)
    assert "tilt_nobody" not in caplog.text


def test_health_is_open_to_all_who_reach_the_port(guarded: Guarded) -> None:
    with guarded.client() as client, guarded.channel() as channel:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rings")
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_a_model_without_a_right_does_not_exist(guarded: Guarded) -> None:
    """Neither in lists nor in the texts of errors, as a model and as a reward."""
    with guarded.client() as client, guarded.channel() as channel:
        listed = fleet_pb2_grpc.FleetStub(channel).ListModels(
            fleet_pb2.ListModelsRequest(), metadata=tuple(bearer(BOB).items())
        )
        assert {each.name for each in listed.models} == {"stripes", "stripes.network", "nearness"}
        assert all({*each.fingerprints} <= {each.name for each in listed.models} for each in listed.replicas)
        known = "expected one of nearness, stripes, stripes.network"
        for ask in (lambda: infer(client, BOB), lambda: client.get_model_metadata("rings", headers=bearer(BOB))):
            assert refusal(ask) == ("NOT_FOUND", f"unknown model 'rings', {known}")
        status, text = refusal(lambda: infer(client, BOB, "stripes", reward="nan"))
        assert status == "INVALID_ARGUMENT"
        assert text.startswith("unknown reward 'nan', expected one of ")


def test_a_model_is_unloaded_by_those_who_see_it(guarded: Guarded) -> None:
    """For others it is neither loaded nor in the repository."""
    try:
        rewritten(guarded, {"identities": {"bob": {**FILE["identities"]["bob"], "rights": ["repository"]}}})
        with guarded.client() as client:
            status, text = refusal(lambda: client.unload_model("rings", headers=bearer(BOB)))
            assert (status, text) == (
                "NOT_FOUND",
                "unknown model 'rings': the repository has no such folder of a model",
            )
            assert client.is_model_ready("rings")
            client.unload_model("stripes", headers=bearer(BOB))
            assert not client.is_model_ready("stripes")
            client.load_model("stripes", headers=bearer(BOB))
            assert client.is_model_ready("stripes")
    finally:
        rewritten(guarded, FILE)


def test_replicas_hear_their_front(guarded: Guarded) -> None:
    """Each call of a front to a replica shows the inner token: also the one that says what to log."""
    front, replica = guarded.live.front, guarded.live.replicas[0]
    with guarded.client() as client:
        settings = client.get_log_settings(headers=bearer(ALICE)).settings
        client.update_log_settings({"log_info": settings["log_info"].bool_param}, headers=bearer(ALICE))
    assert front._log_settings._told == {replica.id}


def test_statistics_are_of_models_that_a_caller_sees(guarded: Guarded) -> None:
    try:
        rewritten(guarded, {"identities": {"bob": {**FILE["identities"]["bob"], "rights": ["statistics"]}}})
        with guarded.client() as client:
            found = client.get_inference_statistics(headers=bearer(BOB)).model_stats
            assert {each.name for each in found} == {"stripes", "stripes.network", "nearness"}
    finally:
        rewritten(guarded, FILE)


@pytest.mark.parametrize("name", ["../rings", "rings/../nearness", "/etc/passwd", "rings/1", ".", "..", "rings\x00"])
def test_names_of_requests_are_no_paths(guarded: Guarded, name: str) -> None:
    """As a model to infer, describe or load, a version, and a reward: names are compared, never opened."""
    with guarded.client() as client:
        asks = [
            partial(infer, client, ALICE, name),
            partial(client.get_model_metadata, name, headers=bearer(ALICE)),
            partial(client.load_model, name, headers=bearer(ALICE)),
            partial(client.get_model_metadata, "rings", name, headers=bearer(ALICE)),
        ]
        assert {refusal(ask)[0] for ask in asks} == {"NOT_FOUND"}
        assert refusal(lambda: infer(client, ALICE, reward=name))[0] == "INVALID_ARGUMENT"


def test_a_large_message_without_a_token_is_not_read(guarded: Guarded) -> None:
    """It is refused by its metadata, in less time than 200 MB take to be read."""
    with guarded.channel() as channel:
        send = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        begin = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            send(bytes(200 * 2**20), timeout=20)
        assert caught.value.code() == UNAUTHENTICATED
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"samples": 9}, "limit samples of 'limited': expected at most 8, got 9"),
        ({"steps": 11}, "limit steps of 'limited': expected at most 10, got 11"),
        (
            {"steps": 5, "reward": "nearness"},
            "limit particles of 'limited': expected at most 16, got 32",
        ),
    ],
)
def test_limits_of_an_identity_name_what_came(guarded: Guarded, parameters: dict[str, Any], text: str) -> None:
    with guarded.client() as client:
        assert refusal(lambda: infer(client, LIMITED, **parameters)) == ("RESOURCE_EXHAUSTED", text)


def test_the_longest_message_of_an_identity(guarded: Guarded) -> None:
    x = triton.InferInput("x", [10_000, 2], "FP32")
    x.set_data_from_numpy(np.zeros((10_000, 2), np.float32))
    with guarded.client() as client:
        status, text = refusal(lambda: client.infer("nearness", [x], headers=bearer(LIMITED)))
    assert status == "RESOURCE_EXHAUSTED"
    assert text.startswith("limit message_bytes of 'limited': expected at most 65536, got 80")


def test_requests_under_way_of_an_identity(guarded: Guarded) -> None:
    with guarded.client() as client, ThreadPoolExecutor(6) as pool:

        def ask(_: int) -> str:
            try:
                infer(client, LIMITED, samples=8, steps=10)
            except InferenceServerException as error:
                return str(error.message())
            return "answered"

        ends = {end for _ in range(5) for end in pool.map(ask, range(6))}
    text = "limit concurrent of 'limited': expected at most 2 requests under way, got one more"
    assert ends == {"answered", text}
    with guarded.client() as client:
        infer(client, LIMITED, samples=1, steps=2)  # nothing is left of those that ended


def rewritten(guarded: Guarded, content: Mapping[str, Any]) -> None:
    guarded.files.write_text(yaml.safe_dump(content))
    time.sleep(2 * EVERY_S)


def test_tokens_are_read_again(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    carol = tokens.new_token()
    with guarded.client() as client:
        try:
            rewritten(guarded, {"identities": {"carol": {"sha256": tokens.hashed(carol)}}})
            assert refusal(lambda: infer(client, ALICE))[0] == "UNAUTHENTICATED"
            infer(client, carol)
            guarded.files.write_text("identities: {carol: {sha256: " + carol + "}}")  # the token, not its hash
            time.sleep(2 * EVERY_S)
            infer(client, carol)
            assert "carol.sha256: expected hashes of tokens" in caplog.text
            assert carol not in caplog.text
        finally:
            rewritten(guarded, FILE)
        infer(client, ALICE)


def test_rows_per_second(guarded: Guarded) -> None:
    limits = {"rows_per_second": 20.0, "rows_at_once": 40}
    entry = {"sha256": tokens.hashed(BOB), "limits": limits}
    try:
        rewritten(guarded, {"identities": {"bob": entry}})
        with guarded.client() as client:
            infer(client, BOB, steps=30)
            status, text = refusal(lambda: infer(client, BOB, steps=30))
            assert status == "RESOURCE_EXHAUSTED"
            assert text.startswith(
                "limit rows_per_second of 'bob': expected at most 20 network rows a second and 40 at once, got 30 with "
            )
            status, text = refusal(lambda: infer(client, BOB, steps=41))
            assert text.endswith("so many are never there")
            time.sleep(1.2)
            infer(client, BOB, steps=20)
    finally:
        rewritten(guarded, FILE)


def shown(address: str, authority: Path) -> bytes:
    """The certificate that a server shows now."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority)).encode()


def test_certificates_are_exchanged_without_a_restart(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    old = shown(guarded.address, guarded.authority.file)
    with guarded.client() as client:
        infer(client, ALICE)
        guarded.authority.sign("server", guarded.public)
        time.sleep(2 * EVERY_S)
        new = shown(guarded.address, guarded.authority.file)
        assert new != old
        assert shown(guarded.live.front.metrics_address, guarded.authority.file) == new
        infer(client, ALICE)  # on the connection that it has
    key = guarded.public.key.read_bytes()
    try:
        guarded.public.key.write_bytes(b"-----BEGIN no key-----")
        time.sleep(2 * EVERY_S)
        assert shown(guarded.address, guarded.authority.file) == new
        text = f"{guarded.public.key}: expected a private key in PEM without a passphrase, got something else"
        assert text in caplog.text
        assert caplog.text.count(text) == 1
    finally:
        guarded.public.key.write_bytes(key)
    time.sleep(2 * EVERY_S)
    with guarded.client() as client:
        infer(client, ALICE)


def test_certificates_between_front_and_replicas_are_exchanged_too(guarded: Guarded) -> None:
    """The front opens a channel with the new ones; requests on the old one end there."""
    authority, pair = guarded.inner
    replica, links = guarded.live.replicas[0].state(), guarded.live.front._links
    with guarded.client() as client:
        infer(client, ALICE)
        before = links.to(replica)
        authority.sign("replica", pair)
        time.sleep(2 * EVERY_S)
        infer(client, ALICE)
        assert links.to(replica) is not before
        until(lambda: before not in links._old)


def test_who_has_no_token_may_do_what_is_granted_to_anonymous(guarded: Guarded) -> None:
    try:
        rewritten(guarded, {"anonymous": {"rights": ["metadata"], "models": "stripes"}})
        with guarded.client() as client:
            assert client.get_model_metadata("stripes").name == "stripes"
            assert refusal(lambda: client.get_model_metadata("rings"))[0] == "NOT_FOUND"
            assert refusal(lambda: infer(client, None, "stripes"))[0] == "UNAUTHENTICATED"
            assert refusal(lambda: infer(client, "wrong"))[0] == "UNAUTHENTICATED"
    finally:
        rewritten(guarded, FILE)


def test_a_jwt_of_the_issuer(guarded: Guarded) -> None:
    (guarded.files.parent / "jwks.json").write_text(json.dumps(keys()))
    issuer = {"jwks": "jwks.json", "issuer": "https://us", "audience": "tiltserve", "models": ["rings"]}
    try:
        rewritten(guarded, {"jwt": issuer})
        with guarded.client() as client:
            infer(client, signed(claims()))
            assert refusal(lambda: infer(client, signed(claims()), "stripes"))[0] == "NOT_FOUND"
            expired = refusal(lambda: infer(client, signed(claims(exp=time.time() - 60))))
            assert expired == ("UNAUTHENTICATED", "expected a JWT that is valid now, got one that has expired")
    finally:
        rewritten(guarded, FILE)


def page(guarded: Guarded, token: str | None) -> tuple[int, str]:
    request = urllib.request.Request(f"https://{guarded.live.front.metrics_address}/metrics", headers=bearer(token))
    context = ssl.create_default_context(cafile=str(guarded.authority.file))
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_metrics_page_has_a_token_of_its_own(guarded: Guarded) -> None:
    for wrong in (None, ALICE, METRICS + "x"):
        assert page(guarded, wrong)[0] == 401
    with guarded.client() as client:
        refusal(lambda: infer(client, None))
    status, text = page(guarded, METRICS)
    assert status == 200
    assert 'tiltserve_requests_total{code="UNAUTHENTICATED",method="ModelInfer",model=""}' in text
    assert "tiltserve_backlog_rows" in text  # the replicas', over mutual TLS
    for secret in (ALICE, BOB, METRICS, INNER, tokens.hashed(ALICE)):
        assert secret not in text


def test_a_front_is_well_behind_tls(guarded: Guarded) -> None:
    guarded.live.on_loop(guarded.live.front.check_health(30))


def test_nobody_without_a_certificate_of_the_inner_authority_reaches_a_replica(guarded: Guarded) -> None:
    for channel in (
        grpc.insecure_channel(guarded.direct),
        grpc.secure_channel(guarded.direct, grpc.ssl_channel_credentials(guarded.authority.file.read_bytes())),
    ):
        with channel:
            status = call(channel, "/inference.GRPCInferenceService/ServerLive", b"", ALICE)
            assert status == grpc.StatusCode.UNAVAILABLE


def test_a_replica_asked_itself_wants_the_same_token(plain: Guarded) -> None:
    """And gives no more than a front would; who has limits must ask a front."""
    with triton.InferenceServerClient(plain.direct) as client:
        assert client.is_server_live()
        assert refusal(lambda: infer(client, None))[0] == "UNAUTHENTICATED"
        assert refusal(lambda: infer(client, EVE))[0] == "PERMISSION_DENIED"
        assert infer(client, ALICE).as_numpy("samples").shape == (1, 2)
        assert refusal(lambda: infer(client, BOB))[0] == "NOT_FOUND"
        assert refusal(lambda: client.get_model_metadata("rings", headers=bearer(BOB)))[0] == "NOT_FOUND"
        status, text = refusal(lambda: infer(client, LIMITED))
        assert status == "PERMISSION_DENIED"
        assert "expected 'limited', who has limits, at a front" in text


def test_the_engine_knows_whose_a_request_is(plain: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the front and at a replica; what a client says in the front's header is not believed."""
    engine, seen = plain.live.replicas[0]._engine, list[str]()
    submit = engine.submit

    def noting(task: Task) -> Any:
        seen.append(task.identity)
        return submit(task)

    monkeypatch.setattr(engine, "submit", noting)
    headers = {**bearer(ALICE), HEADER: json.dumps(["bob", ["*"]]).encode()}
    for address in (plain.address, plain.direct):
        with triton.InferenceServerClient(address) as client:
            client.infer("rings", [], headers=headers)
    assert seen == ["alice", "alice"]


def test_a_region_of_shared_memory_is_of_who_registered_it(plain: Guarded) -> None:
    """Others neither see it nor use it, and have their own under its name; to use one is a right of its own."""
    file = Path(f"/dev/shm/tiltserve-test-{os.getpid()}")
    file.write_bytes(bytes(64))
    x, mode = (
        triton.InferInput(name, [1, *row], kind) for name, row, kind in (("x", [2], "FP32"), ("mode", [], "INT64"))
    )
    x.set_shared_memory("r", 8)
    mode.set_data_from_numpy(np.zeros(1, np.int64))
    rights = {"alice": "all", "bob": ["inference", "shared_memory"], "carol": ["inference"]}
    shown = {name: tokens.new_token() for name in rights}
    entries = {name: {"sha256": tokens.hashed(shown[name]), "rights": each} for name, each in rights.items()}
    try:
        rewritten(plain, {"identities": entries})
        with triton.InferenceServerClient(plain.address) as client:

            def ask(name: str) -> Any:
                return client.infer("nearness", [x, mode], headers=bearer(shown[name]))

            client.register_system_shared_memory("r", file.name, 64, headers=bearer(shown["alice"]))
            assert ask("alice").as_numpy("reward").shape == (1,)
            assert refusal(lambda: ask("bob")) == ("NOT_FOUND", "unknown shared memory region 'r'")
            assert refusal(lambda: ask("carol"))[0] == "PERMISSION_DENIED"
            assert not client.get_system_shared_memory_status(headers=bearer(shown["bob"])).regions
            client.register_system_shared_memory("r", file.name, 32, headers=bearer(shown["bob"]))
            client.unregister_system_shared_memory(headers=bearer(shown["bob"]))
            assert client.get_system_shared_memory_status(headers=bearer(shown["alice"])).regions["r"].byte_size == 64
            client.unregister_system_shared_memory(headers=bearer(shown["alice"]))
    finally:
        rewritten(plain, FILE)
        file.unlink()


def test_nobody_passes_for_a_front(plain: Guarded) -> None:
    """The header in which a front tells of a caller is worth nothing without the token of the server's processes."""
    as_alice = {HEADER: json.dumps(["alice", ["*"]])}
    infer_path, metrics_path = "/inference.GRPCInferenceService/ModelInfer", "/tiltserve.v1.ReplicaInternal/Metrics"
    data = service_pb2.ModelInferRequest(model_name="rings").SerializeToString()
    for address in (plain.address, plain.direct):
        with grpc.insecure_channel(address) as channel:
            asks = channel.unary_unary(infer_path)
            for secret in ({}, {INTERNAL: "guess"}):
                metadata = [*((key, value.encode()) for key, value in as_alice.items()), *secret.items()]
                with pytest.raises(grpc.RpcError) as caught:
                    asks(data, metadata=metadata, timeout=10)
                assert caught.value.code() == UNAUTHENTICATED
            with pytest.raises(grpc.RpcError) as caught:  # bob stays bob
                asks(data, metadata=[(HEADER, as_alice[HEADER].encode()), *bearer(BOB).items()], timeout=10)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            missing = grpc.StatusCode.UNIMPLEMENTED  # fronts have no such method
            assert call(channel, metrics_path, b"", ALICE) == (UNAUTHENTICATED if address == plain.direct else missing)
    with grpc.insecure_channel(plain.address) as channel:
        assert call(channel, infer_path, data, None, **{INTERNAL: INNER}) == UNAUTHENTICATED  # only on its own socket


def test_mutual_tls(small_models: Path, tmp_path: Path) -> None:
    """A client without a certificate of the authority gets no connection, and its replicas hear fronts only."""
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs", "other")
    server, mine, theirs = authority.sign("server"), authority.sign("client"), other.sign("stranger")
    certificates = Certificates(server.cert, server.key, authority.file)
    inside = Inside(INNER)
    with running(
        small_models, guards=(FrontGuards(certificates, None, inside), ReplicaGuards(None, inside, True))
    ) as live:

        def client(pair: Pair | None) -> triton.InferenceServerClient:
            shown = {} if pair is None else {"private_key": str(pair.key), "certificate_chain": str(pair.cert)}
            return triton.InferenceServerClient(live.address, ssl=True, root_certificates=str(authority.file), **shown)

        with client(mine) as known:
            assert infer(known, None).as_numpy("samples").shape == (1, 2)
        for pair in (None, theirs):
            with client(pair) as unknown:
                assert refusal(partial(unknown.is_server_live, client_timeout=5))[0] == "UNAVAILABLE"
        with triton.InferenceServerClient(live.replicas[0].state().address) as direct:
            assert refusal(lambda: infer(direct, None)) == (
                "UNAUTHENTICATED",
                "expected a call of this server's own front, got one without its token",
            )
        live.on_loop(live.front.check_health(30))
        with pytest.raises(OSError, match=r"certificate required|EOF|reset"):
            urllib.request.urlopen(
                f"https://{live.front.metrics_address}/metrics",
                context=ssl.create_default_context(cafile=str(authority.file)),
            )


def test_a_reader_that_does_not_shake_hands_holds_up_no_other(guarded: Guarded) -> None:
    host, _, port = guarded.live.front.metrics_address.rpartition(":")
    with socket.create_connection((host, int(port))):
        assert page(guarded, METRICS)[0] == 200
