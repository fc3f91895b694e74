"""Retention: what closed long ago leaves Redis and not the log; what may still be needed stays; a rewind is still one."""

import json
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import NotFound
from driftwarden.service.cli.main import run
from driftwarden.service.workflow.case import LiveCase
from driftwarden.service.workflow.ends import Ends
from driftwarden.service.workflow.floor import LogTail
from driftwarden.service.workflow.forgetting import Forgetting, kept_for
from driftwarden.service.workflow.health import Health, Said
from driftwarden.service.workflow.ledger import Caps
from driftwarden.service.workflow.process import ServiceProcess
from driftwarden.service.workflow.pruning import Pruning, window_ms
from driftwarden.settings import ServiceSettings
from driftwarden.stream.intake import Intake

DAY_MS = 86_400_000
LONG_AGO = 92


def age(world: Any, days: float = LONG_AGO) -> None:
    """Everything in Redis is so many days older, and the world's clock so much later."""
    client, keys = world.client, world.store.keys
    for incident, opened_ms in client.zrange(keys.index, 0, -1, withscores=True):
        client.zadd(keys.index, {incident: opened_ms - days * DAY_MS})
        wf = keys.wf(incident.decode())
        client.hset(wf, "updated", int(client.hget(wf, "updated")) - int(days * DAY_MS))
    for key in [*client.scan_iter("*:seen:*"), *client.scan_iter("*:group:*")]:  # they expired
        client.delete(key)
    world.clock.advance(days=days)


def photograph(client: Redis) -> dict[bytes, bytes]:
    """Everything in Redis, as it is."""
    return {name: client.dump(name) for name in client.scan_iter("*")}


def put_back(client: Redis, picture: dict[bytes, bytes]) -> None:
    """Everything as it was."""
    client.flushall()
    for name, raw in picture.items():
        client.restore(name, 0, raw)


def sweep(world: Any) -> list[str]:
    """One round of a process that has just begun."""
    gone, sweeping = [], Forgetting(world.parts, world.store)
    while found := sweeping.turn():
        gone += found
    return gone


def resolved(world: Any, action: ActionName = ActionName.RETRAIN) -> str:
    """An effect that helped."""
    world.script.candidates = (Candidate(id="c1", action=action),)
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    if world.incidents()[-1].state == "awaiting_approval":
        world.approve()
        world.run()
    incident = world.incidents()[-1]
    assert incident.state == "resolved"
    return str(incident.id)


def monitored(world: Any) -> tuple[str, dict[str, Any]]:
    """An incident in which nothing was to be done, and its event."""
    world.script.loss = 0.0
    event = world.event()
    world.send(event)
    world.run()
    incident = world.incidents()[-1]
    assert incident.state == "closed"
    return incident.id, event


def test_what_closed_long_ago_goes_and_the_log_keeps_its_story(world: Any) -> None:
    """Ninety days and a little; a later one stays, and a setting keeps all."""
    incident, _ = monitored(world)
    age(world, 89)
    later, _ = monitored(world)
    assert sweep(world) == []
    age(world, 3)
    assert sweep(world) == [incident]
    assert [one.id for one in world.incidents()] == [later]
    assert (world.store.removed(), world.store.counts()) == (1, {"closed": 1})
    assert {"event", "decision", "close"} <= {one["type"] for one in world.records() if one["incident"] == incident}
    kept = world.settings.service.model_copy(update={"closed_ttl": None})
    world.parts.settings = world.settings.model_copy(update={"service": kept})
    age(world, 4000)
    assert sweep(world) == []


def test_a_process_does_it_by_itself(world: Any) -> None:
    """Beside intake, timers and workers."""
    incident, _ = monitored(world)
    age(world)
    process = ServiceProcess(world.parts, world.store, Intake(world.client, "i"), name="p", workers=0)
    process.start()
    deadline = time.monotonic() + 60
    while not world.store.removed():
        assert time.monotonic() < deadline
        process.wait(0.05)
    assert process.stop().threads == ()
    assert world.incidents() == []
    with pytest.raises(NotFound, match=incident):
        world.store.get(incident)


