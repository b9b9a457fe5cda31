"""grpc.health.v1: Check and Watch, of the server, its services and its models."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.front.router import Index, Listed
from serving.wire import errors

Status = int
SERVING: Status = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Status = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN: Status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

MOST_WATCHES = 1000
"""Most watches of a front: each is a call that lasts."""


class Health(health_pb2_grpc.HealthServicer):
    """One status for the whole server ("") and each of its services, and one for each model that is listed.

    A model is a service of its name, such as `digits`, and one of its versions is `digits/2`; a name that a service has
    is the service's. A model serves while a replica takes requests for it.

    grpc_health's own asyncio servicer forgets all watchers of a service when one of them leaves, and its watches keep a
    stopping server from draining; here every watcher has its own view and ends after the last status.
    """

    def __init__(self, services: Iterable[str], most_watches: int = MOST_WATCHES) -> None:
        self._services, self._most_watches, self._watches = ("", *services), most_watches, 0
        self._statuses: Mapping[str, Status] = dict.fromkeys(self._services, NOT_SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def follow(self, index: Index, *, ready: bool = True) -> None:
        """The fleet is now so; the server is NOT_SERVING unless it is ready."""
        if self._closed:
            return
        statuses = {name: each for listed in index.models.values() for name, each in _of(listed)}
        statuses |= dict.fromkeys(self._services, SERVING if ready and index.any_ready else NOT_SERVING)
        if statuses != self._statuses:
            self._statuses = statuses
            self._notify()

    def close(self) -> None:
        """Set all NOT_SERVING for good; watches end after they have sent it."""
        self._statuses, self._closed = dict.fromkeys(self._statuses, NOT_SERVING), True
        self._notify()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            expected = f"expected a model or one of {', '.join(filter(None, self._services))}"
            await errors.abort(context, errors.not_found(f"unknown service {request.service[:100]!r}, {expected}"))
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if self._watches >= self._most_watches:
            more = f"expected at most {self._most_watches} watches at a time, got one more"
            await errors.abort(context, errors.exhausted(more))
        self._watches += 1
        try:
            last = None
            while True:
                changed, closed = self._changed, self._closed
                status = self._statuses.get(request.service, UNKNOWN)
                if status != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                    last = status
                if closed:
                    return
                await changed.wait()
        finally:
            self._watches -= 1

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _of(listed: Listed) -> Iterable[tuple[str, Status]]:
    """The statuses of a model and its versions by their names."""
    name = listed.routes[0].model.name
    yield name, SERVING if listed.taking else NOT_SERVING
    serving = {each.model.version for each in listed.routes if each.takes_requests}
    for version in {each.model.version for each in listed.routes}:
        yield f"{name}/{version}", SERVING if version in serving else NOT_SERVING
