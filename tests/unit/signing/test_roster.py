"""The list of approvers on disk: read anew each time, changed by one at a time, never half written."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from driftwarden.errors import BadInput, Retry
from driftwarden.service.cli.main import run
from driftwarden.service.signing.roster import (
    ListNotYours,
    enrol,
    keys_of,
    read_roster,
    revoke,
    roster_file,
    roster_in_force,
)
from driftwarden.service.signing.sshsig import PublicKey, public_of
from driftwarden.settings import Settings, load_settings

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A conf folder with nothing in it."""
    return Settings(home=tmp_path, conf=tmp_path, audit_dir=tmp_path, policy_path=tmp_path / "p.yml")


def new_key() -> PublicKey:
    """Somebody's."""
    return public_of(Ed25519PrivateKey.generate())


def test_people_of_both_files_count_and_only_the_local_one_is_written(settings: Settings) -> None:
    """Someone of conf/base gets a second key in conf/local and keeps the first; base stays as it was."""
    base = settings.conf / "base" / "driftwarden" / "approvers.yml"
    base.parent.mkdir(parents=True)
    first, second = new_key(), new_key()
    text = f"approvers:\n  ada:\n    groups: [risk]\n    keys: [{{public: {first.line} ada@plant}}]\n"
    base.write_text(text)
    assert keys_of(read_roster(settings)["ada"]) == {first}
    enrol(settings, "ada", ("ml-oncall",), second, NOW)
    entry = read_roster(settings)["ada"]
    assert (entry.groups, keys_of(entry)) == (("risk", "ml-oncall"), {first, second})
    assert base.read_text() == text
    revoke(settings, "ada", "lost", NOW)
    ended = read_roster(settings)["ada"]
    assert keys_of(ended) == frozenset()
    assert {(one.revoked_at, one.revoked_reason) for one in ended.keys} == {("2026-11-20T09:00:00.000000Z", "lost")}
    with pytest.raises(BadInput, match="no key that counts"):
        revoke(settings, "ada", "again", NOW)


def test_enrolling_twice_changes_nothing(settings: Settings) -> None:
    """The same key for the same person and group is there once."""
    key = new_key()
    once = enrol(settings, "ada", ("risk",), key, NOW)
    assert enrol(settings, "ada", ("risk",), key, NOW) == once


def test_many_at_once_are_all_there(settings: Settings) -> None:
    """No enrolment overwrites another."""
    names = [f"p{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: enrol(settings, name, ("risk",), new_key(), NOW), names))
    assert sorted(read_roster(settings)) == names


def test_what_cannot_be_announced_is_not_written(settings: Settings) -> None:
    """The record stands before the list changes."""

    def broken(entry: object) -> None:
        raise OSError("log is full")

    with pytest.raises(OSError, match="log is full"):
        enrol(settings, "ada", ("risk",), new_key(), NOW, announce=broken)
    assert read_roster(settings) == {}


def test_a_key_has_one_owner_and_one_life(settings: Settings) -> None:
    """Neither shared, nor taken up again after it was revoked."""
    key = new_key()
    enrol(settings, "ada", ("risk",), key, NOW)
    with pytest.raises(BadInput, match="a key of ada"):
        enrol(settings, "bob", ("risk",), key, NOW)
    revoke(settings, "ada", "lost", NOW)
    with pytest.raises(BadInput, match="revoked"):
        enrol(settings, "ada", ("risk",), key, NOW)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("approvers: [", "not YAML"),
        ("approvers:\n  ada: {groups: [risk], keys: [{public: ssh-rsa AAAA}]}", "approvers.ada.keys"),
        ("approvers:\n  ada: {groups: [risk], key: x}", "approvers.ada.key"),
        ("approvers:\n  ada: {groups: [risk]}\n  ada: {groups: [sales]}", "duplicate key"),
    ],
)
def test_a_list_that_is_wrong_is_nobody_s(settings: Settings, text: str, said: str) -> None:
    """One line with the place; a service tries again later, and believes nobody meanwhile."""
    file = roster_file(settings)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    for read, kind in ((read_roster, BadInput), (roster_in_force, Retry)):
        with pytest.raises(kind, match=said) as caught:
            read(settings)
        assert "approvers.yml" in str(caught.value)


