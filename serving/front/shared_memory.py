"""Tensors in POSIX shared memory: SystemSharedMemory's RPCs, and requests whose tensors lie there.

A region is a file of /dev/shm that belongs to the server's own user. It is read and written as a file, and not mapped:
a client that makes it smaller gets an error, where a map would end the process. Whoever registers a region and uses it
does so with the server's rights, so this is off unless the server is told to, and listens to this machine alone.
Replicas do not know of it.
"""

import contextlib
import ipaddress
import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from serving.access.caller import Right, caller
from serving.front.part import Answer
from serving.wire import errors, places
from serving.wire.aside import aside
from serving.wire.channels import LONGEST_MESSAGE
from serving.wire.places import Place, Places
from serving.wire.received import LONGEST_NAME, Received

FOLDER = "/dev/shm"
MOST_REGIONS = 256
"""Most regions at a time: each is an open file."""
_SETTING = "--allow-shared-memory"
RIGHT: Right = "shared_memory"


@dataclass(frozen=True, eq=False)
class Region:
    """Bytes of an open file, which is closed when nobody uses the region any more."""

    name: str
    key: str
    offset: int
    size: int
    file: int

    def read(self, where: str, place: Place) -> bytes:
        """The bytes at a place within; INVALID_ARGUMENT if there are none."""
        self._check(where, place)
        data = os.pread(self.file, place.size, self.offset + place.offset)
        if len(data) < place.size:
            raise self._shrunk(where)
        return data

    def write(self, where: str, place: Place, data: memoryview) -> None:
        """Put bytes at a place within; INVALID_ARGUMENT if they do not fit."""
        self._check(where, place)
        if len(data) > place.size:
            raise errors.invalid(f"{where}: expected at least {len(data)} bytes of shared memory, got {place.size}")
        at, end = self.offset + place.offset, self.offset + place.offset + len(data)
        if os.fstat(self.file).st_size < end:  # writing would make it larger again
            raise self._shrunk(where)
        while data:
            written = os.pwrite(self.file, data, at)
            at, data = at + written, data[written:]

    def _check(self, where: str, place: Place) -> None:
        if place.offset + place.size > self.size:
            raise errors.invalid(
                f"{where}: expected a place in region {self.name!r} of {self.size} bytes, got {place.size} bytes at "
                f"{place.offset}"
            )

    def _shrunk(self, where: str) -> errors.RequestError:
        return errors.invalid(f"{where}: region {self.name!r} has become smaller since it was registered")


