"""Someone who can write every key of Redis may stop the service, and brings about no effect (docs/security.md)."""

import json
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.policies import load_policy
from driftwarden.sealing import Seal
from driftwarden.service.workflow.store_types import sealed_name

WF = "driftwarden:wf:{}"


def key(world: Any) -> str:
    """The hash of the only incident."""
    return WF.format(world.only().id)


def photograph(client: redis.Redis) -> dict[bytes, bytes]:
    """Everything in Redis, as it is."""
    return {name: client.dump(name) for name in client.scan_iter("*")}


def put_back(client: redis.Redis, picture: dict[bytes, bytes], only: str = "") -> None:
    """Everything (whose name holds `only`) as it was; a lease that was held then is free."""
    for name in list(client.scan_iter("*")):
        if only.encode() in name:
            client.delete(name)
    for name, raw in picture.items():
        if only.encode() in name:
            client.restore(name, 0, raw, replace=True)


def rewrite(world: Any, change: Any, *, seal: Seal | None = None, **fields: Any) -> None:
    """Change the incident's stored document; sealed with the attacker's own key where one is given."""
    name = key(world)
    stored = {field.decode(): value.decode() for field, value in world.client.hgetall(name).items()}
    document = json.loads(stored["doc"])
    change(document)
    text = json.dumps(document)
    mapping: dict[str, Any] = {"doc": text, "lease": 0, "run": 0, **fields}
    if seal is not None:
        state = fields.get("state", stored["state"])
        mapping |= {
            "mac": seal.mac("incident", sealed_name(world.only().id, int(stored["version"]), state), text),
            "sealed": f"{stored['version']}|{state}",
        }
    world.client.hset(name, mapping=mapping)


def nudge(world: Any) -> None:
    """Activate the incident and let the service work."""
    world.store.wake(world.only().id, "look")
    world.run()


def waiting(world: Any, **script: Any) -> None:
    """An incident that waits for people, since its rehearsal did not convince."""
    world.script.win = 0.5
    for name, value in script.items():
        setattr(world.script, name, value)
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"


@pytest.mark.parametrize("seal", [None, Seal(b"x" * 32)])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("confidence",), 0.99),
        (("measures", "performance", "relative_loss"), 0.9),
        (("champion_before",), 7),
        (("finding", "root_cause"), "concept_drift"),
        (("plan", "candidates", 0, "params"), {"to_version": 1}),
        (("state",), "decided"),
        (("decision", "outcome"), "execute"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_forged_facts_have_no_effect(world: Any, where: tuple[Any, ...], value: Any, seal: Seal | None) -> None:
    """Confidence, loss, cause, plan, decision: what the service did not write ends the incident, and people are told."""
    waiting(world)

    def forge(document: dict[str, Any]) -> None:
        part: Any = document
        for name in where[:-1]:
            part = part[name]
        part[where[-1]] = value
        document["state"] = "rehearsed" if where != ("state",) else value

    rewrite(world, forge, seal=seal, state="rehearsed" if where != ("state",) else value)
    nudge(world)
    assert world.plant.done == {}
    incident = world.only()
    assert (incident.state, incident.problem) == ("failed", "what is stored of it was not written by this service")
    assert f"{incident.id}:failed" in world.silent.messages


def test_the_confidence_of_another_incident_does_not_serve(world: Any) -> None:
    """A genuine document of one incident, put in the place of another's."""
    world.send()
    world.run()
    sure = world.client.hgetall(key(world))
    world.clock.advance(days=2)
    world.script.win = 0.5
    world.send()
    world.run()
    other = world.incidents()[-1]
    assert other.state == "awaiting_approval"
    fields = {name: sure[name] for name in (b"doc", b"mac", b"sealed", b"state", b"version")}
    world.client.hset(WF.format(other.id), mapping=fields)  # type: ignore[arg-type]
    world.store.wake(other.id, "look")
    world.run()
    assert len(world.plant.moves) == 1
    assert world.store.get(other.id).state == "failed"


def test_a_halt_that_is_cleared_in_redis_holds(world: Any) -> None:
    """The file in the state folder halts too."""
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.client.delete("driftwarden:halts")
    world.send()
    world.run()
    assert world.plant.done == {}
    assert "halted" in world.only().decision["decisive"]


@pytest.mark.parametrize("how", ["deleted", "rewound", "released"])
def test_counters_that_are_reset_count_from_the_log(world: Any, how: str) -> None:
    """The day's budget is 20 USD and 18 of them are spent: a reset ledger does not make it new."""
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN, cost_usd="18.00"),)
    world.actions[ActionName.RETRAIN].cost = world.script.candidates[0].cost_usd
    before = photograph(world.client)
    world.send()
    world.run()
    assert len(world.plant.moves) == 1
    if how == "released":
        (name,) = world.client.hkeys("driftwarden:ledger")
        entry = world.client.hget("driftwarden:ledger", name)
        world.client.hset("driftwarden:ledger", name, entry.replace(b'"done"', b'"released"'))
    else:
        world.client.delete("driftwarden:ledger")
        if how == "rewound":
            put_back(world.client, before, only="ledger")
    world.clock.advance(hours=1)
    world.send()
    world.run()
    assert len(world.plant.moves) == 1
    facts = world.incidents()[-1].facts["state"]
    assert facts["spent_usd_today"] == (None if how == "released" else "18")
    assert world.incidents()[-1].state == "awaiting_approval"


