"""A loopback Langfuse server: OTLP intake and the reading endpoints, answering as a real self-hosted v4 does."""

import base64
import gzip
import json
import threading
from typing import Any

from fakes.loopback import HANG, LoopbackServer, Reply, Request, json_reply
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class FakeLangfuse(LoopbackServer):
    """Holds one project with one pair of keys; `spans` are those it accepted. `mode`: `ok`, `down` (500) or `hang`."""

    def __init__(self, *, public_key: str = "pk-lf-1", secret_key: str = "sk-lf-0123456789", mode: str = "ok") -> None:
        """Bind a port."""
        super().__init__()
        self.public_key, self.secret_key, self.mode = public_key, secret_key, mode
        self.spans: list[dict[str, Any]] = []
        self.arrived = threading.Condition()

    def reply(self, request: Request) -> Reply:
        """Check in the real server's order: method, auth, gunzip, content type, parse, empty."""
        if self.mode == "hang":
            return HANG
        if self.mode == "down":
            return json_reply({"message": "Internal Server Error"}, 500)
        refused = self._refused(request)
        if request.path == "/api/public/projects":
            return refused or json_reply({"data": [{"id": "project-1", "name": "demo"}]})
        if request.path != "/api/public/otel/v1/traces":
            return json_reply({"message": "Not found"}, 404)
        if request.method != "POST":
            return json_reply({"message": "Method not allowed"}, 405)
        if refused:
            return refused
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            try:
                body = gzip.decompress(body)
            except OSError:
                return json_reply({"error": "Failed to decompress request body"}, 400)
        if request.headers.get("content-type") != "application/x-protobuf":
            return json_reply({"error": "Invalid content type"}, 400)
        document = ExportTraceServiceRequest()
        try:
            document.ParseFromString(body)
        except DecodeError:
            return json_reply({"error": "Failed to parse OTel Protobuf Trace"}, 400)
        spans = [span for resource in document.resource_spans for scope in resource.scope_spans for span in scope.spans]
        if not spans:
            return json_reply({})
        with self.arrived:
            self.spans += [_span(span) for span in spans]
            self.arrived.notify_all()
        return json_reply({"name": "otel-ingestion-job", "data": {"id": "1"}})

    def _refused(self, request: Request) -> Reply | None:
        authorization = request.headers.get("authorization")
        if not authorization:
            return json_reply({"message": "No authorization header"}, 401)
        scheme, _, token = authorization.partition(" ")
        if scheme == "Bearer" and token == self.public_key:
            return json_reply({"message": "Access denied - insufficient permissions for this endpoint"}, 403)
        if scheme != "Basic":
            return json_reply({"message": "Invalid authorization header"}, 401)
        if base64.b64decode(token).decode().partition(":")[2] != self.secret_key:
            return json_reply({"message": "Invalid credentials. Confirm that you've configured the correct host."}, 401)
        return None


def _span(span: Any) -> dict[str, Any]:
    values = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        values[item.key] = getattr(item.value, kind) if kind else None
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex(),
        "name": span.name,
        "attributes": values,
        "text": json.dumps({name: str(value) for name, value in values.items()}) + str(span.events) + str(span.status),
    }
