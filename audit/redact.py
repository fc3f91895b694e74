"""Secrets are taken out before a record is written: by the name of their key, and by the pattern of their value."""

import re
from typing import Any

from driftwarden.audit.codec import encode
from driftwarden.strict import plain

REDACTED = "[redacted]"

# The last word of a key decides, so that `idempotency_key`, `input_tokens` and `public_key` stay.
_SECRET_KEY = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|passphrase|secret|secret[_-]?key|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|authorization|cookie|credentials?)$",
    re.IGNORECASE,
)

# Applied to every string, embedded documents included; each keeps what is needed to see that something was there.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
        REDACTED,
    ),
    (re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.\-]{1,20}://[^\s/:@\"']{0,128}:)[^\s/@\"']{1,256}@"), r"\1" + REDACTED + "@"),
    (re.compile(r"\b((?:Bearer|Basic) )[A-Za-z0-9._~+/\-]{16,}={0,2}"), r"\1" + REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), REDACTED),
    (re.compile(r"\bAIza[0-9A-Za-z_\-]{35}\b"), REDACTED),
    (re.compile(r"\b(?:sk|pk)-(?:lf-|proj-|ant-)?[A-Za-z0-9_\-]{20,}\b"), REDACTED),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"), REDACTED),
    (re.compile(r"\bxox[abprs]-[A-Za-z0-9\-]{10,}\b"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\b"), REDACTED),
    (
        re.compile(
            r"(\"(?:[A-Za-z0-9_.\-]*[_.\-])?(?:password|passwd|passphrase|secret|secret[_-]?key|token|api[_-]?key"
            r"|access[_-]?key|private[_-]?key|authorization|cookie)\"\s*:\s*\")[^\"\\]*(?:\\.[^\"\\]*)*(?=\")",
            re.IGNORECASE,
        ),
        r"\1" + REDACTED,
    ),
)
# No secret that is known here is in a document whose lower-cased bytes hold none of these.
_HINTS = tuple(
    word.encode()
    for word in (
        *("passw", "passphrase", "secret", "token", "apikey", "api_key", "api-key", 'key\\"', 'key"', "authorization"),
        *(
            "cookie",
            "credential",
            "-----begin",
            "://",
            "bearer ",
            "basic ",
            "akia",
            "asia",
            "aiza",
            "sk-",
            "pk-",
            "xox",
            "eyj",
        ),
        *("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    )
)


def redact_text(text: str) -> str:
    """The text with every secret that a pattern knows replaced by `[redacted]`."""
    if len(text) < 12:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(value: Any) -> Any:
    """A copy of a plain document without secrets; numbers, booleans and null stay as they are."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {
            key: REDACTED if isinstance(item, str | list | dict) and item and _SECRET_KEY.search(key) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def clean_bytes(body: dict[str, Any]) -> bytes:
    """Canonical bytes of a body without its secrets: `encode(redact(plain(body)))`, quick where there is nothing to hide."""
    kept = canonical(body)
    data = encode(kept)
    lowered = data.lower()
    return encode(redact(kept)) if any(hint in lowered for hint in _HINTS) else data


def canonical(value: Any) -> Any:
    """`driftwarden.strict.plain`, quick for the types that bodies are made of."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() else plain(value)
    if kind is dict:
        return {
            key if type(key) is str and key.isascii() else next(iter(plain({key: 0}))): (
                item if item is None or item is True or item is False else canonical(item)
            )
            for key, item in value.items()
        }
    if kind is list or kind is tuple:
        return [canonical(item) for item in value]
    return plain(value)
