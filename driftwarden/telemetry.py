"""Structured logs: one JSON object a line, with the correlation id of the drift event, and no secret in any of them.

Nothing but the standard library is used, so that a user's pipeline may import it.
"""

import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from driftwarden.clock import rfc3339
from driftwarden.errors import BadInput

REDACTED = "***"
TEXT_CHARS_MAX = 32_768
_DEPTH_MAX = 12
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_correlation_id: ContextVar[str | None] = ContextVar("driftwarden_correlation_id", default=None)
_incident: ContextVar[str | None] = ContextVar("driftwarden_incident", default=None)
_known_secrets: set[str] = set()
_harmless: set[str] = set()  # texts in which no secret was found
_HARMLESS_MAX, _HARMLESS_CHARS_MAX = 1_024, 8_192

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "apikey", "authorization", "cookie"}
    | {"credential", "credentials"}
)
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("signing", "key"), ("auth", "key")}
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")

# Every repetition is bounded: a hostile text of a megabyte must not cost more than a pass over it. A pattern is tried
# only where one of its words (lowercase) is in the text, which spares most texts most patterns.
_KEY_WORDS = tuple(f"{kind}{sep}key" for kind in ("api", "access", "private", "secret") for sep in ("", "_", "-"))
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("private key-----",),
        re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S),
        REDACTED,
    ),
    (("://",), re.compile(r"(?i)([a-z][a-z0-9+.-]{0,30}://)[^\s/]{0,300}@"), rf"\1{REDACTED}@"),
    (
        ("authorization",),
        re.compile(r"(?i)(authorization\W{1,8}(?:bearer|basic|token)?\s{0,4})[^\s\"',;}]{4,}"),
        rf"\1{REDACTED}",
    ),
    (
        ("bearer", "basic"),
        re.compile(r"(?i)\b(bearer|basic)\s{1,4}[A-Za-z0-9._~+/=-]{16,}"),
        rf"\1 {REDACTED}",
    ),
    (
        ("password", "passwd", "passphrase", "pwd", "secret", "credential", *_KEY_WORDS),
        re.compile(
            r"(?i)\b([\w.-]{0,40}(?:password|passwd|passphrase|pwd|secret|credential|(?:api|access|private|secret)[_-]?key))"
            r"(\\{0,2}[\"']?\s{0,4}[=:]\s{0,4}\\{0,2}[\"']?)[^\s\"'\\,;&}]{3,}"
        ),
        rf"\1\2{REDACTED}",
    ),
    (
        ("token",),
        re.compile(
            r"(?i)\b([\w.-]{0,40}token)(\\{0,2}[\"']?\s{0,4}[=:]\s{0,4}\\{0,2}[\"']?)(?![0-9.]+\b)[^\s\"'\\,;&}]{6,}"
        ),
        rf"\1\2{REDACTED}",
    ),
    (
        ("sk-", "aiza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "akia", "hf_", "ya29.", "eyj"),
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_-]{8,}|AIza[0-9A-Za-z_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
            r"|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|ya29\.[\w-]{20,}"
            r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
        ),
        REDACTED,
    ),
)


def register_secret(value: str | None) -> None:
    """Have this very text (a configured key or password, 6 characters or more) redacted wherever it appears."""
    if value and len(value) >= 6:
        _known_secrets.add(value)
        _harmless.clear()


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Whether a field of this name holds a secret, by its words: `apiKey` and `redis_password` do, `input_tokens` not."""
    words = [word.lower() for word in _WORDS.findall(key[:200])]
    return any(word in _SECRET_WORDS for word in words) or any(pair in _SECRET_PAIRS for pair in pairwise(words))


def redact_text(text: str, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    """The text without what looks like a secret (keys, tokens, passwords in URLs, PEM), cut to `chars_max`."""
    if len(text) > chars_max:
        text = f"{text[:chars_max]}… ({len(text)} characters)"
    if text in _harmless:
        return text
    asked, secrets = text, len(_known_secrets)
    for secret in [*_known_secrets]:
        text = text.replace(secret, REDACTED)
    lowered = text.lower()
    for words, pattern, replacement in _PATTERNS:
        for word in words:  # no generator: this is asked of every text that is logged or traced
            if word in lowered:
                text = pattern.sub(replacement, text)
                break
    if text == asked and len(text) <= _HARMLESS_CHARS_MAX:
        _remember_harmless(text, secrets)
    return text


def _remember_harmless(text: str, secrets: int) -> None:
    """Prompts, names and descriptions come again and again; what held a secret is never remembered."""
    if len(_harmless) >= _HARMLESS_MAX:
        _harmless.clear()
    _harmless.add(text)
    if len(_known_secrets) != secrets:  # one was registered meanwhile
        _harmless.clear()


def redact(value: Any, *, key: str = "", depth: int = 0) -> Any:
    """A JSON-able copy of any value without secrets: by key name, by pattern, and by what was registered."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth > _DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {str(name): redact(item, key=str(name), depth=depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, key=key, depth=depth + 1) for item in value]
    if key and is_secret_key(key):
        return REDACTED
    try:
        return redact_text(value if isinstance(value, str) else str(value))
    except Exception as error:  # noqa: BLE001 - a broken __str__ must not break a log line
        return f"<{type(value).__name__}: {type(error).__name__}>"


