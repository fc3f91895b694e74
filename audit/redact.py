"""Secrets are taken out before a record is written: by the name of their key, and by the pattern of their value."""

import re
from typing import Any

from driftwarden.audit.codec import encode, encode_checked
from driftwarden.strict import plain

REDACTED = "[redacted]"

# The last word of a key decides, so that `idempotency_key`, `input_tokens` and `public_key` stay.
_SECRET_KEY = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|passphrase|secret|secret[_-]?key|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|authorization|cookie|credentials?)$",
    re.IGNORECASE,
)

_WORDS = r"password|passwd|passphrase|secret|secret[_-]?key|token|api[_-]?key|access[_-]?key|private[_-]?key"
# A secret under a secret's name in a document that stands in a string: `{"token": "..."}`.
_EMBEDDED = re.compile(
    r"(\"(?:[A-Za-z0-9_.\-]*[_.\-])?(?:" + _WORDS + r"|authorization|cookie)\"\s*:\s*\")"
    r"[^\"\\]*(?:\\.[^\"\\]*)*(?=\")",
    re.IGNORECASE,
)
# How such a name ends in lower case, its quotation mark included.
_EMBEDDED_ENDS = ('password"', 'passwd"', 'passphrase"', 'secret"', 'key"', 'token"', 'authorization"', 'cookie"')

# Applied to every string, in this order; each keeps what is needed to see that something was there. A pattern can match
# only where one of the words before it stands, and looking for these is much cheaper.
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("-----BEGIN ",),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
        REDACTED,
    ),
    (
        ("://",),
        re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.\-]{1,20}://[^\s/:@\"']{0,128}:)[^\s/@\"']{1,256}@"),
        r"\1" + REDACTED + "@",
    ),
    (("Bearer ", "Basic "), re.compile(r"\b((?:Bearer|Basic) )[A-Za-z0-9._~+/\-]{16,}={0,2}"), r"\1" + REDACTED),
    (("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), REDACTED),
    (("AIza",), re.compile(r"\bAIza[0-9A-Za-z_\-]{35}\b"), REDACTED),
    (("sk-", "pk-"), re.compile(r"\b(?:sk|pk)-(?:lf-|proj-|ant-)?[A-Za-z0-9_\-]{20,}\b"), REDACTED),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"), REDACTED),
    (("xox",), re.compile(r"\bxox[abprs]-[A-Za-z0-9\-]{10,}\b"), REDACTED),
    (("eyJ",), re.compile(r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\b"), REDACTED),
)

# The same for the canonical bytes of a whole document: only where the first stands need the others be looked for.
_SIGNS: tuple[tuple[bytes, tuple[bytes, ...]], ...] = (
    (b"B", (b"-----BEGIN ", b"Bearer ", b"Basic ")),
    (b"@", (b"://",)),
    (b"A", (b"AKIA", b"ASIA", b"AIza")),
    (b"k-", (b"sk-", b"pk-")),
    (b"gh", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")),
    (b"xox", (b"xox",)),
    (b"J", (b"eyJ",)),
)
_EMBEDDED_SIGNS = tuple(end.replace('"', '\\"').encode() for end in _EMBEDDED_ENDS)
_ATOMS = frozenset((str, int, bool, type(None)))
_HARMLESS_MAX = 4096
_harmless: set[str] = set()  # keys that were seen to be ASCII and no secret's name


def redact_text(text: str) -> str:
    """The text with every secret that a pattern knows replaced by `[redacted]`."""
    if len(text) < 12:
        return text
    for words, pattern, replacement in _PATTERNS:
        for word in words:
            if word in text:
                text = pattern.sub(replacement, text)
                break
    return _EMBEDDED.sub(r"\1" + REDACTED, text) if _may_embed(text) else text


def _may_embed(text: str) -> bool:
    if '"' not in text:
        return False
    lowered = text.lower()
    return not text.isascii() or any(end in lowered for end in _EMBEDDED_ENDS)


def redact(value: Any) -> Any:
    """A copy of a plain document without secrets; numbers, booleans and null stay as they are."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {
            key: REDACTED if isinstance(item, str | list | dict) and item and _is_secret(key) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def _is_secret(key: str) -> bool:
    return key not in _harmless and _SECRET_KEY.search(key) is not None


def clean_bytes(body: dict[str, Any]) -> bytes:
    """Canonical bytes of a body without its secrets: `encode(redact(plain(body)))`, quick where there is nothing to hide."""
    try:
        kept = body
        data = encode_checked(body)  # refuses what has no end, so the walk has one
        if not _is_ordinary(body):
            kept = _without_names(body)
            data = encode_checked(kept)
    except ValueError:
        try:
            kept = _without_names(body)
            data = encode_checked(kept)
        except ValueError:  # a lone surrogate, or an integer beyond 2^53
            return encode(redact(plain(body)))
    return encode(redact(kept)) if _may_hold_a_secret(data) else data


def _is_ordinary(body: dict[str, Any]) -> bool:
    """Whether all of a body is as it is written: no key names a secret, no value must be made plain."""
    nodes: list[Any] = [body]
    for node in nodes:  # grows meanwhile
        if type(node) is dict:
            if not _harmless.issuperset(node):
                return False
            node = node.values()
        if _ATOMS.issuperset(map(type, node)):
            continue
        for item in node:
            kind = type(item)
            if kind is dict or kind is list or kind is tuple:
                nodes.append(item)
            elif kind not in _ATOMS:
                return False
    return True


def _may_hold_a_secret(data: bytes) -> bool:
    """Whether a pattern could match in a string of this document in canonical form."""
    for sign, words in _SIGNS:
        if sign in data:
            for word in words:
                if word in data:
                    return True
    if b"\\" not in data or b'\\"' not in data:
        return False
    lowered = data.lower()
    return not data.isascii() or any(end in lowered for end in _EMBEDDED_SIGNS)


def _without_names(value: Any) -> Any:
    """`plain` without what stands under a secret's name; strings and integers are left to `encode_checked`."""
    kind = type(value)
    if kind is dict:
        document = {}
        for key, item in value.items():
            if type(key) is not str or key not in _harmless:
                key, secret = _named(key)
                if secret and (item := plain(item)) and isinstance(item, str | list | dict):
                    item = REDACTED
            document[key] = item if type(item) in _ATOMS else _without_names(item)
        return document
    if kind is list or kind is tuple:
        return [item if type(item) in _ATOMS else _without_names(item) for item in value]
    if kind in _ATOMS:
        return value
    made = plain(value)
    return _without_names(made) if type(made) in (dict, list) else made


def _named(key: Any) -> tuple[str, bool]:
    """The key as it is written, and whether it is a secret's name."""
    (text,) = plain({key: None})
    if _SECRET_KEY.search(text):
        return text, True
    if type(key) is str and key == text and len(_harmless) < _HARMLESS_MAX and len(key) <= 64:
        _harmless.add(key)
    return text, False
