"""A replica: an engine with its models, behind a grpc.aio server of its own."""

from serving.replica.replica import Replica

__all__ = ["Replica"]
