"""Numbers of facts: JSON numbers and decimal strings as exact decimals, and in their shortest form."""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from driftwarden.policies.facts import Kind
from driftwarden.strict import decimal_text

DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,6})?")
# Bounds on what counts as a number at all: sums of such numbers are exact in a context of 500 digits, and cheap.
_DIGITS_MAX: Final = 100
_ADJUSTED_MIN: Final = -60
_ADJUSTED_MAX: Final = 40
_PLAIN_DIGITS_MAX: Final = 38  # beyond some forty places the shortest form has an exponent: the slow path writes it
_PLAIN_MAX: Final = 10**_PLAIN_DIGITS_MAX
_NUMERIC: Final = frozenset("-0123456789")
_ZERO: Final = Decimal(0)


def number(value: object) -> Decimal | None:
    """A JSON number or decimal string as an exact decimal; None for all else: booleans, NaN, infinities, ` 0.9 `, `0x1`,
    and magnitudes or precisions that no fact has (over 100 digits, beyond 1e40 or below 1e-60)."""
    if isinstance(value, str):
        if len(value) > _DIGITS_MAX or DECIMAL.fullmatch(value) is None:
            return None
        found = Decimal(value)
        if len(value) <= _ADJUSTED_MAX and "e" not in value and "E" not in value:
            return found
    elif isinstance(value, bool):
        return None
    elif isinstance(value, int):
        if value.bit_length() > 300:
            return None
        found = Decimal(value)
    elif isinstance(value, float):
        found = Decimal(repr(float(value)))
    elif isinstance(value, Decimal) and len(value.as_tuple().digits) <= _DIGITS_MAX:
        found = value
    else:
        return None
    if not found.is_finite():
        return None
    if not found:
        return _ZERO
    return found if _ADJUSTED_MIN <= found.adjusted() <= _ADJUSTED_MAX else None


def number_reader(kind: Kind) -> Callable[[object], tuple[Decimal | None, str]]:
    """A function that reads a number which this kind of fact can be: (the number or None, its shortest form)."""
    low, high, whole = kind.low, kind.high, kind.whole

    def read(value: object) -> tuple[Decimal | None, str]:
        found, text = parsed(value)
        if found is None or (low is not None and found < low) or (high is not None and found > high):
            return None, text
        return (None, text) if whole and found != found.to_integral_value() else (found, text)

    return read


def parsed(value: object) -> tuple[Decimal | None, str]:
    """(number or None, shortest form) of a fact; the form is empty where it is no number."""
    if type(value) is float:
        text = number_text(value)
        if "e" not in text and text[-1] in _NUMERIC:
            return Decimal(text), text
    found = number(value)
    if found is None:
        return None, ""
    return found, string_text(value) if isinstance(value, str) else number_text(value)  # type: ignore[arg-type]


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
    if exact.is_finite() and -_PLAIN_DIGITS_MAX < exact.adjusted() < _PLAIN_DIGITS_MAX:
        text = format(exact, "f")
        if len(text) <= _PLAIN_DIGITS_MAX:
            return string_text(text)
    return decimal_text(exact) if exact.is_finite() else ("NaN" if exact.is_nan() else str(exact))


def string_text(value: str) -> str:
    """A string as it is digested: the shortest form where it is a JSON number, else itself."""
    if value[:1] not in _NUMERIC or DECIMAL.fullmatch(value) is None:
        return value
    if len(value) > _PLAIN_DIGITS_MAX or "e" in value or "E" in value:
        return decimal_text(Decimal(value))
    shortest = value.rstrip("0").rstrip(".") if "." in value else value
    return "0" if shortest == "-0" else shortest
