"""Dead letters in two steps: written, then settled; a crash in between writes none twice, and loses none."""

import pytest
from redis import Redis

from driftwarden.errors import BadInput
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import Intake, Rejection

EVENTS = "driftwarden:events"


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before:letter", "after:letter", "before:acknowledge", "after:acknowledge"])
def test_a_crash_between_letter_and_acknowledgement(client: Redis, where: str) -> None:
    """The entry comes again until it is settled, and has one letter, with the bytes that came."""

    def die(at: str) -> None:
        if at == where:
            raise Died

    told: list[Rejection] = []
    client.xadd(EVENTS, {"event": b"\xff\x00", "more": b"1"})
    with pytest.raises(Died):
        Intake(client, "w", before_burial=told.append, fail_point=die).read(1)
    assert Intake(client, "w", before_burial=told.append).read(1) == []
    (letter,) = DeadLetters(client).list()
    assert letter.fields == ((b"event", b"\xff\x00"), (b"more", b"1"))
    assert len(told) == (1 if where == "after:acknowledge" else 2)
    assert (client.xlen(EVENTS), client.xpending(EVENTS, "workers")["pending"]) == (0, 0)


def test_two_workers_with_the_same_unreadable_entry(client: Redis) -> None:
    """Who was too slow to settle it writes no second letter."""
    client.xadd(EVENTS, {"event": b"{}"})

    def overtaken(at: str) -> None:
        if at == "before:letter":
            assert Intake(client, "other", reclaim_after_ms=0).read(1) == []

    assert Intake(client, "slow", fail_point=overtaken).read(1) == []
    (letter,) = DeadLetters(client).list()
    assert letter.deliveries >= 1


def test_the_same_entry_id_with_other_bytes_is_another_letter(client: Redis) -> None:
    """A stream that was deleted may give its ids out again."""
    for raw in (b"{}", b"[]"):
        client.xadd(EVENTS, {"event": raw}, id="5-1")
        assert Intake(client, "w").read(1) == []
        client.delete(EVENTS)
    assert {letter.raw for letter in DeadLetters(client).list()} == {b"{}", b"[]"}


def test_a_letter_is_written_once_for_what_it_is_about(client: Redis) -> None:
    """Again: the id of the first; about something else: another. What it remembers for that expires."""
    letters = DeadLetters(client)
    first = letters.write("this", {"kind": "incident", "incident": "inc-1", "reason": "why"})
    assert letters.write("this", {"kind": "incident", "incident": "inc-1", "reason": "again"}) == first
    assert letters.write("that", {"kind": "incident", "incident": "inc-2", "reason": "why"}) != first
    assert [one.reason for one in letters.list()] == ["why", "why"]
    keys = [key.decode() for key in client.scan_iter("driftwarden:dead-letters:once:*")]
    assert len(keys) == 2
    assert all(key.endswith("{driftwarden:dead-letters}") and 0 < client.pttl(key) <= 30 * 86_400_000 for key in keys)


def test_a_redrive_whose_reply_was_lost_puts_one_entry_back(client: Redis) -> None:
    """Asked again, it answers with the entry of the first time; an incident's letter holds nothing to put back."""
    client.xadd(EVENTS, {"event": b"{}"})
    Intake(client, "w").read(1)
    letters = DeadLetters(client)
    (letter,) = letters.list()
    _, entry, again = letters.redrive(letter.id)
    assert (again, client.xlen(EVENTS)) == (False, 1)
    assert DeadLetters(client).redrive(letter.id)[1:] == (entry, True)
    assert client.xlen(EVENTS) == 1
    of_incident = letters.write("x", {"kind": "incident", "incident": "inc-1", "reason": "crash-loop"})
    with pytest.raises(BadInput, match="incidents retry inc-1"):
        letters.redrive(of_incident)
