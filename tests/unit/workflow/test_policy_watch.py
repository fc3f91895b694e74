"""The policy on disk: what loads comes into force with its record, what does not leaves the old one there and says so."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwarden.errors import LogUnwritable
from driftwarden.policies import Policy, load_policy, replay
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.policy_agreement import PolicyAgreement, live_holdings
from driftwarden.service.workflow.policy_watch import PATIENCE, PolicyWatch, policy_files
from driftwarden.settings import load_settings
from driftwarden.testing import SERVICE, CapturedAuditLog, CollectedNotifier, FakeClock

TEXT = """apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: tests, revision: "REVISION"}
spec:
  enforcement: ENFORCEMENT
  tiers: [{name: all, models: ["*"], allow: [notify]}]
  require:
    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}
    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: escalate}
"""


def text(revision: str, enforcement: str = "enforce") -> str:
    """A policy; another revision is another policy."""
    return TEXT.replace("REVISION", revision).replace("ENFORCEMENT", enforcement)


class Process:
    """One process that holds a policy and watches its file."""

    def __init__(self, client: Any, name: str, files: tuple[Path, ...], clock: FakeClock, notifier: Any) -> None:
        self.holder = PolicyHolder(load_policy(files[-1].read_text(), str(files[-1])))
        self.agreement = PolicyAgreement(client, "driftwarden:", name, self.holder)
        self.log = CapturedAuditLog(clock)
        self.watch = PolicyWatch(self.holder, self.agreement, files, audit=self.log, notifier=notifier, clock=clock)
        self.watch.tick()
        self.watch.tick()

    @property
    def revision(self) -> str:
        """Of the policy in force."""
        return self.holder().revision

    def types(self) -> list[str]:
        """Of the records written."""
        return [str(one["type"]) for one in self.log.records]


@pytest.fixture
def clock() -> FakeClock:
    """Stands still until it is moved."""
    return FakeClock()


@pytest.fixture
def people() -> CollectedNotifier:
    """What they were told, by all processes of this host."""
    return CollectedNotifier()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The policy of revision 1."""
    path = tmp_path / "policy.yml"
    path.write_text(text("1"))
    return path


@pytest.fixture
def start(client: Any, file: Path, clock: FakeClock, people: CollectedNotifier) -> Callable[..., Process]:
    """Starts a process over the file, or over several."""
    return lambda name="a", files=(file,): Process(client, name, files, clock, people)


def test_what_lies_there_from_the_start_is_no_change(start: Any, file: Path) -> None:
    """Nor is another spelling of the same policy."""
    process = start()
    file.write_text(text("1") + "# a remark\n")
    process.watch.tick()
    process.watch.tick()
    assert (process.revision, process.types()) == ("1", [])


def test_a_new_policy_comes_into_force_with_its_record(start: Any, file: Path) -> None:
    """The record holds the whole policy, versions and intervals, and stands before the policy decides anything."""
    process = start()
    before = process.holder()
    file.write_text(text("2"))
    process.watch.tick()
    assert process.revision == "1", "seen once: it may still be being written"
    process.watch.tick()
    assert process.revision == "2"
    (change,) = process.log.of_type("policy_change")
    assert change["body"]["digest"] == process.holder().digest != before.digest
    assert set(change["body"]) >= {"policy", "digest", "engine", "tzdata", "holidays", "horizon", "windows"}
    assert process.types() == ["policy_change"]
    process.watch.tick()
    assert process.types() == ["policy_change"], "once"


def test_decisions_of_both_policies_replay(start: Any, file: Path) -> None:
    """Byte for byte, from the records alone."""
    process = start()
    process.log.append("policy_change", process.holder().change_record(), actor=SERVICE)
    facts = {"plan": {"action": "notify", "confidence": "0.9"}, "model": {"name": "m"}}

    def decide(policy: Policy) -> None:
        body = {"facts": facts, "decision": policy.decide(facts).to_json(), "policy_digest": policy.digest}
        process.log.append("decision", body, actor=SERVICE)

    decide(process.holder())
    file.write_text(text("2"))
    process.watch.tick()
    process.watch.tick()
    decide(process.holder())
    report = replay(process.log.records)
    assert (report.ok, report.same, len(report.policies)) == (True, 2, 2)


