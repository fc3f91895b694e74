"""Whoever writes to Redis can stop the service, and still approves nothing: every attack on the queue, and none has an effect."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.approvers import key_of, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftwarden.service.signing.grants import Grant
from driftwarden.service.signing.roster import revoke
from driftwarden.service.signing.sshsig import public_of
from driftwarden.service.workflow.approvals import ApprovalRequest
from driftwarden.service.workflow.deciding import approval_facts
from driftwarden.strict import digest

KEY = "driftwarden:approvals"
MALLORY = key_of("mallory")


@pytest.fixture
def asked(world: Any) -> Any:
    """A world in which a retraining waits for two of ml-oncall and risk; ada and bob are enrolled for both."""
    world.govern(required=2)
    world.script.win = 0.5
    world.people.enrol("ada")
    world.people.enrol("bob")
    world.send()
    world.run()
    return world


def stays_undone(world: Any) -> None:
    """Not a fact, not an effect, not a record that says so; now, and after the service has looked."""
    assert approval_facts(world.parts, world.only()) is None
    world.store.wake(world.only().id, "approval")
    world.run()
    assert world.plant.done == {}
    assert [one for one in world.records("approval") if one["body"]["verdict"] == "approved"] == []
    assert world.records("intent") == []


def test_signed_by_two_it_is_done(asked: Any) -> None:
    """The other side of every attack below: two real signatures have their effect, and the audit log holds them."""
    for who in ("ada", "bob"):
        asked.approve(who)
    asked.run()
    assert asked.only().state == "verifying"
    (record,) = [one for one in asked.records("approval") if one["body"]["verdict"] == "approved"]
    assert [grant["by"] for grant in record["body"]["granted"]] == ["ada", "bob"]
    facts = asked.records("decision")[-1]["body"]["facts"]["approval"]
    assert [sorted(grant) for grant in facts["granted"]] == [["at", "by", "group"]] * 2


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not on the PATH")
def test_an_auditor_verifies_from_the_log_alone(asked: Any, tmp_path: Path) -> None:
    """No Redis, no program of ours: the record, a list of signers, and OpenSSH."""
    for who in ("ada", "bob"):
        asked.approve(who)
    asked.run()
    (record,) = [one for one in asked.records("approval") if one["body"]["verdict"] == "approved"]
    signers, signature = tmp_path / "allowed_signers", tmp_path / "g.sig"
    for grant in record["body"]["granted"]:
        signers.write_text(f"{grant['by']} {grant['public_key']}\n")
        signature.write_text(grant["signature"])
        done = subprocess.run(
            ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", grant["by"], "-n", "approval@driftwarden.io", "-s", signature],
            input=grant["statement"].encode(), capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(grant["statement"])
        assert (said["digest"], said["approval"]) == (record["body"]["digest"], record["body"]["approval"])


def both(world: Any, request: ApprovalRequest) -> tuple[Grant, Grant]:
    """What ada and bob really signed."""
    return world.people.say(request, "ada"), world.people.say(request, "bob")


def without_a_grant(world: Any, request: ApprovalRequest) -> None:
    """`approved`, and nobody."""
    write(world, request, state="approved")


def made_up(world: Any, request: ApprovalRequest) -> None:
    """Names without signatures, and with one that is none."""
    ada, bob = both(world, request)
    write(world, request, state="approved", granted=(
        ada.model_copy(update={"signature": ""}), bob.model_copy(update={"signature": ada.signature})
    ))  # fmt: skip


def by_an_unlisted_key(world: Any, request: ApprovalRequest) -> None:
    """The attacker's own key, under a listed name and under their own."""
    ada, _ = both(world, request)
    as_bob = world.people.say(request, "bob", key=MALLORY)
    as_mallory = world.people.say(request, "mallory", key=MALLORY)
    write(world, request, state="approved", granted=(ada, as_bob, as_mallory))


def by_a_revoked_key(world: Any, request: ApprovalRequest) -> None:
    """Signed while it counted, used when it does not any more."""
    write(world, request, state="approved", granted=both(world, request))
    revoke(world.settings, "bob", "left", world.clock.now())


