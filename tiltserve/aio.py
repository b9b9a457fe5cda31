"""The client for asyncio: the operations of `Client`, awaited."""

import asyncio
import contextlib
import copy
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from tiltserve import distillation, errors, latents, operations, progress, solving, steps
from tiltserve.address import DEFAULT, TLS, Address
from tiltserve.answers import Floats, Inferred, Likelihood, Samples, Shown
from tiltserve.distillation import Asked, Gradient, Models, Shared
from tiltserve.errors import Unimplemented
from tiltserve.listings import Fleet, Metadata, Model, Statistics
from tiltserve.operations import Memory, Wanted
from tiltserve.pipelines import AsyncPipeline
from tiltserve.solving import Chunk, Posed, Trajectories
from tiltserve.steps import Ask, Emit, Open, Operation, Patience, Receive, Rpc, Score, Send, Sleep, Step

T = TypeVar("T")
Seen = TypeVar("Seen")
Last = TypeVar("Last")


class AsyncClient:
    """As `Client`, for asyncio: each method is awaited, and cancelling it takes the request off the server.

    It belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        url: str = DEFAULT,
        *,
        token: str | None = None,
        tls: TLS | bool | None = None,
        timeout: float | None = None,
        retries: int = steps.RETRIES,
    ) -> None:
        self._address = Address.of(url, tls)
        self._headers = self._address.headers(token)
        self._timeout, self._retries = timeout, retries
        self._memory, self._connection, self._own = Memory(), _Connection(self._address), True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._address.target}>"

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._address

    async def close(self) -> None:
        """End the connection, and every call on it; not one that is another client's."""
        if self._own:
            await self._connection.close()

    def on_behalf(self, token: str | None, metadata: Mapping[str, str] | None = None) -> "AsyncClient":
        """A client on the same connection that calls with the token of somebody else, for whoever passes calls on.

        Args:
            metadata: of each of its calls, such as `x-request-id`.
        """
        other = copy.copy(self)
        other._headers = [*self._address.headers(token), *(metadata or {}).items()]
        other._memory, other._own = Memory(), False  # what one may see of a model another may not
        return other

    async def sample(
        self,
        model: str,
        n: int | None = None,
        *,
        reward: str | None = None,
        score: Callable[[Floats], Any] | None = None,
        progress: bool = False,
        timing: bool = False,
        on_preview: Callable[[Shown], object] | None = None,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> Samples:
        """As `Client.sample`. `score` and `on_preview` may be coroutine functions; another `score` runs on a thread, so
        that the event loop goes on."""
        asked, previews = Wanted.of(model, n, reward, conditions, reward_args, parameters, version, request_id, wanted)
        patience = self._patience(timeout)
        drawing = operations.drawing(
            self._memory, patience, asked, previews, score=score, watched=on_preview, shown=progress, timing=timing
        )
        if drawing is None:
            return await self._watched(asked, previews, progress, on_preview, patience)
        return await self._run(drawing, score)

    async def solve(
        self,
        model: str,
        y0: Any = None,
        t_eval: Any = None,
        *,
        outputs: Sequence[str] = (),
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> Trajectories:
        """As `Client.solve`."""
        posed = Posed(
            model, y0, t_eval, tuple(outputs), conditions or {}, reward_args or {}, parameters or {}, version,
            request_id, wanted,
        )  # fmt: skip
        return await self._run(solving.solve(self._memory, self._patience(timeout), posed))

    def solve_stream(
        self,
        model: str,
        y0: Any = None,
        t_eval: Any = None,
        *,
        keep: bool = True,
        outputs: Sequence[str] = (),
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> "AsyncTrajectoryStream":
        """As `Client.solve_stream`."""
        posed = Posed(
            model, y0, t_eval, tuple(outputs), conditions or {}, reward_args or {}, parameters or {}, version,
            request_id, wanted,
        )  # fmt: skip
        operation = solving.stream(self._memory, self._patience(timeout), posed, keep=keep)
        return AsyncTrajectoryStream(operation, self._session())

    def pipeline(self, model: str, **settings: Any) -> AsyncPipeline:
        """As `Client.pipeline`."""
        return AsyncPipeline(partial(self.sample, model), settings)

    def stream(
        self,
        model: str,
        n: int | None = None,
        *,
        preview_every: int | None = None,
        reward: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> "AsyncStream":
        """As `Client.stream`: iterate with `async for`, best inside of `async with`."""
        asked, previews = Wanted.of(model, n, reward, conditions, reward_args, parameters, version, request_id, wanted)
        previews = previews if preview_every is None else {**previews, "preview_every": preview_every}
        return AsyncStream(operations.stream(self._memory, self._patience(timeout), asked, previews), self._session())

    async def encode(self, model: str, x: Any, **wanted: Any) -> Samples:
        """As `Client.encode`."""
        return await self.sample(model, **latents.encoding(x, wanted))

    async def decode(self, model: str, z: Any, **wanted: Any) -> Samples:
        """As `Client.decode`."""
        return await self.sample(model, **latents.decoding(z, wanted))

    async def score(
        self,
        reward: str,
        x: Any,
        *,
        reward_args: Mapping[str, Any] | None = None,
        version: str = "",
        timeout: float | None = None,
        **arguments: Any,
    ) -> Floats:
        """As `Client.score`."""
        patience = self._patience(timeout)
        return await self._run(
            operations.score(self._memory, patience, reward, x, version, {**arguments, **(reward_args or {})})
        )

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Inferred:
        """As `Client.infer`."""
        patience = self._patience(timeout)
        return await self._run(
            operations.infer(
                self._memory, patience, model, inputs or {}, parameters or {}, outputs, version, request_id
            )
        )

    async def likelihood(
        self,
        model: str,
        x: Any,
        *,
        law: str = "data",
        probes: int | None = None,
        conditions: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> Likelihood:
        """As `Client.likelihood`."""
        asked, _ = Wanted.of(model, None, None, conditions, None, parameters, version, request_id, wanted)
        patience = self._patience(timeout)
        return await self._run(operations.likelihood(self._memory, patience, asked, x, law, probes))

    async def distill(
        self,
        model: Models,
        images: Any,
        *,
        iteration: int,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> Gradient:
        """As `Client.distill`."""
        wanted["iteration"] = iteration
        asked = Asked.of(model, images, conditions, reward_args, parameters, version, request_id, wanted)
        return await self._run(distillation.gradient(self._memory, self._patience(timeout), asked))

    def distillation(
        self,
        model: Models,
        *,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        **wanted: Any,
    ) -> "AsyncDistillation":
        """As `Client.distillation`, best inside of `async with`."""
        asked = Asked.of(model, None, conditions, reward_args, parameters, version, "", wanted)
        return AsyncDistillation(asked, self._memory, self._patience, self._session())

    async def metadata(self, model: str, *, version: str = "", timeout: float | None = None) -> Metadata:
        """As `Client.metadata`."""
        return await self._run(operations.metadata(self._patience(timeout), model, version))

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """As `Client.models`."""
        return (await self.fleet(timeout=timeout)).models

    async def fleet(self, *, timeout: float | None = None) -> Fleet:
        """As `Client.fleet`."""
        return await self._run(operations.fleet(self._patience(timeout)))

    async def stats(self, model: str = "", *, version: str = "", timeout: float | None = None) -> list[Statistics]:
        """As `Client.stats`."""
        return await self._run(operations.statistics(self._patience(timeout), model, version))

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.load`."""
        await self._run(operations.load(self._patience(timeout), model))

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.unload`."""
        await self._run(operations.unload(self._patience(timeout), model))

    async def ready(self, model: str | None = None, *, version: str = "", timeout: float | None = None) -> bool:
        """As `Client.ready`."""
        return await self._run(operations.ready(self._patience(timeout), model, version))

    async def _watched(
        self,
        asked: Wanted,
        previews: Mapping[str, Any],
        shown: bool,
        on_preview: Callable[[Shown], object] | None,
        patience: Patience,
    ) -> Samples:
        operation = operations.stream(self._memory, patience, asked, previews, small=on_preview is None)
        with progress.bar(asked.model, asked.n or 1, shown) as bar:
            async with AsyncStream(operation, self._session()) as stream:
                try:
                    async for each in stream:
                        if not isinstance(each, Samples):
                            bar(each)
                            if on_preview is not None and isinstance(done := on_preview(each), Awaitable):
                                await done
                    return await stream.result()
                except Unimplemented:
                    if on_preview is not None:
                        raise
        return await self._run(operations.sample(self._memory, patience, asked))  # a server that does not stream

    def _patience(self, timeout: float | None) -> Patience:
        return Patience(self._timeout if timeout is None else timeout, self._retries)

    def _session(self, score: Callable[[Floats], Any] | None = None) -> "_Session":
        return _Session(self._connection.method, self._headers, score)

    async def _run(self, operation: Operation[T], score: Callable[[Floats], Any] | None = None) -> T:
        """The result of an operation that emits nothing."""
        session = self._session(score)
        try:
            async for last in _drive(operation, session):
                if isinstance(last, _Result):
                    result: T = last.value
            return result
        except errors.TiltserveError as error:
            raise error.with_traceback(None) from None  # how it came here would be a page of generators
        finally:
            session.close()


class _Connection:
    """A channel, and the methods that were called on it; raises `InvalidArgument` for files that cannot be read."""

    def __init__(self, address: Address) -> None:
        self._address, self._methods = address, dict[str, Any]()
        self._credentials = None if address.tls is None else address.tls.credentials()
        self._channel: grpc.aio.Channel | None = None  # made on the event loop, on first use

    def method(self, rpc: Rpc, streaming: bool) -> Any:
        if self._channel is None:
            target, options = self._address.target, self._address.options
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options=options)
            else:
                self._channel = grpc.aio.secure_channel(target, self._credentials, options=options)
        if rpc.path not in self._methods:
            make = self._channel.stream_stream if streaming else self._channel.unary_unary
            self._methods[rpc.path] = make(rpc.path, rpc.serialize, rpc.parse)
        return self._methods[rpc.path]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class AsyncFollow(AsyncIterator[Seen | Last], Generic[Seen, Last]):
    """As `Follow`, for `async for` and `async with`."""

    def __init__(self, operation: Operation[Last], session: "_Session") -> None:
        self._session, self._driven = session, _drive(operation, session)
        self._result: Last | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop may be closed, and the call with it
            self.close()

    async def __anext__(self) -> Seen | Last:
        if self._result is not None:
            raise StopAsyncIteration
        try:
            came = await anext(self._driven)
        except BaseException:
            self.close()
            raise
        if isinstance(came, _Result):
            self.close()
            self._result = came.value
        else:
            shown: Seen = came
            return shown
        return self._result

    async def result(self) -> Last:
        """What comes last; what was not looked at is passed over."""
        async for _ in self:
            pass
        if self._result is None:
            raise errors.Cancelled("the stream was closed before its end came")
        return self._result

    def close(self) -> None:
        """Take the request off the server, if it is still running."""
        self._session.close()


class AsyncStream(AsyncFollow[Shown, Samples]):
    """Previews, and the samples last."""


class AsyncTrajectoryStream(AsyncFollow[Chunk, Trajectories]):
    """States as they become final, and the trajectories last."""


class AsyncDistillation:
    """As `Distillation`, for asyncio: tasks wait for each other."""

    def __init__(
        self, asked: Asked, memory: Memory, patience: Callable[[float | None], Patience], session: "_Session"
    ) -> None:
        self._shared, self._memory, self._patience, self._session = Shared(asked), memory, patience, session
        self._lock = asyncio.Lock()
        self._user: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop may be closed, and the call with it
            self.close()

    async def distill(
        self,
        images: Any,
        *,
        iteration: int,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        request_id: str = "",
        timeout: float | None = None,
        **wanted: Any,
    ) -> Gradient:
        """As `Distillation.distill`."""
        wanted["iteration"] = iteration
        asked = Asked.of(None, images, conditions, reward_args, None, "", request_id, wanted)
        (gradient,) = [each async for each in self._run([asked], timeout)]
        return gradient

    def each(
        self, calls: Iterable[Mapping[str, Any]], *, ahead: int = 1, timeout: float | None = None
    ) -> AsyncIterator[Gradient]:
        """As `Distillation.each`, for `async for`."""
        return self._run(map(distillation.of_call, calls), timeout, ahead)

    def close(self) -> None:
        """End the stream."""
        self._session.close()

    async def _run(self, calls: Iterable[Asked], timeout: float | None, ahead: int = 0) -> AsyncIterator[Gradient]:
        patiently = partial(self._patience, timeout)
        operation = distillation.streamed(self._memory, patiently, self._shared, calls, ahead)
        me = asyncio.current_task()
        if self._user is me:
            raise errors.InvalidArgument("expected no call of a session inside a loop over its each(), got one")
        async with self._lock:
            if self._session.closed():
                raise errors.Cancelled("the session was closed")
            self._user = me
            try:
                async for each in _drive(operation, self._session):
                    if not isinstance(each, _Result):
                        yield each
            except errors.TiltserveError as error:
                raise error.with_traceback(None) from None
            finally:
                self._user = None
                operation.close()


class _Result:
    """What an operation ends with: an asynchronous generator cannot return it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Session:
    """Does the steps of one operation."""

    def __init__(
        self,
        method: Callable[[Rpc, bool], Any],
        headers: Sequence[tuple[str, str]],
        score: Callable[[Floats], Any] | None,
    ) -> None:
        self._method, self._headers, self._score = method, headers, score
        self._call: Any = None
        self._closed = False

    async def do(self, step: Step) -> Any:
        """What comes of a step; raises a `TiltserveError` where it fails."""
        try:
            match step:
                case Ask():
                    return await self._ask(step)
                case Open():
                    self._end()
                    metadata = [*self._headers, *step.metadata]
                    self._call = self._method(step.rpc, True)(timeout=step.seconds, metadata=metadata)
                    await self._call.write(step.message)
                    if not step.more:
                        await self._call.done_writing()
                case Receive():
                    message = await self._call.read()
                    return None if message is grpc.aio.EOF else message
                case Send():
                    await self._call.write(step.message)
                case Score():
                    return await self._scored(step)
                case Sleep():
                    await asyncio.sleep(step.seconds)
        except grpc.aio.AioRpcError as error:
            raise errors.of_call(error) from None
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:  # a channel or call that was closed
            raise errors.Cancelled(str(error)) from None
        return None

    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._end()

    def _end(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _scored(self, step: Score) -> Any:
        assert self._score is not None
        if inspect.iscoroutinefunction(self._score):
            return await self._score(step.candidates)
        return await asyncio.to_thread(self._score, step.candidates)

    async def _ask(self, step: Ask) -> Any:
        call = self._method(step.rpc, False)(
            step.message, timeout=step.seconds, metadata=[*self._headers, *step.metadata]
        )
        answer = await call
        return (answer, await call.trailing_metadata()) if step.trailing else answer


async def _drive(operation: Operation[T], session: _Session) -> AsyncGenerator[Any, None]:
    """Do an operation's steps one after another; what it emits comes out here, and its result last as a `_Result`."""
    try:
        step = next(operation)
        while not session.closed():
            try:
                came = (yield step.value) if isinstance(step, Emit) else await session.do(step)
            except errors.TiltserveError as error:
                if session.closed():
                    break
                step = operation.throw(error)
            else:
                step = operation.send(came)
    except StopIteration as done:
        yield _Result(done.value)
    operation.close()
