"""The endpoint before a real server: who may call it, what it says of errors, how it ends."""

import base64
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.http import bodies
from deploy.http.server import Endpoint
from serving.access import tokens
from serving.access.certificates import Certificates
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.front import unix
from tests.serving.certificates import Authority
from tests.serving.live import Live, running

ALL, LISTS = (tokens.new_token() for _ in range(2))
GENERATIONS, EDITS, MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/models"


class Caller:
    """Sends requests to an endpoint, each on a connection of its own unless it is told one."""

    def __init__(self, live: Live, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> None:
        self.live, self.endpoint, self.tls = live, endpoint, tls
        self.port = int(endpoint.address.rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)

    def send(
        self,
        path: str,
        body: Any = None,
        method: str = "",
        connection: http.client.HTTPConnection | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and what the JSON of the answer says."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"content-type": "application/json", **headers}
        used = connection or self.connect()
        used.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = used.getresponse()
        told = answer.read()
        if connection is None:
            used.close()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, told and json.loads(told)

    def refused(self, path: str, body: Any = None, **how: Any) -> tuple[int, str]:
        """Status and line of an error, which must be of OpenAI's form."""
        status, _, told = self.send(path, body, **how)
        assert told.keys() == {"error"}, told
        assert told["error"].keys() == {"message", "type", "param", "code"}
        assert told["error"]["type"] in ("invalid_request_error", "server_error", "rate_limit_error")
        return status, told["error"]["message"]


@contextlib.contextmanager
def endpoint(live: Live, upstream: str, tls: ssl.SSLContext | None = None, **how: Any) -> Iterator[Caller]:
    """One beside a server, which still runs afterwards."""

    async def made() -> Endpoint:
        endpoint = Endpoint(upstream, drain_s=5, **how)
        await endpoint.start()
        return endpoint

    running = live.on_loop(made())
    try:
        yield Caller(live, running, tls)
    finally:
        live.on_loop(running.stop())


@pytest.fixture(scope="module")
def plain(served: Live) -> Iterator[Caller]:
    """On a machine of one's own; a page of https://app.example may call."""
    with endpoint(served, served.address, origins=["https://app.example"], hosts=["Box"]) as caller:
        yield caller


@pytest.fixture(scope="module")
def secured(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """With TLS and tokens, at the front's socket for it."""
    folder = tmp_path_factory.mktemp("http")
    authority = Authority(folder)
    pair = authority.sign("server")
    (folder / "tokens.yaml").write_text(
        yaml.safe_dump(
            {
                "identities": {
                    "all": {"sha256": tokens.hashed(ALL)},
                    "lists": {"sha256": tokens.hashed(LISTS), "rights": ["metadata"]},
                }
            }
        )
    )
    table, inside = tokens.watched(folder / "tokens.yaml", 1.0), Inside(tokens.new_token())
    certificates = Certificates(pair.cert, pair.key)
    guards = FrontGuards(certificates, table, inside), ReplicaGuards(table, inside)
    beside, trusted = folder / "http", ssl.create_default_context(cafile=str(authority.file))
    with (
        running(small_models, guards=guards, front={"beside": beside}) as live,
        endpoint(live, unix.address(beside), trusted, certificates=certificates, tokens=table) as caller,
    ):
        yield caller


HEART = {"model": "rings", "prompt": "a red heart"}


def test_models(plain: Caller):
    """Those that draw pictures, of which there are none here."""
    status, headers, told = plain.send(MODELS)
    assert (status, told) == (200, {"object": "list", "data": []})
    assert (headers["server"], headers["cache-control"]) == ("tiltserve", "no-store")
    assert "access-control-allow-origin" not in headers
    assert plain.refused(f"{MODELS}/rings") == (404, "model: expected a pipeline, of which there are none, got 'rings'")
    assert (
        plain.refused(GENERATIONS, {"prompt": "a"})[1]
        == "model: expected a pipeline, of which there are none, got none"
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (HEART, 400, "prompt: expected a pipeline, got 'rings', which takes none"),
        (HEART | {"model": "no\nsuch"}, 404, "unknown model 'no\\nsuch', expected one of"),
        (HEART | {"n": 0}, 400, "n: expected a number of 1..10, got 0"),
        ([HEART], 400, "expected a JSON object, got list"),
        (b"{", 400, "expected a JSON object, got: Expecting property name"),
        (b'{"prompt": NaN}', 400, "expected a JSON object, got: NaN is no number"),
        (b"[" * 100_000, 400, "expected a JSON object, got: "),
        (b'{"n": ' + b"1" * 5000 + b"}", 400, "expected a JSON object, got: "),
        (b"\xff", 400, "expected a JSON object, got: "),
        (b"a" * (bodies.MOST_JSON + 1), 413, "expected a body, or a field, of at most 1048576 bytes, got more"),
    ],
)  # fmt: skip
def test_errors_have_openais_form(plain: Caller, body: Any, status: int, message: str):
    came = plain.refused(GENERATIONS, body, headers={"content-type": "application/json"})
    assert came[0] == status
    assert came[1].startswith(message)


def test_paths_and_methods_that_are_not_served(plain: Caller):
    assert plain.refused("/v1/chat/completions", {}) == (404, "POST /v1/chat/completions: Not Found")
    assert plain.refused(GENERATIONS) == (405, f"GET {GENERATIONS}: Method Not Allowed")
    assert plain.refused("/metrics")[0] == plain.refused("/")[0] == 404
    assert (
        plain.refused(GENERATIONS, b"prompt=a", headers={"content-type": "application/x-www-form-urlencoded"})[0] == 415
    )
    assert (
        plain.refused(GENERATIONS, b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"})[0]
        == 415
    )


def test_ids_of_requests_come_back(plain: Caller):
    assert plain.send(MODELS, headers={"x-request-id": "mine-1"})[1]["x-request-id"] == "mine-1"
    for bad in ("x" * 200, "a b", "é"):
        assert plain.send(MODELS, headers={"x-request-id": bad})[1]["x-request-id"].startswith("req_")
    assert plain.send(GENERATIONS, {}, headers={"x-request-id": "mine-2"})[1]["x-request-id"] == "mine-2"


def test_pages_of_others_get_nothing(plain: Caller):
    page, how = {"origin": "https://app.example"}, dict[str, str]()
    for how in ({"host": "evil.example"}, {"origin": "null"}, {"origin": "https://evil.example"}):
        for path, body in ((GENERATIONS, HEART), (MODELS, None)):
            status, headers, told = plain.send(path, body, headers=how)
            assert (status, told["error"]["code"]) == (403, "permission_denied")
            assert "access-control-allow-origin" not in headers
    assert plain.send(MODELS, headers={"host": "box:80"})[0] == 200
    status, headers, told = plain.send(MODELS, headers=page)
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, "https://app.example", "Origin")
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    status, headers, _ = plain.send(GENERATIONS, method="OPTIONS", headers=page | asks)
    assert (status, headers["access-control-allow-headers"]) == (204, "authorization")
    assert plain.send(GENERATIONS, method="OPTIONS", headers=how | asks)[0] == 403


FORM = {"content-type": "multipart/form-data; boundary=b"}


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    made = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts
    )
    return made + end


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (form(("prompt", b"a")), 400, "image: expected a picture, got none"),
        (form(("image", b"GIF"), ("prompt", b"a")), 400, "image: expected a picture as png, jpeg, webp, got 3 bytes"),
        (form(("image", b"a"), ("image[]", b"b")), 400, "image: expected it once, got more of them"),
        (form(("prompt", b"a" * (bodies.MOST_TEXT + 1))), 413, "expected a body, or a field, of at most 65536 bytes"),
        (form(("prompt", b"\xff")), 400, "prompt: expected a text in UTF-8, got other bytes"),
        (form(*((f"f{number}", b"") for number in range(65))), 400, "expected at most 64 fields, got more"),
        (form(("", b"a")), 400, "expected fields with names, got a part without one"),
        (b"", 400, "expected a form, got: "),
        (b"--c\r\n\r\n", 400, "expected a form, got: "),
        (form(("prompt", b"a"), end=b""), 400, "expected a form, got: "),
    ],
)  # fmt: skip
def test_forms(plain: Caller, body: bytes, status: int, message: str):
    came = plain.refused(EDITS, body, headers=FORM)
    assert came[0] == status, came
    assert came[1].startswith(message)


