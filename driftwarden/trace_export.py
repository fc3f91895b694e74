"""How spans leave: redacted, as JSON lines in a file per trace, or by OTLP over HTTP."""

import json
import logging
import math
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Status

from driftwarden import telemetry
from driftwarden.keyfile import make_folder

log = logging.getLogger(__name__)

_CONTENT_CHARS_MAX = 100_000
_WRITE_AFTER_S = 0.5
_SPANS_AT_ONCE = 256
_SPANS_MAX = 10_000
_READ_WAITS_MS = 5_000
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class Losses:
    """Says once in the log that spans are lost, and of what kind the fault is: its words may hold what a span held."""

    def __init__(self, where: str) -> None:
        """`where` they are lost."""
        self._where, self._told = where, False

    def tell(self, error: Exception) -> None:
        """Spans were lost to this error; the run goes on."""
        if not self._told:
            self._told = True
            kind = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            log.warning("traces: spans are lost in %s, and nothing else: %s (said once)", self._where, kind)


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
        self.inner, self._losses = inner, Losses("the upload")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export the redacted spans."""
        try:
            return self.inner.export([redacted_span(span) for span in spans])
        except Exception as error:  # noqa: BLE001 - a trace must never cost a run
            self._losses.tell(error)
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
    """Appends finished spans to `<folder>/<trace id>.jsonl`, a moment later and several at once; several processes may write
    one trace. What a process that is killed had not yet written is lost: the audit log tells the story, traces illustrate it."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first span ends."""
        self.folder = folder
        self._turn = threading.Condition()
        self._ended: list[ReadableSpan] = []
        self._writer: threading.Thread | None = None
        self._writing = self._hurry = self._closed = False
        self._losses = Losses("the local folder")
        _live.add(self)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is written before a span has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Have it written; a full disk, one that hangs or a missing right loses spans, never the run."""
        with self._turn:
            if self._closed or len(self._ended) >= _SPANS_MAX:
                return
            self._ended.append(span)
            if self._writer is None:
                writer = threading.Thread(target=self._write_on, name="driftwarden-traces", daemon=True)
                try:
                    writer.start()
                except RuntimeError as error:  # no thread is to be had now: the next span asks again
                    self._losses.tell(error)
                    return
                self._writer = writer
            if len(self._ended) in {1, _SPANS_AT_ONCE}:
                self._turn.notify_all()

    def _write_on(self) -> None:
        while True:
            with self._turn:
                self._writing = False
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._ended or self._closed)
                self._turn.wait_for(
                    lambda: self._hurry or self._closed or len(self._ended) >= _SPANS_AT_ONCE, _WRITE_AFTER_S
                )
                if self._closed and not self._ended:
                    return
                spans, self._ended, self._hurry = self._ended, [], False
                self._writing = True
            self._write(spans)

    def _write(self, spans: Sequence[ReadableSpan]) -> None:
        lines: dict[str, list[bytes]] = {}
        for span in spans:
            try:
                context = span.get_span_context()
                if context is not None:
                    trace_id = f"{context.trace_id:032x}"
                    lines.setdefault(trace_id, []).append(_line(_span_json(span, trace_id)))
            except Exception as error:  # noqa: BLE001 - else this thread ends, and whoever waits for it waits in vain
                self._losses.tell(error)
        for trace_id, those in lines.items():
            try:
                make_folder(self.folder)
                with (self.folder / f"{trace_id}.jsonl").open("ab", buffering=0) as file:
                    file.write(b"".join(those))
            except Exception as error:  # noqa: BLE001 - as above
                self._losses.tell(error)

    def shutdown(self) -> None:
        """Write what has ended, and nothing that ends later."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        _live.discard(self)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every finished span is written; True where it is."""
        with self._turn:
            self._hurry = bool(self._ended)
            self._turn.notify_all()
            return self._turn.wait_for(lambda: not self._ended and not self._writing, timeout_millis / 1000)


# Those that write now: whoever reads a trace in their process sees what has ended there.
_live: "weakref.WeakSet[LocalTraces]" = weakref.WeakSet()


def _line(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        return (json.dumps(document, default=str) + "\n").encode()


def _span_json(span: ReadableSpan, trace_id: str) -> dict[str, Any]:
    """A span without secrets, as `redacted_span` has them."""
    description = span.status.description
    context = span.get_span_context()
    start, end = span.start_time or 0, span.end_time or 0
    return {
        "trace_id": trace_id,
        "span_id": f"{context.span_id:016x}" if context else None,
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": telemetry.redact_text(span.name, chars_max=500),
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else None,
        "start_ns": start,
        "duration_ms": round((end - start) / 1e6, 3),
        "status": span.status.status_code.name.lower(),
        "error": telemetry.redact_text(description) if description else None,
        "attributes": redacted_attributes(span.attributes),
        "events": [
            {"name": telemetry.redact_text(event.name), "attributes": redacted_attributes(event.attributes)}
            for event in span.events
        ],
    }


def read_trace(folder: Path, trace_id: str) -> list[dict[str, Any]]:
    """The spans of one local trace in order of their start; a torn last line is left out, an unknown trace is empty."""
    path = folder / f"{trace_id}.jsonl"
    for traces in [one for one in _live if one.folder == folder]:
        traces.force_flush(_READ_WAITS_MS)
    if not _TRACE_ID.fullmatch(trace_id) or not path.is_file():
        return []
    spans = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            spans.append(json.loads(line))
        except ValueError:
            continue
    return sorted(spans, key=lambda span: (span["start_ns"], span["span_id"]))