def test_nothing_is_put_away_inside_a_window_of_the_policy() -> None:
    """The longest of them, two days where none is longer, and a day more: hosts' clocks differ."""
    assert window_ms(Caps(breaker_window_ms=DAY_MS, rate_model=(1, DAY_MS))) == 3 * DAY_MS + 3_600_000
    assert window_ms(Caps(rate_global=(1, 30 * DAY_MS))) == 31 * DAY_MS + 3_600_000


@pytest.mark.parametrize(("closed", "identity", "days"), [("90d", "30d", 90), ("7d", "30d", 30), ("7d", "1h", 7)])
def test_never_sooner_than_a_repeat_is_recognised(closed: str, identity: str, days: int) -> None:
    """The longer of the two counts."""
    service = ServiceSettings.model_validate({"closed_ttl": closed, "identity_ttl": identity})
    assert kept_for(service) == timedelta(days=days)


def test_the_last_change_of_a_model_can_still_be_undone(world: Any) -> None:
    """The one before cannot, whoever asks: another version is the champion by now."""
    first = resolved(world)
    world.clock.advance(hours=5)
    last = resolved(world)
    age(world)
    assert sweep(world) == [first]
    asked = world.people.request(last, "undo", "ada")
    world.store.wake(last, "undo", asked.model_dump())
    world.run()
    assert world.incidents()[-1].state == "awaiting_approval"
    age(world)
    assert sweep(world) == []


def test_what_was_put_away_can_be_undone(world: Any) -> None:
    """The effect is in the book of its model; taking it back is reserved beside it, and both are what the incident did."""
    incident = resolved(world)
    world.clock.advance(days=30)
    now = rfc3339(world.clock.now())
    others: dict[str, Any] = {"model": "n", "action": "retrain", "cost_usd": Decimal(1), "caps": Caps()}
    assert world.parts.ledger.reserve("inc-other", **others, now=now) is None
    world.parts.ledger.settle("inc-other")
    assert Pruning(world.parts, world.store).put_away() == 1
    assert world.client.hkeys("driftwarden:ledger") == [b"inc-other"]
    spent = world.parts.ledger.spend_usd("m")
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    world.run()
    assert world.only().state == "undone"
    own = {key: one["undo"] for key, one in world.parts.ledger.entries(["m"]).items() if key != "inc-other"}
    assert ({key.partition("#@")[0] for key in own}, own[incident], sorted(own.values())) == (
        {incident},
        True,
        [False, True],
    )
    assert world.parts.ledger.spend_usd("m") >= spent > 0
    facts = world.parts.ledger.facts("inc-9", model="m", now=rfc3339(world.clock.now()), caps=world.parts.caps())
    assert facts["last_action_failed"] is True
    assert world.parts.ledger.needed() == {incident}


def what_is_told(world: Any, incident: str) -> list[tuple[str, str | None]]:
    """The changes of the model that the agents of an incident are told of."""
    (its,) = (one for one in world.incidents() if one.id == incident)
    case = LiveCase(world.parts, its, world.parts.settings.watched("m"))
    return [(one["what"], one.get("incident")) for one in case.recent_changes()]


def test_the_ledger_keeps_what_is_open_or_recent(world: Any) -> None:
    """What is over goes to the book of its model, and once its incident is removed into one sum; what was spent stays so."""
    first = resolved(world)
    assert world.client.hlen("driftwarden:ledger") == 1
    age(world)
    last = resolved(world)
    spent, record = world.parts.ledger.spend_usd(), world.parts.ledger.track_record(model="m", action="retrain")
    told = what_is_told(world, last), what_is_told(world, first)
    assert told == ([("action", first)], [("action", last)])
    sweeping = Pruning(world.parts, world.store)
    for _ in range(2):
        sweeping.turn()
    assert world.client.hkeys("driftwarden:ledger") == [last.encode()]
    assert {key.partition("#")[0] for key in world.parts.ledger.entries(["m"])} == {first, last}
    assert (what_is_told(world, last), what_is_told(world, first)) == told
    assert sweep(world) == [first]
    sweep(world)
    assert set(world.parts.ledger.entries(["m"])) == {"before#m", last}
    assert what_is_told(world, last) == [("earlier actions", None)]
    assert world.parts.ledger.spend_usd() == spent
    assert world.parts.ledger.track_record(model="m", action="retrain") == record
    assert record["successes"] == 2


