"""tiltserve.v1.Fleet: the models of the server and the replicas that hold them."""

from collections.abc import Sequence

from grpc.aio import ServicerContext

from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.fleet.directory import ModelState, ReplicaState
from serving.front import router
from serving.front.roster import Roster
from serving.front.summary import BEST_FIRST


class Fleet(fleet_pb2_grpc.FleetServicer):
    """Answers from the front's copy of the directory."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def ListModels(
        self, request: fleet_pb2.ListModelsRequest, context: ServicerContext
    ) -> fleet_pb2.ListModelsReply:
        index = self._roster.index
        return fleet_pb2.ListModelsReply(
            models=[_model(listed.states) for listed in index.models.values()],
            replicas=[_replica(replica) for replica in index.replicas],
        )


def _model(states: Sequence[ModelState]) -> fleet_pb2.Model:
    best = min(states, key=lambda each: BEST_FIRST.index(each.state))
    return fleet_pb2.Model(
        name=best.name, versions=router.versions(states), state=best.state, reason=best.reason, kind=best.kind
    )


def _replica(replica: ReplicaState) -> fleet_pb2.Replica:
    return fleet_pb2.Replica(
        id=replica.id,
        address=replica.address,
        pid=replica.pid,
        backlog_rows=replica.backlog_rows,
        draining=replica.draining,
        fingerprints={model.name: model.fingerprint for model in replica.models},
    )
