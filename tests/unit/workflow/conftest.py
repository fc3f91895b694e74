"""An incident, its decision, and a real Redis."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftwarden.contracts.base import ActionName, Outcome, RootCause
from driftwarden.contracts.decision import ApprovalTerms, Decision, RuleResult
from driftwarden.contracts.findings import Candidate, Finding, Plan, Rehearsal
from driftwarden.service.workflow.incident import Incident
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

sys.path.insert(0, str(Path(__file__).parents[2]))  # the people of tests/fakes

NOW = "2026-11-20T09:00:00.000000Z"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded server."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        client = connect(server.url)
        client.config_set("appendfsync", "no")
        yield client
        client.close()


@pytest.fixture
def client(redis_server: Any) -> Any:
    """An empty server."""
    redis_server.flushall()
    return redis_server


@pytest.fixture
def incident() -> Incident:
    """One that was rehearsed: a retraining that wins with probability 0.9."""
    return Incident(
        id="inc-000000000001",
        correlation_id="a" * 32,
        model="m",
        opened_at=NOW,
        updated_at=NOW,
        event={"window": {"uri": "w.parquet", "start": "2026-11-20T07:00:00Z", "end": "2026-11-20T08:00:00Z"}},
        event_time="2026-11-20T08:00:00.000000Z",
        champion_before=3,
        finding=Finding(root_cause=RootCause.CONCEPT_DRIFT, confidence=0.8, summary="worse"),
        plan=Plan(
            candidates=(
                Candidate(id="c1", action=ActionName.RETRAIN, params={"strategy": "all"}),
                Candidate(id="c2", action=ActionName.RETRAIN, params={"strategy": "recent"}),
                Candidate(id="c3", action=ActionName.NOTIFY),
            )
        ),
        rehearsals=[Rehearsal(candidate="c1", status="rehearsed", win_probability=0.9, relative_gain=0.1)],
        chosen="c1",
        confidence=0.9,
    )


@pytest.fixture
def decision() -> Decision:
    """An escalation because the confidence is too low."""
    rule = RuleResult(id="confidence", verdict="fail", effect="escalate", got="0.5", expected="0.8", message="low")
    return Decision(
        outcome=Outcome.ESCALATE,
        would_be=None,
        rules=(rule, rule._replace(id="tier", verdict="pass", effect=None)),
        decisive=("confidence",),
        approvals=ApprovalTerms(required=2, from_=("risk", "ml-oncall"), expires_after_seconds=3600),
        policy_name="p",
        policy_revision="1",
        policy_digest="sha256:0",
        facts_digest="sha256:0",
    )