def test_half_a_file_that_loads_is_not_taken(start: Any, file: Path) -> None:
    """An editor writes the file in two steps: the first half is a policy with one requirement less."""
    process = start()
    whole = text("2")
    half = whole[: whole.index("    - {id: impact")]
    assert len(load_policy(half, "half").rules) == len(process.holder().rules) - 1
    file.write_text(half)
    process.watch.tick()
    file.write_text(whole)
    process.watch.tick()
    process.watch.tick()
    assert [one["body"]["policy"]["metadata"]["revision"] for one in process.log.of_type("policy_change")] == ["2"]
    assert len(process.holder().rules) == len(load_policy(whole, "whole").rules)


@pytest.mark.parametrize("enforcement", ["halt", "dryRun"])
def test_a_policy_that_executes_nothing_is_taken_at_first_sight(start: Any, file: Path, enforcement: str) -> None:
    """What stops does not wait; what starts again does. Both are changes of mode."""
    process = start()
    file.write_text(text("2", enforcement))
    process.watch.tick()
    assert process.holder().enforcement == enforcement
    file.write_text(text("3"))
    process.watch.tick()
    assert process.holder().enforcement == enforcement
    process.watch.tick()
    assert process.holder().enforcement == "enforce"
    assert process.types() == ["policy_change", "mode_change"] * 2
    first, second = process.log.of_type("mode_change")
    assert first["body"] == {
        "halted": True, "reason": f"policy tests 2: enforcement enforce -> {enforcement}", "model": None,
        "enforcement": {"before": "enforce", "after": enforcement},
    }  # fmt: skip
    assert first["causation"] == process.log.of_type("policy_change")[0]["@hash"]
    assert second["body"]["halted"] is False


