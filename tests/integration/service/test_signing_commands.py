"""The command line signs, on the embedded Redis: whoever is first, with which key, and what is shown before anybody decides."""

import json
from datetime import UTC, datetime

import pytest
from fakes.approvers import key_of, write
from fakes.workflow_world import World

from driftwarden.audit import verify
from driftwarden.service.cli.main import run
from driftwarden.service.signing.roster import enrol
from driftwarden.service.signing.sshsig import public_of


def carried_out(world: World) -> bool:
    """The service takes up what was answered."""
    world.clock.moment = datetime.now(UTC)
    world.run()
    return bool(world.plant.done)


def test_the_first_use_enrols_whoever_is_there(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, the log says so, the key is theirs alone; and the approval has its effect."""
    request = terminal.pending()
    assert run(["approvals", "approve", request.id[:8], "--reason", "looks right"]) == 0
    said = capsys.readouterr().err
    assert "first use: ada is enrolled for ml-oncall, risk" in said
    key = terminal.folder / "keys" / "approver-ada"
    assert key.stat().st_mode & 0o777 == 0o600
    (record,) = terminal.records("mode_change")
    assert (record["body"]["first_use"], record["body"]["approver"]) == (True, "ada")
    assert carried_out(terminal)
    assert verify(terminal.settings.audit_dir).ok
    assert run(["approvers", "list", "--json"]) == 0
    (listed,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (listed["name"], listed["groups"], listed["active"]) == ("ada", ["ml-oncall", "risk"], True)


def test_only_the_first_one_is_enrolled_by_use(
    terminal: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once anybody is listed, even revoked, nobody else comes in that way; with a configured Redis nobody does."""
    request = terminal.pending()
    for arguments in (["enroll", "bob", "--group", "risk"], ["revoke", "bob", "--reason", "left"]):
        assert run(["approvers", *arguments]) == 0
        capsys.readouterr()
        assert run(["approvals", "approve", request.id, "--reason", "me too"]) == 2
        assert "someone listed in approvers.yml: bob" in capsys.readouterr().err
    verdicts = {one["body"]["verdict"] for one in terminal.records("mode_change")}
    assert verdicts == {"approver_enrolled", "approver_revoked"}
    (terminal.folder / "local" / "driftwarden" / "approvers.yml").unlink()
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", (terminal.folder / "redis.url").read_text().strip())
    assert run(["approvals", "approve", request.id, "--reason", "me too"]) == 2
    assert "driftwarden approvers enroll ada --group ml-oncall --group risk" in capsys.readouterr().err
    assert not (terminal.folder / "local" / "driftwarden" / "approvers.yml").exists()
    assert not carried_out(terminal)


def test_an_existing_openssh_key_serves(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Enrolled by its public half, it is found in OpenSSH's own place; another one does not sign for ada."""
    from driftwarden.service.signing.keys import create_key

    create_key(terminal.folder / ".ssh" / "id_ed25519")
    create_key(terminal.folder / "other")
    request = terminal.pending()
    public = str(terminal.folder / ".ssh" / "id_ed25519.pub")
    assert run(["approvers", "enroll", "--group", "risk", "--key", public]) == 0
    answer = ["approvals", "reject", request.id, "--reason", "no"]
    assert run([*answer, "--key", str(terminal.folder / "other")]) == 2
    assert "none that is enrolled" in capsys.readouterr().err
    assert run(answer) == 0
    assert not carried_out(terminal)
    assert (terminal.only().state, terminal.records("approval")[-1]["actor"]["id"]) == ("rejected", "ada")


def test_who_signs_after_somebody_was_revoked_is_told_what_still_lacks(
    terminal: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two are needed: the word of one who is revoked counts no more, and neither the screen nor the answer counts it."""
    terminal.govern(required=2)
    (terminal.folder / "local" / "driftwarden" / "policy.yml").write_text(terminal.policy_text(required=2))
    before = terminal.pending().id
    assert run(["approvals", "approve", "", "--reason", "a variable that was not set"]) == 2
    assert run(["approvals", "approve", before, "--reason", "under the terms of before"]) == 0
    assert not carried_out(terminal)
    assert run(["approvals", "approve", before, "--reason", "once more"]) == 2
    assert "got `superseded`, expected a pending one: driftwarden approvals list" in capsys.readouterr().err
    request = terminal.pending()
    assert run(["approvals", "approve", request.id, "--reason", "under those of now"]) == 0
    assert run(["approvers", "revoke", "ada", "--reason", "laptop was stolen"]) == 0
    assert run(["approvers", "enroll", "bob", "--group", "risk"]) == 0
    capsys.readouterr()
    assert run(["approvals", "approve", request.id, "--as", "bob", "--reason", "agreed"]) == 0
    said = capsys.readouterr().err
    assert "1 more needed of ml-oncall, risk (1 given earlier count no more" in said
    assert "is approved" not in said
    assert run(["approvals", "show", request.id]) == 0
    assert "needs      2 of ml-oncall, risk; signed by 1\n" in capsys.readouterr().out
    assert not carried_out(terminal)


@pytest.mark.parametrize("reason", ["", "  ", "password in https://eve:hunter22@host/"])
def test_a_reason_is_needed_and_no_secret(terminal: World, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is enrolled or signed before."""
    assert run(["approvals", "approve", terminal.pending().id, "--reason", reason]) == 2
    assert "--reason" in capsys.readouterr().err
    assert terminal.pending().granted == ()
    assert not (terminal.folder / "keys" / "approver-ada").exists()


def test_what_was_changed_in_the_store_is_not_signed(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The screen says so, and the command refuses: what a person sees is what the digest binds."""
    request = terminal.pending()
    write(terminal, request, params={"strategy": "since_drift"})
    assert run(["approvals", "show", request.id]) == 0
    assert "CHANGED WHERE IT IS STORED (params)" in capsys.readouterr().out
    assert run(["approvals", "approve", request.id, "--reason", "looks right"]) == 2
    assert "changed where it is stored: params" in capsys.readouterr().err


def test_one_screen_to_decide_on(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Finding, candidates, rules, what happens, how it is undone, what is bound, and the commands."""
    request = terminal.pending()
    assert run(["approvals", "show", request.id]) == 0
    screen = capsys.readouterr().out
    for part in ("finding", "plan", "p=0.50", "decision", "confidence", "happens", "undone by", "champion version 1",
                 f"approvals approve {request.id}", f"approvals reject  {request.id}", "needs      1 of"):  # fmt: skip
        assert part in screen, part
    assert run(["approvals", "list"]) == 0
    listed = capsys.readouterr().out
    for column in ("age", "left", "benefit", "cost", "confidence", "why"):
        assert column in listed
    assert "…" not in listed
    write(terminal, request, model="[red]m\x1b[31m", why=("\x1b[2Jconfidence",))
    for arguments in (["show", request.id], ["list"]):
        assert run(["approvals", *arguments]) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "[red]" in shown


def test_enrolling_is_strict(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A group must be named where the policy has several; one key has one owner; a revoked one does not come back."""
    assert run(["approvers", "enroll"]) == 2
    assert "one of the policy: ml-oncall, risk" in capsys.readouterr().err
    assert run(["approvers", "enroll", "--group", "risk"]) == 0
    public = str(terminal.folder / "keys" / "approver-ada.pub")
    assert run(["approvers", "enroll", "bob", "--group", "risk", "--key", public]) == 2
    assert "a key of ada" in capsys.readouterr().err
    assert run(["approvers", "revoke", "eve", "--reason", "x"]) == 2
    assert run(["approvers", "revoke", "ada", "--reason", "lost"]) == 0
    assert run(["approvers", "enroll", "--group", "risk", "--key", public]) == 2
    assert "got `revoked`" in capsys.readouterr().err
    assert run(["approvals", "approve", terminal.pending().id, "--reason", "x"]) == 2
    assert "none that is enrolled" in capsys.readouterr().err
    assert run(["approvers", "enroll", "--group", "risk"]) == 0
    assert run(["approvals", "approve", terminal.pending().id, "--reason", "back with another key"]) == 0
    assert run(["approvers", "enroll", "../x", "--group", "risk"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_two_first_uses_at_once_enrol_one(terminal: World) -> None:
    """The list is asked again under its lock."""
    from driftwarden.errors import BadInput

    now = terminal.clock.now()
    enrol(terminal.settings, "ada", ("risk",), public_of(key_of("ada")), now, first=True)
    with pytest.raises(BadInput, match="enrolled already: ada"):
        enrol(terminal.settings, "bob", ("risk",), public_of(key_of("bob")), now, first=True)
