"""grpc.health.v1: Check and Watch."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    """One status for the whole server ("") and each of its services.

    grpc_health's own asyncio servicer forgets all watchers of a service when one of them leaves, and its watches keep a
    stopping server from draining; here every watcher has its own view and ends after the last status.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        if self._closed or serving == self._serving:
            return
        self._serving = serving
        self._notify()

    def close(self) -> None:
        """Set NOT_SERVING for good; watches end after they have sent it."""
        self._serving, self._closed = False, True
        self._notify()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            known = ", ".join(sorted(self._services - {""}))
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service, expected one of {known}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed, status, closed = self._changed, self._status(request.service), self._closed
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            if closed:
                return
            await changed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
