"""Traces: one drift event is one trace whose id is the correlation id, kept locally and, where configured, in Langfuse.

Spans of the agents' framework belong to it too. What leaves the process has gone through the same redaction as the
logs. A trace server that is away, refuses or hangs never touches a run: spans leave in the background, and are dropped.
"""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Status, StatusCode

from driftwarden import __version__, telemetry
from driftwarden.trace_export import LocalTraces, Losses, otlp_exporter

ATTRIBUTE_CORRELATION = "driftwarden.correlation_id"
ATTRIBUTE_INCIDENT = "driftwarden.incident"
_LOOKUP_TIMEOUT_S = 2.0
_SAYS_NOTHING = "execute_tool (merged)"  # of the framework, after each turn with several calls; no span is below it
_ATTRIBUTE_CHARS_MAX = 100_000


class Langfuse(NamedTuple):
    """A Langfuse server: its address without a path, the project's keys, and the project's id where it is known."""

    base_url: str
    public_key: str
    secret_key: str
    project_id: str | None = None

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Langfuse({self.base_url!r}, {self.public_key!r})"


class TracingSettings(NamedTuple):
    """Where traces go: a folder of JSON lines, Langfuse, an OTLP collector; any, all or none of them.

    `otlp_endpoint` is the collector's base address (`/v1/traces` is appended). `export_timeout_s` bounds one upload.
    """

    folder: Path | None = None
    langfuse: Langfuse | None = None
    otlp_endpoint: str | None = None
    environment: str = "production"
    export_timeout_s: float = 5.0


class Observation:
    """A span that is running: give it attributes and an output."""

    def __init__(self, span: trace.Span) -> None:
        """Wrap an OpenTelemetry span."""
        self.span = span

    def set(self, **attributes: Any) -> None:
        """Add attributes; what is neither text, number nor truth value is written as JSON, None is left out."""
        for name, value in attributes.items():
            if value is not None:
                self.span.set_attribute(f"driftwarden.{name}", _attribute(value))

    def output(self, value: Any) -> None:
        """What came out of this step, as JSON."""
        self.span.set_attribute("langfuse.observation.output", _attribute(value))

    def failed(self, reason: str) -> None:
        """Mark the step as failed, with a one-line reason."""
        self.span.set_status(Status(StatusCode.ERROR, telemetry.redact_text(reason, chars_max=500)))


class Tracing:
    """The process's tracing, as configured; made by `configure_tracing`."""

    def __init__(self, settings: TracingSettings, tracer: trace.Tracer, processors: tuple[SpanProcessor, ...]) -> None:
        """Keep what `configure_tracing` made."""
        self.settings = settings
        self._tracer = tracer
        self._processors = processors
        self._project: str | None = settings.langfuse.project_id if settings.langfuse else None
        self._project_asked = False

    @contextmanager
    def span(
        self,
        name: str,
        *,
        correlation_id: str | None = None,
        incident: str | None = None,
        kind: str = "span",
        input: Any = None,
        **attributes: Any,
    ) -> Iterator[Observation]:
        """Run a block as a span; log lines inside carry its correlation id too.

        With a `correlation_id` (32 hex digits) that is not the running trace's, it starts at the root of that very
        trace, however often and in whichever process. `kind`: `span`, `agent`, `tool`, `chain`, ... (Langfuse's types).
        An error that passes through is recorded and raised on.
        """
        own, own_incident = telemetry.current_correlation()
        correlation_id, incident = correlation_id or own, incident or own_incident
        with telemetry.correlation(correlation_id, incident):
            here = otel_context.get_current()
            running = trace.get_current_span(here).get_span_context()
            if correlation_id is None or not running.is_valid or f"{running.trace_id:032x}" != correlation_id:
                here = Context()  # a root of its own
            with self._tracer.start_as_current_span(name, context=here) as span:
                observation = Observation(span)
                span.set_attribute("langfuse.observation.type", kind)
                if input is not None:
                    span.set_attribute("langfuse.observation.input", _attribute(input))
                observation.set(**attributes)
                yield observation

    def trace_url(self, correlation_id: str) -> str | None:
        """Where a person reads the trace: Langfuse's page, else the local file's URI, else None."""
        server = self.settings.langfuse
        if server is not None:
            project = self._langfuse_project(server)
            base, trace_id = server.base_url.rstrip("/"), quote(correlation_id, safe="")
            return (
                f"{base}/project/{quote(project, safe='')}/traces/{trace_id}" if project else f"{base}/trace/{trace_id}"
            )
        if self.settings.folder is not None:
            return (self.settings.folder / f"{correlation_id}.jsonl").absolute().as_uri()
        return None

    def _langfuse_project(self, server: Langfuse) -> str | None:
        if self._project is None and not self._project_asked:
            self._project_asked = True
            import httpx

            try:
                answer = httpx.get(
                    f"{server.base_url.rstrip('/')}/api/public/projects",
                    auth=(server.public_key, server.secret_key),
                    timeout=_LOOKUP_TIMEOUT_S,
                )
                project = answer.json()["data"][0]["id"] if answer.status_code == 200 else None
                self._project = project if isinstance(project, str) else None
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError):
                self._project = None
        return self._project

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what is finished has left, at most `timeout_s`; True where it has. Only for a process's end."""
        done = threading.Event()

        def work() -> None:
            flushed = [processor.force_flush(int(timeout_s * 1000)) for processor in self._processors]
            if all(flushed):
                done.set()
            finished.set()

        finished = threading.Event()
        threading.Thread(target=work, name="driftwarden-trace-flush", daemon=True).start()
        finished.wait(timeout_s)
        return done.is_set()


