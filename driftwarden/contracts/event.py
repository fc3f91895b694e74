"""Drift events as they come: CloudEvents 1.0 in JSON (contract §2), read strictly, kept as the string that came."""

import hashlib
import json
import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import BadInput, EventRejected, kind_of
from driftwarden.strict import loads_json

EVENT_BYTES_MAX = 1024 * 1024
DRIFT_TYPE = "io.driftwarden.drift.v1"
PERFORMANCE_TYPE = "io.driftwarden.performance.v1"
MODEL_NAME_PATTERN = r"[A-Za-z0-9._-]{1,128}"

EventKind = Literal[
    "data_drift",
    "prediction_drift",
    "label_drift",
    "concept_drift",
    "performance_drop",
    "data_quality",
    "schema_change",
    "pipeline_failure",
]

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("an RFC 3339 date and time with a zone")
    try:
        return parse_rfc3339(value)
    except (ValueError, OverflowError):
        raise ValueError("an RFC 3339 date and time with a zone") from None


Moment = Annotated[datetime, BeforeValidator(_moment)]
Rows = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class _Carried(BaseModel):
    """Named fields are typed; every other field is carried along and decides nothing."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Window(_Carried):
    """Where and when the rows are: `start` <= row time < `end`."""

    start: Moment | None = None
    end: Moment | None = None
    rows: Rows | None = None
    uri: Text | None = None


class Reference(_Carried):
    """What the window was compared with."""

    rows: Rows | None = None
    uri: Text | None = None
    version: Text | int | None = None


class ColumnDrift(_Carried):
    """One column as the detector saw it."""

    name: Text
    type: Literal["numeric", "categorical", "text", "datetime"] | None = None
    role: Literal["feature", "prediction", "target"] | None = None
    method: Text | None = None
    score: Number | None = None
    threshold: Number | None = None
    drifted: Flag | None = None


class Performance(_Carried):
    """A metric of the model, on the reference and now."""

    metric: Text | None = None
    reference: Number | None = None
    current: Number | None = None
    higher_is_better: Flag | None = None
    labelled_rows: Rows | None = None


class Detector(_Carried):
    """Who saw it."""

    name: Text | None = None
    version: Text | None = None


class DriftData(_Carried):
    """The data of `io.driftwarden.drift.v1`."""

    model: Annotated[str, Field(strict=True, pattern=f"^{MODEL_NAME_PATTERN}$")]
    kind: EventKind
    environment: Text = "production"
    window: Window | None = None
    reference: Reference | None = None
    columns: tuple[ColumnDrift, ...] = ()
    drift_share: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    performance: Performance | None = None
    detector: Detector | None = None
    report_uri: Text | None = None


class PerformanceData(_Carried):
    """The data of `io.driftwarden.performance.v1`."""

    model: Annotated[str, Field(strict=True, pattern=f"^{MODEL_NAME_PATTERN}$")]
    environment: Text
    window: Window
    performance: Performance


class DriftEvent(_Carried):
    """A CloudEvents 1.0 event; `raw` is the string that came, `correlation_id` follows contract §2."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(strict=True, min_length=1, max_length=1024)]
    source: Annotated[str, Field(strict=True, min_length=1, max_length=2048)]
    type: Literal["io.driftwarden.drift.v1", "io.driftwarden.performance.v1"]
    time: Moment
    subject: Text | None = None
    traceparent: Any = None
    data: DriftData | PerformanceData
    raw: str = Field(default="", exclude=True, repr=False)

    @property
    def model(self) -> str:
        """Name of the model concerned."""
        return self.data.model

    @property
    def kind(self) -> str:
        """The event's kind; a performance report has the kind `performance`."""
        return self.data.kind if isinstance(self.data, DriftData) else "performance"

    @property
    def correlation_id(self) -> str:
        """32 lowercase hex digits: the trace id of `traceparent`, else from SHA-256 of source and id."""
        match = _TRACEPARENT.fullmatch(self.traceparent) if isinstance(self.traceparent, str) else None
        if match and (self.traceparent[:2] != "00" or not match.group(2)):
            return match.group(1)
        return hashlib.sha256(f"{self.source}\n{self.id}".encode()).hexdigest()[:32]


