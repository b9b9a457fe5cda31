"""The client, for threads: every call waits for its answer."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from tiltserve import distillation, errors, latents, operations, progress, solving, steps
from tiltserve.address import DEFAULT, TLS, Address
from tiltserve.answers import Floats, Inferred, Likelihood, Samples, Shown
from tiltserve.distillation import Asked, Gradient, Models, Shared
from tiltserve.errors import Unimplemented
from tiltserve.listings import Fleet, Metadata, Model, Statistics
from tiltserve.operations import Memory, Wanted
from tiltserve.pipelines import Pipeline
from tiltserve.solving import Chunk, Posed, Trajectories
from tiltserve.steps import Ask, Emit, Open, Operation, Patience, Receive, Rpc, Score, Send, Sleep, Step

T = TypeVar("T")
Seen = TypeVar("Seen")
Last = TypeVar("Last")


class Client:
    """A connection to a server. It may be shared by threads; close it, or use it as a context.

    Args:
        url: `host:port`, `grpc://host:port`, `grpcs://host:port` (TLS) or `unix:/path`.
        token: sent as a bearer token.
        tls: True for TLS with the system's certificates, or `TLS(ca=, cert=, key=)`.
        timeout: seconds that a call may take, retries included, unless it says another; None for no end.
        retries: most repetitions of a call that ended UNAVAILABLE before the server began with it. Requests for samples
            are repeated with the same seed.

    Raises:
        InvalidArgument: no such URL, token or files.
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
        self._memory, self._methods, self._lock = Memory(), dict[str, Any](), threading.Lock()
        target, options = self._address.target, self._address.options
        if self._address.tls is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, self._address.tls.credentials(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._address.target}>"

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._address

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._channel.close()

    def sample(
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
        """Draw samples, plain or steered.

        Args:
            n: how many; 1 if it is left out.
            reward: what to steer toward: a served network, a built-in, a service of the server's, or an expression.
            score: a function of candidates float32 [rows, *event] that gives their scores [rows], higher being better:
                the reward, computed here. It may be one term, `client`, of an expression in `reward`.
            progress: show a bar, if rich is installed.
            timing: also ask where the time goes: `Samples.times`. Not beside previews and `score`.
            on_preview: called with each `Preview` on the way, as `stream` gives them.
            conditions, reward_args, parameters: by name, where a keyword would be taken for something else.
            wanted: by name: parameters (seed, solver, steps, guidance, beta, threshold, steering, ...), inputs (x_init,
                known, mask, mean, grid), previews (preview_every, ...), conditions of the model, and arguments of the
                reward (label=7 for reward_label=7). Of a pipeline also prompt and negative_prompt (texts, one or n),
                image and mask (Pillow's or arrays, one or n), height and width, and latents=True, which asks for them.
            timeout: seconds for all of it.

        Raises:
            TiltserveError: a subclass for each status; `InvalidArgument` also for a keyword that may be two things.
        """
        asked, previews = Wanted.of(model, n, reward, conditions, reward_args, parameters, version, request_id, wanted)
        patience = self._patience(timeout)
        drawing = operations.drawing(
            self._memory, patience, asked, previews, score=score, watched=on_preview, shown=progress, timing=timing
        )
        if drawing is None:
            return self._watched(asked, previews, progress, on_preview, patience)
        return self._run(drawing, score)

    def solve(
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
        """Trajectories of a model of dynamics from y0 [n, *state] at the times t_eval [T] or [n, T].

        A trajectory that fails has a status and NaN, and leaves the others alone.

        Args:
            y0: first states at the first of the times; None for a model with an encoder, whose inputs are keywords.
            t_eval: all rising, or all falling: backward in time.
            outputs: names of those that are wanted, such as y; all unless it is said.
            conditions, reward_args, parameters: by name, where a keyword would be taken for something else.
            wanted: by name: parameters (solver, rtol, atol, dt, dt0, max_steps, seed, samples, reward, ... and options
                of the solver); rtol, atol, dt and dt0 may be arrays [n]; conditions and further inputs of the model;
                arguments of the reward (reward_label=7).
            timeout: seconds for all of it.

        Raises:
            TiltserveError: a subclass for each status.
        """
        posed = Posed(
            model, y0, t_eval, tuple(outputs), conditions or {}, reward_args or {}, parameters or {}, version,
            request_id, wanted,
        )  # fmt: skip
        return self._run(solving.solve(self._memory, self._patience(timeout), posed))

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
    ) -> "TrajectoryStream":
        """Trajectories as `solve` gives them, and their states on the way: an iterator of `Chunk`s that ends with the
        `Trajectories`. None is missed; a caller that looks slowly holds up its own request alone.

        Leaving the loop and closing the stream, or leaving its `with`, takes the request off the server.

        Args:
            keep: put the chunks together in `Trajectories.y`; False where they need not fit into memory.
            wanted: as `solve`.
        """
        posed = Posed(
            model, y0, t_eval, tuple(outputs), conditions or {}, reward_args or {}, parameters or {}, version,
            request_id, wanted,
        )  # fmt: skip
        operation = solving.stream(self._memory, self._patience(timeout), posed, keep=keep)
        return TrajectoryStream(operation, self._session())

    def pipeline(self, model: str, **settings: Any) -> Pipeline:
        """A pipeline that is called as diffusers' are: `pipe(prompt, num_inference_steps=20).images`.

        Args:
            settings: keywords for every call, of `pipelines.call` or of `sample`: reward=, solver=, ...
        """
        return Pipeline(partial(self.sample, model), settings)

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
    ) -> "Stream":
        """Draw samples and see them on the way: an iterator of `Preview`s that ends with the `Samples`.

        Leaving the loop and closing the stream, or leaving its `with`, takes the request off the server. A caller that
        looks slowly misses previews, and no samples.

        Args:
            preview_every: a preview of every so many stages; of every one unless it is said.
            wanted: as `sample`. Besides, `preview_dtype="uint8"` makes previews a quarter as large, `preview_size=32`
                bounds the edges of images, and `stream_samples=True` also gives each `Group` of many samples when it is
                finished. `trajectory=True` gives each `Pair` of the path instead of previews, and misses none.
        """
        asked, previews = Wanted.of(model, n, reward, conditions, reward_args, parameters, version, request_id, wanted)
        previews = previews if preview_every is None else {**previews, "preview_every": preview_every}
        operation = operations.stream(self._memory, self._patience(timeout), asked, previews)
        return Stream(operation, self._session())

    def encode(self, model: str, x: Any, **wanted: Any) -> Samples:
        """The latents of samples x [n, *event]: the noise that they come from along a path without noise. They are the
        answer's `samples`, fit to be an `x_init`.

        Args:
            wanted: as `sample`: conditions, solver, steps (60), ...
        """
        return self.sample(model, **latents.encoding(x, wanted))

    def decode(self, model: str, z: Any, **wanted: Any) -> Samples:
        """The samples of latents z [n, *event], or of an answer of `encode`, plain or steered.

        Args:
            wanted: as `sample`: conditions, solver and steps, as those that encoded them; a reward, ...
        """
        return self.sample(model, **latents.decoding(z, wanted))

    def score(
        self,
        reward: str,
        x: Any,
        *,
        reward_args: Mapping[str, Any] | None = None,
        version: str = "",
        timeout: float | None = None,
        **arguments: Any,
    ) -> Floats:
        """What a served network makes of samples x [n, *event]: float32 [n]. An argument is for all or [n, ...]."""
        patience = self._patience(timeout)
        return self._run(
            operations.score(self._memory, patience, reward, x, version, {**arguments, **(reward_args or {})})
        )

    def infer(
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
        """Plain inference: arrays by name in, a mapping of arrays out; what is sent is as it is given."""
        patience = self._patience(timeout)
        return self._run(
            operations.infer(
                self._memory, patience, model, inputs or {}, parameters or {}, outputs, version, request_id
            )
        )

    def likelihood(
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
        """Log-likelihoods in nats of samples x [n, *event] under a sampler's model.

        Args:
            law: `data` or `sampler`.
            wanted: steps, seed, guidance, conditions, ...
        """
        asked, _ = Wanted.of(model, None, None, conditions, None, parameters, version, request_id, wanted)
        patience = self._patience(timeout)
        return self._run(operations.likelihood(self._memory, patience, asked, x, law, probes))

    def distill(
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
        """The gradient of a distillation loss with respect to views: what an optimiser descends to make them likely.

        Args:
            model: a sampler or a pipeline, or several with their weights, {"a": 1.0, "b": 0.5}.
            images: views [n, *event], float16 or float32, in the model's own range: images, or a pipeline's latents.
            iteration: counted by the caller. Noise and times are functions of it, of the seed and of the view.
            wanted: by name: seed, mode (sds, cds, ism), schedule (coarse, refine, texture, or a mapping of its fields),
                noise (fixed, iteration), weighting, guidance and its convention, clip, rescale, first_view, prompt and
                negative_prompt of a pipeline; reward, beta, posterior, particles and whatever else steers; conditions
                of the model and arguments of the reward as `sample` takes them.
            timeout: seconds for all of it.

        Raises:
            TiltserveError: a subclass for each status.
        """
        wanted["iteration"] = iteration
        asked = Asked.of(model, images, conditions, reward_args, parameters, version, request_id, wanted)
        return self._run(distillation.gradient(self._memory, self._patience(timeout), asked))

    def distillation(
        self,
        model: Models,
        *,
        conditions: Mapping[str, Any] | None = None,
        reward_args: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: str = "",
        **wanted: Any,
    ) -> "Distillation":
        """A session of distillation gradients on one stream: what is the same for all is sent once.

        Args:
            wanted: as `distill`, for every call; a call says the rest.
        """
        asked = Asked.of(model, None, conditions, reward_args, parameters, version, "", wanted)
        return Distillation(asked, self._memory, self._patience, self._session())

    def metadata(self, model: str, *, version: str = "", timeout: float | None = None) -> Metadata:
        """What a model takes and gives."""
        return self._run(operations.metadata(self._patience(timeout), model, version))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that are served."""
        return self.fleet(timeout=timeout).models

    def fleet(self, *, timeout: float | None = None) -> Fleet:
        """The models that are served, and the replicas that hold them."""
        return self._run(operations.fleet(self._patience(timeout)))

    def stats(self, model: str = "", *, version: str = "", timeout: float | None = None) -> list[Statistics]:
        """What the server counted, of one model or of all."""
        return self._run(operations.statistics(self._patience(timeout), model, version))

    def load(self, model: str, *, timeout: float | None = None) -> None:
        """Load a model's newest version; returns when it is ready."""
        self._run(operations.load(self._patience(timeout), model))

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Take a model out; returns when its requests are done."""
        self._run(operations.unload(self._patience(timeout), model))

    def ready(self, model: str | None = None, *, version: str = "", timeout: float | None = None) -> bool:
        """Whether the server is there and serves a model, or this one; False where it cannot be reached."""
        return self._run(operations.ready(self._patience(timeout), model, version))

    def _watched(
        self,
        asked: Wanted,
        previews: Mapping[str, Any],
        shown: bool,
        on_preview: Callable[[Shown], object] | None,
        patience: Patience,
    ) -> Samples:
        operation = operations.stream(self._memory, patience, asked, previews, small=on_preview is None)
        with progress.bar(asked.model, asked.n or 1, shown) as bar, Stream(operation, self._session()) as stream:
            try:
                for each in stream:
                    if not isinstance(each, Samples):
                        bar(each)
                        if on_preview is not None:
                            on_preview(each)
                return stream.result()
            except Unimplemented:
                if on_preview is not None:
                    raise
        return self._run(operations.sample(self._memory, patience, asked))  # a server that does not stream

    def _patience(self, timeout: float | None) -> Patience:
        return Patience(self._timeout if timeout is None else timeout, self._retries)

    def _session(self, score: Callable[[Floats], Any] | None = None) -> "_Session":
        return _Session(self._method, self._headers, score)

    def _run(self, operation: Operation[T], score: Callable[[Floats], Any] | None = None) -> T:
        """The result of an operation that emits nothing."""
        session = self._session(score)
        try:
            driven = _drive(operation, session)
            while True:
                next(driven)
        except StopIteration as done:
            result: T = done.value
            return result
        except errors.TiltserveError as error:
            raise error.with_traceback(None) from None  # how it came here would be a page of generators
        finally:
            session.close()

    def _method(self, rpc: Rpc, streaming: bool) -> Any:
        with self._lock:
            if rpc.path not in self._methods:
                make = self._channel.stream_stream if streaming else self._channel.unary_unary
                self._methods[rpc.path] = make(rpc.path, rpc.serialize, rpc.parse)
            return self._methods[rpc.path]


class Follow(Iterator[Seen | Last], Generic[Seen, Last]):
    """What is seen on the way, and what came of it last. As a context it is closed in the end, which takes the
    request off the server."""

    def __init__(self, operation: Operation[Last], session: "_Session") -> None:
        self._session, self._driven = session, _drive(operation, session)
        self._result: Last | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __next__(self) -> Seen | Last:
        if self._result is not None:
            raise StopIteration
        try:
            shown: Seen = next(self._driven)
            return shown
        except StopIteration as done:
            self.close()
            if done.value is None:
                raise  # it was closed before
            self._result = done.value
            return done.value
        except BaseException:
            self.close()
            raise

    def result(self) -> Last:
        """What comes last; what was not looked at is passed over."""
        for _ in self:
            pass
        if self._result is None:
            raise errors.Cancelled("the stream was closed before its end came")
        return self._result

    def close(self) -> None:
        """Take the request off the server, if it is still running."""
        self._session.close()


class Stream(Follow[Shown, Samples]):
    """Previews, and the samples last."""


class TrajectoryStream(Follow[Chunk, Trajectories]):
    """States as they become final, and the trajectories last."""


class Distillation:
    """Gradients of one model on one stream, one call at a time: threads wait for each other. Close it, or use it as a
    context. A stream that breaks is begun again; nothing of a session is on the server."""

    def __init__(
        self, asked: Asked, memory: Memory, patience: Callable[[float | None], Patience], session: "_Session"
    ) -> None:
        self._shared, self._memory, self._patience, self._session = Shared(asked), memory, patience, session
        self._lock, self._user = threading.Lock(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def distill(
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
        """As `Client.distill`, with what the session does not say already."""
        wanted["iteration"] = iteration
        asked = Asked.of(None, images, conditions, reward_args, None, "", request_id, wanted)
        (gradient,) = self._run([asked], timeout)
        return gradient

    def each(
        self, calls: Iterable[Mapping[str, Any]], *, ahead: int = 1, timeout: float | None = None
    ) -> Iterator[Gradient]:
        """The gradients of many calls in their order; each is a mapping of keywords of `distill`, with `images`.

        Args:
            ahead: how many calls are sent before the answer to the first is waited for.
            timeout: seconds for each.
        """
        return self._run(map(distillation.of_call, calls), timeout, ahead)

    def close(self) -> None:
        """End the stream."""
        self._session.close()

    def _run(self, calls: Iterable[Asked], timeout: float | None, ahead: int = 0) -> Iterator[Gradient]:
        patiently = partial(self._patience, timeout)
        operation = distillation.streamed(self._memory, patiently, self._shared, calls, ahead)
        me = threading.get_ident()
        if self._user == me:
            raise errors.InvalidArgument("expected no call of a session inside a loop over its each(), got one")
        with self._lock:
            if self._session.closed():
                raise errors.Cancelled("the session was closed")
            self._user = me
            try:
                yield from _drive(operation, self._session)
            except errors.TiltserveError as error:
                raise error.with_traceback(None) from None
            finally:
                self._user = 0
                operation.close()


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
        self._outgoing: SimpleQueue[Message | None] = SimpleQueue()
        self._closed = False

    def do(self, step: Step) -> Any:
        """What comes of a step; raises a `TiltserveError` where it fails."""
        match step:
            case Ask():
                return self._ask(step)
            case Open():
                self._end()
                self._outgoing = SimpleQueue()
                self._outgoing.put(step.message)
                if not step.more:
                    self._outgoing.put(None)
                messages, metadata = iter(self._outgoing.get, None), [*self._headers, *step.metadata]
                try:
                    self._call = self._method(step.rpc, True)(messages, timeout=step.seconds, metadata=metadata)
                except ValueError as error:  # a channel that was closed
                    raise errors.Cancelled(str(error)) from None
            case Receive():
                try:
                    return next(self._call, None)
                except grpc.RpcError as error:
                    raise errors.of_call(error) from None
            case Send():
                self._outgoing.put(step.message)
            case Score():
                assert self._score is not None
                return self._score(step.candidates)
            case Sleep():
                time.sleep(step.seconds)
        return None

    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._end()

    def _end(self) -> None:
        """Let go of the stream, and of the thread that gRPC sends its messages from."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._outgoing.put(None)

    def _ask(self, step: Ask) -> Any:
        try:
            answer, call = self._method(step.rpc, False).with_call(
                step.message, timeout=step.seconds, metadata=[*self._headers, *step.metadata]
            )
        except grpc.RpcError as error:
            raise errors.of_call(error) from None
        except ValueError as error:  # a channel that was closed
            raise errors.Cancelled(str(error)) from None
        return (answer, call.trailing_metadata()) if step.trailing else answer


def _drive(operation: Operation[T], session: _Session) -> Generator[Any, None, T | None]:
    """Do an operation's steps one after another; what it emits comes out here. None if the session was closed."""
    try:
        step = next(operation)
        while not session.closed():
            try:
                came = (yield step.value) if isinstance(step, Emit) else session.do(step)
            except errors.TiltserveError as error:
                if session.closed():
                    break
                step = operation.throw(error)
            else:
                step = operation.send(came)
    except StopIteration as done:
        result: T = done.value
        return result
    operation.close()
    return None
