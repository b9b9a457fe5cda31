"""What a directory is told and tells, as messages of tiltserve.v1.Directory."""

from collections.abc import Iterable
from typing import cast

from protos.tiltserve.v1 import fleet_pb2 as pb
from serving.fleet.directory import Device, FrontState, Kind, Listing, ModelState, ReplicaState, State, Wish
from serving.wire.rows import Draws, Solves
from serving.wire.tensors import TensorSpec, scalar, values


def replica_report(replica: ReplicaState) -> pb.ReplicaReport:
    """A heartbeat as a message."""
    return pb.ReplicaReport(
        id=replica.id,
        address=replica.address,
        pid=replica.pid,
        models=map(_model_report, replica.models),
        backlog_rows=replica.backlog_rows,
        draining=replica.draining,
        beat=replica.beat,
        wishes=wishes_reported(replica.wishes),
        threads=replica.threads,
    )


def replica_state(told: pb.ReplicaReport) -> ReplicaState:
    """The heartbeat in a message."""
    return ReplicaState(
        id=told.id,
        address=told.address,
        pid=told.pid,
        models=tuple(map(_model_state, told.models)),
        backlog_rows=told.backlog_rows,
        draining=told.draining,
        beat=told.beat,
        wishes=wishes(told.wishes),
        threads=told.threads,
    )


def wishes_reported(found: Iterable[Wish]) -> list[pb.ModelWish]:
    return [pb.ModelWish(name=each.name, loaded=each.loaded, revision=each.revision) for each in found]


def wishes(told: Iterable[pb.ModelWish]) -> tuple[Wish, ...]:
    return tuple(Wish(each.name, each.loaded, each.revision) for each in told)


def front_report(front: FrontState) -> pb.FrontReport:
    return pb.FrontReport(grpc_address=front.grpc_address, metrics_address=front.metrics_address)


def front_state(told: pb.FrontReport) -> FrontState:
    return FrontState(told.grpc_address, told.metrics_address)


def listing(told: pb.ListReply) -> Listing:
    """The list in a directory's answer."""
    return Listing(list(map(replica_state, told.replicas)), frozenset(told.left), told.epoch, told.lease_seconds)


def _model_report(model: ModelState) -> pb.ModelReport:
    return pb.ModelReport(
        name=model.name,
        version=model.version,
        kind=model.kind,
        state=model.state,
        reason=model.reason,
        fingerprint=model.fingerprint,
        inputs=map(_tensor_report, model.inputs),
        outputs=map(_tensor_report, model.outputs),
        backend=model.backend,
        device=model.device,
        most_rows=model.most_rows,
        usual_rows=model.usual_rows,
        draws=None if model.draws is None else _draws_report(model.draws),
        solves=None if model.solves is None else pb.SolvesReport(starts=model.solves.starts, rows=model.solves.rows),
        cold=model.cold,
    )


def _model_state(told: pb.ModelReport) -> ModelState:
    return ModelState(
        name=told.name,
        version=told.version,
        kind=cast("Kind", told.kind),
        state=cast("State", told.state),
        reason=told.reason,
        fingerprint=told.fingerprint,
        inputs=tuple(map(_tensor_spec, told.inputs)),
        outputs=tuple(map(_tensor_spec, told.outputs)),
        backend=told.backend,
        device=cast("Device", told.device),
        most_rows=told.most_rows,
        usual_rows=told.usual_rows,
        draws=_draws(told.draws) if told.HasField("draws") else None,
        solves=Solves(tuple(told.solves.starts), told.solves.rows) if told.HasField("solves") else None,
        cold=told.cold,
    )


def _tensor_report(spec: TensorSpec) -> pb.TensorReport:
    return pb.TensorReport(
        name=spec.name, datatype=spec.datatype, shape=spec.shape, optional=spec.optional, column=spec.column
    )


def _tensor_spec(told: pb.TensorReport) -> TensorSpec:
    return TensorSpec(told.name, told.datatype, tuple(told.shape), told.optional, told.column)


def _draws_report(draws: Draws) -> pb.DrawsReport:
    return pb.DrawsReport(
        defaults=values(draws.defaults), without_null_rows=not draws.null_rows, units=dict(draws.units)
    )


def _draws(told: pb.DrawsReport) -> Draws:
    defaults = {name: scalar(each) for name, each in told.defaults.items()}
    return Draws(defaults, not told.without_null_rows, dict(told.units))
