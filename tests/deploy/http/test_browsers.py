"""Which pages in a browser may call, and by which names."""

import pytest

from deploy.http.browsers import Browsers
from deploy.http.errors import HttpError


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8003", "localhost", "LOCALHOST:1", "[::1]:8003", "192.168.1.5", "box", "box:8003", ""]
)
def test_names_that_nobody_can_let_point_elsewhere(host: str):
    Browsers(hosts=("box",)).check({"Host": host})


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8003", "127.0.0.1.evil.example", "localhost.evil.example", "[evil]:1", "2130706433"],
)
def test_other_names_are_refused_where_nobody_needs_a_token(host: str):
    with pytest.raises(
        HttpError, match="host: expected an address, localhost or a name of --http-allow-host"
    ) as caught:
        Browsers(hosts=("box",)).check({"Host": host})
    assert caught.value.status == 403
    Browsers(open=lambda: False).check({"Host": host})


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://app.example.evil"]
)
def test_pages_are_refused(origin: str):
    for browsers in (Browsers(), Browsers(origins=("https://app.example",), open=lambda: False)):
        with pytest.raises(HttpError, match="origin: expected no browser's page") as caught:
            browsers.check({"Host": "localhost", "Origin": origin})
        assert caught.value.status == 403
        assert "Access-Control-Allow-Origin" not in browsers.headers({"Origin": origin})


def test_pages_that_are_let_in():
    browsers = Browsers(origins=("https://app.example",))
    page = {"Origin": "https://app.example", "Access-Control-Request-Headers": "authorization, x-stainless-lang"}
    browsers.check(page)
    assert browsers.headers(page)["Access-Control-Allow-Origin"] == "https://app.example"
    assert browsers.before(page)["Access-Control-Allow-Headers"] == "authorization, x-stainless-lang"
    assert browsers.headers({}) == {"Vary": "Origin"}
    assert Browsers().headers(page) == {}
    Browsers(origins=("*",)).check({"Origin": "null"})
