"""The canonical form of facts, and its digest: equal to `driftwarden.strict.digest` wherever that is defined.

It is written out here because it is taken for every decision, and because it must be total: facts that hold NaN or a
lone surrogate are still decided (as unknown), and so have a digest. Only what no JSON can be (a key that is not text,
nesting without end) is refused. Where orjson is installed it writes ordinary facts; whatever it might write otherwise (it
orders keys by UTF-8) is written here.
"""

import json
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from driftwarden.errors import BadInput
from driftwarden.policies.numbers import (
    AFTER_NUMBERS,
    PLAIN_FLOAT_MAX,
    PLAIN_FLOAT_MIN,
    PLAIN_MAX,
    PLAIN_MIN,
    number_text,
    string_text,
)

try:
    import orjson
except ImportError:  # the light install does without
    orjson = None  # type: ignore[assignment]

_quoted = json.encoder.encode_basestring  # the C encoder: RFC 8785's escapes, nothing else is escaped


def facts_digest(facts: Any) -> str:
    """`sha256:<64 hex>` of the RFC 8785 form of a document, every number as its shortest decimal string.

    Raises BadInput where it is nested without end.
    """
    content = _ordinary(facts)
    if content is None:
        parts: list[str] = []
        try:
            _write(facts, parts)
        except RecursionError:
            raise BadInput("facts", got="nested too deeply", expected="at most some hundred levels") from None
        content = "".join(parts).encode("utf-8", "surrogatepass")
    return "sha256:" + sha256(content).hexdigest()


def _ordinary(facts: Any) -> bytes | None:
    """The canonical form of ordinary facts (objects of texts, numbers, booleans and nulls, all of it ASCII) by orjson; None
    where they are not, or there is no orjson."""
    if orjson is None or type(facts) is not dict:
        return None
    try:
        content = orjson.dumps(_texts(facts), option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError):
        return None
    return content if content.isascii() else None


def _texts(value: dict[Any, Any]) -> dict[Any, Any]:
    """An object with each number as its text; raises TypeError where something in it is not ordinary."""
    texts = value.copy()
    for key, item in value.items():
        kind = type(item)
        if kind is str:
            if item < AFTER_NUMBERS:
                texts[key] = string_text(item)
        elif kind is dict:
            texts[key] = _texts(item)
        elif kind is float:
            if PLAIN_FLOAT_MIN <= item < PLAIN_FLOAT_MAX:
                text = repr(item)
                texts[key] = text if text[-1] != "0" else text[:-2]
            else:
                texts[key] = number_text(item)
        elif kind is int:
            texts[key] = f"{item}" if PLAIN_MIN < item < PLAIN_MAX else number_text(item)
        elif item is not None and kind is not bool:
            raise TypeError
    return texts


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


def _write(value: Any, parts: list[str]) -> None:
    """Add the text of a value, piece by piece."""
    kind = type(value)
    if kind is str:
        parts.append(_quoted(string_text(value)))
    elif kind is float or kind is int or kind is Decimal:
        parts.append(f'"{number_text(value)}"')
    elif kind is dict:
        _write_object(value, parts)
    elif value is None:
        parts.append("null")
    elif kind is bool:
        parts.append("true" if value else "false")
    elif kind is list or kind is tuple:
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _write(item, parts)
        parts.append("]")
    else:
        _write(canonical_facts(value), parts)


def _write_object(value: dict[Any, Any], parts: list[str]) -> None:
    if not value:
        parts.append("{}")
        return
    for key, name in _SHAPES[tuple(value)]:
        item = value[key]
        kind = type(item)
        if kind is str:  # nearly all leaves are of these kinds: without a call of `_write` for each
            parts.append(name)
            parts.append(_quoted(item if item >= AFTER_NUMBERS else string_text(item)))
        elif kind is dict:
            parts.append(name)
            _write_object(item, parts)
        elif kind is int and PLAIN_MIN < item < PLAIN_MAX:
            parts.append(f'{name}"{item}"')
        elif kind is float:
            if PLAIN_FLOAT_MIN <= item < PLAIN_FLOAT_MAX:
                text = repr(item)
                parts.append(f'{name}"{text}"' if text[-1] != "0" else f'{name}"{text[:-2]}"')
            else:
                parts.append(f'{name}"{number_text(item)}"')
        elif item is None:
            parts.append(name + "null")
        elif item is True:
            parts.append(name + "true")
        elif item is False:
            parts.append(name + "false")
        else:
            parts.append(name)
            _write(item, parts)
    parts.append("}")


class _Shapes(dict[tuple[Any, ...], tuple[tuple[str, str], ...]]):
    """Objects' keys in RFC 8785's order (UTF-16 code units), each with the text up to its value: facts repeat their
    shapes. The newest are remembered, up to a bound."""

    def __missing__(self, keys: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
        if not all(isinstance(key, str) for key in keys):
            raise BadInput("facts", got="a key that is not text", expected="JSON objects")
        ordered = sorted(keys, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        shape = tuple((key, ("," if index else "{") + _quoted(key) + ":") for index, key in enumerate(ordered))
        if len(self) >= _SHAPES_MAX:
            self.clear()
        self[keys] = shape
        return shape


_SHAPES_MAX: Final = 1024
_SHAPES: Final = _Shapes()