def test_a_track_record_that_is_made_up_is_unknown(world: Any) -> None:
    """Ninety-nine successes that nobody sealed are no successes."""
    for number in range(99):
        world.client.hset("driftwarden:track", f"m|retrain|inc-{number:012d}", "1")
    world.send()
    world.run()
    assert world.only().facts["track_record"] == {"successes": None, "failures": None, "lower_bound": None}


def test_failures_that_are_deleted_count_from_the_log(world: Any) -> None:
    """What the log settled as a failure stays one."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    assert world.only().state == "undone"
    world.client.delete("driftwarden:track")
    world.clock.advance(days=2)
    world.send()
    world.run()
    assert world.incidents()[-1].facts["track_record"]["failures"] == 1


def test_a_quarantine_that_is_deleted_asks_a_person(world: Any) -> None:
    """Rows that were kept out do not come back into a training because somebody forgot them."""
    world.script.root_cause = RootCause.STUCK_VALUES
    world.script.candidates = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
    world.actions[ActionName.QUARANTINE_DATA].data = {"batch": "batch-1"}
    world.send()
    world.run()
    assert world.only().state == "resolved"
    world.client.delete("driftwarden:quarantine:m")
    world.script.root_cause = RootCause.CONCEPT_DRIFT
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN),)
    world.clock.advance(days=2)
    world.send()
    world.run()
    assert world.plant.moves == []
    assert "`batch-1` of m is in quarantine in the audit log" in world.incidents()[-1].problem


def test_an_effect_cannot_be_hidden_by_deleting_its_approval(world: Any) -> None:
    """The queue is wiped while the effect runs: its result stands in the log, and it is verified like any other."""
    waiting(world)
    world.approve()

    def wipe(where: str) -> None:
        if where == "effect:moved":
            world.client.delete("driftwarden:approvals")

    world.plant.die_at = wipe
    world.run()
    assert (len(world.plant.moves), len(world.records("result"))) == (1, 1)
    assert world.only().state == "verifying"


def test_an_old_approval_does_not_serve_again(world: Any) -> None:
    """Approved, done, undone: with everything of the approval put back, the same plan still has to be asked for."""
    waiting(world)
    world.approve()
    approved = photograph(world.client)
    world.run()
    assert len(world.plant.moves) == 1
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    assert world.only().state == "undone"
    put_back(world.client, approved, only="approvals")
    nudge(world)
    assert len(world.plant.moves) == 2
    world.clock.advance(hours=1)
    world.send()
    world.run()
    assert [one.state for one in world.incidents()] == ["undone", "awaiting_approval"]
    put_back(world.client, approved, only="approvals")
    world.store.wake(world.incidents()[-1].id, "approval")
    world.run()
    assert len(world.plant.moves) == 2


@pytest.mark.parametrize("moment", ["rehearsed", "decided", "executing", "verifying"])
def test_an_old_signed_state_does_not_act_again(world: Any, moment: str) -> None:
    """Every genuine state of an incident, put back after it ended with all of Redis beside it, brings about nothing."""
    pictures: dict[str, dict[bytes, bytes]] = {}

    def watch(where: str) -> None:
        pictures.setdefault(where.removeprefix("committed:"), photograph(world.client))

    world.send()
    world.run(world.worker(fail_point=watch))
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    assert world.only().state == "undone"
    moves, log = list(world.plant.moves), len(world.records("intent"))
    put_back(world.client, pictures[moment])
    world.free_leases()
    nudge(world)
    world.later(seconds=301)
    assert world.plant.moves == moves
    assert len(world.records("intent")) == log
    assert world.only().state in {"undone", "failed"}


def test_a_rejected_plan_is_not_decided_again_from_its_old_state(world: Any) -> None:
    """Rejected while a rule failed; later the rule would pass: the old state, put back, has still ended."""
    pictures: list[dict[bytes, bytes]] = []
    world.script.loss = 0.2
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.send()
    world.run(world.worker(fail_point=lambda where: pictures.append(photograph(world.client))))
    world.reject()
    world.run()
    assert world.only().state == "rejected"
    world.parts.halts.resume(None)
    for picture in pictures:
        put_back(world.client, picture)
        world.client.delete("driftwarden:halts")
        world.free_leases()
        nudge(world)
        world.later(seconds=301)
        assert world.plant.done == {}, "a halted and rejected plan was executed"


def test_a_slot_that_is_freed_in_redis_lets_no_second_action_in(world: Any) -> None:
    """Whoever opens a model's slot, or moves the model to another shard, has two incidents of it walked: one of them acts.

    The policy of this test limits no concurrency: the ledger, which is sealed, keeps them apart all the same.
    """
    text = world.policy_text().replace("    concurrency: {perModel: 1, global: 3, else: monitor}\n", "")
    world.policy.replace(load_policy(text, "policy.yml"))
    opened: list[str] = []

    def open_slot(where: str) -> None:
        if where == "committed:executing" and not opened:
            opened.append(where)
            world.client.hdel("driftwarden:model:m", "open:production")
            world.client.hset("driftwarden:model:m", "active", "")
            world.send()
            world.run(world.worker("w1"))

    world.send()
    world.run(world.worker(fail_point=open_slot))
    first, second = world.incidents()
    assert (first.state, second.state) == ("verifying", "decided")
    assert [key for *_, key in world.plant.moves] == [first.intent.idempotency_key]
    assert f"waits: an action of {first.id} runs on m" in second.timeline[-1]["summary"]
    assert second.held_back_by == ["concurrency-per-model"]
    world.later(seconds=60)
    assert [move[1:3] for move in world.plant.moves] == [(1, 2), (2, 3)], "its turn came, and it began again"


def test_an_approver_who_is_added_in_redis_is_nobody(world: Any) -> None:
    """The list of approvers is a file; what stands in Redis under that name is read by no one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    waiting(world)
    world.people.enrol("ada")
    world.client.hset("driftwarden:approvers", "mallory", json.dumps({"groups": ["ml-oncall"]}))
    request = world.pending()
    forged = world.people.say(request, "mallory", key=Ed25519PrivateKey.generate())
    stored = json.loads(world.client.hget("driftwarden:approvals", request.id))
    stored |= {"state": "approved", "granted": [forged.model_dump()]}
    world.client.hset("driftwarden:approvals", request.id, json.dumps(stored))
    nudge(world)
    assert world.plant.done == {}
    assert world.only().state == "awaiting_approval"


