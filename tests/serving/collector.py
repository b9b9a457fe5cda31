"""A collector of traces, as OpenTelemetry's protocol has it, that keeps what comes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a free port; `spans` are what came: the service's name and the span."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def of(self, trace_id: str) -> list[tuple[str, Any]]:
        """Those of a trace."""
        return [(service, span) for service, span in self.spans if span.trace_id.hex() == trace_id]

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        for each in request.resource_spans:
            (service,) = [one.value.string_value for one in each.resource.attributes if one.key == "service.name"]
            self.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()