def no_longer_listed(world: Any, request: ApprovalRequest) -> None:
    """The list is what it is now."""
    write(world, request, state="approved", granted=both(world, request))
    (world.settings.conf / "local" / "driftwarden" / "approvers.yml").write_text("approvers: {}\n")


def of_a_group_that_was_taken_away(world: Any, request: ApprovalRequest) -> None:
    """Bob is in no group of the tier any more."""
    write(world, request, state="approved", granted=both(world, request))
    file = world.settings.conf / "local" / "driftwarden" / "approvers.yml"
    before, bob, after = file.read_text().partition("\n  bob:\n    groups:\n    - ml-oncall\n    - risk\n")
    assert bob
    file.write_text(f"{before}\n  bob:\n    groups: [sales]\n{after}")


def of_another_approval(world: Any, request: ApprovalRequest) -> None:
    """Both signed, but an older request of the same plan."""
    older = request.model_copy(update={"requested_at": "2026-11-20T08:59:59.000000Z"})
    other = request.model_copy(update={"id": "apr-000000000000"})
    for signed in (older, other):
        write(world, request, state="approved", granted=both(world, signed))
        assert approval_facts(world.parts, world.only()) is None


def of_another_digest(world: Any, request: ApprovalRequest) -> None:
    """Both signed another plan, and its digest is written over this one's."""
    other = request.model_copy(update={"digest": "sha256:" + "0" * 64})
    write(world, request, state="approved", granted=both(world, other))
    assert approval_facts(world.parts, world.only()) is None
    write(world, other, state="approved", granted=both(world, other))


def of_another_incident(world: Any, request: ApprovalRequest) -> None:
    """A whole request that two people approved, under the id of this one and under its own."""
    other = request.model_copy(update={"incident": "inc-other"})
    write(world, other, state="approved", granted=both(world, other))


def twice_the_same_person(world: Any, request: ApprovalRequest) -> None:
    """Ada has two keys, and signs with both."""
    second = key_of("ada's laptop")
    world.people.enrol("ada", key=second)
    write(world, request, state="approved", granted=(
        world.people.say(request, "ada"), world.people.say(request, "ada", key=second)
    ))  # fmt: skip


def twice_the_same_key(world: Any, request: ApprovalRequest) -> None:
    """One key that is listed under two names by hand; also spelt differently."""
    file = world.settings.conf / "local" / "driftwarden" / "approvers.yml"
    line = public_of(key_of("ada")).line
    file.write_text(f"{file.read_text()}  eve:\n    groups: [risk]\n    keys: [{{public: {line}}}]\n")
    ada, eve = world.people.say(request, "ada"), world.people.say(request, "eve", group="risk", key=key_of("ada"))
    write(world, request, state="approved", granted=(ada, eve))
    assert approval_facts(world.parts, world.only()) is None
    write(world, request, state="approved", granted=(ada, eve.model_copy(update={"public_key": f"{line} eve"})))


def after_its_time(world: Any, request: ApprovalRequest) -> None:
    """Signed too late, and the expiry in the store moved to where it would be in time."""
    late = world.clock.now() + timedelta(hours=5)
    words = tuple(world.people.say(request, who, at=late) for who in ("ada", "bob"))
    write(world, request, state="approved", granted=words, expires_at="2026-12-31T00:00:00.000000Z")


def used_after_its_time(world: Any, request: ApprovalRequest) -> None:
    """Signed in time, used too late, with a longer life in the store."""
    words = both(world, request)
    world.clock.advance(hours=5)
    write(world, request, state="approved", granted=words, expires_at="2026-12-31T00:00:00.000000Z")


def rebound(request: ApprovalRequest, **changes: Any) -> ApprovalRequest:
    """The attacker is consistent: what is bound, its digest, and the fields that repeat it."""
    bound = copy.deepcopy(request.bound)
    bound["approvals"] |= changes.pop("approvals", {})
    bound |= changes
    terms = bound["approvals"]
    made = digest(bound)
    return request.model_copy(
        update={
            "bound": bound,
            "digest": made,
            "required": terms["required"],
            "groups": tuple(terms["from"]),
            "why": tuple(bound["lifts"]),
            "params": bound["params"],
            "action": bound["action"],
        }
    )


