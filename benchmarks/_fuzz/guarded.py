"""A server with client certificates and tokens, and callers that have one of the two, or neither."""

import base64
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks._fuzz.cases import FRONT, REPLICA, Case, Cases
from benchmarks._fuzz.client import ENDED, Clients, limited
from benchmarks._load import LEFT
from deploy.process import Running, running_server
from serving.access import tokens
from serving.access.methods import GROUPS
from tests.serving.certificates import Authority
from tiltserve import TLS, Client

IN_FLIGHT = 32
_FILE = """
identities: {{alice: {{sha256: {hashed}, rights: all}}}}
jwt: {{jwks: jwks.json, issuer: us, audience: here, algorithms: [ES256]}}
"""


@dataclass
class Answers:
    """Statuses of calls by who called, and what must not be."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Guarded:
    """The server. Its replicas answer their own front alone."""

    def __init__(self, server: Running, folder: Path, authority: Authority, token: str) -> None:
        self.address, self._server = server.grpc, server
        pair = authority.sign("client")
        root = authority.file.read_bytes()
        self.known = grpc.ssl_channel_credentials(root, pair.key.read_bytes(), pair.cert.read_bytes())
        self.unknown = grpc.ssl_channel_credentials(root)
        tls = TLS(ca=authority.file, cert=pair.cert, key=pair.key)
        with Client(self.address, tls=tls, token=token) as client:
            self.replica = str(client.fleet().replicas[0].address)

    async def ask(self, cases: Cases, count: int, seed: int) -> Answers:
        """Calls of every kind: most with a certificate and no token that is right, some without a certificate."""
        answers, rng = Answers(), random.Random(seed)
        certain = Clients({FRONT: self.address}, self.known)
        inside = Clients({REPLICA: self.replica})
        try:
            stream = iter(cases)
            for clients, to, number in ((certain, FRONT, count), (inside, REPLICA, count // 10)):
                wrong = (_with(case, to, rng) for case in stream)
                async for ended in clients.run(limited(wrong, number, time.monotonic() + 600), IN_FLIGHT):
                    self._judge(answers, f"no right token, {to}", ended.case, ended.status, ended.detail)
        finally:
            await certain.close()
            await inside.close()
        strangers = Clients({FRONT: self.address}, self.unknown)
        try:
            for path in [*GROUPS, "/no/method"]:
                ended = await strangers.send(Case("stranger", path, path, (b"",), timeout=10.0))
                answers.counts["no certificate", ended.status] += 1
                if ended.status != "UNAVAILABLE" or ended.replies:
                    answers.faults.append(f"{path} without a certificate: {ended.status} {ended.detail[:200]!r}")
        finally:
            await strangers.close()
        return answers

    def _judge(self, answers: Answers, who: str, case: Case, status: str, detail: str) -> None:
        answers.counts[who, status] += 1
        allowed = {"UNAUTHENTICATED", LEFT, ENDED, "RESOURCE_EXHAUSTED"}  # the last one where metadata are too long
        if GROUPS.get(case.path) == "health":
            allowed |= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
            if case.to == REPLICA:
                allowed.add("UNIMPLEMENTED")  # grpc.health.v1 is the front's
        if case.hurried:
            allowed.add("DEADLINE_EXCEEDED")
        if status == "RESOURCE_EXHAUSTED" and "metadata" not in detail and len(case.messages[0]) < 2**20:
            allowed.discard(status)
        if status not in allowed or ("\n" in detail):
            answers.faults.append(f"{who}: {case.kind} {case.path}: {status} {detail[:200]!r}")


@contextlib.contextmanager
def guarded(models: Path) -> Iterator[Guarded]:
    """The server, while it runs."""
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name), tokens.new_token()
        authority = Authority(folder / "public")
        public, key = authority.sign("server"), ec.generate_private_key(ec.SECP256R1()).public_key()
        told = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True) | {"kid": "a", "alg": "ES256", "use": "sig"}
        (folder / "jwks.json").write_text(json.dumps({"keys": [told]}))
        (folder / "tokens.yaml").write_text(_FILE.format(hashed=tokens.hashed(token)))
        options = [
            "--threads-per-replica=1", f"--tls-cert={public.cert}", f"--tls-key={public.key}",
            f"--tls-client-ca={authority.file}", f"--tokens={folder / 'tokens.yaml'}",
        ]  # fmt: skip
        with running_server(models, options=options) as server:
            yield Guarded(server, folder, authority, token)


def _with(case: Case, to: str, rng: random.Random) -> Case:
    """The call with a token that is none, or without one."""
    header = rng.choice(
        ({"alg": "none"}, {"alg": "ES256", "kid": "a"}, {"alg": "HS256", "kid": "a"}, {"alg": "ES256", "kid": []})
    )
    deep = b"[" * 3000 + b"]" * 3000
    claims = rng.choice((b"{}", deep, b'{"exp": 1e999, "sub": "alice"}', b"\xff", b'{"exp":' + b"9" * 4000 + b"}"))
    parts = (json.dumps(header).encode(), claims, rng.randbytes(64))
    token = rng.choice((
        None, None, "x", "", "..", "." * 5000, tokens.new_token(), "tilt_", "x" * 7000,
        ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts),
        f"{base64.urlsafe_b64encode(deep).decode().rstrip('=')}.e30.x",
    ))  # fmt: skip
    shown = () if token is None else (("authorization", rng.choice(("Bearer ", "bearer ", "", "Basic ")) + token),)
    kept = tuple(each for each in case.metadata if each[0] != "authorization")
    return replace(case, to=to, metadata=(*kept, *shown))
