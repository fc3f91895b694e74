"""The demo, seen from outside: what it promises on its screen is in its registry, its log and its queue."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEMO_S, DemoRun, blocks, run_demo

pytestmark = pytest.mark.timeout(DEMO_S + 100)


def driftwarden(run: DemoRun, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One command, as a person types it after the demo."""
    return subprocess.run(
        [sys.executable, "-m", "driftwarden.service.cli.main", *arguments],
        env=run.environ,
        cwd=run.home.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lines(text: str) -> list[dict[str, Any]]:
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def normal(text: str) -> list[str]:
    """Lines without what changes from run to run: folders and what depends on them, waiting times."""
    text = re.sub(r"median \d+\.\d s, slowest \d+\.\d s", "median T s, slowest T s", text)
    text = re.sub(r"audit log: \d+ records", "audit log: N records", text)  # checkpoints come by the clock
    text = re.sub(r"done in \d+ s", "done in T s", text)
    text = re.sub(r"apr-[0-9a-f]{12}", "apr-ID", text)  # its digest binds the window's file, wherever that lies
    text = re.sub(r"DRIFTWARDEN_(HOME|CONF)=\S+", r"DRIFTWARDEN_\1=FOLDER", text)
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_demo_prints_what_the_readme_shows(factory: DemoRun) -> None:
    """Line for line, but for waiting times and folders."""
    (shown,) = blocks("demo")
    assert normal(shown) == normal(factory.screen)


def test_every_kind_of_outcome_happens(factory: DemoRun) -> None:
    """At least one event is executed unattended, one escalated, one only monitored, one batch quarantined."""
    incidents = factory.document["incidents"]
    outcomes = Counter(incident["outcome"] for incident in incidents)
    assert outcomes["execute"] >= 1
    assert outcomes["escalate"] >= 1
    assert outcomes["monitor"] >= 1
    assert any(one["action"] == "quarantine_data" and one["outcome"] == "execute" for one in incidents)
    assert any(one["action"] == "retrain" and one["versions"]["after"] for one in incidents)


def test_remediation_helps_and_the_figures_are_the_windows_own(factory: DemoRun) -> None:
    """The means of the summary are the means of the windows, and remediation beats the first model left alone."""
    performance = factory.document["performance"]
    windows = performance["windows"]
    for side in ("with", "without"):
        assert abs(performance[side] - sum(one[side] for one in windows) / len(windows)) < 1e-6
    assert performance["with"] > performance["without"]


def test_an_approval_waits_and_says_how_to_answer(factory: DemoRun) -> None:
    """The request that the demo leaves is in the queue, with everything needed to decide."""
    (waiting,) = factory.document["approvals"][-1:]
    assert f"driftwarden approvals show {waiting}" in factory.screen
    shown = driftwarden(factory, "approvals", "show", waiting, "--json")
    assert shown.returncode == 0, shown.stderr
    request = json.loads(shown.stdout)
    assert request["state"] == "pending"
    assert request["why"]
    assert request["digest"].startswith("sha256:")


def test_the_registry_is_accounted_for_version_by_version(factory: DemoRun) -> None:
    """Every version in the registry stands in a `result` record of the audit log, and every record's version exists."""
    account_for(factory)


def account_for(run: DemoRun) -> None:
    """Hold the registry against the audit log, read as plain JSON Lines."""
    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.settings import load_settings

    settings = load_settings(run.environ)
    (model,) = settings.models.values()
    registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
    registered = {int(one["version"]) for one in registry.versions(model, 1000)}
    records = [
        json.loads(line)
        for file in sorted((run.home / "audit").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    champions, recorded = [], set()
    for record in sorted(records, key=lambda one: one["ts"]):
        body = record["body"]
        if record["type"] != "result":
            continue
        recorded |= {int(v) for v in (body.get("after"), (body.get("data") or {}).get("challenger")) if v is not None}
        if body.get("changed") and body.get("after") is not None:
            champions.append(int(body["after"]))
    assert registered == recorded
    assert champions[-1] == registry.champion(model)
    assert registered == {one["version"] for one in run.document["versions"]}
    assert all(one["audit"] for one in run.document["versions"])


def test_every_effect_follows_from_a_decision(factory: DemoRun) -> None:
    """Each result names its intent, each intent the decision that said execute (or the person who registered the model)."""
    records = [
        json.loads(line)
        for file in sorted((factory.home / "audit").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    by_hash = {record["@hash"]: record for record in records}
    effects = [record for record in records if record["type"] == "result"]
    assert effects
    for effect in effects:
        intent = by_hash[effect["causation"]]
        assert intent["type"] == "intent"
        if intent["actor"]["kind"] == "human":
            continue
        cause = by_hash[intent["causation"]]
        assert cause["type"] == "decision"
        assert cause["body"]["decision"]["outcome"] == "execute"
        assert cause["incident"] == effect["incident"]


def test_the_log_verifies_and_replays_byte_for_byte(factory: DemoRun) -> None:
    """`audit verify` finds every file whole; `policy replay` makes every decision again."""
    verified = driftwarden(factory, "audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["ok"] is True
    replayed = driftwarden(factory, "policy", "replay", "--json")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_the_faults_names_never_reach_the_service(factory: DemoRun) -> None:
    """Nothing that the service read or wrote holds the simulator's name of a fault."""
    named = (b"new_machine_type", b"gradual_concept", b"abrupt_concept", b"stuck_sensor")
    for folder in ("audit", "traces"):
        for file in (factory.home / folder).glob("*.jsonl"):
            content = file.read_bytes()
            assert not any(name in content for name in named), file.name


def test_the_commands_of_the_last_lines_work(factory: DemoRun) -> None:
    """Whoever looks further finds what the demo did."""
    listed = driftwarden(factory, "incidents", "list", "--json")
    assert {one["id"] for one in lines(listed.stdout)} == {one["id"] for one in factory.document["incidents"]}
    acted = next(one for one in factory.document["incidents"] if one["versions"]["after"])
    shown = driftwarden(factory, "incidents", "show", acted["id"], "--json")
    document = json.loads(shown.stdout)
    assert document["correlation_id"] == acted["correlation_id"]
    assert document["verification"]["verdict"] in {"helped", "no_difference", "harmed", "pending"}
    stats = json.loads(driftwarden(factory, "stats", "--json").stdout)
    assert stats["incidents"] == len(factory.document["incidents"])
    assert driftwarden(factory, "doctor", "--json").returncode == 0


def test_a_demo_never_touches_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """A state folder with something in it is left alone: the demo plays below it, or refuses."""
    from driftwarden.errors import BadInput
    from driftwarden.service.demo import demo_home

    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "mlflow.db").write_text("precious")
    assert demo_home(str(tmp_path / "service"), tmp_path) == tmp_path / "service" / "demo"
    (tmp_path / "service" / "demo" / ".driftwarden-demo").unlink()
    (tmp_path / "service" / "demo" / "precious").write_text("too")
    with pytest.raises(BadInput, match="something else in it"):
        demo_home(str(tmp_path / "service"), tmp_path)
    assert (tmp_path / "service" / "mlflow.db").read_text() == "precious"


def test_real_data_ends_with_versions_that_the_log_accounts_for(data_folder: Path, tmp_path: Path) -> None:
    """`driftwarden demo --stream elec2 --json` on real data: registry and audit log agree, one by one."""
    run = run_demo(tmp_path / "state", "--stream", "elec2", "--windows", "5", data=str(data_folder))
    assert run.document["stream"] == "elec2"
    assert len(run.document["performance"]["windows"]) == 5
    account_for(run)