WRONG: dict[str, bytes] = {
    "not YAML": b"spec: [",
    "half of one": text("2").encode()[:70],
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "an unknown field": text("2").replace("tiers:", "teers:").encode(),
    "too deep": b"a: " + b"[" * 20_000,
    "another document": b"models: {}\n",
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_does_not_load_leaves_the_old_one_in_force(
    start: Any, file: Path, people: CollectedNotifier, client: Any, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """One line at error level, one message to people, the doctor sees it; no record; and it still agrees."""
    process = start()
    held = process.holder().digest
    file.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            process.watch.tick()
    assert process.holder().digest == held
    assert process.types() == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert "does not load, tests 1 stays in force" in line
    assert str(file) in line
    assert "\n" not in line
    assert [message.subject for message in people.messages] == ["the policy on disk does not load"]
    (seen,) = live_holdings(client, "driftwarden:").values()
    assert seen is not None
    assert seen.digest == held
    assert seen.fault is not None
    assert str(file) in seen.fault
    assert process.agreement.agreed() is True


def test_a_file_that_is_gone_is_a_fault_and_its_return_mends_it(
    start: Any, file: Path, client: Any, people: CollectedNotifier
) -> None:
    """For a moment it is an editor's way of saving, and nothing is said; for longer it is said."""
    process = start()
    file.unlink()
    process.watch.tick()
    file.write_text(text("1"))
    process.watch.tick()
    process.watch.tick()
    assert people.messages == []
    file.unlink()
    process.watch.tick()
    process.watch.tick()
    assert process.agreement.fault is not None
    assert "no such file" in process.agreement.fault
    assert process.revision == "1"
    file.write_text(text("1"))
    process.watch.tick()
    process.watch.tick()
    assert process.agreement.fault is None
    assert process.types() == []
    held = live_holdings(client, "driftwarden:")["a"]
    assert held is not None
    assert held.fault is None


def test_each_fault_is_told_once_by_all_processes(start: Any, file: Path, people: CollectedNotifier) -> None:
    """Two processes of one host see the same file; another fault is another message."""
    one, two = start("a"), start("b")
    for content in ("spec: [", "spec: {"):
        file.write_text(content)
        for process in (one, two, one, two):
            process.watch.tick()
    assert len(people.messages) == len({message.key for message in people.messages}) == 2


def test_a_policy_of_ones_own_takes_the_place_of_the_packaged_one(start: Any, tmp_path: Path, file: Path) -> None:
    """A file that appears in a nearer layer comes into force; when it goes again, nothing falls back behind one's back."""
    own = tmp_path / "local.yml"
    process = start("a", (own, file))
    own.write_text(text("2"))
    process.watch.tick()
    process.watch.tick()
    assert process.revision == "2"
    own.unlink()
    process.watch.tick()
    process.watch.tick()
    assert process.revision == "2"
    assert process.agreement.fault is not None
    assert str(own) in process.agreement.fault


def test_one_of_ones_own_that_never_loaded_may_go_again(start: Any, tmp_path: Path, file: Path) -> None:
    """The one in force was never left."""
    own = tmp_path / "local.yml"
    process = start("a", (own, file))
    own.write_text("spec: [")
    process.watch.tick()
    process.watch.tick()
    assert process.agreement.fault is not None
    own.unlink()
    process.watch.tick()
    process.watch.tick()
    assert (process.revision, process.agreement.fault) == ("1", None)


def test_where_a_policy_may_lie(tmp_path: Path) -> None:
    """`local` before `base` before the packaged one, down to the one that the settings found."""
    environ = {"DRIFTWARDEN_HOME": str(tmp_path / "home"), "DRIFTWARDEN_CONF": str(tmp_path / "conf")}
    assert [path.parts[-3] for path in policy_files(load_settings(environ))] == ["local", "base", "base"]
    base = tmp_path / "conf" / "base" / "driftwarden"
    base.mkdir(parents=True)
    (base / "policy.yml").write_text(text("1"))
    settings = load_settings(environ)
    assert policy_files(settings)[-1] == settings.policy_path == base / "policy.yml"
    elsewhere = settings.model_copy(update={"policy_path": tmp_path / "p.yml"})
    assert policy_files(elsewhere) == (tmp_path / "p.yml",)


def test_what_cannot_be_recorded_does_not_come_into_force(start: Any, file: Path) -> None:
    """The log is dead: the policy stays, and the process is told."""
    process = start()
    process.log.break_down()
    file.write_text(text("2"))
    process.watch.tick()
    with pytest.raises(LogUnwritable):
        process.watch.tick()
    assert process.revision == "1"


def test_two_processes_agree_again_once_both_have_reloaded(start: Any, file: Path, clock: FakeClock) -> None:
    """Each sees the file in its own time; in between neither may execute."""
    one, two = start("a"), start("b")
    assert (one.agreement.agreed(), two.agreement.agreed()) == (True, True)
    file.write_text(text("2"))
    one.watch.tick()
    one.watch.tick()
    assert (one.agreement.agreed(), two.agreement.agreed()) == (False, False)
    two.watch.tick()
    two.watch.tick()
    assert (one.agreement.agreed(), two.agreement.agreed()) == (True, True)


def test_people_are_told_where_workers_differ_for_long(
    client: Any, tmp_path: Path, clock: FakeClock, people: CollectedNotifier, caplog: pytest.LogCaptureFixture
) -> None:
    """Two hosts with files of their own: a warning at once, one message once it is no change under way."""
    files = (tmp_path / "a.yml", tmp_path / "b.yml")
    for number, path in enumerate(files):
        path.write_text(text(str(number)))
    with caplog.at_level(logging.WARNING):
        one = Process(client, "a", files[:1], clock, people)
        two = Process(client, "b", files[1:], clock, people)
        for _ in range(3):
            one.watch.tick()
            clock.advance(PATIENCE / 3 - timedelta(seconds=1))
    assert people.messages == []
    assert sum("nothing executes until" in line for line in caplog.messages) == 2
    clock.advance(timedelta(seconds=10))
    for process in (one, two, one, two):
        process.watch.tick()
    assert len(people.messages) == 1
    assert "b holds tests 1" in people.messages[0].body
    files[1].write_text(text("0"))
    two.watch.tick()
    two.watch.tick()
    one.watch.tick()
    assert (one.agreement.agreed(), two.agreement.agreed()) == (True, True)
