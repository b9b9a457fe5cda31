"""tiltserve.v1.ReplicaRepository: what lies in the repository, and which of it a front wants loaded or unloaded."""

from grpc.aio import ServicerContext

from protos.tiltserve.v1 import repository_pb2
from serving.fleet.directory import Wish
from serving.models.loaded import LoadedModels
from serving.replica.control import Control
from serving.replica.statuses import Statuses
from serving.wire import errors

SERVICE = repository_pb2.DESCRIPTOR.services_by_name["ReplicaRepository"]


class Repository:
    """The service of one replica.

    Args:
        allowed: whether the server lets clients load and unload models.
    """

    def __init__(self, models: LoadedModels, control: Control, *, allowed: bool) -> None:
        self._models, self._control, self._allowed = models, control, allowed

    async def ListFolders(
        self, request: repository_pb2.ListFoldersRequest, context: ServicerContext
    ) -> repository_pb2.ListFoldersReply:
        async with Statuses("ListFolders", context):
            there = await self._models.there()
            folders = [repository_pb2.ModelFolder(name=each.name, version=each.version) for each in there]
            return repository_pb2.ListFoldersReply(folders=folders)

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
