"""Whether a case ended as it must."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2 as pb

from benchmarks._fuzz.cases import LARGE, MOST_BYTES_OF_METADATA, REPLICA, Case
from benchmarks._fuzz.client import ENDED, Ended
from benchmarks._fuzz.methods import Method
from benchmarks._load import LEFT
from protos.tiltserve.v1 import distillation_pb2
from serving.access.methods import GROUPS
from serving.wire.errors import LONGEST
from serving.wire.streamed import FINAL

_FEW = frozenset(("OK", "INVALID_ARGUMENT"))
_INFERENCE = _FEW | {"NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
_NAMED = _FEW | {"NOT_FOUND"}
_REGION = _NAMED | {"ALREADY_EXISTS", "RESOURCE_EXHAUSTED"}
ALLOWED: Mapping[str, frozenset[str]] = {
    "ModelInfer": _INFERENCE,
    "ModelStreamInfer": _FEW | {"RESOURCE_EXHAUSTED"},  # errors of its requests are in its responses
    "SampleInteractive": _INFERENCE,
    "Gradient": _INFERENCE,
    "Session": _FEW,  # errors of its requests are in its responses
    "ModelMetadata": _NAMED,
    "ModelConfig": _NAMED,
    "ModelStatistics": _NAMED,
    "RepositoryIndex": _FEW | {"UNIMPLEMENTED"},
    "RepositoryModelLoad": _NAMED | {"UNIMPLEMENTED", "ABORTED"},
    "RepositoryModelUnload": _NAMED | {"UNIMPLEMENTED", "ABORTED"},
    "SystemSharedMemoryStatus": _REGION,
    "SystemSharedMemoryRegister": _REGION,
    "CudaSharedMemoryStatus": _NAMED,
    "CudaSharedMemoryRegister": _FEW | {"UNIMPLEMENTED"},
    "TraceSetting": _NAMED | {"UNIMPLEMENTED"},
    "LogSettings": _FEW | {"UNIMPLEMENTED"},
    "Check": _NAMED,
    "ServerReflectionInfo": _FEW,
}
"""Statuses of methods at the front, without those that a case itself brings about; `_FEW` where none is here."""
_AT_REPLICA = (
    "ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "ModelInfer", "ModelStatistics", "ModelStreamInfer",
    "SampleInteractive", "Gradient",
)  # fmt: skip
"""What a replica answers anybody; `internal` methods are for its own front, and the front has none."""
_IN_BAND = re.compile(r"\[StatusCode\.([A-Z_]+)\] (.+)", re.DOTALL)
_INSIDES = re.compile(r"Traceback|File \"|<class|<_?[a-z]+\.| object at 0x|Unexpected|\b[A-Z]\w+Error\b")
_NAN = re.compile(r"NaN|infinit|finite")


@dataclass
class Judge:
    """Counts ends by method and status, and keeps what must not be.

    Args:
        methods: by name.
        spare: the model that may be missing, since cases unload it.
    """

    methods: Mapping[str, Method]
    spare: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    messages: int = 0
    slowest: tuple[float, str] = (0.0, "")

    def take(self, ended: Ended) -> None:
        """Count and judge one."""
        case = ended.case
        self.messages += max(1, len(case.messages))
        self.kinds[case.kind] += max(1, len(case.messages))
        self.slowest = max(self.slowest, (ended.seconds, f"{case.kind} {case.method}, {len(case.messages)} messages"))
        name = case.method if case.kind != "method" else "(no method)"
        self.counts[name, ended.status] += 1
        for fault in self._faults(ended):
            head = b" | ".join(each[:300] for each in case.messages[:3])
            self.faults.append(
                f"{case.kind} {case.path} at {case.to}: {fault} [{ended.status} {ended.detail[:300]!r}, "
                f"{ended.seconds:.2f} s, {len(case.messages)} messages, {len(ended.replies)} replies] {head!r}"
            )

    def _faults(self, ended: Ended) -> Iterator[str]:
        case, status = ended.case, ended.status
        if status not in self._allowed(ended):
            yield "expected another status"
        if status not in ("OK", LEFT, ENDED):
            yield from _text(ended.detail)
        if (
            case.kind in ("bytes", "absurd", "right")
            and len(case.messages) == 1
            and status == "OK"
            and not case.as_status
        ):
            yield from self._of_one(ended)
        if case.method == "ModelStreamInfer" and case.kind != "messages":
            yield from self._in_band(ended)
        if case.method == "Session":
            yield from self._of_session(ended)

    def _of_one(self, ended: Ended) -> Iterator[str]:
        """Faults of an answer to one message."""
        case, method = ended.case, self.methods[ended.case.method]
        parses, streams = method.parses(case.messages[0]), case.method in ("ModelStreamInfer", "Session")
        if not parses and not streams:
            yield "expected INVALID_ARGUMENT for what is no message"
        infers = case.method == "ModelStreamInfer"
        if case.kind == "right" and infers and ended.replies and _failed(ended.replies[-1]):
            yield "expected an answer to a request that is right"

    def _in_band(self, ended: Ended) -> Iterator[str]:
        """Each request of a stream has one last response, and errors in it are lines with a status."""
        last = 0
        for reply in ended.replies:
            response = pb.ModelStreamInferResponse.FromString(reply)
            last += response.infer_response.parameters[FINAL].bool_param
            if response.error_message:
                found = _IN_BAND.fullmatch(response.error_message)
                if found is None:
                    yield f"expected a status in {response.error_message[:200]!r}"
                    continue
                self.counts["ModelStreamInfer, in-band", found[1]] += 1
                if found[1] not in self._of_inference(ended.case, found[2]):
                    yield f"expected another status than in {response.error_message[:300]!r}"
                yield from _text(found[2])
        if ended.status == "OK" and last != len(ended.case.messages):
            yield f"expected {len(ended.case.messages)} last responses, got {last}"

    def _of_session(self, ended: Ended) -> Iterator[str]:
        """Errors in a session are lines with a status, and requests that are right have none."""
        for reply in ended.replies:
            response = distillation_pb2.SessionResponse.FromString(reply)
            if not response.HasField("error"):
                continue
            error = response.error
            status = next((each.name for each in grpc.StatusCode if each.value[0] == error.code), str(error.code))
            self.counts["Session, in-band", status] += 1
            if ended.case.kind == "right" or status not in self._of_inference(ended.case, error.message):
                yield f"expected another status than {status} with {error.message[:300]!r}"
            yield from _text(error.message)

    def _allowed(self, ended: Ended) -> frozenset[str]:
        case = ended.case
        found = {LEFT} if case.leaves is not None or case.reads is not None else set()
        if case.hurried:
            found.add("DEADLINE_EXCEEDED")
        if not case.unary and case.messages:
            found.add(ENDED)
        if sum(len(str(k)) + len(v) + 32 for k, v in case.metadata) > MOST_BYTES_OF_METADATA // 2:
            found.add("RESOURCE_EXHAUSTED")
        if any(len(each) > LARGE - 2**22 for each in case.messages):
            found |= {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}
            if len(case.messages[0]) >= LARGE and not (case.to == REPLICA and GROUPS[case.path] == "internal"):
                return frozenset({*found, "UNIMPLEMENTED"} if case.to == REPLICA else found)
        if case.kind == "method":
            return frozenset({"UNIMPLEMENTED", *found})
        if case.kind == "messages" and not case.messages and not self.methods[case.method].takes_stream:
            found.add("DEADLINE_EXCEEDED")  # grpc.aio forgets a unary call that ends without a message
        if "--allow-" in ended.detail:
            found.add("PERMISSION_DENIED")
        if case.to == REPLICA and any(key == "tiltserve-internal" for key, _ in case.metadata):
            open_to_all: tuple[str, ...] = ("OK", "UNIMPLEMENTED") if GROUPS[case.path] == "health" else ()
            if case.method == "Session":  # which replicas have not
                open_to_all = ("UNIMPLEMENTED",)
            return frozenset({"UNAUTHENTICATED", *found, *open_to_all})
        internal = GROUPS[case.path] == "internal"
        if internal and case.to == REPLICA:
            return frozenset({"UNAUTHENTICATED", *found})
        if (case.method not in _AT_REPLICA) if case.to == REPLICA else (internal or case.method == "List"):
            return frozenset({"UNIMPLEMENTED", *found})
        if case.kind == "right":
            return frozenset({"OK", *found})
        if case.kind == "messages":
            found |= {"INTERNAL", "UNIMPLEMENTED"} if not self.methods[case.method].takes_stream else set()
        if case.method in ("ModelInfer", "SampleInteractive", "Gradient") or case.as_status:
            return frozenset({*self._of_inference(case, ended.detail), *found})
        if f"model {self.spare!r}" in ended.detail:
            found.add("UNAVAILABLE")
        return frozenset({*ALLOWED.get(case.method, _FEW), *found})

    def _of_inference(self, case: Case, text: str) -> frozenset[str]:
        """Statuses of a request for inference, of which `text` was said."""
        found = set(_INFERENCE)
        if _NAN.search(text):
            found.add("INTERNAL")
        if f"model {self.spare!r}" in text:
            found.add("UNAVAILABLE")
        if "--allow-" in text:
            found.add("PERMISSION_DENIED")
        if b"timeout" in b"".join(case.messages):
            found.add("DEADLINE_EXCEEDED")
        return frozenset(found)


def _text(text: str) -> Iterator[str]:
    if not text.strip():
        yield "expected a text"
    elif not text.isprintable() or "\n" in text:
        yield "expected one printable line"
    elif len(text) > LONGEST:
        yield f"expected at most {LONGEST} characters"
    elif _INSIDES.search(text):
        yield "expected a text without the server's insides"


def _failed(reply: bytes) -> bool:
    return bool(pb.ModelStreamInferResponse.FromString(reply).error_message)
