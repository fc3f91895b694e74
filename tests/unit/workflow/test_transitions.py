"""The map of states, held against the architecture's."""

import itertools

import pytest

from driftwarden.errors import GiveUp
from driftwarden.service.workflow.transitions import ARROWS, JOINABLE, TERMINAL, State, check_arrow

MAP = (
    "received triaged investigated planned rehearsed decided executing verifying resolved",
    # To take an effect back is an effect: it passes through `executing`, decided and written down like any other.
    "verifying executing undone",
    "decided awaiting_approval approved executing",
    "awaiting_approval rejected",
    "awaiting_approval expired",
    "decided monitoring closed",
)


@pytest.mark.parametrize("path", MAP)
def test_every_arrow_of_the_architecture_exists(path: str) -> None:
    """What the document draws can be walked."""
    states = [State(name) for name in path.split()]
    for before, after in itertools.pairwise(states):
        check_arrow(before, after)


def test_ends_are_ends() -> None:
    """Nothing leads out of an end but a person's word, and every state that is none may fail."""
    assert {"resolved", "undone", "failed", "rejected", "expired", "closed"} == TERMINAL
    for end in TERMINAL:
        for after in State:
            if after != end:
                with pytest.raises(GiveUp):
                    check_arrow(end, after)
    for state in set(State) - TERMINAL:
        check_arrow(state, State.FAILED)


@pytest.mark.parametrize("before", ["received", "triaged", "investigated", "planned", "rehearsed", "monitoring"])
def test_nothing_is_executed_that_was_not_decided(before: str) -> None:
    """No arrow leads to `executing` but from a decision or an approval."""
    with pytest.raises(GiveUp, match="no arrow"):
        check_arrow(State(before), State.EXECUTING)


def test_every_state_can_be_reached_and_left() -> None:
    """No state is an island, and no event joins an incident that acts."""
    assert set().union(*ARROWS.values()) | {State.RECEIVED, State.FAILED} == set(State)
    assert not JOINABLE & (TERMINAL | {State.EXECUTING, State.VERIFYING})
