"""The endpoint: OpenAI's images API over HTTP, answered by the gRPC server that each request is passed on to."""

import asyncio
import contextlib
import json
import logging
import re
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import Any, Literal

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from deploy.http import bodies, errors, told
from deploy.http.asked import Asked, asked
from deploy.http.browsers import Browsers
from deploy.http.errors import HttpError
from serving.access.certificates import Certificates
from serving.access.gate import bearer
from serving.access.tokens import Table
from serving.access.watched import Watched
from serving.front.unix import PortError
from serving.wire.channels import address
from serving.wire.errors import RequestError
from tiltserve import AsyncClient, InvalidArgument, Preview, Samples, TiltserveError

_log, _strangers = logging.getLogger(__name__), logging.getLogger(f"{__name__}.strangers")
_strangers.setLevel(
    logging.CRITICAL + 1
)  # a page of trace for each connection that speaks no HTTP: anybody can make some
REQUEST_ID, TRACE = "x-request-id", ("traceparent", "tracestate")
_OWN_ID = web.RequestKey("id", str)
_ID, _CARRIED = re.compile(r"[\x21-\x7e]{1,128}"), re.compile(r"[\x20-\x7e]{1,512}")
KEPT_S = 75.0
"""Seconds for which a connection without requests is kept."""
MOST, MOST_FORMS = 1000, 8
"""Requests under way, and forms that are read at a time; the next ones wait in their senders."""
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
_EVENTS = {GENERATIONS: "image_generation", EDITS: "image_edit"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoint:
    """Listens, and passes requests on; make it and use it on one event loop.

    Args:
        upstream: where the gRPC server is, `unix:/path`; it judges each call by the caller's own token.
        port: 0 for any free one.
        certificates: of HTTPS; None for HTTP.
        tokens: the identities, so that a body is read of those alone who may send one; None where nobody needs a token.
        origins, hosts: see `Browsers`.
        drain_s: how long `stop` lets requests finish.
    """

    def __init__(
        self,
        upstream: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        certificates: Certificates | None = None,
        tokens: Watched[Table] | None = None,
        origins: Collection[str] = (),
        hosts: Collection[str] = (),
        drain_s: float = 30.0,
    ) -> None:
        self._host, self._port, self._certificates, self._tokens = host, port, certificates, tokens
        self._client = AsyncClient(upstream)
        self._browsers = Browsers(origins, {each.lower() for each in hosts}, self._open)
        self._drain_s, self._began = drain_s, int(time.time())
        self._under_way, self._forms = 0, asyncio.Semaphore(MOST_FORMS)
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """`host:port`, with the real port once started."""
        return address(self._host, self._port)

    async def start(self) -> None:
        """Listens; raises PortError."""

        @web.middleware
        async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answered(request, handler)

        application = web.Application(middlewares=[answered])
        application.on_response_prepare.append(self._headed)
        application.router.add_post(GENERATIONS, self._generations)
        application.router.add_post(EDITS, self._edits)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/v1/models/{name:.+}", self._model)
        # a caller that leaves takes his request off the server; bodies come as they are, since what is packed small may
        # be large
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_strangers,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=KEPT_S,
            shutdown_timeout=self._drain_s,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls()).start()
        except OSError as error:
            await self.stop()
            raise PortError(f"http: expected a free port, got {self.address}: {error.strerror or error}") from None
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port, lets requests finish for up to `drain_s` seconds, and ends the others."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._client.close()

    def check_health(self) -> None:
        """Raises RuntimeError when it does not listen."""
        if self._runner is None or not self._runner.sites:
            raise RuntimeError("the HTTP endpoint: expected it to listen, it was not started or has stopped")

    def _open(self) -> bool:
        """Whether who reaches the port needs nothing else."""
        if self._certificates is not None:
            return False
        return self._tokens is None or self._tokens.get().anonymous is not None

    def _tls(self) -> ssl.SSLContext | None:
        certificates = self._certificates
        if certificates is None:
            return None

        def newest(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, first: ssl.SSLContext) -> None:
            connection.context = certificates.context()

        context = certificates.context()
        context.sni_callback = newest
        return context

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer, whatever happens on the way to it."""
        came = request.headers.get(REQUEST_ID, "")
        request[_OWN_ID] = came if _ID.fullmatch(came) else f"req_{uuid.uuid4().hex}"
        self._under_way += 1
        try:
            self._browsers.check(request.headers)
            if request.method == "OPTIONS" and "Origin" in request.headers:
                return web.Response(status=204, headers=self._browsers.before(request.headers))
            if self._under_way > MOST:
                raise HttpError(503, f"expected at most {MOST} requests under way, got one more", "unavailable")
            return await handler(request)
        except HttpError as error:
            refusal = error
        except RequestError as error:
            refusal = errors.of_status(error.code.name, error.detail)
        except TiltserveError as error:
            refusal = errors.of(error)
        except web.HTTPException as error:  # no such path, or not by this method
            refusal = HttpError(error.status, f"{request.method} {request.path[:200]}: {error.reason}")
        except HttpProcessingError as error:
            refusal = HttpError(400, f"expected HTTP, got: {error.message[:200]}")
        except TimeoutError:
            refusal = HttpError(408, f"expected the body within {bodies.PATIENCE_S:g} s, got a part of it")
        except Exception:
            _log.exception("the HTTP endpoint failed")
            refusal = HttpError(500, "the server failed; its log says why")
        finally:
            self._under_way -= 1
        response = _json(refusal.body(), refusal.status)
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if not request.content.is_eof():  # what is left of the body would be taken for the next request
            response.force_close()
        return response

    async def _headed(self, request: web.Request, response: web.StreamResponse) -> None:
        """What every answer says."""
        response.headers.update(self._browsers.headers(request.headers))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        response.headers["Server"] = "tiltserve"
        if _OWN_ID in request:
            response.headers[REQUEST_ID] = request[_OWN_ID]

    async def _generations(self, request: web.Request) -> web.StreamResponse:
        client = self._for(request)
        return await self._draw(request, client, asked(await bodies.of_json(request)))

    async def _edits(self, request: web.Request) -> web.StreamResponse:
        client = self._for(request)
        async with self._forms:
            fields, files = await bodies.of_form(request)
            pictures = await asyncio.to_thread(bodies.pictures, files)
        return await self._draw(request, client, asked(fields, pictures))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        listed = [self._told(name) for name in await _pipelines(self._for(request, "metadata"))]
        return _json(json.dumps({"object": "list", "data": listed}).encode())

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in (there := await _pipelines(self._for(request, "metadata"))):
            raise errors.of_status("NOT_FOUND", f"model: expected {_one_of(there)}, got {name[:200]!r}")
        return _json(json.dumps(self._told(name)).encode())

    def _told(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._began, "owned_by": "tiltserve"}

    def _for(self, request: web.Request, right: Literal["inference", "metadata"] = "inference") -> AsyncClient:
        """A client with the caller's own credentials; raises where they will not do, before a body is read."""
        sent = request.headers.get("Authorization")
        if self._tokens is not None:
            if sent is not None and not sent.isascii():
                raise errors.of_status("UNAUTHENTICATED", "expected a bearer token in ASCII, got other characters")
            caller = bearer(self._tokens.get(), sent, right)
            if right not in caller.rights:
                raise errors.of_status("PERMISSION_DENIED", f"expected the right {right!r}, {caller.name!r} has none")
        metadata = {REQUEST_ID: request[_OWN_ID]}
        metadata |= {
            name: value for name in TRACE if _CARRIED.fullmatch(value := request.headers.get(name, "").strip())
        }
        token = None
        if self._tokens is not None and sent is not None:
            token = sent.partition(" ")[2].strip()
        try:
            return self._client.on_behalf(token, metadata)
        except InvalidArgument as error:  # a token that no header can carry
            raise errors.of_status("UNAUTHENTICATED", error.message) from None

    async def _draw(self, request: web.Request, client: AsyncClient, wanted: Asked) -> web.StreamResponse:
        model = wanted.model or await _only(client)
        how: dict[str, Any] = {
            **wanted.keywords, "n": wanted.n, "parameters": wanted.parameters,
        }  # fmt: skip
        if wanted.partial is None:
            samples = await client.sample(model, **how)
            return _json(await asyncio.to_thread(told.answer, samples, wanted))
        if wanted.partial:
            how["preview_every"] = wanted.every
        events = _events(client, model, wanted, how, _EVENTS[request.path])
        try:
            first = await anext(events)  # an error before it has a status of its own
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await response.write(first)
                async for event in events:
                    await response.write(event)
                await response.write_eof()
            return response
        finally:
            await events.aclose()


