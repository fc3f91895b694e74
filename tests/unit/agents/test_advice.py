"""Drafts become findings and plans by rules that no model can talk its way around."""

from decimal import Decimal
from typing import Any

import pytest
from fakes.cases import ScriptedCase

from driftwarden.agents.advice import CaseFacts, Notes, build_plan, ground_finding, read_facts
from driftwarden.agents.drafts import CandidateDraft, FindingDraft, PlanDraft
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.measurements import MEASUREMENT_NAMES

EVENT_WINDOW = {
    "uri": "data/window-17.parquet",
    "start": "2026-11-19T00:00:00.000000Z",
    "end": "2026-11-20T00:00:00.000000Z",
}


@pytest.fixture
def facts() -> CaseFacts:
    """A case in which the relation changed."""
    return read_facts(ScriptedCase("concept_drift"))


def plan_of(facts: CaseFacts, *candidates: dict[str, Any]) -> tuple[list[Any], Notes]:
    """The candidates that are left of a draft, and the notes."""
    notes = Notes()
    draft = PlanDraft(candidates=[CandidateDraft(**candidate) for candidate in candidates])
    return list(build_plan(draft, facts, {"runbook:x"}, notes).candidates), notes


def test_every_measurement_is_taken_whatever_the_agent_looked_at() -> None:
    """A model that skips a measurement cannot so avoid what it says."""
    case = ScriptedCase("quiet")
    read_facts(case)
    assert set(case.asked) == set(MEASUREMENT_NAMES)


def test_confidence_is_the_measurements_and_a_claim_only_lowers_it(facts: CaseFacts) -> None:
    """The same cause with claims of 1, none and 0.2; and a cause that nothing supports."""
    measured = facts.scores[0]

    def confidence(cause: RootCause, claimed: float | None) -> float:
        draft = FindingDraft(root_cause=cause, summary="so it is", claimed_confidence=claimed)
        return ground_finding(draft, facts, set(), Notes()).confidence

    assert measured.root_cause is RootCause.CONCEPT_DRIFT
    assert confidence(RootCause.CONCEPT_DRIFT, 1.0) == confidence(RootCause.CONCEPT_DRIFT, None) == measured.confidence
    assert confidence(RootCause.CONCEPT_DRIFT, 0.2) == 0.2
    assert confidence(RootCause.UNIT_CHANGE, 1.0) < 0.1


def test_columns_and_citations_that_do_not_exist_are_left_out(facts: CaseFacts) -> None:
    """What was invented is dropped and noted."""
    draft = FindingDraft(
        root_cause=RootCause.CONCEPT_DRIFT,
        columns=["temperature", "no_such_column"],
        summary="two\nlines \x1b[31m",
        citations=["runbook:x", "runbook:invented"],
    )
    notes = Notes()
    finding = ground_finding(draft, facts, {"runbook:x"}, notes)
    assert finding.columns == ("temperature",)
    assert finding.citations == ("runbook:x",)
    assert finding.summary == "two lines [31m"
    assert {step.name for step in notes.steps} == {"columns", "citations"}


def test_measured_evidence_comes_first_and_claims_are_marked(facts: CaseFacts) -> None:
    """An agent's own number stands as its claim, never as a measurement."""
    draft = FindingDraft(
        root_cause=RootCause.CONCEPT_DRIFT,
        summary="s",
        evidence=[{"claim": "I am certain", "value": 1.0, "source": "measure_concept"}],  # type: ignore[list-item]
    )
    finding = ground_finding(draft, facts, set(), Notes())
    assert finding.evidence[: len(facts.scores[0].evidence)] == facts.scores[0].evidence
    assert finding.evidence[-1].source == "claimed by the agent: measure_concept"


def test_costs_and_benefits_are_the_model_cards(facts: CaseFacts) -> None:
    """A model's own figures are dropped and noted."""
    kept, notes = plan_of(facts, {"action": "retrain", "strategy": "recent", "cost_usd": 0, "benefit_usd": 10**9})
    assert (kept[0].cost_usd, kept[0].benefit_usd) == (Decimal("5.00"), Decimal("9100.00"))
    assert kept[0].params == {"strategy": "recent"}
    assert "benefit_usd, cost_usd" in notes.steps[0].summary


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        ({"action": "delete_everything"}, "unknown action"),
        ({"action": "retrain", "strategy": "; rm -rf /"}, "strategy"),
        ({"action": "rollback", "to_version": 99}, "version 99"),
        ({"action": "rollback", "to_version": 2}, "version 2"),
        ({"action": "rollback", "to_version": 3}, "version 3"),
        ({"action": "fallback_model"}, "no fallback version"),
    ],
)
def test_what_the_case_does_not_allow_is_dropped_and_people_are_told(
    facts: CaseFacts, candidate: dict[str, Any], why: str
) -> None:
    """Where nothing usable is left, the plan is to notify."""
    kept, notes = plan_of(facts, candidate)
    assert [item.action for item in kept] == [ActionName.NOTIFY]
    assert why in notes.steps[0].summary


def test_files_and_times_come_from_the_event_alone(facts: CaseFacts) -> None:
    """Whatever a model names, the batch is the event's window."""
    kept, notes = plan_of(
        facts,
        {"action": "quarantine_data", "uri": "/etc/passwd", "start": "1970-01-01T00:00:00Z"},
        {"action": "refresh_reference", "params": {"uri": "s3://elsewhere/x"}},
    )
    assert [item.params for item in kept] == [EVENT_WINDOW, {"uri": EVENT_WINDOW["uri"]}]
    assert len(notes.steps) == 2


def test_an_event_without_a_window_leaves_nothing_to_quarantine() -> None:
    """A remedy that needs the window is dropped where there is none."""
    facts = read_facts(ScriptedCase("unit_change", event={"window": None}))
    kept, _ = plan_of(facts, {"action": "quarantine_data"}, {"action": "refresh_reference"}, {"action": "notify"})
    assert [item.action for item in kept] == [ActionName.NOTIFY]


def test_repeats_and_more_than_six_are_dropped(facts: CaseFacts) -> None:
    """Ids are given in the order that is left."""
    many = [{"action": "retrain", "strategy": name} for name in ("all", "all", "recent")]
    many += [{"action": name} for name in ("rollback", "recalibrate", "notify", "none", "quarantine_data")]
    kept, notes = plan_of(facts, *many)
    assert [item.id for item in kept] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    assert kept[2].params == {"to_version": 1}
    assert ["came twice" in step.summary for step in notes.steps] == [True, False]


def test_which_rows_a_training_sees_comes_from_the_model_card() -> None:
    """A model names the strategy; how many rows, or since when, the case knows, or the candidate is dropped."""
    hints = {"recent_rows": 400, "since": "2026-11-10T00:00:00Z"}
    known = read_facts(ScriptedCase("concept_drift", model={"retraining": hints}))
    wanted = [{"action": "retrain", "strategy": name, "since": "1970"} for name in ("all", "recent", "since_drift")]
    assert [item.params for item in plan_of(known, *wanted)[0]] == [
        {"strategy": "all"},
        {"strategy": "recent", "rows": 400},
        {"strategy": "since_drift", "since": "2026-11-10T00:00:00Z"},
    ]
    unknown = read_facts(ScriptedCase("concept_drift"))
    assert [item.params for item in plan_of(unknown, *wanted)[0]] == [{"strategy": "all"}, {"strategy": "recent"}]
