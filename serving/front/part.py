"""A part of the KServe service on a front: some of its RPCs, and the extensions that it serves with them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

Answer = Callable[[Any], Awaitable[Message]]
"""From the request of an RPC to its response; raises RequestError."""


class Part(Protocol):
    """Answers some RPCs.

    Attributes:
        answers: by the name of the method.
        extensions: of KServe v2 that work with them, as ServerMetadata lists them.
    """

    @property
    def answers(self) -> Mapping[str, Answer]: ...

    @property
    def extensions(self) -> Sequence[str]: ...