def test_a_forged_result_raises_no_track_record(world: Any) -> None:
    """A result and a verification that say how well it went, in the stored state: neither is believed."""
    world.send()
    world.run()
    assert world.only().state == "verifying"

    def forge(document: dict[str, Any]) -> None:
        document["verification"] = {"verdict": "helped", "rows": 500}
        document["helped"] = True

    rewrite(world, forge)
    nudge(world)
    assert world.only().state == "failed"
    assert world.parts.ledger.track_record(model="m", action="retrain")["successes"] == 0
    assert world.records("settlement") == []


def test_a_forged_quarantine_asks_a_person(world: Any) -> None:
    """A batch that nobody sealed would keep rows out of a training: nothing is trained on such a word."""
    world.client.hset("driftwarden:quarantine:m", "batch-1", json.dumps({"uri": "w.csv", "key": "x"}))
    world.send()
    world.run()
    assert world.plant.done == {}
    assert "does not hold a record of ours" in world.only().problem


def test_words_of_people_that_nobody_spoke_lead_to_no_effect(world: Any) -> None:
    """Requests by hand, left in Redis: an undo is asked of people, and a retry is decided like anything else."""
    world.script.root_cause = RootCause.STUCK_VALUES
    world.script.candidates = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
    world.send()
    world.run()
    assert len(world.plant.done) == 1
    world.ask("undo", by="mallory")
    world.run()
    assert len(world.plant.done) == 1
    assert world.only().state in {"awaiting_approval", "resolved"}


CONTENT = st.one_of(
    st.binary(max_size=40),
    st.integers(-5, 10**12).map(lambda n: str(n).encode()),
    st.sampled_from([b"executing", b"decided", b"approved", b"0", b"1", b"", b"{}", b"null"]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)
@given(data=st.data())
def test_no_write_to_redis_leads_to_an_effect(tmp_path_factory: Any, redis_server: Any, data: st.DataObject) -> None:
    """Whatever fields of whatever keys are overwritten, copied from earlier or deleted while a plan waits for people."""
    from fakes.workflow_world import World

    redis_server.flushall()
    world = World(tmp_path_factory.mktemp("attack"), redis_server, memory_log=True)
    pictures: list[dict[bytes, bytes]] = []
    world.script.win = 0.5
    world.send()
    world.run(world.worker(fail_point=lambda where: pictures.append(photograph(world.client))))
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(world.client.scan_iter("*"))))
        kind = world.client.type(name)
        deed = data.draw(st.sampled_from(["field", "field", "delete", "restore"]))
        if deed == "delete":
            world.client.delete(name)
        elif deed == "restore":
            put_back(world.client, data.draw(st.sampled_from(pictures)), only=name.decode())
        elif kind == b"hash":
            field = data.draw(st.sampled_from(sorted(world.client.hkeys(name))))
            world.client.hset(name, field, data.draw(CONTENT))
        elif kind == b"list":
            world.client.lset(name, 0, data.draw(CONTENT))
        elif kind == b"string":
            world.client.set(name, data.draw(CONTENT))
    try:
        world.free_leases()
        for _ in range(3):
            world.later(seconds=301)
    except Exception:  # noqa: BLE001 - stopping the service is what such a person can do
        pass
    assert world.plant.done == {}
    assert world.records("intent") == []