def test_nothing_is_put_away_beside_an_earlier_version(world: Any) -> None:
    """It would not find what the last action was, nor that an incident can still be undone."""
    resolved(world)
    age(world)
    last = resolved(world)
    other, pruning = Health(world.client, "driftwarden:", "other"), Pruning(world.parts, world.store)
    other.tell(Said(host="h", pid=1))
    pruning.turn()
    assert world.client.hlen("driftwarden:ledger") == 2
    other.tell(Said(host="h", pid=1, books=True))
    Pruning(world.parts, world.store).turn()
    assert world.client.hlen("driftwarden:ledger") == 2, "nor beside one that would ask again for what was rejected"
    other.tell(Said(host="h", pid=1, books=True, refusals=True))
    pruning.turn()
    assert world.client.hlen("driftwarden:ledger") == 2, "it looks again after a while"
    Pruning(world.parts, world.store).turn()
    assert world.client.hkeys("driftwarden:ledger") == [last.encode()]


def test_a_quarantine_stays_until_it_is_released(world: Any) -> None:
    """However many changes of the model came after it."""
    held_back = resolved(world, ActionName.QUARANTINE_DATA)
    for _ in range(2):
        world.clock.advance(hours=5)
        last = resolved(world)
    age(world)
    assert held_back not in sweep(world)
    assert [one.id for one in world.incidents()] == [held_back, last]


def test_a_reservation_or_an_open_approval_keeps_it(world: Any) -> None:
    """A crash loop ended it without a worker's word: what it reserved and asked for is settled first."""
    incident, _ = monitored(world)
    age(world)
    caps = world.parts.caps()
    at = {"now": rfc3339(world.clock.now()), "caps": caps}
    assert world.parts.ledger.reserve(incident, model="m", action="retrain", cost_usd=0, **at) is None
    assert sweep(world) == []
    world.parts.ledger.release(incident)
    world.script.loss, world.script.win = 0.2, 0.5
    world.send()
    world.run()
    asking = world.pending().incident
    assert asking != incident
    world.client.hset(world.store.keys.wf(asking), "done", 1)  # as after a crash loop
    age(world)
    assert sweep(world) == [incident]
    world.parts.approvals.mark(world.pending().id, "expired")
    world.client.zrem(world.store.keys.timers, f"{asking}|m")
    assert sweep(world) == [asking]


def test_a_removed_one_that_comes_again_is_no_rewind(world: Any) -> None:
    """Its event is sent again a year later: the log knows the end of the first of that name, and the second is walked."""
    incident, event = monitored(world)
    age(world)
    assert sweep(world) == [incident]
    world.script.loss = 0.2
    world.send(event)
    world.run()
    assert world.only().id == incident
    assert world.only().state == "verifying"  # it was decided and acted on, as any new one
    assert len(world.plant.moves) == 1


