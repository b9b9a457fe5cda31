"""What guards a front and a replica; without any they are open, as on a machine of one's own."""

from dataclasses import dataclass, field

from serving.access.certificates import Certificates
from serving.access.tokens import Table
from serving.access.watched import Watched

NAME = "tiltserve"
"""The DNS name in certificates of replicas: their addresses are of the moment, and only ours are signed by the
authority between fronts and replicas."""


@dataclass(frozen=True)
class Inside:
    """Between a front and replicas.

    Attributes:
        token: what the processes of one server show each other; "" for nothing.
        certificates: of either side, with the authority of both.
    """

    token: str = field(default="", repr=False)
    certificates: Certificates | None = None


OPEN_INSIDE = Inside()


@dataclass(frozen=True)
class FrontGuards:
    """Of a front.

    Attributes:
        certificates: of both of its ports; None for plain text.
        tokens: the identities; None where nobody needs a token.
        metrics_token: of the metrics page; None where nobody needs one.
    """

    certificates: Certificates | None = None
    tokens: Watched[Table] | None = None
    inside: Inside = OPEN_INSIDE
    metrics_token: Watched[bytes] | None = None


@dataclass(frozen=True)
class ReplicaGuards:
    """Of a replica.

    Attributes:
        tokens: of callers that come without a front.
        closed: only fronts may call.
        metrics_token: of the replica's own page of metrics, as a front's.
    """

    tokens: Watched[Table] | None = None
    inside: Inside = OPEN_INSIDE
    closed: bool = False
    metrics_token: Watched[bytes] | None = None


OPEN_FRONT, OPEN_REPLICA = FrontGuards(), ReplicaGuards()
