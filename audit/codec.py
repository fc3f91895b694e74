"""Canonical JSON, fast: msgspec reads and orjson writes where they are installed, the standard library otherwise.

Both ways accept exactly the same lines: RFC 8785 without floating-point numbers, with ASCII keys and integers below 2^53.
"""

import json
from typing import Any, NoReturn

from driftwarden.strict import canonical_json

try:
    import msgspec
    import orjson
except ImportError:
    FAST = False
else:
    FAST = True


class NotCanonical(ValueError):
    """These bytes are not the canonical JSON of a document of the log."""


def _no_float(text: str) -> NoReturn:
    raise NotCanonical(f"a floating-point number ({text[:40]})")


def _encode_plain(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


if FAST:
    _decoder = msgspec.json.Decoder(float_hook=_no_float)
    _REFUSALS = (NotCanonical, msgspec.DecodeError, orjson.JSONEncodeError, RecursionError)
    _SORTED = orjson.OPT_SORT_KEYS
    _SORTED_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def encode(document: Any) -> bytes:
    """Canonical bytes of a document that `driftwarden.strict.plain` made; one that is nested too deeply raises ValueError."""
    return _encode_fast(document, _SORTED) if FAST else _encode_plain(document)


def encode_checked(document: Any) -> bytes:
    """Canonical bytes of a document of dicts with ASCII keys, lists, strings, integers, booleans and null.

    Raises ValueError for what `driftwarden.strict.plain` would write in another way: lone surrogates, integers beyond 2^53.
    """
    return _encode_fast(document, _SORTED_STRICT) if FAST else canonical_json(document)


def _encode_fast(document: Any, option: int) -> bytes:
    try:
        return orjson.dumps(document, option=option)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None


def _refuse_keys(document: Any) -> None:
    if isinstance(document, dict):
        for key, value in document.items():
            if not key.isascii():
                raise NotCanonical("a key that is not ASCII")
            _refuse_keys(value)
    elif isinstance(document, list):
        for value in document:
            _refuse_keys(value)


def decode_canonical(line: bytes) -> Any:
    """Read one line and hold it against its own canonical form; raises NotCanonical with what is wrong."""
    return _decode_fast(line) if FAST else _decode_slow(line)


def is_canonical_object(data: bytes) -> bool:
    """Whether `decode_canonical` takes these bytes and they are an object; what is wrong is not said."""
    if FAST and data.isascii() and data.startswith(b"{"):
        try:
            return orjson.dumps(_decoder.decode(data), option=_SORTED_STRICT) == data
        except _REFUSALS:
            return False
    try:
        return type(decode_canonical(data)) is dict
    except NotCanonical:
        return False


def _decode_fast(line: bytes) -> Any:
    try:
        document = _decoder.decode(line)
        again = orjson.dumps(document, option=_SORTED_STRICT)
    except NotCanonical:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotCanonical("not JSON") from None
    except orjson.JSONEncodeError:
        raise NotCanonical("an integer beyond 2^53") from None
    except RecursionError:
        raise NotCanonical("nested too deeply") from None
    if again != line:
        raise NotCanonical("not in canonical form")
    if not line.isascii():
        _refuse_keys(document)
    return document


def _decode_slow(line: bytes) -> Any:
    try:
        document = json.loads(line.decode("utf-8"), parse_float=_no_float, parse_constant=_no_float)
        again = canonical_json(document)
    except NotCanonical:
        raise
    except RecursionError:
        raise NotCanonical("nested too deeply") from None
    except UnicodeDecodeError:
        raise NotCanonical("not JSON") from None
    except ValueError as error:
        raise NotCanonical("not JSON" if isinstance(error, json.JSONDecodeError) else str(error)[:120]) from None
    if again != line:
        raise NotCanonical("not in canonical form")
    return document
