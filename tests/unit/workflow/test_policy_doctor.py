"""What the doctor says of the policy: on this disk, and in the processes that run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from driftwarden.policies import Policy, load_policy
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.cli import doctor
from driftwarden.service.workflow.policy_agreement import PolicyAgreement
from driftwarden.settings import RedisSettings, Settings

TEXT = """
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: tests, revision: "REVISION"}
spec: {enforcement: enforce, tiers: [{name: all, models: ["*"], allow: [notify]}]}
"""


def policy(revision: str) -> Policy:
    """A policy; another revision is another policy."""
    return load_policy(TEXT.replace("REVISION", revision), "policy.yml")


@pytest.fixture
def settings(tmp_path: Path, embedded_redis: str, redis_prefix: str) -> Settings:
    """A policy of revision 1 on disk, a Redis that is there."""
    (tmp_path / "policy.yml").write_text(TEXT.replace("REVISION", "1"))
    redis = RedisSettings(url=SecretStr(embedded_redis), prefix=redis_prefix)
    return Settings(
        home=tmp_path, conf=tmp_path, audit_dir=tmp_path / "audit", policy_path=tmp_path / "policy.yml", redis=redis
    )


@pytest.fixture
def runs(redis_client: Any, redis_prefix: str) -> Callable[..., None]:
    """A process that holds a policy."""

    def announce(name: str, revision: str, fault: str | None = None) -> None:
        agreement = PolicyAgreement(redis_client, redis_prefix, name, PolicyHolder(policy(revision)))
        agreement.fault = fault
        agreement.announce()

    return announce


def told(settings: Settings) -> tuple[str, str]:
    """State and detail of the check."""
    (check,) = doctor._policy_in_force(settings)
    assert check.name == "policy in force"
    assert (check.state == "ok") == (check.mend == "")
    return check.state, check.detail


def test_nothing_runs(settings: Settings) -> None:
    """That is no fault."""
    assert told(settings) == ("ok", "no service runs here; the next one starts with the file")


def test_all_hold_what_lies_on_disk(settings: Settings, runs: Any) -> None:
    """Which policy, by name, revision and digest, its mode, and in how many processes."""
    runs("a", "1")
    runs("b", "1")
    digest = policy("1").digest.removeprefix("sha256:")[:12]
    assert told(settings) == ("ok", f"tests 1 ({digest}), enforcement enforce, in 2 processes, as on disk")


def test_the_file_is_another(settings: Settings, runs: Any) -> None:
    """Taken up within seconds, or the process reads another folder."""
    runs("a", "2")
    state, detail = told(settings)
    assert state == "warning"
    assert detail.endswith("in 1 process; the file on this disk is another: tests 1")


def test_the_file_does_not_load(settings: Settings, runs: Any) -> None:
    """Here: the check of the file says why. Where the process runs: its own words are shown."""
    runs("a", "1")
    settings.policy_path.write_text("spec: [")
    assert told(settings)[0] == "warning"
    (file,) = doctor._policy(settings)
    assert (file.state, str(settings.policy_path) in file.detail) == ("fault", True)
    runs("a", "1", fault="policy.yml:3: wrong")
    state, detail = told(settings)
    assert state == "fault"
    assert detail.endswith("it stays in force, for what lies on disk does not load: policy.yml:3: wrong")


def test_workers_differ(settings: Settings, runs: Any) -> None:
    """Nothing executes; who holds what is named."""
    runs("a", "1")
    runs("b", "2")
    state, detail = told(settings)
    assert state == "fault"
    assert detail.startswith("nothing executes until all agree: a holds tests 1 (")
    assert "b holds tests 2 (" in detail


def test_a_word_that_cannot_be_read(settings: Settings, runs: Any, redis_client: Any, redis_prefix: str) -> None:
    """Counts as another policy."""
    runs("a", "1")
    redis_client.hset(f"{redis_prefix}policies", "b", b"nope")
    state, detail = told(settings)
    assert state == "fault"
    assert "b holds what cannot be read" in detail
