"""Figures of the remediation benchmark, on made-up numbers and made-up records."""

from types import SimpleNamespace
from typing import Any

import pytest

from driftwarden.service.bench_figures import autonomy_rate, is_wasted, mean_score, percentile, unauthorised


@pytest.mark.parametrize(
    ("new", "old", "wasted"),
    [
        ([0.8, 0.9], [0.7, 0.7], False),
        ([0.8, 0.6], [0.7, 0.7], True),  # level in the mean is not better
        ([0.5], [0.6], True),
        ([0.9, None], [0.8, 0.99], False),  # a window without a score says nothing
        ([None], [0.5], False),
        ([], [], False),  # the stream ended: nobody knows
    ],
)
def test_a_retraining_is_wasted_where_its_challenger_is_not_better(new: Any, old: Any, wasted: bool) -> None:
    """Means over the windows until the next change decide."""
    assert is_wasted(new, old) is wasted


def test_losses_count_downwards() -> None:
    """Where less is better, a challenger with the lower figure is not wasted."""
    assert not is_wasted([1.0], [2.0], higher_is_better=False)
    assert is_wasted([2.0], [1.0], higher_is_better=False)


def test_means_percentiles_and_rates() -> None:
    """Nothing in, nothing out; nearest rank; windows without a decision do not count."""
    assert mean_score([0.5, None, 1.0]) == 0.75
    assert mean_score([None]) is None
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(1, 21)], 95) == 19.0
    assert percentile([], 50) is None
    assert autonomy_rate(["execute", None, "monitor", "escalate", "escalate"]) == 0.5
    assert autonomy_rate([None]) is None


def record(hash: str, type: str, cause: str | None, incident: str | None = "inc-1", **body: Any) -> Any:
    """A record of the log, as far as it is read; `kind` in the body is the actor's."""
    actor = SimpleNamespace(kind=body.pop("kind", "service"))
    return SimpleNamespace(hash=hash, type=type, causation=cause, incident=incident, body=body, actor=actor)


def story(outcome: str = "execute", **intent: Any) -> list[Any]:
    """A decision, the intent it allows, and its result."""
    return [
        record("d", "decision", "p", decision={"outcome": outcome}),
        record("i", "intent", "d", action="retrain", **intent),
        record("r", "result", "i", action="retrain", changed=True),
    ]


def test_a_decision_to_execute_or_a_granted_approval_gives_leave() -> None:
    """The chain from result to decision or approval is followed in the log alone."""
    assert unauthorised(story()) == []
    approved = [record("d", "approval", "x", verdict="approved"), *story()[1:]]
    assert unauthorised(approved) == []


def test_what_changed_nothing_needs_no_leave() -> None:
    """A challenger that lost is no effect."""
    assert unauthorised([record("r", "result", None, action="retrain", changed=False)]) == []


@pytest.mark.parametrize(
    "records",
    [
        story("escalate"),
        story("monitor"),
        story()[1:],  # the decision is not there
        story()[2:],  # nor the intent
        [record("d", "approval", "x", verdict="requested"), *story()[1:]],
        [record("d", "approval", "x", verdict="rejected"), *story()[1:]],
        [record("d", "decision", "p", "inc-2", decision={"outcome": "execute"}), *story()[1:]],
        [*story()[:1], record("i", "intent", "d", action="rollback"), story()[2]],
        [record("i", "intent", None, action="register"), record("r", "result", "i", action="register", changed=True)],
    ],
)
def test_anything_else_counts(records: list[Any]) -> None:
    """Another incident's decision, another action, an unanswered request, a registration by no person."""
    assert unauthorised(records) == ["r"]


def test_a_person_registers_the_first_champion_and_no_later_one() -> None:
    """Registering where there was a version before is an effect like any other."""
    intent = record("i", "intent", None, None, action="register", kind="human")
    first = record("r", "result", "i", None, action="register", changed=True, before=None)
    later = record("r", "result", "i", None, action="register", changed=True, before=3)
    assert unauthorised([intent, first]) == []
    assert unauthorised([intent, later]) == ["r"]


def undone(verdict: str = "harmed", outcome: str = "execute") -> list[Any]:
    """A retraining that was taken back after its verification."""
    return [
        *story(outcome),
        record("v", "verification", "r", verdict=verdict),
        record("u", "intent", "v", action="retrain", undo=True),
        record("z", "result", "u", action="retrain", changed=True, undo=True),
    ]


def test_an_undo_follows_proven_harm_of_what_had_leave() -> None:
    """Undoing what nobody allowed, or what did not harm, counts."""
    assert unauthorised(undone()) == []
    assert unauthorised(undone(verdict="helped")) == ["z"]
    assert unauthorised(undone(outcome="escalate")) == ["r", "z"]