@contextmanager
def correlation(correlation_id: str | None, incident: str | None = None) -> Iterator[None]:
    """Every log line and span inside belongs to this correlation id (32 hex digits) and incident."""
    tokens = _correlation_id.set(correlation_id), _incident.set(incident)
    try:
        yield
    finally:
        _correlation_id.reset(tokens[0])
        _incident.reset(tokens[1])


def current_correlation() -> tuple[str | None, str | None]:
    """The correlation id and incident of the running context."""
    return _correlation_id.get(), _incident.get()


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN = frozenset({"ts", "level", "logger", "message", "exception"})


class JsonFormatter(logging.Formatter):
    """One log record as one line of JSON: `ts`, `level`, `logger`, `message`, `correlation_id`, `incident`, extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the record; never raises for what the caller passed."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - wrong arguments for the format string
            message = f"{record.msg} {record.args!r}"
        correlation_id, incident = current_correlation()
        line: dict[str, Any] = {
            "ts": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(message),
            "correlation_id": correlation_id,
            "incident": incident,
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in _OWN and not name.startswith("_"):
                line[name] = redact(value, key=name)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact_text(self.formatException(record.exc_info))
        elif record.exc_text:
            line["exception"] = redact_text(record.exc_text)
        return json.dumps(line, allow_nan=False, separators=(",", ":"))


class _StreamHandler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """A closed or full stream must not print a traceback over a user's terminal."""


class _FileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """A full disk must not print a traceback over a user's terminal."""


def configure_logging(
    level: str = "INFO", *, stream: IO[str] | None = None, file: str | Path | None = None
) -> logging.Handler:
    """Send every log line as JSON to `file`, else `stream`, else standard error; replaces what an earlier call set up.

    Raises BadInput where the level is not known or the file cannot be opened.
    """
    name = level.upper()
    if name not in _LEVELS:
        raise BadInput("log level", got=level, expected="one of " + ", ".join(_LEVELS))
    handler: logging.Handler
    if file is not None:
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            handler = _FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise BadInput("log file", got=file, expected="a file that can be written", where=error.strerror) from None
    else:
        handler = _StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _StreamHandler | _FileHandler):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(name)
    logging.captureWarnings(True)
    quiet_libraries()
    return handler


# What they report reaches us as exceptions or return values; their own lines are tracebacks and repeated hints.
_SILENT = ("google_adk", "google_genai", "opentelemetry", "langfuse", "LiteLLM")
_TERSE = ("httpx", "httpcore", "urllib3", "aiohttp", "asyncio", "chromadb", "kedro", "mlflow", "alembic", "git", "py4j")


class _NotOfLibraries(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what the agents' framework says through the root logger itself."""
        return "/google/" not in record.pathname.replace("\\", "/")


def quiet_libraries() -> None:
    """Keep the libraries' tracebacks, banners and hints out of logs and off the terminal; idempotent.

    For processes of the service: until `configure_logging`, log lines go nowhere rather than to standard error.
    """
    root = logging.getLogger()
    if not any(isinstance(item, _NotOfLibraries) for item in root.filters):
        root.addFilter(_NotOfLibraries())
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in _TERSE:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    for module in (r"google\.(adk|genai)", r"opentelemetry", r"langfuse"):
        warnings.filterwarnings("ignore", module=module)
    warnings.filterwarnings("ignore", message=r"\[EXPERIMENTAL\]")