def with_fewer_people(world: Any, request: ApprovalRequest) -> None:
    """One of two has signed, and the store says one of one."""
    ada, _ = both(world, request)
    write(world, request, state="approved", granted=(ada,), required=1)
    assert approval_facts(world.parts, world.only()) is None
    easy = rebound(request, approvals={"required": 1})
    write(world, easy, state="approved", granted=(world.people.say(easy, "ada"),))


def with_other_groups(world: Any, request: ApprovalRequest) -> None:
    """Sales signs, and the store says that sales may."""
    for who in ("sam", "sue"):
        world.people.enrol(who, ("sales",))
    words = tuple(world.people.say(request, who, group="sales") for who in ("sam", "sue"))
    write(world, request, state="approved", granted=words, groups=("sales",))
    assert approval_facts(world.parts, world.only()) is None
    other = rebound(request, approvals={"from": ["sales"]})
    words = tuple(world.people.say(other, who, group="sales") for who in ("sam", "sue"))
    write(world, other, state="approved", granted=words)


def with_more_lifted(world: Any, request: ApprovalRequest) -> None:
    """A rule that nobody saw failing is added to what is lifted."""
    write(world, request, state="approved", granted=both(world, request), why=("confidence", "impact"))


def with_other_parameters(world: Any, request: ApprovalRequest) -> None:
    """Another strategy is written into what was signed."""
    write(world, request, state="approved", granted=both(world, request), params={"strategy": "since_drift"})
    assert approval_facts(world.parts, world.only()) is None
    other = rebound(request, params={"strategy": "since_drift"})
    write(world, other, state="approved", granted=both(world, other))


def approvers_in_redis(world: Any, request: ApprovalRequest) -> None:
    """A list of approvers where nobody looks for one."""
    line = public_of(MALLORY).line
    for name in ("approvers", "settings:approvers"):
        world.client.hset(
            f"driftwarden:{name}", "mallory", json.dumps({"groups": ["risk"], "keys": [{"public": line}]})
        )
    words = (world.people.say(request, "mallory", key=MALLORY), world.people.say(request, "ada"))
    write(world, request, state="approved", granted=words)


