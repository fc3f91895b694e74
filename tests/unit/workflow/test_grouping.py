"""Names of groups: the same upstream, environment and drifted features have the same; nothing else does."""

import json
from typing import Any

import pytest

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.contracts.watch import WatchedModel
from driftwarden.service.workflow.grouping import TOLD_MAX, group_names
from driftwarden.stream.publisher import build_event

COLUMNS = [
    {"name": "temperature", "drifted": True, "role": "feature"},
    {"name": "pressure", "drifted": True},
    {"name": "load", "drifted": False},
    {"name": "failure", "drifted": True},
    {"name": "said", "drifted": True, "role": "prediction"},
]


def model(name: str = "m", *upstream: str, target: str = "failure") -> WatchedModel:
    """A watched model fed from these data sets."""
    return WatchedModel(name=name, task="classification", target=target, metric="accuracy", upstream=upstream)


def event(name: str = "m", **data: Any) -> DriftEvent:
    """A drift event."""
    body = {"model": name, "kind": "data_drift", "columns": COLUMNS} | data
    return parse_event(json.dumps(build_event(body, source="test", id=f"e-{name}", time="2026-11-20T08:30:00Z")))


def test_models_of_one_upstream_have_a_name_in_common() -> None:
    """The order of the columns, and what else drifted, makes no difference; another upstream of one of them neither."""
    first = group_names(event("a"), model("a", "sensors"))
    second = group_names(event("b", columns=COLUMNS[::-1], kind="data_quality"), model("b", "weather", "sensors"))
    assert len(first) == 1
    assert len(second) == 2
    assert set(first) < set(second)
    assert all(len(name) == 64 and int(name, 16) for name in second)


@pytest.mark.parametrize(
    "other",
    [
        {"environment": "staging"},
        {"columns": COLUMNS[:1]},
        {"columns": [*COLUMNS, {"name": "load 2", "drifted": True}]},
    ],
)
def test_another_environment_or_other_columns_have_another_name(other: dict[str, Any]) -> None:
    """Drift of staging, or of other columns, has another cause."""
    watched = model("a", "sensors")
    assert not set(group_names(event(), watched)) & set(group_names(event(**other), watched))


@pytest.mark.parametrize(
    ("data", "watched"),
    [
        ({}, model()),
        ({}, None),
        ({"columns": []}, model("m", "sensors")),
        ({"columns": COLUMNS[2:]}, model("m", "sensors")),
        ({"columns": [{"name": "temperature"}]}, model("m", "sensors")),
        ({"kind": "performance_drop", "columns": []}, model("m", "sensors")),
        ({"kind": "concept_drift"}, model("m", "sensors")),
        ({"kind": "label_drift"}, model("m", "sensors")),
    ],
)
def test_where_no_upstream_can_be_the_cause_there_is_no_group(
    data: dict[str, Any], watched: WatchedModel | None
) -> None:
    """No upstream, no drifted feature, or a kind that comes from no table."""
    assert group_names(event(**data), watched) == ()


def test_what_is_told_groups_only_where_nothing_is_configured() -> None:
    """The lineage of a hook joins models without a configured upstream, and leads nobody into a configured group."""
    told = group_names(event(upstream=["sensors"]), model("a"))
    assert len(told) == 1
    assert told == group_names(event("b", upstream=["sensors"]), model("b"))
    configured = group_names(event("c", upstream=["other"]), model("c", "sensors"))
    assert configured == group_names(event("c"), model("c", "sensors"))
    assert not set(told) & set(configured)


@pytest.mark.parametrize("told", ["sensors", {}, [], [1], [""], ["x" * 513], ["sensors", None], ["s"] * (TOLD_MAX + 1)])
def test_what_is_told_badly_is_no_group(told: Any) -> None:
    """Another type, too long, or too many: nothing was told."""
    assert group_names(event(upstream=told), model()) == ()


def test_no_text_is_read_as_two_fields() -> None:
    """Names with commas and quotes stay one name each."""
    columns = [{"name": 'a","b', "drifted": True}]
    other = [{"name": "a", "drifted": True}, {"name": "b", "drifted": True}]
    watched = model("m", "sensors")
    assert group_names(event(columns=columns), watched) != group_names(event(columns=other), watched)
