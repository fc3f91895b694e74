"""Who holds which policy: nothing executes while two differ, nor while it cannot be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from driftwarden.policies import Policy, load_policy
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.policy_agreement import TTL_MS, Disagreed, PolicyAgreement, live_holdings
from driftwarden.testing import START, FakeClock

KEY = "driftwarden:policies"
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
def clock() -> FakeClock:
    """Stands still until it is moved."""
    return FakeClock()


@pytest.fixture
def join(client: Any, clock: FakeClock) -> Callable[[str, str], tuple[PolicyHolder, PolicyAgreement]]:
    """Another process, with a policy of its own."""

    def make(name: str, revision: str) -> tuple[PolicyHolder, PolicyAgreement]:
        holder = PolicyHolder(policy(revision))
        agreement = PolicyAgreement(
            client, "driftwarden:", name, holder, ahead_s=lambda: (clock.now() - START).total_seconds()
        )
        agreement.announce()
        return holder, agreement

    return make


def test_alone_it_agrees_with_itself(join: Any) -> None:
    """One process: nobody to differ from."""
    _, one = join("a", "1")
    assert one.agreed() is True
    one.require()


def test_two_that_differ_both_wait_until_one_follows(join: Any) -> None:
    """A rolling change: neither the old nor the new one executes until both hold the new one."""
    old, a = join("a", "1")
    new, b = join("b", "2")
    assert (a.agreed(), b.agreed()) == (False, False)
    with pytest.raises(Disagreed, match=r"different policies: b holds tests 2 .*this one holds tests 1"):
        a.require()
    old.replace(new())
    assert (a.agreed(), b.agreed()) == (True, True)


def test_the_question_itself_announces(join: Any, client: Any) -> None:
    """Between two heartbeats: who took up another policy is known to the others before it may execute under it."""
    holder, a = join("a", "1")
    _, b = join("b", "1")
    holder.replace(policy("2"))
    assert a.agreed() is False
    assert b.agreed() is False, "a's question told it"
    client.delete(KEY)
    assert a.agreed() is True
    assert b.agreed() is False, "a's question was heard"


def test_a_decision_of_another_policy_is_not_carried_out(join: Any) -> None:
    """Reloaded between decision and effect: it is decided again, though all agree."""
    holder, a = join("a", "1")
    decided = holder().digest
    assert a.agreed(decided) is True
    holder.replace(policy("2"))
    assert a.agreed(decided) is False
    with pytest.raises(Disagreed, match="changed since the decision"):
        a.require(decided)


def test_a_process_that_died_is_waited_for_and_then_forgotten(join: Any, clock: FakeClock, client: Any) -> None:
    """Its word lasts as long as a live process would take to repeat it, not longer."""
    _, a = join("a", "1")
    join("dead", "2")
    clock.advance(TTL_MS / 1000 - 1)
    assert a.agreed() is False
    clock.advance(2)
    assert a.agreed() is True
    assert client.hkeys(KEY) == [b"a"]


def test_a_process_that_slept_asks_before_it_acts(join: Any, clock: FakeClock) -> None:
    """Paused for longer than its word lasts, with a policy that the others left meanwhile: it does not execute."""
    _, slept = join("slept", "1")
    clock.advance(TTL_MS / 1000 + 1)
    _, other = join("other", "2")
    assert other.agreed() is True, "the one that sleeps is taken for dead"
    assert slept.agreed() is False


def test_who_leaves_is_not_waited_for(join: Any) -> None:
    """A process that stops in order says so."""
    _, a = join("a", "1")
    _, b = join("b", "2")
    b.leave()
    assert a.agreed() is True


FORGED = {
    "another digest": b'%d {"digest": "sha256:0", "name": "x", "revision": "x", "enforcement": "enforce"}',
    "no digest": b"%d {}",
    "no object": b"%d []",
    "not JSON": b"%d nope",
    "not UTF-8": b"%d \xff",
    "a digest of another type": b'%d {"digest": 1, "name": "x", "revision": "x", "enforcement": "enforce"}',
}


@pytest.mark.parametrize("raw", FORGED.values(), ids=FORGED)
def test_a_forged_word_only_stops(join: Any, client: Any, raw: bytes) -> None:
    """Whoever writes to Redis makes everyone wait, and only as long as it goes on writing."""
    _, a = join("a", "1")
    seconds, micros = client.time()
    client.hset(KEY, "forged", raw.replace(b"%d", b"%d" % (seconds * 1000 + micros // 1000)))
    assert a.agreed() is False
    client.hdel(KEY, "forged")
    assert a.agreed() is True


@pytest.mark.parametrize("raw", [b"", b"nope", b"{}", b"-5 {}", b"9" * 400 + b" {}", b"99999999999999 {}"])
def test_a_word_without_a_time_is_told_once(join: Any, client: Any, raw: bytes) -> None:
    """No time, or one to come: nobody agrees with it, and it is removed, so that it does not stop everyone for ever."""
    _, a = join("a", "1")
    client.hset(KEY, "forged", raw)
    assert a.agreed() is False
    assert a.agreed() is True


def test_forging_ones_own_word_changes_nothing(join: Any, client: Any) -> None:
    """What a process holds it knows from itself: its entry is written anew with every question."""
    _, a = join("a", "1")
    other, _ = join("b", "2")
    client.hset(KEY, "a", client.hget(KEY, "b"))
    assert a.agreed() is False
    held = live_holdings(client, "driftwarden:")["a"]
    assert held is not None
    assert held.digest != other().digest


def test_redis_away_or_refusing_is_unknown(join: Any, client: Any, tmp_path: Path) -> None:
    """Neither agreed nor not; what requires agreement does not go on."""
    holder, a = join("a", "1")
    away = PolicyAgreement(redis.Redis(unix_socket_path=str(tmp_path / "none.sock")), "driftwarden:", "z", holder)
    assert away.agreed() is None
    with pytest.raises(Disagreed, match="unknown"):
        away.require()
    client.set(KEY, "another type")
    assert a.agreed() is None


def test_looking_on_says_nothing(join: Any, client: Any) -> None:
    """The doctor sees what is held, and is no voice in it."""
    holder, a = join("a", "1")
    a.fault = "policy.yml:3: wrong"
    a.announce()
    client.hset(KEY, "forged", b"nope")
    seen = live_holdings(client, "driftwarden:")
    held = seen["a"]
    assert held is not None
    assert (held.digest, held.fault, seen["forged"]) == (holder().digest, a.fault, None)
    assert set(client.hkeys(KEY)) == {b"a", b"forged"}
