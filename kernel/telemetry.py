"""OpenTelemetry spans, when an exporter is configured; else nothing is loaded and nothing runs.

A span stands for one call: its name is the method, its parent the caller's `traceparent`, which
comes in the metadata.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sira import __version__
from sira.kernel.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Telemetry:
    """Makes spans and ships them from a thread of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        """Use a provider that the caller has set up with an exporter."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("sira.kernel", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def span(
        self, method: str, metadata: Mapping[str, str | bytes], **attributes: str
    ) -> AbstractContextManager[Any]:
        """Return a span around one call; an exception inside marks it as failed."""
        from opentelemetry.trace import SpanKind

        carrier = {
            key: str(metadata[key]) for key in ("traceparent", "tracestate") if key in metadata
        }
        service, _, name = method.lstrip("/").partition("/")
        return self._tracer.start_as_current_span(
            method.lstrip("/"),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
            | attributes,
        )

    def ids(self) -> dict[str, str]:
        """Return trace and span id of the current span, for log lines."""
        from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

        context = get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {
            "trace_id": format_trace_id(context.trace_id),
            "span_id": format_span_id(context.span_id),
        }

    def close(self) -> None:
        """Ship what waits."""
        self._provider.shutdown()


def configured(settings: Settings) -> Telemetry | None:
    """Return the telemetry that settings or environment ask for; None: nobody asks.

    An OTLP exporter reads its further options (headers, certificates) from the OTEL_ variables.
    """
    if not settings.otlp_endpoint and not any(os.environ.get(v) for v in ENDPOINT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {"service.name": "sira", "service.version": __version__, "sira.node": settings.node_name}
    )
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(provider)
