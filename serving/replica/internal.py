"""tiltserve.v1.ReplicaInternal: what fronts ask of a replica."""

from grpc.aio import ServicerContext

from protos.tiltserve.v1 import fleet_pb2
from serving.engine.metrics import ReplicaMetrics
from serving.log_levels import LogLevels

SERVICE = fleet_pb2.DESCRIPTOR.services_by_name["ReplicaInternal"]


class Internal:
    """The service of one replica."""

    def __init__(self, metrics: ReplicaMetrics) -> None:
        self._metrics = metrics

    async def Metrics(self, request: fleet_pb2.MetricsRequest, context: ServicerContext) -> fleet_pb2.MetricsReply:
        return fleet_pb2.MetricsReply(text=self._metrics.text())

    async def Log(self, request: fleet_pb2.LogLevels, context: ServicerContext) -> fleet_pb2.LogReply:
        LogLevels(request.info, request.warning, request.error, request.verbose).choose()
        return fleet_pb2.LogReply()
