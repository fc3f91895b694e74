"""The states of an incident and the arrows between them (architecture, "States of an incident"). Pure."""

from enum import StrEnum

from driftwarden.errors import GiveUp


class State(StrEnum):
    """Where an incident stands; committed atomically, so a worker that dies leaves it at the last one."""

    RECEIVED = "received"
    TRIAGED = "triaged"
    INVESTIGATED = "investigated"
    PLANNED = "planned"
    REHEARSED = "rehearsed"
    DECIDED = "decided"
    EXECUTING = "executing"
    VERIFYING = "verifying"
    RESOLVED = "resolved"
    UNDONE = "undone"
    FAILED = "failed"
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    MONITORING = "monitoring"
    CLOSED = "closed"


S = State

# Every state may also go to `failed`: a fault that no retry mends ends an incident, and says why.
ARROWS: dict[State, frozenset[State]] = {
    S.RECEIVED: frozenset({S.TRIAGED}),
    S.TRIAGED: frozenset({S.INVESTIGATED}),
    S.INVESTIGATED: frozenset({S.PLANNED}),
    S.PLANNED: frozenset({S.REHEARSED}),
    S.REHEARSED: frozenset({S.DECIDED}),
    # Back to triaged: more drift came while it was weighed, and is looked at before anything is done.
    # To verifying, resolved or closed from here on: an undo that is not done leaves the incident where it stood.
    S.DECIDED: frozenset(
        {S.EXECUTING, S.AWAITING_APPROVAL, S.MONITORING, S.TRIAGED, S.VERIFYING, S.RESOLVED, S.CLOSED}
    ),
    S.AWAITING_APPROVAL: frozenset({S.APPROVED, S.REJECTED, S.EXPIRED, S.TRIAGED, S.CLOSED, S.VERIFYING, S.RESOLVED}),
    # What was approved is decided again: it may have become something else to ask, or nothing to do.
    S.APPROVED: frozenset({S.EXECUTING, S.AWAITING_APPROVAL, S.MONITORING, S.VERIFYING, S.RESOLVED, S.CLOSED}),
    S.EXECUTING: frozenset({S.VERIFYING, S.RESOLVED, S.UNDONE, S.AWAITING_APPROVAL, S.MONITORING, S.TRIAGED, S.CLOSED}),
    # An effect that harmed is taken back by another effect, or by people.
    S.VERIFYING: frozenset({S.RESOLVED, S.EXECUTING, S.AWAITING_APPROVAL}),
    S.MONITORING: frozenset({S.CLOSED, S.TRIAGED}),
    S.RESOLVED: frozenset(),
    S.UNDONE: frozenset(),
    S.FAILED: frozenset(),
    S.REJECTED: frozenset(),
    S.EXPIRED: frozenset(),
    S.CLOSED: frozenset(),
}

TERMINAL = frozenset(state for state, onwards in ARROWS.items() if not onwards)

# While an incident is here, later events of its model join it instead of opening another.
JOINABLE = frozenset(
    {S.RECEIVED, S.TRIAGED, S.INVESTIGATED, S.PLANNED, S.REHEARSED, S.DECIDED, S.AWAITING_APPROVAL, S.APPROVED}
)

# Effects may be under way here: the model's slot is held by this incident alone.
ACTING = frozenset({S.EXECUTING})


def check_arrow(before: State, after: State) -> None:
    """Raise GiveUp where the map has no such arrow; staying where one is, is no arrow."""
    if before == after or (after is S.FAILED and before not in TERMINAL):
        return
    if after not in ARROWS[before]:
        raise GiveUp(f"no arrow from state `{before}` to `{after}`")
