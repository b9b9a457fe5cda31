"""The model repository over the wire: what there is, and which of it is loaded."""

from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from serving.front.part import Answer
from serving.front.roster import Roster
from serving.front.summary import summaries
from serving.wire import errors


class Repository:
    """Answers RepositoryIndex from the front's copy of the directory.

    Args:
        allowed: whether clients may load and unload models.
    """

    def __init__(self, roster: Roster, *, allowed: bool) -> None:
        self._roster, self._allowed = roster, allowed
        self.answers: Mapping[str, Answer] = {
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        """By the name of the method."""

    @property
    def extensions(self) -> Sequence[str]:
        """Of KServe v2, as ServerMetadata lists them."""
        return ("model_repository",)

    async def _index(self, request: pb.RepositoryIndexRequest) -> Message:
        _one_repository(request.repository_name)
        index = self._roster.index
        found = (each for name in index.models for each in summaries(index, name))
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=each.name, version=each.version, state=each.state, reason=each.reason
                )
                for each in found
                if each.state == "READY" or not request.ready
            ]
        )

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> Message:
        self._permit("RepositoryModelLoad")
        raise errors.unimplemented("RepositoryModelLoad is not served by tiltserve yet")

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> Message:
        self._permit("RepositoryModelUnload")
        raise errors.unimplemented("RepositoryModelUnload is not served by tiltserve yet")

    def _permit(self, method: str) -> None:
        if not self._allowed:
            raise errors.RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{method}: models are not loaded or unloaded over the wire, unless the server is started with "
                "--allow-model-control",
            )


def _one_repository(name: str) -> None:
    if name:
        raise errors.unimplemented(f"repository_name: expected none, there is one repository, got {name!r}")