async def _events(
    client: AsyncClient, model: str, wanted: Asked, how: dict[str, Any], event: str
) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer; an error after the first one is an event too."""
    begun = False
    try:
        if not wanted.partial:
            drawn = await client.sample(model, **how)
        else:
            async with client.stream(model, **how) as stream:
                shown = dict[int, int]()  # looks at each group of pictures
                async for each in stream:
                    if isinstance(each, Samples):
                        drawn = each
                    elif isinstance(each, Preview) and _is_due(each, shown.get(each.first, 0), wanted.partial):
                        number = shown[each.first] = shown.get(each.first, 0) + 1
                        for made in await asyncio.to_thread(told.partial, each, wanted, event, number - 1):
                            yield made
                            begun = True
        for made in await asyncio.to_thread(told.completed, drawn, wanted, event):
            yield made
            begun = True
    except TiltserveError as error:
        if not begun:
            raise
        yield told.failed(errors.of(error).told())
    except Exception:
        if not begun:
            raise
        _log.exception("the HTTP endpoint failed")
        yield told.failed(HttpError(500, "the server failed; its log says why").told())


def _is_due(preview: Preview, shown: int, most: int) -> bool:
    """Whether a look is shown: of `most` that are spread evenly, before the pictures are finished."""
    due = (shown + 1) * preview.stages <= preview.stage * (most + 1)
    return shown < most and due and preview.stage < preview.stages


async def _pipelines(client: AsyncClient) -> list[str]:
    """The models that draw pictures, of those that the caller may see."""
    return [each.name for each in await client.models() if each.kind == "pipeline" and each.state == "READY"]


async def _only(client: AsyncClient) -> str:
    """The model of a request that names none."""
    there = await _pipelines(client)
    if len(there) != 1:
        raise errors.wrong("model", f"expected {_one_of(there)}, got none")
    return there[0]


def _one_of(names: list[str]) -> str:
    return f"one of {', '.join(names)}" if names else "a pipeline, of which there are none"


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
