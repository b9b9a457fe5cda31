"""ModelStatistics of one replica: of every model that it lists, in Triton's terms."""

from collections.abc import Iterable, Mapping

from tritonclient.grpc import service_pb2 as pb

from serving.engine.metrics import ReplicaMetrics
from serving.engine.statistics import Duration, Executions, Requests, Served


def statistics(metrics: ReplicaMetrics, models: Iterable[Served]) -> pb.ModelStatisticsResponse:
    """The statistics of these models, all zero for those that nobody has asked for anything."""
    requests, executions = metrics.statistics.requests(), metrics.statistics.executions()
    held = metrics.model_bytes()
    return pb.ModelStatisticsResponse(
        model_stats=[
            _model(served, requests.get(served, Requests()), executions.get(served, {}), held.get(served[0], 0))
            for served in models
        ]
    )


def _model(served: Served, requests: Requests, executions: Mapping[int, Executions], held: int) -> pb.ModelStatistics:
    name, version = served
    infer, output = requests.compute_infer, requests.compute_output
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=requests.last_ms,
        inference_count=requests.inferences,
        execution_count=sum(each.compute_infer.count for each in executions.values()),
        inference_stats=pb.InferStatistics(
            success=_duration(requests.success),
            fail=_duration(requests.fail),
            queue=_duration(requests.queue),
            compute_input=_duration(requests.compute_input),
            compute_infer=_duration(infer),
            compute_output=_duration(output),
        ),
        response_stats={
            "0": pb.InferResponseStatistics(
                compute_infer=_duration(infer),
                compute_output=_duration(output),
                success=pb.StatisticDuration(count=output.count, ns=infer.ns + output.ns),
                cancel=_duration(requests.cancel),
            )
        },
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(each.compute_input),
                compute_infer=_duration(each.compute_infer),
                compute_output=_duration(each.compute_output),
            )
            for rows, each in executions.items()
        ],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=held)] if held else [],
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
