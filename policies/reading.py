"""A strict reader over a YAML document: each wrong field is a BadInput with file and line, what was got and expected."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NoReturn

from driftwarden.contracts.watch import parse_duration
from driftwarden.errors import BadInput
from driftwarden.policies.numbers import number
from driftwarden.strict import Lines

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DURATION_MAX = timedelta(days=366)


class Node:
    """A value of the document and the place where it stands."""

    __slots__ = ("_lines", "path", "value", "where")

    def __init__(self, value: Any, path: tuple[str | int, ...], lines: Lines, where: str) -> None:
        """`where` is the file's name; the line is found by `path`."""
        self.value, self.path, self._lines, self.where = value, path, lines, where

    @property
    def place(self) -> str:
        """`file:line` of this value, or of the nearest one around it."""
        for length in range(len(self.path), -1, -1):
            if self.path[:length] in self._lines:
                return f"{self.where}:{self._lines[self.path[:length]]}"
        return self.where

    @property
    def name(self) -> str:
        """The dotted path, for messages."""
        return ".".join(map(str, self.path)) or "document"

    def refuse(self, expected: str, got: object = None) -> NoReturn:
        """Raise BadInput for this value."""
        shown = self.value if got is None else got
        raise BadInput(f"`{self.name}`", got=_shown(shown), expected=expected, where=self.place)

    def fields(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, "Node"]:
        """The fields of a mapping; unknown ones and missing ones are refused."""
        if not isinstance(self.value, dict):
            self.refuse("a mapping")
        allowed = (*required, *optional)
        for key in self.value:
            if key not in allowed:
                raise BadInput(
                    f"unknown field in `{self.name}`",
                    got=key,
                    expected="one of: " + ", ".join(allowed),
                    where=self._child(key).place,
                )
        for key in required:
            if key not in self.value:
                raise BadInput(f"`{self.name}`", got="nothing", expected=f"the field `{key}`", where=self.place)
        return {key: self._child(key) for key in self.value}

    def _child(self, key: str | int) -> "Node":
        value = self.value[key]
        return Node(value, (*self.path, key), self._lines, self.where)

    def items(self, *, empty: bool = False) -> Iterator["Node"]:
        """The items of a list; an empty one is refused unless `empty`."""
        if not isinstance(self.value, list) or (not self.value and not empty):
            self.refuse("a list" if empty else "a list with at least one item")
        return (self._child(index) for index in range(len(self.value)))

    def text(self, expected: str = "text") -> str:
        """Text that is not empty, on one line, without control characters."""
        if not isinstance(self.value, str) or not self.value.strip() or not self.value.isprintable():
            self.refuse(expected)
        if len(self.value) > 1000:
            self.refuse(f"{expected} of at most 1000 characters")
        return self.value

    def identifier(self) -> str:
        """An id: letters, digits, `.`, `_`, `-`."""
        if not isinstance(self.value, str) or _ID.fullmatch(self.value) is None:
            self.refuse("an id of letters, digits, `.`, `_`, `-`")
        return self.value

    def choice(self, allowed: Sequence[str]) -> str:
        """One of some words."""
        if not isinstance(self.value, str) or self.value not in allowed:
            self.refuse("one of: " + ", ".join(allowed))
        return self.value

    def decimal(self, low: int | None = 0, noun: str = "a number") -> Decimal:
        """A quoted decimal (an integer serves too: it is exact); a float is refused."""
        found = None if isinstance(self.value, float | bool) else number(self.value)
        if found is None:
            self.refuse(f'{noun} as a quoted decimal, like "0.80"')
        if low is not None and found < low:
            self.refuse(f"{noun}, at least {low}")
        return found

    def count(self, low: int = 0, high: int = 1_000_000_000) -> int:
        """An integer within bounds."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= high:
            self.refuse(f"an integer from {low} to {high}")
        return self.value

    def duration(self, *, zero: bool = False) -> timedelta:
        """A duration like `90s`, `15m`, `4h`, `7d`; at most 366 days."""
        try:
            found = parse_duration(self.value)
        except ValueError:
            self.refuse("a duration like `90s`, `15m`, `4h`, `7d`")
        if not timedelta(0) <= found <= _DURATION_MAX or (not found and not zero):
            self.refuse("a duration above zero, at most 366 days")
        return found

    def texts(self, item: Callable[["Node"], str] | None = None, *, empty: bool = False) -> tuple[str, ...]:
        """A list of texts, each once."""
        seen: list[str] = []
        for node in self.items(empty=empty):
            value = node.text() if item is None else item(node)
            if value in seen:
                node.refuse("each item once")
            seen.append(value)
        return tuple(seen)


def _shown(value: object) -> object:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
