"""tiltserve.v1.ReplicaRepository: a front tells a replica to load or unload a model."""

from grpc.aio import ServicerContext

from protos.tiltserve.v1 import repository_pb2
from serving.fleet.directory import Wish
from serving.replica.control import Control
from serving.replica.statuses import Statuses
from serving.wire import errors

SERVICE = repository_pb2.DESCRIPTOR.services_by_name["ReplicaRepository"]


class Repository:
    """The service of one replica.

    Args:
        allowed: whether the server lets clients load and unload models.
    """

    def __init__(self, control: Control, *, allowed: bool) -> None:
        self._control, self._allowed = control, allowed

    async def LoadModel(
        self, request: repository_pb2.ChangeModelRequest, context: ServicerContext
    ) -> repository_pb2.ChangeModelReply:
        return await self._change("LoadModel", Wish(request.name, True, request.revision), context)

    async def UnloadModel(
        self, request: repository_pb2.ChangeModelRequest, context: ServicerContext
    ) -> repository_pb2.ChangeModelReply:
        return await self._change("UnloadModel", Wish(request.name, False, request.revision), context)

    async def _change(self, method: str, wish: Wish, context: ServicerContext) -> repository_pb2.ChangeModelReply:
        async with Statuses(method, context):
            if not self._allowed:
                raise errors.model_control(method)
            return repository_pb2.ChangeModelReply(waited_for=await self._control.change(wish))
        raise AssertionError("unreachable: an error was raised")
