"""The canonical form of facts, and its digest: equal to `driftwarden.strict.digest` wherever that is defined.

It is written out here because it is taken for every decision, and because it must be total: facts that hold NaN or a
lone surrogate are still decided (as unknown), and so have a digest. Only what no JSON can be (a key that is not text,
nesting without end) is refused.
"""

import hashlib
import json
from decimal import Decimal
from functools import lru_cache
from typing import Any

from driftwarden.errors import BadInput
from driftwarden.policies.numbers import number_text, string_text

_quoted = json.encoder.encode_basestring  # the C encoder: RFC 8785's escapes, nothing else is escaped


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
