"""Events of several models with a group in common join one incident; what it did not weigh goes on under its own model."""

import json
from itertools import count
from typing import Any

import pytest
from redis import Redis

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.service.workflow.store import Admission, Claim, WorkflowStore
from driftwarden.stream.intake import Delivery
from driftwarden.stream.publisher import build_event

NOW = "2026-11-20T09:00:00.000000Z"
LEASE_MS = 60_000
TABLE, OTHER = "aa" * 32, "bb" * 32

_entries = count(1)


def drift(model: str, number: int, environment: str = "production") -> DriftEvent:
    """A drift event."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    return parse_event(json.dumps(build_event(data, source="s", id=str(number), time=NOW)))


def admit(store: WorkflowStore, model: str, number: int, *groups: str, environment: str = "production") -> Admission:
    """Admit an event as the next entry of the intake."""
    return store.admit(f"1-{next(_entries)}", drift(model, number, environment), now=NOW, groups=groups)


def claim(store: WorkflowStore) -> Claim:
    """Claim what must be there."""
    found = store.claim("w", block_ms=0, lease_ms=LEASE_MS)
    assert found is not None
    return found


def step(store: WorkflowStore, held: Claim, disposition: Any = "go", *, accepting: bool = True, **more: Any) -> Claim:
    """Commit a step."""
    state = "closed" if disposition == "finish" else "triaged"
    return store.commit(held, state=state, doc={}, disposition=disposition, accepting=accepting, **more)


def expire(client: Any, held: Claim) -> None:
    """As if the lease's time had passed without a heartbeat."""
    client.hset(f"driftwarden:wf:{held.incident}", "lease", 0)
    arguments = ("workers", held.consumer, 0, held.entry, "IDLE", 10**9, "JUSTID")
    client.execute_command("XCLAIM driftwarden:activations", *arguments)


def events(found: Any) -> list[tuple[str, str]]:
    """Model and id of each event of a claim or a record."""
    documents = [json.loads(raw) for raw in found.events]
    return [(one["data"]["model"], one["id"]) for one in documents]


def test_events_of_one_cause_join_one_incident(store: WorkflowStore) -> None:
    """A hundred models behind one broken table: one incident, led by the first, found under each of them."""
    deliveries = [Delivery(f"1-{next(_entries)}", drift(f"m{number}", number)) for number in range(100)]
    admissions = store.admit_many(deliveries, now=NOW, groups=lambda event: (TABLE,))
    assert [one.kind for one in admissions] == ["opened"] + ["joined"] * 99
    assert {one.incident for one in admissions} == {admissions[0].incident}
    held = claim(store)
    assert (held.model, len(held.events)) == ("m0", 100)
    assert [one.id for one in store.list(model="m57")] == [held.incident]
    assert store.counts() == {"received": 1}
    assert store.claim("v", block_ms=0, lease_ms=LEASE_MS) is None


def test_without_a_common_name_nobody_joins(store: WorkflowStore) -> None:
    """Another group, another environment, or none: an incident of one's own."""
    first = admit(store, "a", 1, TABLE)
    assert admit(store, "b", 2).kind == "opened"
    assert admit(store, "c", 3, OTHER).kind == "opened"
    assert admit(store, "d", 4, TABLE, environment="staging").kind == "opened"
    assert admit(store, "e", 5, OTHER + "x", TABLE) == Admission("joined", first.incident)


def test_a_model_joins_its_own_open_incident_first(store: WorkflowStore) -> None:
    """Who has an incident of its own stays with it; who joined another's has none of its own."""
    lead = admit(store, "a", 1, TABLE)
    own = admit(store, "b", 2)
    assert admit(store, "b", 3, TABLE) == Admission("joined", own.incident)
    assert admit(store, "c", 4, TABLE) == Admission("joined", lead.incident)
    assert admit(store, "c", 5).kind == "opened"


def test_the_same_entry_again_has_the_same_answer(client: Redis, store: WorkflowStore) -> None:
    """A redelivered event of a group joins once, whoever asks."""
    lead = admit(store, "a", 1, TABLE)
    for kind, entry in (("joined", "9-1"), ("joined", "9-1"), ("duplicate", "9-2")):
        again = WorkflowStore(client).admit(entry, drift("b", 2), now=NOW, groups=(TABLE,))
        assert again == Admission(kind, lead.incident)  # type: ignore[arg-type]
    assert events(store.get(lead.incident)) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("how", ["no longer accepting", "finished", "crash loop", "expired"])