ATTACKS: list[Callable[[Any, ApprovalRequest], None]] = [
    without_a_grant, made_up, by_an_unlisted_key, by_a_revoked_key, no_longer_listed, of_a_group_that_was_taken_away,
    of_another_approval, of_another_digest, of_another_incident, twice_the_same_person, twice_the_same_key, after_its_time,
    used_after_its_time, with_fewer_people, with_other_groups, with_more_lifted, with_other_parameters, approvers_in_redis,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_no_attack_has_an_effect(asked: Any, attack: Callable[[Any, ApprovalRequest], None]) -> None:
    """See each attack."""
    attack(asked, asked.pending())
    stays_undone(asked)


@pytest.mark.parametrize("state", ["approved", "pending"])
@pytest.mark.parametrize("early", [True, False])
def test_an_old_approval_is_not_taken_up_again(asked: Any, early: bool, state: str) -> None:
    """Two approved it, somebody closed the incident and took it up later: the old request, put back before or after it is
    asked for again, is none."""
    old = asked.pending()
    for who in ("ada", "bob"):
        asked.approve(who)
    signed = asked.parts.approvals.get(old.id)
    asked.ask("close")
    asked.run()
    assert asked.only().state == "closed"
    asked.clock.advance(seconds=1)
    if early:  # while the agents think: after what was open was withdrawn, before it is asked for again
        asked.script.on_advise = lambda: write(asked, signed, state=state)
    asked.ask("retry")
    asked.run()
    assert (asked.pending().id, asked.pending().granted) == (old.id, ())
    for later in (state, "approved"):
        write(asked, signed, state=later)
        assert approval_facts(asked.parts, asked.only()) is None
    stays_undone(asked)
    assert asked.pending().requested_at > old.requested_at


def test_the_policy_may_ask_for_more_than_was_signed(asked: Any) -> None:
    """Two signed, the tier now asks for three: it is asked anew, and the two count for nothing."""
    for who in ("ada", "bob"):
        asked.approve(who)
    asked.govern(required=3)
    assert approval_facts(asked.parts, asked.only()) is None
    asked.run()
    assert asked.plant.done == {}
    assert (asked.pending().required, asked.pending().granted) == (3, ())


def test_what_was_forged_is_thrown_out_and_people_can_still_answer(asked: Any) -> None:
    """The request is open again with the one grant that holds; the second real one does it."""
    request = asked.pending()
    ada = asked.people.say(request, "ada")
    write(asked, request, state="approved", granted=(ada, asked.people.say(request, "bob", key=MALLORY)))
    stays_undone(asked)
    assert asked.pending().granted == (ada,)
    asked.approve("bob")
    asked.run()
    assert asked.only().state == "verifying"


@pytest.mark.parametrize("forged", [True, False])
def test_a_rejection_is_the_word_of_whoever_signed_it_or_of_nobody(asked: Any, forged: bool) -> None:
    """A forged one may stop it, but the log does not say that bob said no."""
    request = asked.pending()
    word = asked.people.say(request, "bob", verdict="reject", reason="not now", key=MALLORY if forged else None)
    write(asked, request, state="rejected", refused=word)
    asked.store.wake(request.incident, "approval")
    asked.run()
    assert asked.only().state == "rejected"
    assert asked.plant.done == {}
    (record,) = [one for one in asked.records("approval") if one["body"]["verdict"] == "rejected"]
    if forged:
        assert (record["actor"]["kind"], record["body"]["refused"]) == ("service", None)
        assert "bob" not in json.dumps(record)
    else:
        assert record["actor"] == {"kind": "human", "id": "bob"}
        assert record["body"]["refused"]["signature"].startswith("-----BEGIN SSH SIGNATURE-----")


def test_a_list_that_does_not_load_approves_nothing(asked: Any) -> None:
    """Nobody is believed while the settings are broken; once they load again, what was signed counts."""
    file = asked.settings.conf / "local" / "driftwarden" / "approvers.yml"
    good = file.read_text()
    for who in ("ada", "bob"):
        asked.approve(who)
    file.write_text("approvers: [")
    asked.run()
    assert asked.plant.done == {}
    file.write_text(good)
    asked.later(seconds=60)
    assert asked.only().state == "verifying"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["approved", "ada", "risk", "2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def paths(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def mutated(document: Any, data: st.DataObject) -> Any:
    """Up to three places are removed, replaced, or given what stands elsewhere."""
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(paths(changed))
        *way, last = data.draw(st.sampled_from(places))
        inner = changed
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = data.draw(JSON)
        else:
            *way, other = data.draw(st.sampled_from(places))
            found = changed
            try:
                for key in (*way, other):
                    found = found[key]
                inner[last] = copy.deepcopy(found)
            except (KeyError, IndexError, TypeError):
                inner.pop(last)
    return changed


def test_whatever_is_written_over_a_request_adds_nothing(asked: Any) -> None:
    """Hypothesis writes over an open request and over an approved one: never more than what people signed comes of it."""
    request = asked.pending()
    approved = request.model_copy(update={"state": "approved", "granted": both(asked, request)})
    open_, signed = (json.loads(one.model_dump_json()) for one in (request, approved))
    write(asked, approved)
    incident = asked.only()
    facts = approval_facts(asked.parts, incident)
    assert facts is not None

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def attack(data: st.DataObject) -> None:
        document = mutated(data.draw(st.sampled_from([open_, signed])), data)
        asked.client.hset(KEY, request.id, json.dumps(document))
        found = approval_facts(asked.parts, incident)
        assert found is None or (found == facts and document["granted"] == signed["granted"])

    attack()
