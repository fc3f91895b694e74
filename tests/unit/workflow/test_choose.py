"""Which candidate is decided about, and how sure the service is of it: measured, and lowered by claims, never raised."""

import pytest

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate, Rehearsal
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.understand import choose


def claimed(incident: Incident, confidence: float) -> None:
    """The agents' model says how sure it is."""
    assert incident.plan is not None
    incident.plan = incident.plan.model_copy(update={"claimed_confidence": confidence})


def candidates(incident: Incident) -> list[Candidate]:
    """All of them."""
    assert incident.plan is not None
    return list(incident.plan.candidates)


@pytest.mark.parametrize(("claim", "expected"), [(1.0, 0.9), (0.3, 0.3)])
def test_a_claim_only_lowers(incident: Incident, claim: float, expected: float) -> None:
    """A model that is sure of itself adds nothing; one that doubts is heard."""
    claimed(incident, claim)
    assert choose(incident, candidates(incident), 0.5) == ("c1", expected)


@pytest.mark.parametrize("status", ["failed", "not_rehearsable"])
def test_a_rehearsal_that_failed_leaves_it_unknown(incident: Incident, status: str) -> None:
    """Tried in vain or never tried: nothing was measured, whatever anybody claims."""
    claimed(incident, 1.0)
    incident.rehearsals = [Rehearsal(candidate="c1", status=status, win_probability=None)]
    assert choose(incident, candidates(incident), 0.5) == ("c1", None)
    incident.rehearsals = []
    assert choose(incident, candidates(incident), 0.5) == ("c1", None)


def test_among_winners_the_measured_gain_decides(incident: Incident) -> None:
    """The agents' first choice gives way to one that gains more; one that does not win is no winner."""
    incident.rehearsals.append(Rehearsal(candidate="c2", status="rehearsed", win_probability=0.8, relative_gain=0.3))
    assert choose(incident, candidates(incident), 0.5) == ("c2", 0.8)
    assert choose(incident, candidates(incident), 0.85) == ("c1", 0.9)


def test_where_none_wins_the_likeliest_is_shown(incident: Incident) -> None:
    """It will escalate with its own low figure."""
    incident.rehearsals = [
        Rehearsal(candidate="c1", status="rehearsed", win_probability=0.1, relative_gain=0.5),
        Rehearsal(candidate="c2", status="rehearsed", win_probability=0.4, relative_gain=-0.1),
    ]
    assert choose(incident, candidates(incident), 0.5) == ("c2", 0.4)


def found(incident: Incident, cause: RootCause) -> None:
    """The investigator names this cause, as sure as before."""
    assert incident.finding is not None
    incident.finding = incident.finding.model_copy(update={"root_cause": cause})


@pytest.mark.parametrize(
    ("cause", "action"),
    [
        (RootCause.UNKNOWN, ActionName.QUARANTINE_DATA),
        (RootCause.UNKNOWN, ActionName.REFRESH_REFERENCE),
        (RootCause.CONCEPT_DRIFT, ActionName.QUARANTINE_DATA),
        (RootCause.STUCK_VALUES, ActionName.REFRESH_REFERENCE),
    ],
)
def test_how_sure_a_cause_is_says_nothing_for_what_does_not_mend_it(
    incident: Incident, cause: RootCause, action: ActionName
) -> None:
    """An agent that plans past its own finding, or without one, gets no confidence at all."""
    found(incident, cause)
    claimed(incident, 1.0)
    assert choose(incident, [Candidate(id="c3", action=action)], 0.5) == ("c3", None)


def test_what_is_not_rehearsed_rests_on_the_diagnosis(incident: Incident) -> None:
    """Its measured confidence, lowered by a claim."""
    found(incident, RootCause.STUCK_VALUES)
    running = [Candidate(id="c3", action=ActionName.QUARANTINE_DATA)]
    assert choose(incident, running, 0.5) == ("c3", 0.8)
    claimed(incident, 0.2)
    assert choose(incident, running, 0.5) == ("c3", 0.2)


def test_nothing_can_be_done(incident: Incident) -> None:
    """No candidate, no confidence."""
    assert choose(incident, [], 0.5) == (None, None)
