"""URLs, TLS and tokens."""

import pickle
from pathlib import Path

import pytest

from tiltserve import TLS, Client, InvalidArgument, Unavailable
from tiltserve.address import Address


@pytest.mark.parametrize(
    ("url", "target", "secure"),
    [
        ("localhost:8001", "localhost:8001", False),
        ("grpc://10.0.0.1:1/", "10.0.0.1:1", False),
        ("grpcs://example.org:443", "example.org:443", True),
        ("[::1]:8001", "[::1]:8001", False),
        ("unix:/run/tiltserve", "unix:/run/tiltserve", False),
        ("unix:///run/tiltserve", "unix:/run/tiltserve", False),
    ],
)
def test_urls(url: str, target: str, secure: bool):
    address = Address.of(url)
    assert (address.target, address.tls is not None) == (target, secure)


@pytest.mark.parametrize(
    "url", ["localhost", "localhost:", ":1", "host:0", "host:65536", "host:port", "http://host:1", "unix:run", "", "grpcs://"]
)  # fmt: skip
def test_wrong_urls(url: str):
    with pytest.raises(InvalidArgument, match="url: expected"):
        Address.of(url)


def test_tls_and_urls_agree(tmp_path: Path):
    assert Address.of("host:1", True).tls == TLS()
    assert Address.of("grpcs://host:1", TLS(ca="ca.pem")).tls == TLS(ca="ca.pem")
    assert Address.of("host:1", False).tls is None
    for url, tls in (("grpc://host:1", True), ("grpcs://host:1", False)):
        with pytest.raises(InvalidArgument):
            Address.of(url, tls)
    with pytest.raises(InvalidArgument, match="cert and key together"):
        TLS(cert="mine.pem")
    with pytest.raises(InvalidArgument, match=r"tls: expected a readable file for ca, got .*: No such file"):
        Client("host:1", tls=TLS(ca=tmp_path / "none.pem"))


def test_a_token_in_plain_text_is_warned_of():
    for url in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/x"):
        Client(url, token="t").close()
    Client("grpcs://example.org:1", token="t").close()
    with pytest.warns(UserWarning, match="the token is sent to example.org:1 in plain text"):
        Client("example.org:1", token="t").close()
    for token in ("two words", "line\n", "ä"):
        with pytest.raises(InvalidArgument) as caught:
            Client("127.0.0.1:1", token=token)
        assert token not in str(caught.value)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(Unavailable("gone")))
    assert (type(error), error.status, error.message, str(error)) == (
        Unavailable, "UNAVAILABLE", "gone", "UNAVAILABLE: gone",
    )  # fmt: skip


def test_a_key_is_in_no_text():
    assert "secret" not in repr(Address.of("server:1", TLS(cert=b"public", key=b"secret")))
