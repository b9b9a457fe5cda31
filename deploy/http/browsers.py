"""What keeps pages in a browser on this machine from using the server on behalf of whoever wrote them.

A browser lets a page send requests to any address; it keeps the answers to itself unless the server's headers say
otherwise, but the request has then been answered. And a name that its owner lets point to 127.0.0.1 for a moment (DNS
rebinding) makes a foreign page one of the same origin. Browsers tell the origin of a page with each request that might
change something, and the name in the address bar with every request, so both are looked at.
"""

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from deploy.http.errors import HttpError

ANY = "*"
_FOR_AN_HOUR = "3600"
_CODE = "permission_denied"


@dataclass(frozen=True)
class Browsers:
    """Which pages may call.

    Attributes:
        origins: of the pages, such as https://app.example.com; `*` for all.
        hosts: names that the server is called by, besides addresses and localhost.
        open: whether who reaches the port needs no token and no certificate; only then are names looked at, since a
            foreign page has neither.
    """

    origins: Collection[str] = ()
    hosts: Collection[str] = ()
    open: Callable[[], bool] = lambda: True

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises `HttpError` for the request of a page that may not call."""
        origin = headers.get("Origin")
        if origin is not None and not self._allowed(origin):
            told = f"origin: expected no browser's page of {origin[:200]!r}, or --http-allow-origin"
            raise HttpError(403, told, _CODE)
        host = headers.get("Host", "")
        if host and self.open() and not self._known(host):
            expected = "an address, localhost or a name of --http-allow-host"
            raise HttpError(403, f"host: expected {expected}, got {host[:200]!r}", _CODE)

    def headers(self, asked: Mapping[str, str]) -> dict[str, str]:
        """What an answer tells a browser, nothing for one of no page."""
        if not self.origins:
            return {}
        origin = asked.get("Origin")
        if origin is None or not self._allowed(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "x-request-id",
        }

    def before(self, asked: Mapping[str, str]) -> dict[str, str]:
        """What a browser is told that asks what it may send."""
        return {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": asked.get("Access-Control-Request-Headers", "authorization, content-type"),
            "Access-Control-Max-Age": _FOR_AN_HOUR,
        }

    def _allowed(self, origin: str) -> bool:
        return origin in self.origins or ANY in self.origins

    def _known(self, host: str) -> bool:
        """Whether this server is called so: nobody can let an address, or localhost, point elsewhere."""
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() == "localhost" or name.lower() in self.hosts
        return True
