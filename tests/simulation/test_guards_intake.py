"""As test_guards.py: joining, trimming, the intake and shards."""

import json
from typing import Any

import pytest
from fakes.store_steps import GROUP, NOW, SOURCE, admitted, claim, drift, fields, nothing, report, step
from redis import Redis

from driftwarden.errors import BadInput
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.service.workflow.store_types import identity_of
from driftwarden.stream.group import Group
from driftwarden.stream.intake import Delivery, Intake

# Joining


def test_who_accepts_again_is_joined_again(store: WorkflowStore) -> None:
    """An incident that accepted no more and does again is the one that later events join."""
    incident = admitted(store, 1)
    held = step(store, claim(store), accepting=False)
    step(store, held, accepting=True)
    assert admitted(store, 2) == incident


def test_who_accepts_again_leaves_the_open_one_alone(store: WorkflowStore) -> None:
    """Meanwhile another incident of the model was opened: that one is joined."""
    first = admitted(store, 1)
    held = step(store, claim(store), accepting=False)
    second = admitted(store, 2)
    assert second != first
    step(store, held, accepting=True)
    assert admitted(store, 3) == second


def test_what_has_ended_is_not_joined(client: Redis, store: WorkflowStore) -> None:
    """Writes were lost, and the model still names it: its next event opens another."""
    first = admitted(store, 1)
    step(store, claim(store), "closed", "finish", accepting=False)
    client.hset(store.keys.model("m"), "open:production", first)
    assert admitted(store, 2) != first


def test_a_later_event_of_a_model_does_not_overtake(client: Redis, store: WorkflowStore) -> None:
    """The first of two must ask again, because its group has an incident by now; the second waits for it."""
    first = admitted(store, 1)
    assert WorkflowStore(client).admit("9-1", drift(7, model="other"), now=NOW, groups=["g"]).kind == "opened"
    batch = [Delivery(f"8-{number}", drift(number)) for number in (2, 3)]
    told = store.admit_many(batch, now=NOW, groups=lambda event: ["g"] if event.id == "2" else [])
    assert [one.incident for one in told] == [first, first]
    assert [json.loads(raw)["id"] for raw in store.get(first).events] == ["1", "2", "3"]


def test_a_successor_whose_id_is_taken_has_a_longer_one(client: Redis, store: WorkflowStore) -> None:
    """Two events whose identities begin alike: nothing of the one that has the id is overwritten."""
    first = admitted(store, 1)
    held = claim(store)
    assert admitted(store, 2) == first
    identity = identity_of(SOURCE, "2")
    client.hset(store.keys.wf(f"inc-{identity[:12]}"), "identity", "another")
    after = step(store, held, "closed", "finish", accepting=False, weighed=1)
    assert after.successor == f"inc-{identity[:16]}"
    assert client.hgetall(store.keys.wf(f"inc-{identity[:12]}")) == {b"identity": b"another"}
    assert fields(client, store, str(after.successor))["identity"] == identity
    assert store.find(identity[:16]) == after.successor


def test_reports_are_not_kept_for_ever(store: WorkflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay."""
    monkeypatch.setattr("driftwarden.service.workflow.store.REPORTS_PER_MODEL_MAX", 2)
    for number in range(3):
        store.record_performance(f"7-{number}", report(number))
    assert [json.loads(raw)["id"] for raw in store.performance_reports("m")] == ["p1", "p2"]


# Trimming


def test_consumers_that_hold_nothing_and_are_gone_are_forgotten(
    client: Redis, store: WorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds an entry never is, or the entry would be pending with nobody; one that lives is not."""
    admitted(store, 1)
    held = claim(store, "holds")
    assert nothing(store, "idle")
    stream = store.keys.activations

    def names() -> set[bytes]:
        return {one["name"] for one in client.xinfo_consumers(stream, GROUP)}

    store.trim()
    assert names() == {b"holds", b"idle"}
    monkeypatch.setattr("driftwarden.service.workflow.store._CONSUMER_IDLE_MS", -1)
    store.trim()
    assert names() == {b"holds"}
    assert [one["message_id"].decode() for one in client.xpending_range(stream, GROUP, "-", "+", 10)] == [held.entry]


def test_what_nobody_reads_yet_is_not_trimmed(client: Redis, store: WorkflowStore) -> None:
    """No group, or one that was given nothing: every entry stays."""
    for _ in range(3):
        client.xadd(store.keys.intake, {"event": "{}"})
    assert store.trim() == 0
    client.xgroup_create(store.keys.intake, GROUP, id="0")
    assert store.trim() == 0
    assert client.xlen(store.keys.intake) == 3


def test_what_is_settled_and_still_there_is_trimmed(client: Redis, store: WorkflowStore) -> None:
    """Acknowledged, and not deleted: up to the first that is pending, such entries go."""
    stream = store.keys.intake
    ids = [client.xadd(stream, {"event": "{}"}) for _ in range(3)]
    client.xgroup_create(stream, GROUP, id="0")
    client.xreadgroup(GROUP, "w", {stream: ">"})
    client.xack(stream, GROUP, ids[0], ids[2])
    assert store.trim() == 1
    assert [entry for entry, _ in client.xrange(stream)] == ids[1:]


def test_a_stream_that_is_not_there_is_not_made(client: Redis, store: WorkflowStore) -> None:
    """An empty server stays empty."""
    assert store.trim() == 0
    assert client.dbsize() == 0


# The intake


def test_a_group_that_vanishes_in_the_middle_of_a_takeover_loses_nothing(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be taken over is not taken for deleted: the new group hands it out again."""
    stream = "driftwarden:events"
    client.xadd(stream, {"event": drift(1).raw})
    assert len(Intake(client, "dead").read(1)) == 1
    group = Group(client, stream, GROUP)
    really = group._again

    def again(command: str, *args: Any) -> Any:
        if command == "XCLAIM":
            client.xgroup_destroy(stream, GROUP)
        return really(command, *args)

    monkeypatch.setattr(group, "_again", again)
    assert [*group.stale("w", idle_ms=0)] == []
    assert [one.event.id for one in Intake(client, "w").read(1)] == ["1"]


# Shards


def test_who_has_another_number_of_shards_pins_no_model(client: Redis) -> None:
    """Two processes start at once with different settings: the one that comes second writes nothing."""
    WorkflowStore(client, shards=2).shards.pin()
    late = WorkflowStore(client, shards=4)
    late.shards._pinned = True  # it had looked before
    with pytest.raises(BadInput):
        late.shards.of_model("m")
    assert client.hgetall(late.shards.shared.shards) == {b"#": b"2"}
