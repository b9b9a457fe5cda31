"""Tensors in POSIX shared memory, as NVIDIA's client leaves them there, and what must not be done with it."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from serving.access.caller import Caller, answering
from serving.front import shared_memory
from serving.front.shared_memory import MOST_REGIONS, SharedMemory, local
from serving.wire import received
from serving.wire.channels import LONGEST_MESSAGE
from serving.wire.errors import RequestError
from tests.serving.front.protocol.conftest import Refusal
from tests.serving.live import Live, running

Client: TypeAlias = Any  # tritonclient has no types
Array: TypeAlias = NDArray[Any]
KEY = f"tiltserve-test-{os.getpid()}"
SIZE = 4096


@pytest.fixture
def region(client: Client) -> Iterator[Any]:
    """A region `r` of 4096 bytes, registered."""
    made = shm.create_shared_memory_region("r", KEY, SIZE)
    client.register_system_shared_memory("r", f"/{KEY}", SIZE)
    try:
        yield made
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(made)


def tensors(x: Array, t: Array) -> list[triton.InferInput]:
    return [triton.InferInput("x", list(x.shape), "FP32"), triton.InferInput("t", list(t.shape), "FP32")]


X, T = np.arange(6, dtype=np.float32).reshape(3, 2), np.full(3, 0.5, np.float32)


def plainly(client: Client) -> Array:
    sent = tensors(X, T)
    sent[0].set_data_from_numpy(X)
    sent[1].set_data_from_numpy(T)
    return client.infer("rings.network", sent).as_numpy("x0")


def test_there_and_back(client: Client, region: Any):
    shm.set_shared_memory_region(region, [X])
    shm.set_shared_memory_region(region, [T], offset=X.nbytes)
    sent, wanted = tensors(X, T), triton.InferRequestedOutput("x0")
    sent[0].set_shared_memory("r", X.nbytes)
    sent[1].set_shared_memory("r", T.nbytes, offset=X.nbytes)
    wanted.set_shared_memory("r", X.nbytes, offset=1024)
    result = client.infer("rings.network", sent, outputs=[wanted])
    response = result.get_response()
    (told,) = response.outputs
    assert (told.datatype, list(told.shape)) == ("FP32", [3, 2])
    said = told.parameters
    assert said["shared_memory_region"].string_param == "r"
    assert said["shared_memory_offset"].int64_param == 1024
    assert said["shared_memory_byte_size"].int64_param == X.nbytes
    assert list(response.raw_output_contents) == [b""]
    np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, [3, 2], offset=1024), plainly(client))


def test_some_here_and_some_there(client: Client, region: Any):
    """Of two inputs and of two outputs; the client finds what came in the message at its place."""
    shm.set_shared_memory_region(region, [T])
    sent = tensors(X, T)
    sent[0].set_data_from_numpy(X)
    sent[1].set_shared_memory("r", T.nbytes)
    np.testing.assert_array_equal(client.infer("rings.network", sent).as_numpy("x0"), plainly(client))
    wanted = [triton.InferRequestedOutput(name) for name in ("samples", "rewards")]
    wanted[0].set_shared_memory("r", 16)
    steered = {"samples": 2, "steps": 2, "seed": 1, "reward": "nearness", "reward_mode": 1, "posterior": "gaussian"}
    here = client.infer("rings", [], parameters=steered)
    there = client.infer("rings", [], outputs=wanted, parameters=steered)
    np.testing.assert_array_equal(there.as_numpy("rewards"), here.as_numpy("rewards"))
    np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, [2, 2]), here.as_numpy("samples"))


def test_status_and_unregistering(client: Client, region: Any, refusal: Refusal):
    told = client.get_system_shared_memory_status("r").regions["r"]
    assert (told.name, told.key, told.offset, told.byte_size) == ("r", f"/{KEY}", 0, SIZE)
    client.register_system_shared_memory("half", KEY, SIZE // 2, offset=SIZE // 2)
    assert set(client.get_system_shared_memory_status().regions) == {"r", "half"}
    code, _ = refusal(lambda: client.register_system_shared_memory("r", KEY, SIZE))
    assert code == "ALREADY_EXISTS"
    client.unregister_system_shared_memory("half")
    client.unregister_system_shared_memory("nobody")
    assert set(client.get_system_shared_memory_status().regions) == {"r"}
    assert refusal(lambda: client.get_system_shared_memory_status("half"))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("key", "offset", "size", "text"),
    [
        (f"/{KEY}", 0, SIZE + 1, f"expected 1..{SIZE} bytes at 0 of '/{KEY}', which has {SIZE}, got {SIZE + 1}"),
        (f"/{KEY}", 1, SIZE, f"expected 1..{SIZE - 1} bytes at 1"),
        (f"/{KEY}", 2**63, SIZE, "expected 1..0 bytes at 9223372036854775808"),
        (f"/{KEY}", 0, 2**64 - 1, "got 18446744073709551615"),
        (f"/{KEY}", 0, 0, "got 0"),
        ("/nothing of the kind", 0, 1, "No such file or directory"),
        ("../etc/passwd", 0, 1, "expected a key of POSIX shared memory, such as /name, got '../etc/passwd'"),
        ("//etc/passwd", 0, 1, "expected a key of POSIX shared memory"),
        ("/a/b", 0, 1, "expected a key of POSIX shared memory"),
        ("..", 0, 1, "expected a key of POSIX shared memory"),
        ("/", 0, 1, "expected a key of POSIX shared memory"),
        ("sem.lock", 0, 1, "expected a key of POSIX shared memory"),
        ("a\0b", 0, 1, "expected a key of POSIX shared memory"),
        ("x" * 300, 0, 1, "File name too long"),
    ],
)
def test_what_cannot_be_registered(
    client: Client, region: Any, refusal: Refusal, key: str, offset: int, size: int, text: str
):
    code, line = refusal(lambda: client.register_system_shared_memory("other", key, size, offset))
    assert code == "INVALID_ARGUMENT"
    assert text in line
    assert set(client.get_system_shared_memory_status().regions) == {"r"}


def links(file: Path) -> None:
    file.symlink_to("/etc/hostname")


@pytest.mark.parametrize("make", [links, os.mkfifo, Path.mkdir])
def test_only_files_are_registered(client: Client, region: Any, refusal: Refusal, make: Callable[[Path], None]):
    file = Path(shared_memory.FOLDER, f"{KEY}-odd")
    make(file)
    try:
        assert refusal(lambda: client.register_system_shared_memory("odd", file.name, 1))[0] == "INVALID_ARGUMENT"
    finally:
        with contextlib.suppress(IsADirectoryError, PermissionError):
            file.unlink()
        if file.is_dir():
            file.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_only_the_servers_own(client: Client, refusal: Refusal):
    file = Path(shared_memory.FOLDER, f"{KEY}-theirs")
    file.write_bytes(b"secret")
    try:
        os.chown(file, 12345, 12345)
        code, line = refusal(lambda: client.register_system_shared_memory("theirs", file.name, 6))
        assert (code, "of the server's own user" in line) == ("INVALID_ARGUMENT", True)
    finally:
        file.unlink()


@pytest.mark.parametrize(
    ("offset", "size", "code", "text"),
    [
        (4088, 24, "INVALID_ARGUMENT", "'x': expected a place in region 'r' of 4096 bytes, got 24 bytes at 4088"),
        (2**62, 24, "INVALID_ARGUMENT", "got 24 bytes at"),
        (0, 2**62, "INVALID_ARGUMENT", "inputs: expected at most"),
        (0, 20, "INVALID_ARGUMENT", "input 'x': expected 24 bytes for FP32 [3, 2], got 20"),
        (-8, 24, "INVALID_ARGUMENT", "shared_memory_offset: expected a whole number of bytes, got -8"),
    ],
)  # fmt: skip
def test_places_beyond_the_region(
    client: Client, region: Any, refusal: Refusal, offset: int, size: int, code: str, text: str
):
    sent = tensors(X, T)
    sent[0].set_shared_memory("r", size, offset)
    sent[1].set_data_from_numpy(T)
    got, line = refusal(lambda: client.infer("rings.network", sent))
    assert (got, text in line) == (code, True), line


def test_outputs_that_do_not_fit(client: Client, region: Any, refusal: Refusal):
    wanted = triton.InferRequestedOutput("samples")
    wanted.set_shared_memory("r", 12)
    parameters = {"samples": 2, "steps": 2}
    code, line = refusal(lambda: client.infer("rings", [], outputs=[wanted], parameters=parameters))
    assert (code, line) == ("INVALID_ARGUMENT", "output 'samples': expected at least 16 bytes of shared memory, got 12")
    wanted.set_shared_memory("nobody", 16)
    assert refusal(lambda: client.infer("rings", [], outputs=[wanted], parameters=parameters))[0] == "NOT_FOUND"


def test_a_region_that_shrinks_harms_nobody(client: Client, region: Any, refusal: Refusal):
    """A map of it would end the process with SIGBUS."""
    sent, wanted = tensors(X, T), triton.InferRequestedOutput("x0")
    sent[0].set_shared_memory("r", X.nbytes, offset=SIZE - 64)
    sent[1].set_data_from_numpy(T)
    os.truncate(Path(shared_memory.FOLDER, KEY), 16)
    try:
        code, line = refusal(lambda: client.infer("rings.network", sent))
        assert (code, "has become smaller" in line) == ("INVALID_ARGUMENT", True)
        sent[0].set_data_from_numpy(X)
        wanted.set_shared_memory("r", X.nbytes, offset=SIZE - 64)
        code, line = refusal(lambda: client.infer("rings.network", sent, outputs=[wanted]))
        assert (code, "has become smaller" in line) == ("INVALID_ARGUMENT", True)
        assert Path(shared_memory.FOLDER, KEY).stat().st_size == 16
    finally:
        os.truncate(Path(shared_memory.FOLDER, KEY), SIZE)
    assert client.is_server_ready()


def test_not_more_regions_than_there_may_be(client: Client, region: Any, refusal: Refusal):
    before = len([*Path("/proc/self/fd").iterdir()])
    for i in range(MOST_REGIONS - 1):
        client.register_system_shared_memory(f"more {i}", KEY, 1)
    assert refusal(lambda: client.register_system_shared_memory("most", KEY, 1))[0] == "RESOURCE_EXHAUSTED"
    client.unregister_system_shared_memory()
    assert len([*Path("/proc/self/fd").iterdir()]) <= before


@pytest.mark.parametrize(
    ("name", "text"),
    [("i{}", "inputs: expected at most"), ("x", "inputs: expected each name once beside shared_memory_region")],
)
def test_one_region_named_often_is_no_flood(client: Client, region: Any, refusal: Refusal, name: str, text: str):
    """A small message must not make a large one."""
    os.truncate(Path(shared_memory.FOLDER, KEY), LONGEST_MESSAGE // 2)  # tmpfs gives no memory for it
    client.register_system_shared_memory("large", KEY, LONGEST_MESSAGE // 2)
    inputs = [triton.InferInput(name.format(k), [LONGEST_MESSAGE // 8], "FP32") for k in range(100)]
    for each in inputs:
        each.set_shared_memory("large", LONGEST_MESSAGE // 2)
    code, line = refusal(lambda: client.infer("rings.network", inputs))
    assert (code, line.startswith(text)) == ("INVALID_ARGUMENT", True), line


def test_unregistered_while_it_is_used(client: Client, live: Live, region: Any):
    """Requests end well or with a line; no file is mixed up with another."""
    shm.set_shared_memory_region(region, [X])
    expected, wrong = plainly(client), list[object]()

    def ask() -> None:
        with triton.InferenceServerClient(live.address) as mine:
            sent = tensors(X, T)
            sent[0].set_shared_memory("r", X.nbytes)
            sent[1].set_data_from_numpy(T)
            for _ in range(100):
                try:
                    if not np.array_equal(mine.infer("rings.network", sent).as_numpy("x0"), expected):
                        wrong.append("other numbers")
                except triton.InferenceServerException as error:
                    if "NOT_FOUND" not in str(error.status()):
                        wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while asking.is_alive():
        client.unregister_system_shared_memory("r")
        client.register_system_shared_memory("r", KEY, SIZE)
    asking.join()
    assert not wrong


def test_off_unless_it_is_allowed(tmp_path: Path, refusal: Refusal):
    with running(tmp_path) as live, triton.InferenceServerClient(live.address) as client:
        sent = tensors(X, T)
        for each in sent:
            each.set_shared_memory("r", 24)
        for call in (
            lambda: client.register_system_shared_memory("r", KEY, 1),
            client.get_system_shared_memory_status,
            client.unregister_system_shared_memory,
            lambda: client.infer("rings.network", sent),
        ):
            code, line = refusal(call)
            assert (code, "--allow-shared-memory" in line) == ("PERMISSION_DENIED", True)
        assert not {"system_shared_memory", "model_repository"} & {*client.get_server_metadata().extensions}


def test_regions_are_of_who_registered_them(region: Any):
    """Nobody else uses them, nor takes their names; and who may not use shared memory does not by way of inference."""
    shared = SharedMemory(allowed=True)
    register, status = (shared.answers[f"SystemSharedMemory{what}"] for what in ("Register", "Status"))
    message = pb.ModelInferRequest(model_name="rings.network")
    message.inputs.add(name="x", datatype="FP32", shape=[1]).parameters["shared_memory_region"].string_param = "r"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 4
    data = message.SerializeToString()

    async def body() -> None:
        for name in ("alice", "bob"):
            answering(Caller(name))
            assert await status(pb.SystemSharedMemoryStatusRequest()) == pb.SystemSharedMemoryStatusResponse()
            with pytest.raises(RequestError, match="unknown shared memory region 'r'"):
                await shared.filled(data, received.infer(data))
            await register(pb.SystemSharedMemoryRegisterRequest(name="r", key=KEY, byte_size=64))
            filled, _ = await shared.filled(data, received.infer(data))
            assert bytes(received.infer(filled).inputs[0].raw or b"") == bytes(4)
        answering(Caller("eve", frozenset({"inference"})))
        with pytest.raises(RequestError, match="expected the right 'shared_memory'"):
            await shared.filled(data, received.infer(data))

    asyncio.run(body())
    shared.close()


def test_inputs_are_bounded_by_what_this_servers_messages_may_be(region: Any):
    shared = SharedMemory(allowed=True, longest=SIZE)
    message = pb.ModelInferRequest(model_name="rings.network")
    message.inputs.add(name="x", datatype="FP32", shape=[1]).parameters["shared_memory_region"].string_param = "r"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = SIZE

    async def body() -> None:
        await shared.answers["SystemSharedMemoryRegister"](
            pb.SystemSharedMemoryRegisterRequest(name="r", key=KEY, byte_size=SIZE)
        )
        data = message.SerializeToString()
        with pytest.raises(RequestError, match=f"expected at most {SIZE} bytes in all, got {SIZE + len(data)}"):
            await shared.filled(data, received.infer(data))

    asyncio.run(body())


def test_who_can_reach_a_listener():
    here = ("127.0.0.1", "127.8.8.8", "::1", "localhost", "unix:/run/tiltserve")
    assert [host for host in (*here, "0.0.0.0", "::", "10.0.0.1", "a.example") if local(host)] == list(here)


def test_no_gpu_is_shared(client: Client, refusal: Refusal):
    code, line = refusal(lambda: client.register_cuda_shared_memory("g", b"aGFuZGxl", 0, 64))
    assert (code, "expected system shared memory" in line) == ("UNIMPLEMENTED", True)
    assert not client.get_cuda_shared_memory_status().regions
    assert refusal(lambda: client.get_cuda_shared_memory_status("g"))[0] == "NOT_FOUND"
    client.unregister_cuda_shared_memory()
