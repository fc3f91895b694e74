"""A rolling upgrade: what an earlier version stored is taken over and walked to its end, what a later one stored is left to it."""

import base64
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fakes.kept_state import DIED_AT, MODELS, keep, leave_behind, name_of, read_kept
from fakes.workflow_world import SEAL, World

from driftwarden.audit import verify
from driftwarden.contracts.effects import EffectResult
from driftwarden.service.workflow.incident import STORED_VERSION, Incident
from driftwarden.service.workflow.store_types import sealed_name
from driftwarden.service.workflow.stored import UPGRADES, LaterVersion, load_incident

KEPT = Path(__file__).parent / "kept"
POLICY_EDITS = (('perDay: "20.00", perModelPerDay: "20.00"', 'perDay: "2000.00"'), ("global: 3", "global: 30"))


def unbounded(world: World) -> None:
    """The tests' policy with caps that this many incidents do not reach."""
    from driftwarden.policies import load_policy

    text = world.policy_text()
    for old, new in POLICY_EDITS:
        assert old in text
        text = text.replace(old, new)
    world.policy.replace(load_policy(text, "policy.yml"))


def take_over(kept: dict[str, Any], folder: Path, client: Any) -> World:
    """The present version over a kept Redis, audit log and outside world."""
    client.flushall()
    for name, text in kept["audit"].items():
        (folder / "audit").mkdir(exist_ok=True)
        (folder / "audit" / name).write_text(text)
    for name, content in kept["keys"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(base64.b64decode(content))
    for name, dump in kept["redis"].items():
        client.restore(name, 0, base64.b64decode(dump))
    world = World(folder, client, models=MODELS)
    world.clock.moment = datetime.fromisoformat(kept["now"])
    plant = kept["plant"]
    world.plant.champions.update(plant["champions"])
    world.plant.versions.update(plant["versions"])
    world.plant.moves += [tuple(move) for move in plant["moves"]]
    world.plant.done.update({key: EffectResult.model_validate(one) for key, one in plant["done"].items()})
    unbounded(world)
    for record in world.store.list(limit=1000):  # the folder is another one now: its name is sealed in the documents
        key = world.store.keys.wf(record.id)
        doc, sealed = client.hget(key, "doc").decode(), client.hget(key, "sealed")
        if sealed and kept["folder"] in doc:
            version, _, state = sealed.decode().partition("|")
            doc = doc.replace(kept["folder"], str(folder))
            mac = SEAL.mac("incident", sealed_name(record.id, int(version), state), doc)
            client.hset(key, mapping={"doc": doc, "mac": mac})
    return world


def finish(world: World) -> None:
    """Workers of other names take up what died, then labels come in."""
    for _ in range(3):
        world.free_leases()
        for place in DIED_AT:
            world.run(world.worker(f"worker {place}"))
        world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=400)
    world.later(seconds=400)


@pytest.mark.parametrize("file", sorted(KEPT.glob("form-*.txt")), ids=lambda file: file.name.partition(".")[0])
def test_what_an_earlier_version_left_is_walked_to_its_end(
    file: Path, tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Incidents in every state, stored by a worker of an earlier version that died there: each ends as it should have."""
    monkeypatch.chdir(tmp_path)
    kept = read_kept(file)
    world = take_over(kept, tmp_path, redis_server)
    before = {one.id: one for one in world.store.list(limit=1000)}
    assert {one.model for one in before.values()} == set(MODELS)
    finish(world)

    states = {one.model: one.state.value for one in world.incidents()}
    went_on = {name_of(place) for place in (*DIED_AT, "received")}
    assert {states[model] for model in went_on} == {"resolved"}
    assert {model: state for model, state in states.items() if model not in went_on} == {
        name_of("awaiting"): "awaiting_approval",
        name_of("rejected"): "rejected",
        name_of("resolved"): "resolved",
        name_of("undone"): "undone",
        name_of("monitored"): "closed",
    }
    assert Counter(key for *_, key in world.plant.moves).most_common(1)[0][1] == 1, "an effect happened twice"
    assert {model for model, *_ in world.plant.moves} == went_on | {name_of("resolved"), name_of("undone")}
    for record in world.store.list(limit=1000):
        assert record.version >= before[record.id].version
    world.approve()
    world.run()
    assert world.plant.champions[name_of("awaiting")] == 2, "an approval asked for by the earlier version counts"
    world.log.close()
    assert verify(tmp_path / "audit").ok


def test_every_earlier_form_is_kept() -> None:
    """Each form that an upgrade starts from has its kept state, and each form below the present one an upgrade."""
    assert sorted(UPGRADES) == list(range(1, STORED_VERSION))
    assert {int(file.name.partition(".")[0].removeprefix("form-")) for file in KEPT.iterdir()} == set(UPGRADES)


def test_the_present_version_leaves_what_it_can_take_over(
    tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way in which a state is kept works for the present form too: the next one starts from it."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    redis_server.flushall()
    old = World(tmp_path / "old", redis_server, models=MODELS)
    unbounded(old)
    leave_behind(old)
    kept = json.loads(json.dumps(keep(old)))
    old.log.close()
    monkeypatch.chdir(tmp_path / "new")
    world = take_over(kept, tmp_path / "new", redis_server)
    stored = [record.doc["stored_version"] for record in world.store.list(limit=1000) if record.doc]
    assert len(stored) == len(MODELS) - 1  # one was only received
    assert set(stored) == {STORED_VERSION}
    finish(world)
    assert Counter(one.state.value for one in world.incidents())["resolved"] == len(DIED_AT) + 2
    world.log.close()


def test_a_later_form_is_left_to_the_workers_that_know_it(world: World) -> None:
    """Nothing of it changes, however often it is taken up, and none of its workers dies of it."""
    world.send()
    world.run()
    (record,) = world.store.list()
    key = world.store.keys.wf(record.id)
    doc = json.dumps(record.doc | {"stored_version": STORED_VERSION + 1, "of_tomorrow": True}, separators=(",", ":"))
    version, _, state = world.client.hget(key, "sealed").decode().partition("|")
    mac = SEAL.mac("incident", sealed_name(record.id, int(version), state), doc)
    world.client.hset(key, mapping={"doc": doc, "mac": mac})
    for _ in range(5):
        world.store.wake(record.id, "look")
        world.run()
        world.store.pump_timers(ahead_s=20)
        world.run()
    (after,) = world.store.list()
    assert (after.doc, after.version, after.state, after.crashes) == (json.loads(doc), record.version, record.state, 0)
    assert world.client.zscore(world.store.keys.timers, f"{record.id}|m") is not None, "somebody comes back to it"


def test_forms_are_read_or_refused() -> None:
    """A document without a form is of the first; a later one, and what is no form at all, is refused."""
    whole = Incident(id="inc-1", correlation_id="c" * 32, model="m", opened_at="", updated_at="").to_store()
    first = {name: value for name, value in whole.items() if name != "stored_version"}
    assert load_incident(first).to_store() == load_incident(whole).to_store() == whole
    with pytest.raises(LaterVersion, match="knows forms up to"):
        load_incident(whole | {"stored_version": STORED_VERSION + 1})
    for form in (0, -1, True, "2", None, 1.0):
        with pytest.raises(ValueError, match="form"):
            load_incident(whole | {"stored_version": form})
