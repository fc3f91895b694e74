"""A cause while support for it is gathered, and the measurements as a diagnosis reads them."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from driftwarden.contracts.base import RootCause, Value
from driftwarden.contracts.findings import Evidence, Share
from driftwarden.contracts.measurements import Measured

Kind = TypeVar("Kind", bound=Measured)


class CauseScore(Value):
    """One cause: the columns it concerns, its confidence, the numbers that speak for it, and what speaks against it."""

    root_cause: RootCause
    columns: tuple[str, ...] = ()
    confidence: Share
    evidence: tuple[Evidence, ...] = ()
    against: str = ""


class Cause:
    """A cause while its support is being gathered."""

    def __init__(self, name: RootCause) -> None:
        """Nothing speaks for it yet."""
        self.name, self.support, self.hinted, self.against = name, 0.0, 0.0, ""
        self.columns: dict[str, float] = {}
        self.evidence: list[Evidence] = []

    def add(self, support: float, evidence: Evidence) -> None:
        """One more piece of evidence; the strongest counts."""
        self.support = max(self.support, min(1.0, max(0.0, support)))
        self.evidence.append(evidence)
        for column in evidence.columns:
            self.columns[column] = max(self.columns.get(column, 0.0), support)

    def hint(self, weight: float, evidence: Evidence) -> None:
        """Something that was said and not measured: it may lead the search, and adds nothing to the confidence."""
        self.hinted = max(self.hinted, min(1.0, max(0.0, weight)))
        self.evidence.append(evidence)
        for column in evidence.columns:
            self.columns.setdefault(column, 0.0)

    @property
    def weight(self) -> float:
        """What the ranking goes by, 0..1: what was measured, joined by what was said."""
        return 1 - (1 - self.support) * (1 - self.hinted)

    def weaken(self, factor: float, reason: str) -> None:
        """Explained away, in part."""
        if self.weight > 0 and factor < 1:
            self.support *= max(0.0, factor)
            self.hinted *= max(0.0, factor)
            self.against = f"{self.against}; {reason}" if self.against else reason

    def score(self) -> CauseScore:
        """The value that is handed out: columns by how much speaks for each."""
        ordered = sorted(self.columns, key=lambda column: (-self.columns[column], column))
        return CauseScore(
            root_cause=self.name,
            columns=tuple(ordered),
            confidence=round(min(1.0, max(0.0, self.support)), 4),
            evidence=tuple(self.evidence),
            against=self.against,
        )


class Reader:
    """Measurements by name and type; what is absent or unavailable reads as None."""

    def __init__(self, measures: Mapping[str, Measured]) -> None:
        """Keep the measurements."""
        self.measures = measures

    def get(self, name: str, kind: type[Kind]) -> Kind | None:
        """The measurement, where it was made."""
        found = self.measures.get(name)
        return found if isinstance(found, kind) and not found.unavailable else None

    @property
    def empty_window(self) -> bool:
        """A window was there to read, and held no rows."""
        return any(m.rows_current == 0 and m.rows_reference > 0 for m in self.measures.values())


def ramp(value: float, floor: float, plain: float) -> float:
    """0 at the floor, 1 at the plain size, linear between."""
    return min(1.0, max(0.0, (value - floor) / (plain - floor)))


def size(value: float, floor: float, plain: float) -> float:
    """0.6 at the practical floor, 1 at a plain size."""
    return 0.6 + 0.4 * ramp(value, floor, plain)


def evidence(
    claim: str,
    measure: str,
    value: float | str | None,
    source: str,
    *,
    columns: Iterable[str] = (),
    threshold: float | None = None,
) -> Evidence:
    """One number of the measurement `source` as evidence, rounded to six places."""
    shown = round(value, 6) if isinstance(value, float) else value
    return Evidence(
        claim=claim, measure=measure, value=shown, threshold=threshold, columns=tuple(columns), source=source
    )