class SharedMemory:
    """The regions of one front, and the RPCs for them. An identity has regions of its own, and knows of no others.

    Args:
        allowed: whether clients may use shared memory.
        longest: most bytes of a request once its inputs are in it.
    """

    def __init__(self, *, allowed: bool, longest: int = LONGEST_MESSAGE) -> None:
        self._allowed, self._longest = allowed, longest
        self._regions: dict[tuple[str, str], Region] = {}  # by whoever registered it, and its name
        self.extensions = ("system_shared_memory",) if allowed else ()
        self.answers: Mapping[str, Answer] = {
            "SystemSharedMemoryStatus": self._status,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
        }

    async def filled(self, data: bytes, request: Received) -> tuple[bytes, Places]:
        """A serialised ModelInferRequest, of which `request` was read, with the inputs that are in shared memory, and
        where tensors are.

        Raises:
            RequestError: PERMISSION_DENIED if shared memory may not be used; INVALID_ARGUMENT for places that there are
                not, or more than a message may hold.
        """
        found = places.places(request)
        if not found:
            return data, found
        self._permit()
        regions = {
            place.region: self._region(place.region) for place in (*found.inputs.values(), *found.outputs.values())
        }
        size = len(data) + sum(place.size for place in found.inputs.values())
        if size > self._longest:
            raise errors.invalid(f"inputs: expected at most {self._longest} bytes in all, got {size}")

        def read(where: str, place: Place) -> bytes:
            return regions[place.region].read(where, place)

        return await aside(size, lambda: places.filled(data, request, found, read)), found

    async def put(self, reply: bytes, found: Places) -> bytes:
        """A serialised ModelInferResponse whose outputs were written where the request wants them."""
        if not found.outputs:
            return reply
        regions = {place.region: self._region(place.region) for place in found.outputs.values()}
        return await aside(
            len(reply),
            lambda: places.put(
                reply, found.outputs, lambda where, place, data: regions[place.region].write(where, place, data)
            ),
        )

    def close(self) -> None:
        """Forget all regions."""
        self._regions.clear()

    async def _status(self, request: pb.SystemSharedMemoryStatusRequest) -> Message:
        self._permit()
        regions = [self._region(request.name)] if request.name else self._mine()
        told = {
            each.name: pb.SystemSharedMemoryStatusResponse.RegionStatus(
                name=each.name, key=each.key, offset=each.offset, byte_size=each.size
            )
            for each in regions
        }
        return pb.SystemSharedMemoryStatusResponse(regions=told)

    async def _register(self, request: pb.SystemSharedMemoryRegisterRequest) -> Message:
        self._permit()
        if not 0 < len(request.name) <= LONGEST_NAME:
            raise errors.invalid(f"name: expected 1..{LONGEST_NAME} characters, got {len(request.name)}")
        if (key := (caller().name, request.name)) in self._regions:
            told = f"shared memory region {request.name!r} is registered already"
            raise errors.RequestError(grpc.StatusCode.ALREADY_EXISTS, told)
        if len(self._regions) >= MOST_REGIONS:
            raise errors.exhausted(f"expected at most {MOST_REGIONS} shared memory regions, got one more")
        self._regions[key] = _opened(request)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _unregister(self, request: pb.SystemSharedMemoryUnregisterRequest) -> Message:
        self._permit()
        for name in [request.name] if request.name else [each.name for each in self._mine()]:
            self._regions.pop((caller().name, name), None)  # as Triton, which does not mind one that is not there
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> Message:
        if request.name:
            raise errors.not_found(f"unknown CUDA shared memory region {request.name!r}: none can be registered")
        return pb.CudaSharedMemoryStatusResponse()

    async def _cuda_register(self, request: pb.CudaSharedMemoryRegisterRequest) -> Message:
        raise errors.unimplemented(
            f"CUDA shared memory region {request.name!r}: expected system shared memory, the server shares no GPU's "
            "memory with clients"
        )

    async def _cuda_unregister(self, request: pb.CudaSharedMemoryUnregisterRequest) -> Message:
        return pb.CudaSharedMemoryUnregisterResponse()  # there is none, and Triton does not mind

    def _region(self, name: str) -> Region:
        if (key := (caller().name, name)) not in self._regions:
            raise errors.not_found(f"unknown shared memory region {name!r}")
        return self._regions[key]

    def _mine(self) -> list[Region]:
        """The regions of whoever calls."""
        return [each for (owner, _), each in self._regions.items() if owner == caller().name]

    def _permit(self) -> None:
        if not self._allowed:
            raise errors.RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"shared memory is not used unless the server is started with {_SETTING} and listens on loopback or a "
                "Unix socket",
            )
        if RIGHT not in caller().rights:  # a request for inference needs it too
            raise errors.RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"shared memory: expected the right {RIGHT!r}, {caller().name!r} has it not",
            )


def local(host: str) -> bool:
    """Whether only processes of this machine reach a listener there."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.startswith("unix:")


def _opened(request: pb.SystemSharedMemoryRegisterRequest) -> Region:
    """The region that a request describes."""
    where = f"shared memory region {request.name!r}"
    file = _file(where, request.key.removeprefix("/"))
    try:
        size = os.fstat(file).st_size
        if not 0 < request.byte_size <= size - request.offset:
            raise errors.invalid(
                f"{where}: expected 1..{max(0, size - request.offset)} bytes at {request.offset} of {request.key!r}, "
                f"which has {size}, got {request.byte_size}"
            )
        region = Region(request.name, request.key, request.offset, request.byte_size, file)
    except BaseException:
        os.close(file)
        raise
    weakref.finalize(region, os.close, file)
    return region


def _file(where: str, name: str) -> int:
    """A file of shared memory that belongs to the server's user, opened."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or name.startswith("sem."):
        raise errors.invalid(f"{where}: expected a key of POSIX shared memory, such as /name, got {name!r}")
    try:
        file = os.open(PurePath(FOLDER, name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise errors.invalid(f"{where}: expected a key that can be opened, got {name!r}: {reason}") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(file)
        raise errors.invalid(f"{where}: expected shared memory of the server's own user, {name!r} is not")
    return file
