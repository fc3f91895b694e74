"""The rows that an event's window names, as a request carries them."""

import hashlib
from typing import Any
from urllib.parse import unquote, urlsplit

from driftwarden.contracts.effects import ActionRequest
from driftwarden.errors import Refused

JsonObject = dict[str, Any]


def window_of(request: ActionRequest) -> JsonObject:
    """`{uri, path, start, end}` of the event's window; Refused where it names neither a file nor a time range.

    Only the event's own window counts: a candidate that names another file is refused.
    """
    uri, start, end = request.window_uri, request.window_start, request.window_end
    named = request.candidate.params.get("uri", uri)
    if named != uri:
        raise Refused(f"{request.candidate.action.value}: `{named}` is not the event's window")
    if uri is None and (start is None or end is None):
        raise Refused(f"{request.candidate.action.value}: the event names no window (neither a file nor a time range)")
    return {"uri": uri, "path": None if uri is None else _path(uri), "start": start, "end": end}


def batch_name(request: ActionRequest) -> str:
    """A name for the window's rows: the same window is the same batch, whatever incident it comes from."""
    window = window_of(request)
    text = "\n".join(str(window[part]) for part in ("path", "start", "end"))
    return f"batch-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def origin(request: ActionRequest) -> JsonObject:
    """Who left a record: `{key, incident, correlation_id, at}`."""
    return {
        "key": request.idempotency_key,
        "incident": request.incident,
        "correlation_id": request.correlation_id,
        "at": request.now,
    }


def _path(uri: str) -> str:
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else uri
