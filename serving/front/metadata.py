"""What a front knows of server and models, as KServe v2 asks for it: liveness, readiness, metadata."""

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from serving.front import router
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.labels import version
from serving.wire import errors, kserve

EXTENSIONS = ("parameters", "schedule_policy", "distillation")
"""Of inference itself: parameters of requests, and among them `priority` and `timeout`; and tiltserve.v1.Distillation,
so that a client knows whether a server has it."""


class Metadata:
    """Answers from the front's copy of the directory.

    Args:
        extensions: of KServe v2, that work.
    """

    def __init__(self, roster: Roster, extensions: Iterable[str] = ()) -> None:
        self._roster, self.extensions = roster, (*EXTENSIONS, *extensions)
        self.answers: Mapping[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
        }
        """By the name of the method."""

    async def _server_live(self, request: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=self._roster.serving)

    async def _server_metadata(self, request: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(name="tiltserve", version=version(), extensions=sorted(self.extensions))

    async def _model_ready(self, request: pb.ModelReadyRequest) -> Message:
        try:
            router.choose(self._roster.index, request.name, request.version)
        except errors.RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> Message:
        model = router.choose(self._roster.index, request.name, request.version).model
        states = self._roster.index.models[model.name].states
        versions = router.versions(each for each in states if each.state == "READY")
        return kserve.model_metadata(model.name, versions, model.inputs, model.outputs)
