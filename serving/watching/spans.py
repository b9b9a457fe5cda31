"""Spans of requests, as OpenTelemetry has them. This module is imported only where traces are wanted.

A request's span and those of calls to others begin when these begin, since their ids travel. All else is numbers until
the request has ended: spans with a begin and an end are made of them then, and only if the request is sampled.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from serving.watching.record import REQUEST_ID, Metadata, Record, escaped

FLUSH_S = 3.0
"""Seconds in which a process that ends may send its last spans."""
MODEL = "tiltserve.model"
_CARRIER = TraceContextTextMapPropagator()


class Spans:
    """Where the spans of one process go.

    Args:
        processor: takes them, see `otlp`.
        ratio: the share of requests that is sampled, of those whose caller has not decided it.
        part: what the process is, `front` or `replica`, and instance its name.

    Attributes:
        ratio: as above.
        asked: whether a request for a model is to be sampled whatever the ratio; called once for each request whose
            caller has not decided it.
    """

    def __init__(self, processor: SpanProcessor, ratio: float = 1.0, *, part: str = "", instance: str = "") -> None:
        self.ratio = ratio
        self.asked: Callable[[str], bool] = lambda model: False
        told = {"service.name": f"tiltserve-{part}" if part else "tiltserve", "service.instance.id": instance}
        self._provider = TracerProvider(
            sampler=ParentBased(_Chosen(self)),
            resource=Resource.create({name: each for name, each in told.items() if each}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tiltserve")

    def open(self, record: Record) -> "Trace":
        """The trace of a request, begun when the request came."""
        return Trace(self._tracer, record)

    async def close(self) -> None:
        """Send what is left, for no longer than `FLUSH_S`."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waited so long
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=send, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await sent.wait()


class Trace:
    """The spans of one request in this process."""

    def __init__(self, tracer: trace.Tracer, record: Record) -> None:
        self._tracer, self._request_id = tracer, record.id
        self._span = tracer.start_span(
            record.method,
            _CARRIER.extract(dict(record.carried), Context()),
            SpanKind.SERVER,
            {MODEL: escaped(record.model)} if record.model else {},
            start_time=record.began_ns,
        )
        self._context = trace.set_span_in_context(self._span, Context())

    @property
    def here(self) -> trace.SpanContext:
        """The request's own span."""
        return self._span.get_span_context()

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return trace.format_trace_id(self.here.trace_id)

    @property
    def sampled(self) -> bool:
        """Whether its spans are kept."""
        return self._span.is_recording()

    @property
    def response(self) -> str:
        """The trace and span as W3C's `traceresponse` has them."""
        return f"00-{self.id}-{trace.format_span_id(self.here.span_id)}-{self.here.trace_flags:02x}"

    @contextlib.contextmanager
    def asking(
        self, what: str, others: Sequence[Record], attributes: Mapping[str, str | int | float]
    ) -> Iterator[Metadata]:
        """As `Record.asking`."""
        links = [Link(each.trace.here) for each in others if each.trace is not None]
        span = self._tracer.start_span(what, self._context, SpanKind.CLIENT, _named(attributes), links)
        carried: dict[str, str] = {}
        _CARRIER.inject(carried, trace.set_span_in_context(span, Context()))
        try:
            yield [(REQUEST_ID, self._request_id), *carried.items()]
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, _fault(error)))
            raise
        finally:
            span.end()

    def end(self, record: Record) -> None:
        """Make the spans of what has been noted, and end the request's own."""
        if self.sampled:
            for each in record.pieces:
                piece = self._tracer.start_span(
                    each.name, self._context, attributes=_named(each.attributes), start_time=record.ns(each.began)
                )
                piece.end(record.ns(each.ended))
            self._span.set_attributes(_of(record))
            if record.code is not grpc.StatusCode.OK:
                self._span.set_status(Status(StatusCode.ERROR, record.code.name))
        self._span.end(record.ns(record.ended))


class _Chosen(Sampler):
    """Samples what is asked for, and a share of the rest."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if self._spans.asked(str((attributes or {}).get(MODEL, ""))):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        share = TraceIdRatioBased(self._spans.ratio)
        return share.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"Chosen{{{self._spans.ratio:g}}}"


def otlp(address: str) -> SpanProcessor:
    """Sends spans in batches to a collector over OTLP/gRPC; what it cannot take is dropped.

    Args:
        address: HOST:PORT, or with http:// or https:// before it. OTEL_EXPORTER_OTLP_* say the rest: headers,
            certificates, compression.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    endpoint = address if "://" in address else f"http://{address}"
    options = (("grpc.enable_http_proxy", 0),)
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, channel_options=options))  # type: ignore[arg-type]


def _of(record: Record) -> dict[str, str | int | float]:
    """What a request's span says of it."""
    told: dict[str, str | int | float] = {
        "rpc.system": "grpc",
        "rpc.method": record.method,
        "rpc.grpc.status_code": record.code.value[0],
        "client.address": record.peer,
        "enduser.id": record.identity,
        MODEL: escaped(record.model),
        "tiltserve.version": escaped(record.version),
        "tiltserve.request_id": record.id,
        "tiltserve.status": record.code.name,
        "tiltserve.rows": record.rows,
        "tiltserve.tries": record.tries,
        "tiltserve.bytes_in": record.bytes_in,
        "tiltserve.bytes_out": record.bytes_out,
        **_named(record.attributes),
    }
    return {name: value for name, value in told.items() if value != ""}


def _named(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {f"tiltserve.{name}": value for name, value in attributes.items()}


def _fault(error: BaseException) -> str:
    """A gRPC status, or the name of what was raised."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