def test_with_its_effect_in_the_log_it_is_no_rewind_either(world: Any) -> None:
    """The first of that name had an effect that the second does not know."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    event = world.event()
    world.send(event)
    world.run()
    first = world.only().id
    world.clock.advance(hours=5)
    resolved(world)
    age(world)
    assert sweep(world) == [first]
    decided = len(world.records("decision"))
    world.send(event)
    world.run()
    again = world.store.get(first)  # its rows are from before the last change: nothing is to be done about them
    assert (again.state, again.doc["outcome"]) == ("closed", "monitor")
    assert len(world.records("decision")) == decided + 1


@pytest.mark.parametrize("days", [1, 80, 200])
def test_a_redis_that_was_put_back_is_still_recognised(world: Any, days: int) -> None:
    """Whole Redis as it was before the effect, put back before or long after the incident was removed; by a new process too."""
    pictures: dict[str, dict[bytes, bytes]] = {}
    world.send()
    world.run(world.worker(fail_point=lambda where: pictures.setdefault(where, photograph(world.client))))
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    world.clock.advance(hours=5)
    resolved(world)
    moves = [*world.plant.moves]
    age(world, days)
    assert bool(sweep(world)) == (days > 90)
    world.parts.floor = world._floor()
    put_back(world.client, pictures["committed:decided"])
    world.free_leases()
    for keys in world.client.scan_iter("driftwarden:wf:*:events"):
        world.store.wake(keys.decode().split(":")[2], "test")
    world.run()
    assert world.plant.moves == moves
    assert {one.state for one in world.incidents()} == {"resolved"}


def test_the_floor_keeps_no_end_longer_than_redis(tmp_path: Path) -> None:
    """What is older is read from the log where it is asked for, once; nothing else is."""
    asked: list[str] = []

    class Clock:
        moment = parse_rfc3339("2026-11-20T09:00:00Z")

        def now(self) -> Any:
            return self.moment

    def look_back(incident: str) -> Any:
        asked.append(incident)
        return LogTail(tmp_path).closings(incident)

    lines, ends = [], Ends(timedelta(days=90), look_back, Clock())
    for number in range(365):
        at = rfc3339(Clock.moment - timedelta(days=364 - number))
        body = {"state": "closed", "version": 7}
        lines.append(
            json.dumps({"body": body, "incident": f"inc-{number}", "ts": at, "type": "close"}, separators=(",", ":"))
        )
        ends.add(f"inc-{number}", 7, "closed", at)
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    assert 90 <= len(ends) <= 92
    for _ in range(2):
        assert ends.of("inc-10", rfc3339(Clock.moment - timedelta(days=360))) == {7: "closed"}
    assert ends.of("inc-10", rfc3339(Clock.moment)) == {}
    assert ends.of("inc-360", rfc3339(Clock.moment)) == {7: "closed"}
    assert asked == ["inc-10"]
    later = Clock.moment + timedelta(days=4000)
    Clock.moment = later
    ends.add("inc-later", 1, "closed", rfc3339(later))
    assert len(ends) == 1


def test_commands_say_in_one_line_that_it_was_removed(terminal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Show, undo and the rest point to the log; so does a list that would have held it; stats say what they count."""
    terminal.reject()
    terminal.run()
    incident = terminal.only().id
    age(terminal)
    capsys.readouterr()
    assert run(["incidents", "list"]) == 0
    assert "audit show" not in capsys.readouterr().err
    assert sweep(terminal) == [incident]
    for command in (
        ["show", incident],
        ["undo", incident, "--reason", "it harmed"],
        ["close", incident, "--reason", "x"],
    ):
        assert run(["incidents", *command]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert f"`driftwarden audit show {incident}`" in said
    assert run(["incidents", "list", "--json"]) == 0
    listed = capsys.readouterr()
    assert listed.out == ""
    assert "1 closed incident was removed" in listed.err
    assert run(["audit", "show", incident]) == 0
    assert "rejected" in capsys.readouterr().out
    assert run(["approvals", "list", "--all"]) == 0
    assert terminal.parts.approvals.list() == []
    assert run(["stats", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["incidents"], found["removed"]) == (0, 1)
    answered = {name: found["approvals"][name] for name in ("approved", "rejected", "approval_rate")}
    assert answered == {"approved": 0, "rejected": 1, "approval_rate": "0.0000"}
    assert run(["stats"]) == 0
    assert "1 closed incident was removed" in capsys.readouterr().out
