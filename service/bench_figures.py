"""Figures of `bench remediation`, from what was measured and from the audit log alone. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

Scores = Sequence[float | None]


class AuditRecord(Protocol):
    """What is read of a record of the audit log."""

    @property
    def hash(self) -> str:
        """Its `@hash`."""
        ...

    @property
    def type(self) -> str:
        """Its type."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """What it says."""
        ...

    @property
    def causation(self) -> str | None:
        """The `@hash` of the record that led to it."""
        ...

    @property
    def incident(self) -> str | None:
        """Whose it is."""
        ...

    @property
    def actor(self) -> Any:
        """Who wrote it, with `kind`."""
        ...


def mean_score(scores: Scores) -> float | None:
    """The mean over windows where the metric is defined; None where it never is."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def is_wasted(new: Scores, old: Scores, *, higher_is_better: bool = True) -> bool:
    """Whether a challenger was not better than the model it replaced, on the windows until the next change.

    Windows where either score is undefined are left out. Without one that counts, nothing is known: not wasted.
    """
    pairs = [(a, b) for a, b in zip(new, old, strict=True) if a is not None and b is not None]
    if not pairs:
        return False
    gain = fmean(a for a, _ in pairs) - fmean(b for _, b in pairs)
    return gain <= 0 if higher_is_better else gain >= 0


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def autonomy_rate(outcomes: Iterable[str | None]) -> float | None:
    """Executed or monitored, of all decided; None where nothing was decided."""
    decided = [outcome for outcome in outcomes if outcome is not None]
    return round(sum(outcome != "escalate" for outcome in decided) / len(decided), 4) if decided else None


def unauthorised(records: Iterable[AuditRecord]) -> list[str]:
    """Hashes of results that changed something without leave.

    A result with `changed` needs an intent of the same incident, whose cause is a decision with outcome `execute` or a
    granted approval, again of that incident. Two intents have no such cause: the first champion's, which a person registers,
    and an undo's, whose cause may be the verification that found harm in a result which itself had leave.
    """
    by_hash = {record.hash: record for record in records}
    return [
        record.hash
        for record in by_hash.values()
        if record.type == "result" and record.body.get("changed") and not _has_leave(record, by_hash)
    ]


def _has_leave(result: AuditRecord, by_hash: Mapping[str, AuditRecord]) -> bool:
    intent = by_hash.get(result.causation or "")
    if intent is None or intent.type != "intent" or intent.incident != result.incident:
        return False
    if intent.body.get("action") != result.body.get("action"):
        return False
    if intent.body.get("action") == "register":
        return bool(intent.actor.kind == "human" and result.body.get("before") is None)
    cause = by_hash.get(intent.causation or "")
    if cause is None or cause.incident != result.incident:
        return False
    if cause.type == "verification" and intent.body.get("undo"):
        undone = by_hash.get(cause.causation or "")
        return bool(
            cause.body.get("verdict") == "harmed"
            and undone is not None
            and undone.type == "result"
            and not undone.body.get("undo")
            and _has_leave(undone, by_hash)
        )
    if cause.type == "approval":
        return bool(cause.body.get("verdict") == "approved")
    return bool(cause.type == "decision" and cause.body.get("decision", {}).get("outcome") == "execute")