class _CorrelationIds(RandomIdGenerator):
    """A new trace takes the correlation id of the running context for its id."""

    def generate_trace_id(self) -> int:
        correlation_id, _ = telemetry.current_correlation()
        try:
            trace_id = int(correlation_id or "", 16)
        except ValueError:
            trace_id = 0
        return trace_id if 0 < trace_id < 2**128 else super().generate_trace_id()


class _Router(SpanProcessor):
    """Hands spans of drift events to the processors in force; spans of anything else are nobody's business."""

    def __init__(self) -> None:
        self.targets: tuple[SpanProcessor, ...] = ()
        self.losses = Losses("this process")

    def _tell(self, do: Callable[[SpanProcessor], None]) -> None:
        # The steps of an incident begin and end their spans themselves: whatever fails here would fail the step.
        for target in self.targets:
            try:
                do(target)
            except Exception as error:  # noqa: BLE001 - a trace must never cost a run
                self.losses.tell(error)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        correlation_id, incident = telemetry.current_correlation()
        context = span.get_span_context()
        if correlation_id is None or context is None or f"{context.trace_id:032x}" != correlation_id:
            return
        span.set_attribute(ATTRIBUTE_CORRELATION, correlation_id)
        span.set_attribute("langfuse.trace.name", "drift-event")
        if incident:
            span.set_attribute(ATTRIBUTE_INCIDENT, incident)
            span.set_attribute("langfuse.session.id", incident[:200])
        self._tell(lambda target: target.on_start(span, parent_context))

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == _SAYS_NOTHING:
            return
        if span.attributes and ATTRIBUTE_CORRELATION in span.attributes:
            self._tell(lambda target: target.on_end(span))

    def shutdown(self) -> None:
        for target in self.targets:
            target.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        flushed = [target.force_flush(timeout_millis) for target in self.targets]
        return all(flushed)


_lock = threading.Lock()
_router = _Router()
_provider: TracerProvider | None = None


def configure_tracing(settings: TracingSettings | None = None) -> Tracing:
    """Put these settings in force for the whole process (the framework knows one provider) and return its tracing.

    May be called again: the new settings replace the old ones. Never raises for a server that is away.
    """
    global _provider
    settings = settings or TracingSettings()
    telemetry.quiet_libraries()
    processors: list[SpanProcessor] = []
    if settings.folder is not None:
        processors.append(LocalTraces(settings.folder))
    timeout_s = settings.export_timeout_s
    if settings.langfuse is not None:
        server = settings.langfuse
        telemetry.register_secret(server.secret_key)
        telemetry.register_secret(base64.b64encode(f"{server.public_key}:{server.secret_key}".encode()).decode())
        exporter = otlp_exporter(
            f"{server.base_url.rstrip('/')}/api/public/otel/v1/traces",
            timeout_s=timeout_s,
            auth=(server.public_key, server.secret_key),
            headers={"x-langfuse-sdk-name": "driftwarden", "x-langfuse-sdk-version": __version__},
        )
        processors.append(BatchSpanProcessor(exporter, schedule_delay_millis=2_000))
    if settings.otlp_endpoint is not None:
        exporter = otlp_exporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout_s=timeout_s)
        processors.append(BatchSpanProcessor(exporter, schedule_delay_millis=2_000))
    with _lock:
        if _provider is None:
            _provider = TracerProvider(
                sampler=ALWAYS_ON,
                id_generator=_CorrelationIds(),
                resource=Resource.create(
                    {
                        "service.name": "driftwarden",
                        "service.version": __version__,
                        "langfuse.environment": settings.environment.lower()[:40],
                    }
                ),
                span_limits=SpanLimits(max_span_attribute_length=_ATTRIBUTE_CHARS_MAX),
                shutdown_on_exit=False,  # it would wait for a server that hangs; `flush` is bounded
            )
            _provider.add_span_processor(_router)
            trace.set_tracer_provider(_provider)
        old, _router.targets = _router.targets, tuple(processors)
        _router.losses = Losses("this process")
        tracer = _provider.get_tracer("driftwarden", __version__)
    for processor in old:
        threading.Thread(target=processor.shutdown, daemon=True).start()
    return Tracing(settings, tracer, tuple(processors))


def _attribute(value: Any) -> str | bool | int | float:
    if isinstance(value, str | bool | int | float):
        return value
    return json.dumps(telemetry.redact(value), allow_nan=False, default=str)
