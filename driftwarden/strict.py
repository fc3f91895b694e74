"""Strict reading and canonical writing of JSON and YAML: no duplicate keys, no NaN, no silent conversion.

Canonical JSON is RFC 8785 over a domain without floating-point numbers (decimals are strings), where a sorted,
compact encoding is byte-equal to it.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml

from driftwarden.errors import BadInput

Json = None | bool | int | float | str | list[Any] | dict[str, Any]
JsonObject = dict[str, Any]
Lines = dict[tuple[str | int, ...], int]

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
_PLAIN_EXPONENT_MAX = 40  # beyond, scientific notation: `1e999999` must not become a megabyte of zeros


def loads_json(text: str | bytes, *, where: str = "json") -> Any:
    """Parse JSON; duplicate keys, NaN, infinities and text that is not UTF-8 raise BadInput with the place."""
    try:
        decoded = text.decode("utf-8", errors="strict") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8", got=f"byte {error.start}", expected="UTF-8 text", where=where) from None

    def pairs(items: list[tuple[str, Any]]) -> JsonObject:
        seen: JsonObject = {}
        for key, value in items:
            if key in seen:
                raise BadInput("duplicate key", got=key, expected="each key once", where=where)
            seen[key] = value
        return seen

    def constant(name: str) -> Any:
        raise BadInput("not a JSON number", got=name, expected="a finite number", where=where)

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise BadInput("number out of range", got=number, expected="a finite number", where=where)
        return value

    try:
        return json.loads(decoded, object_pairs_hook=pairs, parse_constant=constant, parse_float=finite)
    except json.JSONDecodeError as error:
        raise BadInput(
            "not JSON", got=f"{error.msg} at line {error.lineno} column {error.colno}", expected="JSON", where=where
        ) from None
    except RecursionError:
        raise BadInput("nested too deeply", expected="at most some hundred levels", where=where) from None
    except ValueError as error:  # integers of more than 4,300 digits
        raise BadInput("not a JSON number", got=str(error), expected="a finite number", where=where) from None


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a document without floats; a float, a non-string key or a lone surrogate raises ValueError."""
    _check_canonical(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _check_canonical(value: Any) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) >= 2**53:
            raise ValueError(f"integer beyond 2^53 in canonical JSON: {value}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise ValueError(f"keys in canonical JSON are ASCII strings: {key!r}")
            _check_canonical(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_canonical(item)
    else:
        raise ValueError(f"{type(value).__name__} in canonical JSON")


def plain(value: Any) -> Any:
    """Turn a value into the canonical domain: floats and Decimals to shortest decimal strings, NaN and infinities to
    null, keys that are not ASCII escaped, integers beyond 2^53 to strings."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float | Decimal):
        number = Decimal(repr(value)) if isinstance(value, float) else value
        return decimal_text(number) if number.is_finite() else None
    if isinstance(value, Mapping):
        return {_ascii_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    return plain(str(value))


def _ascii_key(key: Any) -> str:
    text = str(key)
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


def decimal_text(number: Decimal) -> str:
    """The shortest decimal string of a finite number: no exponent, no trailing zeros, no negative zero."""
    if not number.is_finite():
        raise ValueError("not a finite number")
    if number == 0:
        return "0"
    sign, digits, exponent = number.as_tuple()
    kept, places = "".join(map(str, digits)).lstrip("0"), int(exponent)
    stripped = kept.rstrip("0")
    places += len(kept) - len(stripped)
    minus = "-" if sign else ""
    if abs(places) > _PLAIN_EXPONENT_MAX:
        return f"{minus}{stripped}e{places}"
    if places >= 0:
        return minus + stripped + "0" * places
    whole = stripped[:places] if len(stripped) > -places else "0"
    return f"{minus}{whole}.{stripped[places:] if len(stripped) > -places else stripped.rjust(-places, '0')}"


def numbers_as_text(value: Any) -> Any:
    """Every number, and every string that is a JSON number, as its shortest decimal string: 0.9, "0.9", "0.90" are one."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return decimal_text(Decimal(value)) if _NUMBER.fullmatch(value) else value
    if isinstance(value, int | float | Decimal):
        return decimal_text(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    if isinstance(value, Mapping):
        return {str(key): numbers_as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_as_text(item) for item in value]
    raise ValueError(f"{type(value).__name__} cannot be digested")


def digest(value: Any) -> str:
    """`sha256:<64 hex>` of the canonical JSON after `numbers_as_text` (contract §4)."""
    return "sha256:" + hashlib.sha256(canonical_json(numbers_as_text(value))).hexdigest()


def load_yaml(text: str, *, where: str) -> tuple[Any, Lines]:
    """Parse one YAML document strictly; returns the data and the 1-based line of every path.

    Refused with the line: duplicate keys, anchors and aliases, tags, keys that are not strings, NaN and infinities,
    and plain scalars that YAML 1.1 converts silently (`22:30`, `NO`, `0o17`, `1_000`). Dates and times stay text.
    """
    lines: Lines = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise BadInput("not YAML", got=problem, expected="one YAML document", where=place) from None
    except (RecursionError, ValueError) as error:
        raise BadInput("not YAML", got=type(error).__name__, expected="one YAML document", where=where) from None
    if node is None:
        return None, {(): 1}
    try:
        return _construct(node, (), lines, where, set()), lines
    except RecursionError:
        raise BadInput("nested too deeply", expected="at most some hundred levels", where=where) from None


def _construct(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, where: str, seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    lines[path] = line
    place = f"{where}:{line}"
    if id(node) in seen:
        raise BadInput("YAML alias", got="/".join(map(str, path)), expected="the value written out", where=place)
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        result: JsonObject = {}
        for key_node, value_node in node.value:
            key_place = f"{where}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise BadInput(
                    "YAML key", got=getattr(key_node, "value", "?"), expected="a plain name", where=key_place
                )
            key = key_node.value
            if key in result:
                raise BadInput("duplicate key", got=key, expected="each key once", where=key_place)
            result[key] = _construct(value_node, (*path, key), lines, where, seen)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, index), lines, where, seen) for index, item in enumerate(node.value)]
    return _scalar(node, place)


def _scalar(node: Any, place: str) -> Any:
    text, kind = str(node.value), node.tag.rpartition(":")[2]
    if node.style is not None or kind in {"str", "timestamp"}:
        if kind in {"str", "timestamp"} or (node.style is not None and not node.tag.startswith("!")):
            return text
        raise BadInput("YAML tag", got=node.tag, expected="no tags", where=place)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if kind == "int" and re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
        return int(text)
    if kind == "float" and re.fullmatch(r"-?(0|[1-9][0-9]*)?\.[0-9]*([eE][+-]?[0-9]+)?", text):
        return float(text)
    raise BadInput(
        f"YAML would read this as {kind}", got=text, expected='a quoted string, like "' + text + '"', where=place
    )


def strict_base64(text: str) -> bytes | None:
    """The bytes of a text that is base64 as its writer must write it (RFC 4648, padded); None for any other form."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw if base64.b64encode(raw).decode() == text else None