def test_an_incident_that_takes_no_more_is_followed_by_another(client: Redis, how: str) -> None:
    """The next event of the group opens one, and those after it join that one."""
    store = WorkflowStore(client, crashes_max=0)
    first = admit(store, "a", 1, TABLE)
    if how == "expired":
        (key,) = client.scan_iter("driftwarden:group:*")
        assert key == f"driftwarden:group:production:{TABLE}".encode()
        assert 3_500_000 < client.pttl(key) <= 3_600_000
        client.delete(key)
    else:
        held = claim(store)
        if how == "crash loop":
            expire(client, held)
            assert claim(store).state == "failed"
        else:
            step(store, held, "finish" if how == "finished" else "park", accepting=False)
    second = admit(store, "b", 2, TABLE)
    assert (second.kind, second.incident != first.incident) == ("opened", True)
    assert admit(store, "c", 3, TABLE) == Admission("joined", second.incident)


def test_a_group_can_be_joined_again_once_it_accepts(store: WorkflowStore) -> None:
    """What each commit says of accepting holds for the groups too."""
    first = admit(store, "a", 1, TABLE)
    held = step(store, claim(store), accepting=False)
    held = step(store, held, accepting=True)
    assert admit(store, "b", 2, TABLE) == Admission("joined", first.incident)
    assert events(step(store, held)) == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("limit", ["EVENTS_PER_INCIDENT_MAX", "EVENT_BYTES_PER_INCIDENT_MAX"])