def test_a_form_that_is_too_long_is_not_read_to_its_end(plain: Caller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "MOST_FORM", 2**18)
    came = plain.refused(
        EDITS, form(("image", bytes(2**18 + 1))), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert came == (413, "expected a body, or a field, of at most 262144 bytes, got more")


def test_a_body_that_does_not_come(plain: Caller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.2)
    with socket.create_connection(("127.0.0.1", plain.port), 10) as slow:
        lines = f"POST {GENERATIONS} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 9"
        slow.sendall("\r\n".join([*lines, "", "{"]).encode())
        assert slow.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_who_has_no_token_gets_nothing(secured: Caller):
    """Over TLS; the same identities as at the gRPC port, and none of a body is read before."""
    bearer = f"Bearer {ALL}"
    assert secured.send(MODELS, headers={"authorization": bearer})[0] == 200
    assert secured.refused(GENERATIONS, HEART, headers={"authorization": bearer})[0] == 400
    for wrong in (
        None,
        f"Bearer {tokens.new_token()}",
        f"Basic {base64.b64encode(ALL.encode()).decode()}",
        "Bearer é",
        ALL,
    ):
        headers = {} if wrong is None else {"authorization": wrong}
        for path, body in (
            (GENERATIONS, HEART),
            (EDITS, form(("image", b"a"))),
            (MODELS, None),
            (f"{MODELS}/rings", None),
        ):
            status, answered, told = secured.send(path, body, headers=headers)
            assert (status, told["error"]["code"], answered["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
            assert wrong is None or wrong.split()[-1] not in told["error"]["message"]
    lists = f"Bearer {LISTS}"
    assert secured.send(MODELS, headers={"authorization": lists})[0] == 200
    assert secured.refused(GENERATIONS, HEART, headers={"authorization": lists})[0] == 403
    with socket.create_connection(("127.0.0.1", secured.port), 10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert not stranger.recv(2**16).startswith(b"HTTP")


def test_the_front_judges_by_the_callers_token(secured: Caller):
    """Whatever the endpoint takes a caller for: this one knows of no tokens, and sends none on."""
    with endpoint(secured.live, secured.endpoint._client.address.target) as open_to_all:
        for path, body in ((GENERATIONS, HEART), (MODELS, None)):
            assert open_to_all.refused(path, body, headers={"authorization": f"Bearer {ALL}"})[0] == 401


def test_connections_are_kept_and_end_with_the_endpoint(served: Live):
    with endpoint(served, served.address) as caller:
        connection = caller.connect()
        for _ in range(2):
            assert caller.send(MODELS, connection=connection)[0] == 200
        caller.endpoint.check_health()
    with pytest.raises(RuntimeError, match="expected it to listen"):
        caller.endpoint.check_health()
    with pytest.raises(ConnectionRefusedError):
        caller.send(MODELS)


def test_certificates_of_callers(served: Live, tmp_path: Path):
    """As at the gRPC port: where an authority must have signed them; and all of the files may be exchanged."""
    authority, other = Authority(tmp_path), Authority(tmp_path / "other", "other")
    pair, mine, theirs = authority.sign("server"), authority.sign("mine"), other.sign("theirs")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.file.read_bytes())
    certificates = Certificates(pair.cert, pair.key, trusted, every_s=0)

    def shown(cert: Path | None, key: Path | None) -> object:
        """The serial number of the server's certificate; None where the caller's will not do."""
        context = ssl.create_default_context(cafile=str(authority.file))
        if cert is not None:
            context.load_cert_chain(cert, key)
        connection = http.client.HTTPSConnection("127.0.0.1", caller.port, timeout=10, context=context)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", MODELS)
            sock = connection.sock
            assert isinstance(sock, ssl.SSLSocket)
            serial = (sock.getpeercert() or {})["serialNumber"]
            return serial if connection.getresponse().status == 200 else None
        return None

    with endpoint(served, served.address, certificates=certificates) as caller:
        first = shown(mine.cert, mine.key)
        assert first is not None
        assert shown(None, None) is shown(theirs.cert, theirs.key) is None
        authority.sign("server", pair)
        assert shown(mine.cert, mine.key) not in (None, first)
        trusted.write_bytes(other.file.read_bytes())
        assert shown(theirs.cert, theirs.key) is not None
        assert shown(mine.cert, mine.key) is None
