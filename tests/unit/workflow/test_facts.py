"""Facts of a decision: what is missing is null, numbers are decimal strings, ages are seconds."""

import json
from typing import Any

import pytest

from driftwarden.contracts.watch import WatchedModel
from driftwarden.service.workflow.facts import build_facts
from driftwarden.service.workflow.incident import Incident

NOW = "2026-11-20T09:00:00.000000Z"
MODEL = WatchedModel(name="m", task="classification", target="y", metric="accuracy",
                     value={"usd_per_point": "10.00"})  # type: ignore[arg-type]  # fmt: skip
BARE = Incident(id="inc-1", correlation_id="a" * 32, model="m", opened_at=NOW, updated_at=NOW)


def facts(incident: Incident, **changes: Any) -> dict[str, Any]:
    """Facts with nothing around them."""
    about: dict[str, Any] = {"model": MODEL, "state": {}, "halted": False, "track_record": None}
    return build_facts(incident, now=NOW, **(about | changes))


def leaves(document: Any) -> list[Any]:
    """Every value that is no container."""
    if isinstance(document, dict):
        return [leaf for value in document.values() for leaf in leaves(value)]
    return [document]


def test_what_is_not_known_is_null() -> None:
    """Nothing is made up where nothing was measured, planned or rehearsed."""
    found = facts(BARE, model=None, halted=None)
    for part in ("plan", "finding", "impact", "evidence", "rehearsal", "track_record"):
        assert set(leaves(found[part])) <= {None, 0} or part == "plan"
    assert found["plan"] | {"params": None} == dict.fromkeys(found["plan"])
    assert found["evidence"]["rows"] is None
    assert found["state"]["halted"] is None
    assert found["event"] == {"kind": None, "age_seconds": None}


def test_no_binary_float_reaches_a_decision(incident: Incident) -> None:
    """Floats become decimal strings, so that the same figure is the same text everywhere."""
    incident.measures = {
        "performance": {"relative_loss": 0.1 + 0.2, "reference": 0.9, "current": 0.6, "rows_current": 7}
    }
    found = facts(incident)
    assert not [leaf for leaf in leaves(found) if isinstance(leaf, float)]
    assert found["impact"]["relative_loss"] == "0.30000000000000004"
    assert found["plan"]["confidence"] == "0.9"
    assert found["evidence"]["rows"] == 7
    json.dumps(found)


def test_money_of_a_loss(incident: Incident) -> None:
    """30 points lost at 10 USD a point and day; nothing is lost where the model got better."""
    incident.measures = {"performance": {"reference": 0.9, "current": 0.6}}
    assert facts(incident)["impact"]["usd_per_day"] == "300"
    incident.measures = {"performance": {"reference": 0.6, "current": 0.9}}
    assert float(facts(incident)["impact"]["usd_per_day"]) == 0.0
    incident.measures = {"performance": {"reference": 2.0, "current": 3.0, "higher_is_better": False}}
    assert facts(incident)["impact"]["usd_per_day"] == "1000"


def test_ages_are_whole_seconds_and_never_negative(incident: Incident) -> None:
    """An hour ago is 3600; clocks may differ a little; what lies in the future has no age that is known."""
    incident.event = {"kind": "data_drift", "window": {"end": "2026-11-20T08:30:00+00:00"}}
    found = facts(incident)
    assert (found["event"]["age_seconds"], found["evidence"]["age_seconds"]) == (3600, 1800)
    for told, age in (("2026-11-20T09:04:59Z", 0), ("2026-11-20T09:05:01Z", None), ("2126-11-20T09:00:00Z", None)):
        incident.event_time = told
        assert facts(incident)["event"]["age_seconds"] == age


@pytest.mark.parametrize("status", ["failed", "not_rehearsable"])
def test_a_rehearsal_that_was_none_has_no_figures(incident: Incident, status: str) -> None:
    """Only what was rehearsed counts."""
    incident.rehearsals = [incident.rehearsals[0].model_copy(update={"status": status})]
    assert facts(incident)["rehearsal"] == {"win_probability": None, "relative_gain": None}