def test_the_limits_hold_for_groups(store: WorkflowStore, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """A full incident is joined no more; the group goes on with the next."""
    most = 2 if limit == "EVENTS_PER_INCIDENT_MAX" else 2 * len(drift("a", 1).raw)
    monkeypatch.setattr(f"driftwarden.service.workflow.admitting.{limit}", most)
    kinds = [admit(store, model, number, TABLE).kind for number, model in enumerate("abcd")]
    assert kinds == ["opened", "joined", "opened", "joined"]


def test_what_was_not_weighed_goes_on_under_its_own_model(client: Redis, store: WorkflowStore) -> None:
    """The successor is led by the model of its first event; that model's later events join it, the old lead's do not."""
    first = admit(store, "a", 1, TABLE)
    held = claim(store)
    for number, model in ((2, "b"), (3, "a"), (4, "c"), (5, "b")):
        assert admit(store, model, number, TABLE) == Admission("joined", first.incident)
    ended = step(store, held, "finish", accepting=False, weighed=1)
    assert ended.successor is not None
    record = store.get(ended.successor)
    assert (record.model, record.predecessor) == ("b", first.incident)
    assert events(record) == [("b", "2"), ("a", "3"), ("c", "4"), ("b", "5")]
    assert events(store.get(first.incident)) == [("a", "1")]
    for model in "abc":
        assert ended.successor in [one.id for one in store.list(model=model)]
    following = claim(store)
    assert (following.incident, following.model) == (ended.successor, "b")
    assert admit(store, "b", 6) == Admission("joined", ended.successor)
    assert admit(store, "a", 7).kind == "opened"

    last = step(store, following, "finish", accepting=False, weighed=1)
    assert last.successor is not None
    assert store.get(last.successor).model == "a"
    assert events(store.get(last.successor)) == [("a", "3"), ("c", "4"), ("b", "5"), ("b", "6")]
    keys: Any = client.lrange(f"driftwarden:wf:{last.successor}:keys", 0, -1)
    owners = [key.decode().partition("|")[2] for key in keys]
    assert owners == ["", "c", "b", "b"]


def test_a_successor_of_another_model_leaves_an_open_incident_alone(store: WorkflowStore) -> None:
    """The model that the successor is led by has an incident of its own meanwhile: its events go on joining that."""
    admit(store, "a", 1, TABLE)
    held = claim(store)
    admit(store, "b", 2, TABLE)
    own = admit(store, "b", 3)
    assert own.kind == "opened"
    ended = step(store, held, "finish", accepting=False, weighed=1)
    assert ended.successor is not None
    assert admit(store, "b", 4) == Admission("joined", own.incident)


def test_an_incident_that_is_split_goes_on_accepting(store: WorkflowStore) -> None:
    """Only the events that it did not weigh leave it; its own model's later events stay with it."""
    first = admit(store, "a", 1, TABLE)
    held = claim(store)
    admit(store, "b", 2, TABLE)
    held = step(store, held, accepting=True, weighed=1, split=True)
    assert held.successor is not None
    assert events(held) == [("a", "1")]
    assert admit(store, "a", 3) == Admission("joined", first.incident)
    assert admit(store, "b", 4) == Admission("joined", held.successor)


@pytest.mark.parametrize("how", ["finished", "split", "crash loop"])
def test_a_group_goes_on_in_the_incident_in_which_its_events_went_on(client: Redis, how: str) -> None:
    """Later events of the group join the successor, within the time that the group had left."""
    store = WorkflowStore(client, crashes_max=0)
    first = admit(store, "a", 1, TABLE)
    (key,) = client.scan_iter("driftwarden:group:*")
    client.pexpire(key, 1_000_000)
    held = claim(store)
    assert admit(store, "b", 2, TABLE) == Admission("joined", first.incident)
    if how == "crash loop":
        expire(client, held)
        claim(store)
    else:
        finish = how == "finished"
        step(store, held, "finish" if finish else "park", accepting=not finish, weighed=1, split=not finish)
    successor = str(store.get(first.incident).successor)
    for number, asking in ((3, WorkflowStore(client)), (4, store), (5, store)):
        assert admit(asking, f"late-{number}", number, TABLE) == Admission("joined", successor)
    assert client.get(key) == successor.encode()
    assert 0 < client.pttl(key) <= 1_000_000


def test_a_group_is_followed_from_one_to_the_next(store: WorkflowStore) -> None:
    """Two ends later, nobody having asked in between."""
    admit(store, "a", 1, TABLE)
    held = claim(store)
    admit(store, "b", 2, TABLE)
    admit(store, "c", 3, TABLE)
    step(store, held, "finish", accepting=False, weighed=1)
    last = step(store, claim(store), "finish", accepting=False, weighed=1)
    assert last.successor is not None
    assert admit(store, "d", 4, TABLE) == Admission("joined", last.successor)
    assert events(store.get(last.successor)) == [("c", "3"), ("d", "4")]


def test_a_group_stays_where_its_events_were_weighed(client: Redis, store: WorkflowStore) -> None:
    """What goes on is the lead's other drift: later events of the group have nothing to do with it."""
    first = admit(store, "a", 1, TABLE)
    held = claim(store)
    assert admit(store, "b", 2, TABLE) == Admission("joined", first.incident)
    assert admit(store, "a", 3, OTHER) == Admission("joined", first.incident)
    ended = step(store, held, "finish", accepting=False, weighed=2)
    assert ended.successor is not None
    later = admit(store, "c", 4, TABLE)
    assert later.kind == "opened"
    assert admit(store, "d", 5, TABLE) == Admission("joined", later.incident)


def test_a_crash_loop_takes_no_other_model_with_it(client: Redis) -> None:
    """What joined and was never weighed opens the successor, under its own model."""
    store = WorkflowStore(client, crashes_max=0)
    admit(store, "a", 1, TABLE)
    admit(store, "b", 2, TABLE)
    held = claim(store)
    expire(client, held)
    states = {(one.model, one.state) for one in (claim(store), store.claim("v", block_ms=0, lease_ms=LEASE_MS)) if one}
    assert states == {("a", "failed"), ("b", "received")}
    (following,) = store.list(model="b", state="received")
    assert events(following) == [("b", "2")]
    assert admit(store, "b", 3) == Admission("joined", following.id)
    assert admit(store, "a", 4).kind == "opened"


def test_no_event_overtakes_one_of_its_model_that_was_guessed_wrongly(client: Redis, store: WorkflowStore) -> None:
    """The first of two was to join a group that is gone; the second, which needs no guess, waits for it all the same."""
    admit(store, "a", 1, TABLE)
    admit(store, "c", 2, TABLE)  # this process has seen whom the group joins
    client.delete(f"driftwarden:group:production:{TABLE}")
    deliveries = [Delivery(f"1-{next(_entries)}", drift("b", number)) for number in (3, 4)]
    admissions = store.admit_many(deliveries, now=NOW, groups=lambda event: (TABLE,) if event.id == "3" else ())
    assert [one.kind for one in admissions] == ["opened", "joined"]
    assert events(store.get(admissions[0].incident)) == [("b", "3"), ("b", "4")]


def test_a_model_that_joins_while_the_successor_is_named(client: Redis) -> None:
    """Between the two calls of an ending commit another model's event comes: the successor is found under it too."""
    late: list[Admission] = []

    def join(where: str) -> None:
        if where == "after:commit" and not late:
            late.append(admit(WorkflowStore(client), "c", 3, TABLE))

    store = WorkflowStore(client, fail_point=join)
    first = admit(store, "a", 1, TABLE)
    held = claim(store)
    admit(store, "b", 2, TABLE)
    ended = step(store, held, "finish", accepting=False, weighed=1)
    assert late == [Admission("joined", first.incident)]
    assert ended.successor is not None
    assert events(store.get(ended.successor)) == [("b", "2"), ("c", "3")]
    assert ended.successor in [one.id for one in store.list(model="c")]
