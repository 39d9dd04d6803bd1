"""Spans for OpenTelemetry, when the `otel` extra is installed and OTEL_EXPORTER_OTLP_ENDPOINT says where they go.

All else is OpenTelemetry's own: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and so on. Switched off,
a request costs one look at `on()`.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

from fabmon.errors import SettingsError
from fabmon.trace import Carried
from fabmon.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_LAST_SECONDS: Final = 2.0
_tracer: "Tracer | None" = None


def on() -> bool:
    return _tracer is not None


@contextmanager
def exporting(role: str) -> Iterator[None]:
    """Export spans as long as the context is open, if the environment asks for it; those that wait are sent at the end.

    Raises SettingsError when they are asked for and the extra is missing.
    """
    global _tracer
    if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(f"{_ENDPOINTS[0]} is set, and the extra is missing: pip install 'fabmon[otel]'") from None
    # Of the two, what the environment says goes before ours.
    ours = {"service.name": f"fabmon-{role}", "service.version": __version__}
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({name: value for name, value in ours.items() if not (named and name == "service.name")})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("fabmon", __version__)
    try:
        yield
    finally:
        _tracer = None
        giving_up = threading.Timer(_LAST_SECONDS, exporter.shutdown)  # else it tries for ten seconds
        giving_up.start()
        provider.shutdown()
        giving_up.cancel()


def begin(
    name: str, kind: Literal["SERVER", "CLIENT"], parents: Sequence[Carried], attributes: Mapping[str, str | int]
) -> "tuple[Span, str]":
    """A span and its `traceparent`: the child of its one parent, or a trace of its own that links to several."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context

    assert _tracer is not None  # noqa: S101 - whoever calls has asked on()
    contexts = [_context(parent) for parent in parents if parent.traceparent]
    parent = set_span_in_context(NonRecordingSpan(contexts[0]), Context()) if len(contexts) == 1 else Context()
    links = [Link(context) for context in contexts] if len(contexts) > 1 else []
    span = _tracer.start_span(name, parent, SpanKind[kind], attributes, links)
    mine = span.get_span_context()
    return span, f"00-{mine.trace_id:032x}-{mine.span_id:016x}-{int(mine.trace_flags):02x}"


def end(span: "Span", status: int | None, route: str = "") -> None:
    """*status*: of the answer; None when there was none."""
    from opentelemetry.trace import StatusCode

    if route:
        span.update_name(route)
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    if not status or status >= 500:
        span.set_status(StatusCode.ERROR)
    span.end()


def _context(carried: Carried) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    _, trace_id, span_id, flags = carried.traceparent.split("-")
    state = TraceState.from_header([carried.tracestate]) if carried.tracestate else None
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
