"""How spans leave: redacted, as JSON lines in a file per trace, or by OTLP over HTTP."""

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from driftwarden import telemetry
from driftwarden.keyfile import make_folder

_CONTENT_CHARS_MAX = 100_000
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def redacted_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Attributes without secrets, in the types that spans may hold."""
    result: dict[str, Any] = {}
    for name, value in (attributes or {}).items():
        if isinstance(value, str):
            secret = telemetry.is_secret_key(name)
            result[name] = telemetry.REDACTED if secret else telemetry.redact_text(value, chars_max=_CONTENT_CHARS_MAX)
        elif isinstance(value, float) and not math.isfinite(value):
            result[name] = str(value)
        elif isinstance(value, list | tuple):
            result[name] = [telemetry.redact_text(item) if isinstance(item, str) else item for item in value]
        else:
            result[name] = value
    return result


def redacted_span(span: ReadableSpan) -> ReadableSpan:
    """The same span without secrets in its name, attributes, events or status."""
    description = span.status.description
    return ReadableSpan(
        name=telemetry.redact_text(span.name, chars_max=500),
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=redacted_attributes(span.attributes),
        events=[
            Event(
                name=telemetry.redact_text(event.name),
                attributes=redacted_attributes(event.attributes),
                timestamp=event.timestamp,
            )
            for event in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, telemetry.redact_text(description) if description else None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class RedactingExporter(SpanExporter):
    """Redacts every span before another exporter sees it; that exporter's errors lose the batch, never the run."""

    def __init__(self, inner: SpanExporter) -> None:
        """Wrap `inner`."""
        self.inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export the redacted spans."""
        try:
            return self.inner.export([redacted_span(span) for span in spans])
        except Exception:  # noqa: BLE001 - a trace must never cost a run
            return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the inner exporter."""
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self.inner.force_flush(timeout_millis)


def otlp_exporter(
    url: str,
    *,
    timeout_s: float,
    auth: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> SpanExporter:
    """OTLP (protobuf, gzip) over HTTP to `url`; `auth` is (user, password) for Basic."""
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.auth = auth  # set here, a machine's netrc cannot replace it
    return RedactingExporter(
        OTLPSpanExporter(
            endpoint=url,
            headers=dict(headers or {}),
            timeout=timeout_s,
            compression=Compression.Gzip,
            session=session,
        )
    )


class LocalTraces(SpanProcessor):
    """Appends each finished span to `<folder>/<trace id>.jsonl`; several processes may write one trace."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first span ends."""
        self.folder = folder
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is written before a span has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Write one line; a full disk or a missing right loses the span, never the run."""
        context = span.get_span_context()
        if context is None:
            return
        trace_id = f"{context.trace_id:032x}"
        line = json.dumps(_span_json(redacted_span(span), trace_id), default=str) + "\n"
        path = self.folder / f"{trace_id}.jsonl"
        with self._lock:
            try:
                make_folder(self.folder)
                with path.open("ab", buffering=0) as file:
                    file.write(line.encode())
            except OSError:
                return

    def shutdown(self) -> None:
        """Nothing stays open."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Every finished span is already written."""
        return True


def _span_json(span: ReadableSpan, trace_id: str) -> dict[str, Any]:
    context = span.get_span_context()
    start, end = span.start_time or 0, span.end_time or 0
    return {
        "trace_id": trace_id,
        "span_id": f"{context.span_id:016x}" if context else None,
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else None,
        "start_ns": start,
        "duration_ms": round((end - start) / 1e6, 3),
        "status": span.status.status_code.name.lower(),
        "error": span.status.description,
        "attributes": dict(span.attributes or {}),
        "events": [{"name": event.name, "attributes": dict(event.attributes or {})} for event in span.events],
    }


def read_trace(folder: Path, trace_id: str) -> list[dict[str, Any]]:
    """The spans of one local trace in order of their start; a torn last line is left out, an unknown trace is empty."""
    path = folder / f"{trace_id}.jsonl"
    if not _TRACE_ID.fullmatch(trace_id) or not path.is_file():
        return []
    spans = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            spans.append(json.loads(line))
        except ValueError:
            continue
    return sorted(spans, key=lambda span: (span["start_ns"], span["span_id"]))
