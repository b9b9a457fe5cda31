"""Certificates of a running server are exchanged, its authorities too, while clients ask: nothing is lost.

    make bench ARGS="rotation"

A directory, a front outside Ray and `tiltserve serve` with two replicas, with TLS outside and mutual TLS inside. Four
clients ask all the time, two of which open a connection for each request; they trust the public authority of before
and the next one, and repeat nothing. Meanwhile files are exchanged: the public certificate, then inside first the
authorities' file (old and new), then the certificates, then the authorities' file without the old one, and last the
public certificate by one of the next authority. Prints what became of the requests in each step, and exits with 1 if
one was lost or answered with other bytes, or if the server shows an old certificate.
"""

import contextlib
import datetime
import hashlib
import ipaddress
import itertools
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tritonclient.grpc import service_pb2 as pb

from benchmarks._load import INFER, infer_body
from benchmarks._server import MODELS, machine

SEEDS, START_S = 8, 240.0


class Authority:
    """Signs certificates for this machine and the name `tiltserve`."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = self._made(self._name, self._key.public_key(), authority=True)

    def sign(self) -> tuple[bytes, bytes]:
        """A certificate and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tiltserve")])
        return self._made(name, key.public_key()), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _made(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = [
            x509.DNSName("tiltserve"),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def put(folder: Path, **files: bytes) -> None:
    """Exchange files one after the other, each at once."""
    for name, content in files.items():
        there = folder / f".{name}"
        there.write_bytes(content)
        there.replace(folder / name.replace("_", "."))


class Load:
    """Clients that ask all the time."""

    def __init__(self, address: str, trusted: bytes) -> None:
        self._address, self._trusted, self._over = address, trusted, threading.Event()
        self.step, self.ends, self.digests = "", Counter[tuple[str, str]](), dict[int, str]()
        self.details = set[str]()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=[k % 2 == 0]) for k in range(4)]

    def __enter__(self) -> "Load":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()

    def _channel(self) -> grpc.Channel:
        alone = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.secure_channel(self._address, grpc.ssl_channel_credentials(self._trusted), options=alone)

    def _ask(self, anew: bool) -> None:
        held = self._channel()
        for seed in itertools.cycle(range(SEEDS)):
            if self._over.is_set():
                break
            body = infer_body("digits", {"samples": 2, "steps": 8, "seed": seed})
            channel = self._channel() if anew else held
            step = self.step
            try:
                answer = channel.unary_unary(INFER)(body, timeout=60)
                end = "answered"
            except grpc.RpcError as error:
                end, answer = f"{error.code().name}", b""
                with self._lock:
                    self.details.add(str(error.details())[:200])
            if anew:
                channel.close()
            with self._lock:
                if answer and self.digests.setdefault(seed, drawn(answer)) != drawn(answer):
                    end = "other bytes"
                self.ends[step, end] += 1
        held.close()


def drawn(answer: bytes) -> str:
    """The digest of an answer's samples; what is said of them, such as times, is another each time."""
    return hashlib.sha256(b"".join(pb.ModelInferResponse.FromString(answer).raw_output_contents)).hexdigest()


@contextlib.contextmanager
def part(*words: str) -> Iterator[re.Match[str]]:
    """A process of the server, once it says that it is ready; on leaving it is told to stop."""
    command = [sys.executable, "-m", "deploy", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if match := re.match(r"ready (?:directory|grpc)=(\S+)", line):
                    yield match
                    break
            else:
                raise RuntimeError(f"{words[0]} ended with exit code {process.wait()} before it was ready")
        finally:
            process.terminate()
            process.wait(90)


def main(seconds: Annotated[float, typer.Option(metavar="S", help="Of each step.")] = 8.0) -> None:
    """Run it."""
    print(machine())
    public, following, inner, next_inner = (Authority(name) for name in ("public", "next", "inner", "next inner"))
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as held:
        outside, inside = Path(temporary, "outside"), Path(temporary, "inside")
        for folder, authority in ((outside, public), (inside, inner)):
            folder.mkdir()
            chain, key = authority.sign()
            put(folder, tls_crt=chain, tls_key=key, ca_crt=authority.pem)
        token = Path(temporary, "token")
        token.write_text("0123456789abcdef")
        shared = ["--internal-tls", str(inside), "--internal-token-file", str(token)]
        directory = held.enter_context(part("directory", "--directory-port", "0", *shared))[1]
        named = ["--directory", directory, "--metrics-port", "0", "--grpc-port", "0", *shared]
        held.enter_context(part("serve", "--models", str(MODELS), "--replicas", "2", *named))
        tls = ["--tls-cert", str(outside / "tls.crt"), "--tls-key", str(outside / "tls.key")]
        address = held.enter_context(part("front", *named, *tls))[1]
        load = held.enter_context(Load(address, public.pem + following.pem))
        steps: Sequence[tuple[str, Path | None, dict[str, bytes]]] = [
            ("nothing is exchanged", None, {}),
            ("the public certificate", outside, dict(zip(("tls_crt", "tls_key"), public.sign(), strict=True))),
            ("inside, both authorities", inside, {"ca_crt": inner.pem + next_inner.pem}),
            ("inside, the certificates", inside, dict(zip(("tls_crt", "tls_key"), next_inner.sign(), strict=True))),
            ("inside, the new authority alone", inside, {"ca_crt": next_inner.pem}),
            ("the public authority", outside, dict(zip(("tls_crt", "tls_key"), following.sign(), strict=True))),
        ]
        for load.step, where, files in steps:
            if where is not None:
                put(where, **files)
            time.sleep(seconds)
        host, _, port = address.rpartition(":")
        shown = ssl.get_server_certificate((host, int(port)))
        fresh = x509.load_pem_x509_certificate(shown.encode()) == x509.load_pem_x509_certificate(
            (outside / "tls.crt").read_bytes()
        )
    for step, _, _ in steps:
        print(f"{step:35}", {end: count for (at, end), count in sorted(load.ends.items()) if at == step})
    for detail in sorted(load.details):
        print(detail)
    print(f"the certificate that is shown is the newest: {fresh}")
    if not fresh or {end for _, end in load.ends} != {"answered"}:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
