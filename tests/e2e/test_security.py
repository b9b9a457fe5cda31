"""One real server with everything on: TLS, tokens, a token for metrics, and mutual TLS between its processes."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deploy.scratch import scratch
from serving.access import tokens
from tests.e2e.conftest import TILTSERVE
from tests.e2e.test_machines import started
from tests.serving.certificates import Authority

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_a_server_on_a_network_keeps_its_secrets(small_models: Path, tmp_path: Path) -> None:
    """At level debug no secret is in its output, its logs, its metrics, its errors, or its processes' arguments."""
    models = tmp_path / "models"
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, models / name)
    made = subprocess.run([TILTSERVE, "token", "alice"], capture_output=True, text=True, check=True)
    token, metrics = made.stdout.strip(), tokens.new_token()
    (tmp_path / "tokens.yaml").write_text(made.stderr)
    (tmp_path / "metrics").write_text(metrics + "\n")
    authority, inner = Authority(tmp_path / "public"), Authority(tmp_path / "inner", "ca")
    public = authority.sign("server")
    inner.sign("tls")
    options = [
        "--host", "0.0.0.0", "--tls-cert", str(public.cert), "--tls-key", str(public.key),
        "--tokens", str(tmp_path / "tokens.yaml"), "--metrics-token-file", str(tmp_path / "metrics"),
        "--internal-tls", str(tmp_path / "inner"), "--log-level", "debug", "--http-port", "0",
    ]  # fmt: skip
    before = sessions()
    with started(models, tmp_path, *options) as server:
        ready = server.ready()
        grpc_at, metrics_at, http_at = (ready[k].replace("0.0.0.0", "127.0.0.1") for k in (1, 2, 4))
        headers = {"authorization": f"Bearer {token}"}
        with triton.InferenceServerClient(grpc_at, ssl=True, root_certificates=str(authority.file)) as client:
            answer = client.infer("rings", [], parameters={"samples": 2}, headers=headers)
            assert answer.as_numpy("samples").shape == (2, 2)
            errors = []
            for wrong in ({}, {"authorization": f"Bearer {token}x"}):
                with pytest.raises(InferenceServerException) as caught:
                    client.infer("rings", [], headers=wrong)
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
                errors.append(str(caught.value))
        context = ssl.create_default_context(cafile=str(authority.file))
        for sent, expected in ((token, 200), (f"{token}x", 401)):
            asked = urllib.request.Request(f"https://{http_at}/v1/models", headers={"authorization": f"Bearer {sent}"})
            try:
                with urllib.request.urlopen(asked, timeout=20, context=context) as answer:
                    status, said = answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                status, said = error.code, error.read().decode()
            assert status == expected
            errors.append(said)
        host, _, port = grpc_at.rpartition(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert not stranger.recv(1024).startswith(b"HTTP")
        asked = urllib.request.Request(f"https://{metrics_at}/metrics", headers={"authorization": f"Bearer {metrics}"})
        with urllib.request.urlopen(asked, timeout=20, context=context) as answer:
            page = answer.read().decode()
        assert re.search(r'tiltserve_rows_total\{[^}]*replica_id="', page)
        assert 'code="UNAUTHENTICATED"' in page
        own = psutil.Process(server.process.pid)
        arguments = [word for each in [own, *own.children(recursive=True)] for word in each.cmdline()]
        new = sessions() - before
        logs = [file.read_text(errors="replace") for each in new for file in each.rglob("*") if is_text(file)]
        assert server.stop() == 0
        assert server.left() == []
        told = [server.told(), page, *errors, *arguments, *logs]
    assert "DEBUG" in told[0]
    assert len(logs) > 5
    assert not any("Handshake failed" in text for text in told)  # strangers write no lines
    for secret in (token, metrics, public.key.read_text().splitlines()[1]):
        assert not any(secret in text for text in told)


def sessions() -> set[Path]:
    """Where Ray keeps the logs of its sessions."""
    with scratch(0) as place:
        return set(place.sessions.glob("session_*/logs"))


def is_text(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and os.access(file, os.R_OK)
