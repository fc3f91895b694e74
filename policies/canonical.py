"""The canonical form of facts, and its digest: equal to `driftwarden.strict.digest` wherever that is defined.

It is written out here because it is taken for every decision, and because it must be total: facts that hold NaN or a
lone surrogate are still decided (as unknown), and so have a digest. Only what no JSON can be (a key that is not text,
nesting without end) is refused.
"""

import hashlib
import json
import math
from decimal import Decimal
from functools import lru_cache
from typing import Any

from driftwarden.errors import BadInput
from driftwarden.policies.facts import DECIMAL
from driftwarden.strict import decimal_text

_quoted = json.encoder.encode_basestring  # the C encoder: RFC 8785's escapes, nothing else is escaped
_PLAIN_DIGITS_MAX = 38  # beyond some forty places the shortest form has an exponent: the slow path writes it
_PLAIN_MAX = 10**_PLAIN_DIGITS_MAX


def facts_digest(facts: Any) -> str:
    """`sha256:<64 hex>` of the RFC 8785 form of a document, every number as its shortest decimal string.

    Raises BadInput where it is nested without end.
    """
    try:
        text = _encode(facts)
    except RecursionError:
        raise BadInput("facts", got="nested too deeply", expected="at most some hundred levels") from None
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def canonical_facts(facts: Any) -> Any:
    """The form of facts that an audit record can hold: floats and Decimals become decimal strings, what is not finite
    its name (`NaN`), integers beyond 2^53 strings. It has the same digest, and a replay reads the same facts."""
    kind = type(facts)
    if kind is dict:
        return {str(key): canonical_facts(item) for key, item in facts.items()}
    if kind is list or kind is tuple:
        return [canonical_facts(item) for item in facts]
    if kind is float or kind is Decimal:
        return number_text(facts)
    if kind is int and abs(facts) >= 2**53:
        return number_text(facts)
    return facts if facts is None or kind in (bool, int, str) else str(facts)


def number_text(value: float | Decimal) -> str:
    """The shortest decimal string of a number, or the name of what is not finite."""
    kind = type(value)
    if kind is float:
        text = repr(value)
        if text[-2:] == ".0":
            return text[:-2] if value else "0"
        if "e" not in text and "n" not in text:
            return text
    if isinstance(value, int):
        if -_PLAIN_MAX < value < _PLAIN_MAX:
            return str(value)
        return decimal_text(Decimal(value)) if value.bit_length() <= 1000 else hex(value)
    if isinstance(value, float):
        text = repr(float(value))
        if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
        return decimal_text(Decimal(text))
    exact = Decimal(value)
    return decimal_text(exact) if exact.is_finite() else ("NaN" if exact.is_nan() else str(exact))


def string_text(value: str) -> str:
    """A string as it is digested: the shortest form where it is a JSON number, else itself."""
    if not value or value[0] not in "-0123456789" or DECIMAL.fullmatch(value) is None:
        return value
    if len(value) > _PLAIN_DIGITS_MAX or "e" in value or "E" in value:
        return decimal_text(Decimal(value))
    shortest = value.rstrip("0").rstrip(".") if "." in value else value
    return "0" if shortest == "-0" else shortest


def _encode(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _quoted(string_text(value))
    if kind is int or kind is float or kind is Decimal:
        return f'"{number_text(value)}"'
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is dict:
        return "{" + ",".join([name + _encode(value[key]) for key, name in _keys(tuple(value))]) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join([_encode(item) for item in value]) + "]"
    return _encode(canonical_facts(value))


@lru_cache(maxsize=1024)
def _keys(keys: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    """An object's keys in RFC 8785's order (UTF-16 code units), each with its encoded form: facts repeat their shapes."""
    if not all(isinstance(key, str) for key in keys):
        raise BadInput("facts", got="a key that is not text", expected="JSON objects")
    ordered = sorted(keys, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    return tuple((key, _quoted(key) + ":") for key in ordered)
