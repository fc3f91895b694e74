"""Numbers of facts: JSON numbers and decimal strings as exact decimals, and in their shortest form."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

from driftwarden.policies.facts import Kind
from driftwarden.strict import decimal_text

DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]{1,6})?")
# What nearly every number is: without an exponent, and far within the bounds below.
_plain: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]{1,18}+)?").fullmatch
# Bounds on what counts as a number at all: sums of such numbers are exact in a context of 500 digits, and cheap.
_DIGITS_MAX: Final = 100
_ADJUSTED_MIN: Final = -60
_ADJUSTED_MAX: Final = 40
_PLAIN_DIGITS_MAX: Final = 38  # beyond some forty places the shortest form has an exponent: the slow path writes it
PLAIN_MAX: Final = 10**_PLAIN_DIGITS_MAX
PLAIN_MIN: Final = -PLAIN_MAX
PLAIN_FLOAT_MIN: Final = 1e-4  # between these two, Python writes a float without an exponent
PLAIN_FLOAT_MAX: Final = 1e15
_DIGITS: Final = frozenset("0123456789")
AFTER_NUMBERS: Final = ":"  # no text from here on is a number: it sorts after `-` and all digits
_ZERO: Final = Decimal(0)


def number(value: object) -> Decimal | None:
    """A JSON number or decimal string as an exact decimal; None for all else: booleans, NaN, infinities, ` 0.9 `, `0x1`,
    and magnitudes or precisions that no fact has (over 100 digits, beyond 1e40 or below 1e-60)."""
    if isinstance(value, str):
        if len(value) > _DIGITS_MAX or DECIMAL.fullmatch(value) is None:
            return None
        found = Decimal(value)
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
    return _within_bounds(found)


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high` (None: without end); `below`: `high` itself is none of them.

    `ints` and `floats` say the same of plain ints and of floats, each read as its shortest decimal, without a decimal
    being made. For floats: rounding never turns an order around, so a float beyond the nearest float of a bound is beyond
    the bound itself; only of that nearest float its decimal must be asked, once.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    below: bool = False

    def holds(self, value: Decimal) -> bool:
        """Is the number in the range?"""
        if self.low is not None and value < self.low:
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    def ints(self) -> tuple[int, int]:
        """(first, last) of the integers below 10^38 in the range."""
        first = PLAIN_MIN if self.low is None else math.ceil(self.low)
        last = PLAIN_MAX if self.high is None else math.floor(self.high)
        return first, last - 1 if self.below and last == self.high else last

    def floats(self) -> tuple[float, float]:
        """(first, last) of the floats whose shortest decimals are in the range."""
        first, last = -math.inf, math.inf
        if self.low is not None:
            first = float(self.low)
            first = first if Decimal(repr(first)) >= self.low else math.nextafter(first, math.inf)
        if self.high is not None:
            last = float(self.high)
            shortest = Decimal(repr(last))
            inside = shortest < self.high or (shortest == self.high and not self.below)
            last = last if inside else math.nextafter(last, -math.inf)
        return first, last


def plain_ints(kind: Kind) -> tuple[int, int]:
    """Ints from the first on and below the second are such facts, and written as they are; others may be."""
    return PLAIN_MIN if kind.low is None else int(kind.low), PLAIN_MAX if kind.high is None else int(kind.high)


def plain_floats(kind: Kind) -> tuple[float, float]:
    """Floats from the first on and below the second are such facts, and written without an exponent; others may be."""
    least, most = plain_ints(kind)
    least_float = PLAIN_FLOAT_MAX if kind.whole else max(PLAIN_FLOAT_MIN, float(least))
    return least_float, min(PLAIN_FLOAT_MAX, float(most))


def number_reader(kind: Kind) -> Callable[[object], tuple[Decimal | None, str]]:
    """A function that reads a number which this kind of fact can be: (the number or None, its shortest form)."""
    low, high, whole = kind.low, kind.high, kind.whole
    (least, most), (least_float, most_float) = plain_ints(kind), plain_floats(kind)

    def read(value: object) -> tuple[Decimal | None, str]:
        given = type(value)
        plain = None
        if given is str:
            plain = _plain_number(value) if len(value) <= _PLAIN_DIGITS_MAX else None  # type: ignore[arg-type]
        elif given is float:
            if least_float <= value < most_float:  # type: ignore[operator]
                text = repr(value)
                if text[-1] == "0":
                    text = text[:-2]
                return Decimal(text), text
        elif given is int and least <= value < most:  # type: ignore[operator]
            return Decimal(value), str(value)  # type: ignore[arg-type]
        found, text = answer = parsed(value) if plain is None else plain
        if found is None or (low is not None and found < low) or (high is not None and found > high):
            return None, text
        if whole and given is not int and found != found.to_integral_value():
            return None, text
        return answer

    return read


def parsed(value: object) -> tuple[Decimal | None, str]:
    """(number or None, shortest form) of a fact; the form is empty where it is no number."""
    kind = type(value)
    if kind is float:
        if PLAIN_FLOAT_MIN <= value < PLAIN_FLOAT_MAX:  # type: ignore[operator]
            text = repr(value)
            if text[-1] == "0":
                text = text[:-2]
            return Decimal(text), text
    elif kind is int:
        if PLAIN_MIN < value < PLAIN_MAX:  # type: ignore[operator]
            return Decimal(value), str(value)  # type: ignore[arg-type]
    elif kind is str and len(value) <= _PLAIN_DIGITS_MAX:  # type: ignore[arg-type]
        plain = _plain_number(value)
        if plain is not None:
            return plain
    found = number(value)
    if found is None:
        return None, ""
    return found, string_text(value) if isinstance(value, str) else number_text(value)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _plain_number(value: str) -> tuple[Decimal, str] | None:
    """A plain number and its shortest form. Remembered for a while: several rules and the digest read the same amount."""
    if _plain(value) is None:
        return None
    text = _trimmed(value)
    return Decimal(text), text


def _within_bounds(found: Decimal) -> Decimal | None:
    if not found.is_finite():
        return None
    if not found:
        return _ZERO
    return found if _ADJUSTED_MIN <= found.adjusted() <= _ADJUSTED_MAX else None


def number_text(value: float | Decimal) -> str:
    """The shortest decimal string of a number, or the name of what is not finite."""
    kind: type = type(value)
    if kind is Decimal:
        text = str(value)
        if len(text) <= _PLAIN_DIGITS_MAX and "E" not in text and value.is_finite():  # type: ignore[union-attr]
            return _trimmed(text)
    elif kind is float:
        if PLAIN_FLOAT_MIN <= value < PLAIN_FLOAT_MAX:
            text = repr(value)
            return text if text[-1] != "0" else text[:-2]  # the shortest form ends in a zero as `.0` alone
    elif kind is int and PLAIN_MIN < value < PLAIN_MAX:
        return str(value)
    return _any_number_text(value)


def _any_number_text(value: float | Decimal) -> str:
    if isinstance(value, int):
        return decimal_text(Decimal(value)) if value.bit_length() <= 1000 else hex(value)
    if isinstance(value, float):
        text = repr(float(value))
        if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
        return decimal_text(Decimal(text))
    return decimal_text(value) if value.is_finite() else ("NaN" if value.is_nan() else str(value))


def string_text(value: str) -> str:
    """A string as it is digested: the shortest form where it is a JSON number, else itself."""
    if value >= AFTER_NUMBERS or value[-1:] not in _DIGITS:  # a number begins with `-` or a digit, and ends with one
        return value
    if len(value) <= _PLAIN_DIGITS_MAX:
        plain = _plain_number(value)
        if plain is not None:
            return plain[1]
    return decimal_text(Decimal(value)) if DECIMAL.fullmatch(value) else value


def _trimmed(value: str) -> str:
    """The shortest form of a plain number."""
    shortest = value.rstrip("0").rstrip(".") if value[-1] == "0" and "." in value else value
    return "0" if shortest == "-0" else shortest
