"""Scenarios that the tests of the checker and of the matrix share, recorded once."""

from dataclasses import dataclass

from crash.history import History
from crash.matrix import Passed

TOLD = ("approved", "undone", "dead-letter", "two-models", "quarantined")


@dataclass(frozen=True)
class Recording:
    """A scenario that nobody disturbed: the points that it passed, and what it left."""

    passed: list[Passed]
    history: History
