"""tiltserve.v1.Fleet: the models of the server and the replicas that hold them."""

from collections.abc import Iterator, Sequence

from grpc.aio import ServicerContext

from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.fleet.directory import ReplicaState
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.front.router import version_order
from serving.front.summary import BEST_FIRST, Summary, summaries


class Fleet(fleet_pb2_grpc.FleetServicer):
    """Answers from the front's copy of the directory."""

    def __init__(self, roster: Roster, metrics: FrontMetrics) -> None:
        self._roster, self._metrics = roster, metrics

    async def ListModels(
        self, request: fleet_pb2.ListModelsRequest, context: ServicerContext
    ) -> fleet_pb2.ListModelsReply:
        async with Outcome("ListModels", context, self._roster, self._metrics):
            index = self._roster.index
            return fleet_pb2.ListModelsReply(
                models=[_model(summaries(index, name)) for name in index.models],
                replicas=[_replica(replica) for replica in index.replicas],
            )


def _model(versions: Sequence[Summary]) -> fleet_pb2.Model:
    """A model of these versions, the oldest first."""
    best = min(reversed(versions), key=lambda each: BEST_FIRST.index(each.state))
    same = [each.version for each in versions if each.state == best.state]
    reason = best.reason if len(versions) == 1 else "; ".join(_reasons(versions, best))
    return fleet_pb2.Model(name=best.name, versions=same, state=best.state, reason=reason, kind=best.kind)


def _reasons(versions: Sequence[Summary], best: Summary) -> Iterator[str]:
    """What is to say of several versions."""
    for each in versions:
        if each.reason.startswith(each.state):  # on some replicas
            yield f"version {each.version}: {each.reason}"
        elif each.reason or each.state != best.state:
            yield f"version {each.version} is {each.state}" + (f": {each.reason}" if each.reason else "")


def _replica(replica: ReplicaState) -> fleet_pb2.Replica:
    listed = sorted(replica.models, key=lambda each: (each.state == "READY", version_order(each.version)))
    return fleet_pb2.Replica(
        id=replica.id,
        address=replica.address,
        pid=replica.pid,
        backlog_rows=replica.backlog_rows,
        draining=replica.draining,
        fingerprints={model.name: model.fingerprint for model in listed},  # the newest ready version's, which is last
    )
