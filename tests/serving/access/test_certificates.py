"""Files of certificates: what fits together, and what is kept while it does not."""

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from serving.access.certificates import Certificates
from serving.access.watched import AccessError, Watched
from tests.serving.certificates import Authority


def test_files_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.sign("one"), authority.sign("other")
    locked = tmp_path / "locked.key"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    faults = {
        (one.cert, other.key): f"{other.key}: expected the key of the certificate in {one.cert}, got another key",
        (one.key, one.key): f"{one.key}: expected a certificate in PEM, got something else",
        (one.cert, one.cert): f"{one.cert}: expected a private key in PEM without a passphrase, got something else",
        (one.cert, locked): f"{locked}: expected a private key in PEM without a passphrase, got something else",
        (one.cert, tmp_path): f"{tmp_path}: expected a private key in PEM, got: Is a directory",
        (tmp_path / "none", one.key): f"{tmp_path}/none: expected a certificate in PEM, got: No such file",
    }
    for (cert, private), text in faults.items():
        with pytest.raises(AccessError) as caught:
            Certificates(cert, private)
        assert str(caught.value).startswith(text)
    with pytest.raises(AccessError, match="expected an authority's certificates in PEM, got something else"):
        Certificates(one.cert, one.key, one.key)


def test_half_of_an_exchange_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    certificates = Certificates(pair.cert, pair.key, every_s=0.0)
    before, old_key = certificates.current(), pair.key.read_bytes()
    context = certificates.context()
    authority.sign("server", pair)
    new_key = pair.key.read_bytes()
    pair.key.write_bytes(old_key)
    for _ in range(3):
        assert certificates.current() is before
    assert caplog.text.count("expected the key of the certificate") == 1
    assert certificates.context() is context
    pair.key.write_bytes(new_key)
    after = certificates.current()
    assert after is not before
    assert certificates.current() is after
    assert certificates.context() is not context
    assert old_key.decode() not in repr(after)


def test_links_are_followed_as_kubernetes_exchanges_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pair = authority.sign(name)
        pair.cert.rename(tmp_path / name / "tls.crt")
        pair.key.rename(tmp_path / name / "tls.key")
    data = tmp_path / "..data"
    data.symlink_to("first")
    certificates = Certificates(data / "tls.crt", data / "tls.key", every_s=0.0)
    assert certificates.current().chain == (tmp_path / "first" / "tls.crt").read_bytes()
    other = tmp_path / "..new"
    other.symlink_to("second")
    other.rename(data)
    assert certificates.current().chain == (tmp_path / "second" / "tls.crt").read_bytes()


def test_a_file_that_vanishes_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("1")

    def read() -> int:
        if not file.exists():
            raise AccessError("file: expected one, got none")
        return int(file.read_text())

    watched = Watched([file], read, 0.0)
    file.unlink()
    with caplog.at_level(logging.INFO):
        assert (watched.get(), watched.get()) == (1, 1)
        file.write_text("23")
        assert watched.get() == 23
    assert caplog.text.count("expected one, got none; going on with what was there before") == 1
