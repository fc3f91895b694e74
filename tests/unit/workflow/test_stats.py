"""Figures over made-up incidents, each worked out by hand."""

from decimal import Decimal
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import EffectResult
from driftwarden.service.workflow.approvals import ApprovalRequest
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.stats import figures


def made(number: int, outcome: str | None, **about: Any) -> Incident:
    """One that was decided `number` seconds after it was opened."""
    decided = {"decision": {}, "decided_at": f"2026-11-20T09:00:{number:02d}Z"} if outcome else {}
    values: dict[str, Any] = {
        "id": f"inc-{number}", "correlation_id": "a" * 32, "model": "m", "opened_at": "2026-11-20T09:00:00Z",
        "updated_at": "2026-11-20T09:00:00Z", "outcome": outcome, "events": [{"id": str(number)}], **decided,
    }  # fmt: skip
    return Incident(**(values | about))


def acted(number: int, *, helped: bool | None, confidence: float, **about: Any) -> Incident:
    """One that retrained."""
    result = EffectResult(action=ActionName.RETRAIN, idempotency_key="k", changed=True)
    return made(number, "execute", result=result, helped=helped, confidence=confidence, **about)


def answered(state: str, seconds: int) -> ApprovalRequest:
    """A request that was answered after so many seconds."""
    grant = {"by": "ada", "group": "risk", "at": f"2026-11-20T09:00:{seconds:02d}Z", "reason": "r"}
    return ApprovalRequest.model_validate(
        {"id": f"apr-{seconds}", "incident": "inc-1", "correlation_id": "a" * 32, "model": "m", "action": "retrain",
         "params": {}, "candidate": "c1", "digest": "d", "state": state, "required": 1, "groups": ["risk"],
         "granted": [grant] if state == "executed" else [], "refused": grant if state == "rejected" else None,
         "requested_at": "2026-11-20T09:00:00Z", "expires_at": "2026-11-21T09:00:00Z", "cost_usd": "1"}
    )  # fmt: skip


def test_nothing_yet() -> None:
    """Rates of nothing are null, counts are zero."""
    found = figures([], [], spend_usd=Decimal(0), harmful_loss=Decimal("0.02"))
    assert (found["incidents"], found["autonomy_rate"], found["success_rate"]) == (0, None, None)
    assert found["response_seconds"] == {"p50": None, "p95": None, "max": None}
    assert (found["spend_usd"], found["calibration"]["n"]) == ("0", 0)


def test_autonomy_counts_whoever_was_asked_as_escalated_for_good() -> None:
    """Executed or monitored, of all decided; one that people approved later still counts against it."""
    harmful = {"measures": {"performance": {"relative_loss": 0.02}}}
    incidents = [
        acted(1, helped=None, confidence=0.9, **harmful),
        acted(2, helped=None, confidence=0.9, approval="apr-1", **harmful),
        made(3, "escalate", measures={"performance": {"relative_loss": 0.0199}}),
        made(4, "monitor"),
        made(5, None),
    ]
    found = figures(incidents, [], spend_usd=Decimal("100"), harmful_loss=Decimal("0.02"))
    assert found["outcomes"] == {"execute": 1, "escalate": 2, "monitor": 1}
    assert (found["autonomy_rate"], found["autonomy_rate_harmful"]) == ("0.5000", "0.5000")
    assert (found["events"], found["incidents"], found["actions"]) == (5, 5, {"retrain": 2})
    assert found["response_seconds"] == {"p50": 2.0, "p95": 4.0, "max": 4.0}
    assert found["spend_usd"] == "100", "money is never written as 1E+2"


def test_success_and_calibration() -> None:
    """Two of three that labels have judged helped; the Brier score and ECE by hand."""
    incidents = [
        acted(1, helped=True, confidence=0.9),
        acted(2, helped=True, confidence=0.95),
        acted(3, helped=False, confidence=0.6, state="undone"),
        acted(4, helped=None, confidence=0.1),
    ]
    found = figures(incidents, [], spend_usd=Decimal("0.50"), harmful_loss=Decimal("0.02"))
    assert (found["success_rate"], found["undone"], found["spend_usd"]) == ("0.6667", 1, "0.5")
    brier = (0.1**2 + 0.05**2 + 0.6**2) / 3
    ece = (abs(2 - 1.85) + abs(0 - 0.6)) / 3
    assert found["calibration"] == {"brier": f"{brier:.4f}", "ece": f"{ece:.4f}", "n": 3}


def test_approvers() -> None:
    """Median of those that were answered; states counted."""
    requests = [answered("executed", 10), answered("rejected", 30), answered("expired", 40), answered("pending", 50)]
    found = figures([], requests, spend_usd=Decimal(0), harmful_loss=Decimal("0.02"))["approvals"]
    counts = {"median_seconds": 20.0, "approved": 1, "rejected": 1, "expired": 1, "pending": 1}
    assert found == counts | {"approval_rate": "0.5000", "proved_right": {"share": None, "n": 0}}


def test_how_often_approvers_were_right() -> None:
    """Of the approved effects that later rows judged; an approved undo is no such effect."""
    incidents = [
        acted(1, helped=True, confidence=0.5, approval="apr-1"),
        acted(2, helped=False, confidence=0.5, approval="apr-2"),
        acted(3, helped=None, confidence=0.5, approval="apr-3"),
        acted(4, helped=True, confidence=0.5),
        acted(5, helped=False, confidence=0.5, approval="apr-5"),
    ]
    requests = [
        answered("executed", number).model_copy(update={"incident": f"inc-{number}", "params": params})
        for number, params in ((1, {}), (2, {}), (3, {}), (5, {"undo": "inc-5"}))
    ]
    found = figures(incidents, requests, spend_usd=Decimal(0), harmful_loss=Decimal("0.02"))["approvals"]
    assert found["proved_right"] == {"share": "0.5000", "n": 2}