# A surrogate, escaped or bare: most texts hold none, and need no second look.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def parse_event(raw: str | bytes) -> DriftEvent:
    """Read one event; raises EventRejected naming the field, what was got and what was expected."""
    size = len(raw) if isinstance(raw, bytes) else len(raw.encode("utf-8", "surrogatepass"))
    if size > EVENT_BYTES_MAX:
        raise EventRejected("event", got=f"{size} bytes", expected=f"at most {EVENT_BYTES_MAX} bytes")
    try:
        document = loads_json(raw, where="event")
    except BadInput as error:
        if error.what == "duplicate key":
            raise EventRejected(_path_of_twice(raw), got="the key twice", expected="each key once") from None
        field = _path_of_not_finite(raw) if error.what.startswith(("not a JSON number", "number out of")) else "event"
        raise EventRejected(field, got=error.got or error.what, expected=error.expected or "JSON") from None
    if not isinstance(document, dict):
        raise EventRejected("event", got=kind_of(document), expected="a JSON object")
    text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    if (path := _path_of_lone_surrogate(document, text)) is not None:
        raise EventRejected(path, got="half a character", expected="a string without lone surrogates")
    document = {key: value for key, value in document.items() if key != "raw"}
    model: type[DriftData | PerformanceData] = (
        PerformanceData if document.get("type") == PERFORMANCE_TYPE else DriftData
    )
    try:
        envelope = _Envelope.model_validate(document)
        data = model.model_validate(envelope.data)
        return DriftEvent.model_validate({**document, "data": data, "raw": text})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _rejection(first, in_data=error.title != "_Envelope") from None


def _path_of_lone_surrogate(document: dict[str, Any], text: str) -> str | None:
    """The dotted path of the first string that JSON can spell and UTF-8 cannot: nobody could store it. None: there is none."""
    if not _SURROGATE.search(text):
        return None
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str) and not _is_utf8(value):
            return path
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        inner = [(f"{path}.{name}" if path else str(name), child) for name, child in children]
        if wrong := next((name for name, _ in inner if not _is_utf8(name)), None):
            return wrong.encode("utf-8", "replace").decode()
        waiting += reversed(inner)
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _path_of_not_finite(raw: str | bytes) -> str:
    """The dotted path of the first NaN or infinity of a document that JSON proper does not allow; `event` if none is found."""
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(raw))]
    except (ValueError, RecursionError):
        return "event"
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path or "event"
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += reversed([(f"{path}.{name}" if path else str(name), child) for name, child in children])
    return "event"


def _path_of_twice(raw: str | bytes) -> str:
    """The dotted path of the first key that stands twice in one object; `event` if none is found."""
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(raw, object_pairs_hook=_Pairs))]
    except (ValueError, RecursionError):
        return "event"
    while waiting:
        path, value = waiting.pop()
        children = value if isinstance(value, _Pairs) else enumerate(value) if isinstance(value, list) else ()
        seen = set()
        inner = []
        for name, child in children:
            here = f"{path}.{name}" if path else str(name)
            if name in seen:
                return here
            seen.add(name)
            inner.append((here, child))
        waiting += reversed(inner)
    return "event"


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as the pairs that came."""

    __slots__ = ()


class _Envelope(_Carried):
    """The attributes of the event without its data, so that the field that is named is the one that is wrong."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(strict=True, min_length=1, max_length=1024)]
    source: Annotated[str, Field(strict=True, min_length=1, max_length=2048)]
    type: Literal["io.driftwarden.drift.v1", "io.driftwarden.performance.v1"]
    time: Moment
    subject: Text | None = None
    data: dict[str, Any]


_EXPECTED = {
    "missing": "the field to be there",
    "string_type": "a string",
    "string_pattern_mismatch": "1 to 128 of `A-Z a-z 0-9 . _ -`",
    "string_too_short": "a string that is not empty",
    "string_unicode": "a string without lone surrogates",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list",
}


def _rejection(first: Any, *, in_data: bool) -> EventRejected:
    tagged = first["loc"][:-1] if first["loc"][-1:] in {("str",), ("int",)} else first["loc"]  # which type of a union
    path = ".".join(str(part) for part in (("data", *tagged) if in_data else tagged))
    kind = first["type"]
    expected = _EXPECTED.get(kind)
    if expected is None:
        context = first.get("ctx") or {}
        expected = str(context.get("expected") or context.get("error") or first["msg"]).removeprefix("Input should be ")
    got = "nothing" if kind == "missing" else _as_json(first.get("input"))
    return EventRejected(path or "event", got=got, expected=expected)


def _as_json(value: Any) -> str:
    """What came, as it came: text bare where that shows it, everything else in JSON."""
    if isinstance(value, str) and value.isprintable():
        return value or "an empty string"
    return json.dumps(value)