POLICY = """
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: tests, revision: "1"}
spec:
  enforcement: enforce
  tiers: [{name: all, models: ["*"], allow: [notify], approvals: {required: 1, from: [risk], expiresAfter: 4h}}]
  require: [{id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}]
"""


def test_only_keys_that_count_make_someone_able(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The doctor and the lint of a policy: nobody yet, someone, and the same person after the only key was revoked."""
    from driftwarden.service.cli import doctor
    from driftwarden.service.cli.main import run

    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path))
    (tmp_path / "p.yml").write_text(POLICY)

    def told() -> tuple[str, str, bool]:
        settings = load_settings({"DRIFTWARDEN_HOME": str(tmp_path), "DRIFTWARDEN_CONF": str(tmp_path)})
        (check,) = doctor._approvers(settings)
        run(["policy", "check", str(tmp_path / "p.yml")])
        return check.state, check.detail, "can never be met: 1 needed, 0 enrolled" in capsys.readouterr().out

    assert told() == ("ok", "nobody is listed: the first answer enrols whoever gives it (embedded Redis)", False)
    settings = load_settings({"DRIFTWARDEN_HOME": str(tmp_path), "DRIFTWARDEN_CONF": str(tmp_path)})
    enrol(settings, "ada", ("risk",), public_of(Ed25519PrivateKey.generate()), datetime(2026, 11, 20, tzinfo=UTC))
    assert told() == ("ok", "ada", False)
    revoke(settings, "ada", "left", datetime(2026, 11, 21, tzinfo=UTC))
    nobody = "every key is revoked or missing: nothing that escalates can be approved"
    assert told() == ("warning", nobody, True)


def test_who_may_not_change_the_list_is_told_what_to_give_to_whom(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    somebody: Callable[[], AbstractContextManager[None]],
) -> None:
    """Given a list that belongs to others, an enrolment is one line, and names the command for whoever may."""
    monkeypatch.chdir(tmp_path)
    for name in ("DRIFTWARDEN_HOME", "DRIFTWARDEN_CONF"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "conf" / "local" / "driftwarden"
    folder.mkdir(parents=True)
    file, key = Path("conf/local/driftwarden/approvers.yml"), new_key()
    there = Settings(home=tmp_path, conf=Path("conf"), audit_dir=tmp_path, policy_path=tmp_path / "p.yml")
    tmp_path.chmod(0o755)
    folder.chmod(0o555)
    with somebody(), pytest.raises(ListNotYours, match=r"no right to write it"):
        enrol(there, "ada", ("ml-oncall",), key, NOW)
    assert not file.exists()
    monkeypatch.setattr("driftwarden.service.signing.roster.enrol", _refuse)
    assert run(["approvers", "enroll", "ada", "--group", "ml-oncall"]) == 2
    said = capsys.readouterr().err
    made = tmp_path / ".driftwarden" / "keys" / "approver-ada"
    assert made.is_file()
    assert f"private key: {made}" in said
    assert "driftwarden approvers enroll ada --group ml-oncall --key approver-ada.pub" in said
    folder.chmod(0o755)


def _refuse(settings: Settings, *_: object, **__: object) -> None:
    raise ListNotYours(roster_file(settings))


def test_settings_that_may_not_be_read_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    somebody: Callable[[], AbstractContextManager[None]],
) -> None:
    """Given a configuration that is closed to this account, no command shows a traceback for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed" / "local" / "driftwarden").mkdir(parents=True)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "closed"))
    with somebody():
        code = run(["approvers", "list"])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert "permission denied" in said
