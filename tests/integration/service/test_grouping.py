"""One cause upstream of several models: one incident, one investigation, no retraining; and no model is forgotten in it."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fakes.grouped import COLUMNS, MODELS, NONE, die_after, drift, grouped, halves, kept_out, loose
from fakes.workflow_world import Crash

from driftwarden.actions.messages import Notify
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.event import parse_event
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import AskHuman
from driftwarden.policies import load_policy, replay
from driftwarden.service.workflow.deciding import approval_facts
from driftwarden.service.workflow.grouping import group_names
from driftwarden.service.workflow.parts import HeldLease

STRICT = """    - name: critical
      models: ["c"]
      allow: [quarantine_data, notify]
      approvals: {required: 2, from: [risk], expiresAfter: 1h}
"""


@pytest.fixture
def new(new_world: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a world of models fed from one table, with the real quarantine."""
    return partial(grouped, new_world)


def test_one_broken_table_over_a_hundred_models_is_one_incident(new: Callable[..., Any]) -> None:
    """One investigation, no model retrained, every model's own window kept out, and the blast radius is a fact."""
    models = tuple(f"model-{number:03d}" for number in range(100))
    world = new(models, memory_log=True)
    for model in models:
        drift(world, model)
    world.run()
    incident = world.only()
    assert incident.models == list(models)
    assert (incident.state, incident.outcome, incident.candidate.action) == ("resolved", "execute", "quarantine_data")
    assert (world.script.model_calls, world.plant.moves, incident.rehearsals) == (1, [], [])
    assert incident.rehearsal_notes["refused"]["c1"].startswith("one upstream cause over 100 models")
    assert incident.facts["plan"]["models_affected"] == 100
    assert (incident.finding.models, incident.finding.upstream) == (models, ("sensors",))
    assert kept_out(world) == {model: [f"{model}.csv"] for model in models}
    assert len({record["key"] for model in models for record in world.parts.state.quarantined(model).values()}) == 100
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["model"], len(entry["models"])) == (models[0], 99)
    assert all(world.store.list(model=model)[0].id == incident.id for model in (models[0], models[99]))


def test_every_member_is_decided_and_the_records_can_be_replayed(new: Callable[..., Any]) -> None:
    """A decision of each model with its own facts, twice: when it is planned, and right before the effect."""
    world = new()
    for model in MODELS:
        drift(world, model)
    world.run()
    decisions = world.records("decision")
    assert [one["body"]["facts"]["model"]["name"] for one in decisions] == ["b", "c", "a"] * 2
    (intent,) = world.records("intent")
    assert intent["causation"] == decisions[-1]["@hash"]
    assert intent["body"]["members"] == ["b", "c"]
    assert set(intent["body"]["decisions"].values()) == {one["@hash"] for one in decisions[3:]}
    report = replay(decisions, load_policy(world.policy_text(), "policy.yml"))
    assert (report.decisions, report.same, report.faults) == (6, 6, [])


def test_the_strictest_member_decides(new: Callable[..., Any]) -> None:
    """One member is halted: nothing happens to any of them, and the terms are those that satisfy every tier."""
    world = new()
    loose(world, STRICT)
    world.parts.halts.halt("c", reason="stop", by="ada")
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    assert (incident.state, incident.outcome) == ("awaiting_approval", "escalate")
    assert incident.facts["model"]["name"] == "c"
    assert {one.model: one.outcome for one in incident.members} == {"a": "execute", "b": "execute", "c": "escalate"}
    request = world.pending()
    assert (request.required, request.groups) == (2, ("risk",))
    assert [one["model"] for one in request.bound["members"]] == [*MODELS]
    assert {one["model"]: one["lifts"] for one in request.bound["members"]} == {"a": [], "b": [], "c": ["halted"]}
    assert kept_out(world) == {}


def test_an_approval_lifts_for_a_member_what_was_seen_to_fail_for_it(new: Callable[..., Any]) -> None:
    """Too little confidence for all; approved by people of a group that both tiers name, it is done for every model."""
    world = new()
    world.script.confidence = 0.5
    loose(world, STRICT)
    for model in MODELS:
        drift(world, model)
    world.run()
    world.approve("bob", group="risk")
    world.approve("ada", group="risk")
    world.run()
    assert world.only().state == "resolved"
    assert set(kept_out(world)) == {*MODELS}
    told = approval_facts(world.parts, world.only())
    assert told is None  # it is used up


def test_what_was_seen_to_fail_for_one_is_not_lifted_for_another(new: Callable[..., Any]) -> None:
    """Whoever writes other lifts for a member into the stored request has no approval at all."""
    world = new()
    world.script.confidence = 0.5
    for model in MODELS:
        drift(world, model)
    world.run()
    request = world.pending()
    world.approve("bob")
    told = approval_facts(world.parts, world.only())
    assert told is not None
    assert told["members"] == {model: ["confidence"] for model in MODELS}
    for change in ([], ["confidence", "halted"], None, 7):
        approved = world.parts.approvals.get(request.id).model_dump(mode="json")
        approved["bound"]["members"][1]["lifts"] = change
        kept = world.client.hget("driftwarden:approvals", request.id)
        world.client.hset("driftwarden:approvals", request.id, json.dumps(approved))
        assert approval_facts(world.parts, world.only()) is None
        world.client.hset("driftwarden:approvals", request.id, kept)
    assert approval_facts(world.parts, world.only()) == told


def test_where_no_group_may_approve_for_all_nobody_can(new: Callable[..., Any]) -> None:
    """The union of the groups would let people approve what their own tier does not let them."""
    world = new()
    world.script.confidence = 0.5
    loose(world, STRICT.replace("[risk]", "[board]"))
    for model in MODELS:
        drift(world, model)
    world.run()
    assert world.only().state == "failed"
    assert world.only().problem == "the policy escalates, and names nobody who could approve for all of a, b, c"
    assert kept_out(world) == {}


def test_another_member_makes_another_request(new: Callable[..., Any]) -> None:
    """Who joins while people are asked changes what they are asked."""
    world = new()
    world.script.confidence = 0.5
    drift(world, "a")
    drift(world, "b")
    world.run()
    before = world.pending()
    drift(world, "c")
    world.run()
    after = world.pending()
    assert after.id != before.id
    assert world.parts.approvals.get(before.id).state == "superseded"
    assert [one["model"] for one in after.bound["members"]] == [*MODELS]
    assert world.script.model_calls == 1


def test_a_member_halted_after_the_decision_stops_the_effect(new: Callable[..., Any]) -> None:
    """Asked again right before the effect: what has changed for one of them since holds it back for all."""
    world = new()
    for model in MODELS:
        drift(world, model)
    world.take_in()
    worker = world.worker(
        fail_point=lambda where: (
            world.parts.halts.halt("b", reason="stop", by="ada") if where == "committed:executing" else None
        )
    )
    world.run(worker)
    assert world.only().state == "awaiting_approval"
    assert kept_out(world) == {}
    assert world.records("intent") == []


def test_a_message_names_every_model(new: Callable[..., Any]) -> None:
    """Told once, about all of them; it changes no model, and reaches none."""
    world = new()
    parts: Any = type(
        "Parts", (), {"notifier": world.silent, "lease": HeldLease(), "on_step": staticmethod(lambda name: None)}
    )
    world.actions[ActionName.NOTIFY] = Notify(parts)
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN),)
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    assert (incident.candidate.id, incident.candidate.action, incident.state) == ("c2", "notify", "resolved")
    assert incident.facts["plan"]["models_affected"] == 0
    (message,) = [
        text for text in world.silent.messages.values() if "one upstream cause over 3 models: a, b, c" in text
    ]
    assert message.startswith("a: drift")


def test_harmless_for_all_is_only_watched(new: Callable[..., Any]) -> None:
    """Nothing is lost anywhere: nothing is to be done."""
    world = new()
    world.script.candidates = (NONE,)
    world.script.loss = 0.0
    for model in MODELS:
        drift(world, model)
    world.run()
    assert (world.only().state, world.only().outcome) == ("closed", "monitor")


def test_a_member_whose_loss_cannot_be_found_out_is_asked_about(new: Callable[..., Any]) -> None:
    """Its window cannot be read: what an incident of its own would ask people, this one asks them."""
    world = new()
    world.script.loss, world.script.candidates = 0.0, (NONE,)
    drift(world, "a")
    drift(world, "b", window={"start": "2026-11-20T09:00:00Z", "end": "2026-11-20T09:00:09Z"})
    world.run()
    incident = world.only()
    assert (incident.state, incident.facts["model"]["name"]) == ("awaiting_approval", "b")
    assert incident.facts["impact"]["relative_loss"] is None
    assert incident.rehearsal_notes["refused"]["c1"] == "what b lose is not known: somebody must know"
    assert "data.window.uri" in incident.members[1].fault


def test_a_lead_that_cannot_be_handled_hides_nobody(new: Callable[..., Any]) -> None:
    """A producer opens the group with a file that it may not name: that fails alone, the rest go on by themselves."""
    world = new()
    drift(world, "a", window={"uri": "/etc/passwd", "end": "2026-11-20T09:00:00Z"})
    drift(world, "b")
    drift(world, "c")
    world.run()
    first, second = world.incidents()
    assert (first.state, first.models) == ("failed", ["a"])
    assert (second.state, second.models) == ("resolved", ["b", "c"])
    assert kept_out(world) == {"b": ["b.csv"], "c": ["c.csv"]}


def test_a_process_that_dies_in_between_finishes_under_the_same_keys(new: Callable[..., Any]) -> None:
    """Some are kept out and others not: the next process decides again, and does the rest once."""
    world = new()
    for model in MODELS:
        drift(world, model)
    die_after(world, 2)
    with pytest.raises(Crash):
        world.run()
    assert len(kept_out(world)) == 2
    world.actions[ActionName.QUARANTINE_DATA]._parts.on_step = staticmethod(lambda name: None)
    world.restart()
    assert world.only().state == "resolved"
    assert set(kept_out(world)) == {*MODELS}
    assert len(world.records("result")) == 1


@pytest.mark.parametrize("why", ["halted", "enforcement"])
def test_what_may_not_go_on_half_done_says_so_and_can_be_undone(new: Callable[..., Any], why: str) -> None:
    """Half done when its process died, then halted or only to be watched: no more of it happens, the half is the result, people
    are told what was done and what was not, and it can be taken back."""
    world = new()
    for model in MODELS:
        drift(world, model)
    die_after(world, 2)
    with pytest.raises(Crash):
        world.run()
    if why == "halted":
        world.parts.halts.halt(None, reason="stop", by="ada")
    else:
        world.govern(enforcement="dryRun")
    world.actions[ActionName.QUARANTINE_DATA]._parts.on_step = staticmethod(lambda name: None)
    world.restart()
    incident = world.only()
    assert (incident.state, incident.outcome) == ("failed", "escalate" if why == "halted" else "monitor")
    assert incident.verification is None, "it does not stand as intended"
    assert incident.result.data["missing"] == ["c"]
    told = f"{incident.outcome} because of {why}" if why == "halted" else "monitor (would be execute)"
    for said in (incident.problem, world.silent.messages[f"{incident.id}:failed"], incident.timeline[-1]["summary"]):
        assert told in said
        assert halves(world) in said
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["models"]) == ("done", True, ["b"])
    (close,) = world.records("close")
    assert (close["body"]["state"], close["body"]["problem"]) == ("failed", incident.problem)
    assert set(kept_out(world)) == {"a", "b"}
    assert world.parts.floor.quarantined("b") == frozenset(world.parts.state.quarantined("b"))
    world.parts.halts.resume(None)
    world.govern()
    world.clock.advance(seconds=1)
    world.ask("undo")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("undone", {})
    assert [world.parts.floor.quarantined(model) for model in MODELS] == [frozenset()] * 3


@pytest.mark.parametrize("dies", [False, True])
def test_what_happened_before_an_effect_failed_is_booked_and_undone(new: Callable[..., Any], dies: bool) -> None:
    """Two of three are kept out, then nobody can tell what a record says: a person must look, and may take the two back.

    Also where its process dies once that is in the log, before it is committed: no more of it happens unrecorded.
    """
    world = new()
    for model in MODELS:
        drift(world, model)
    seen: list[str] = []

    def fail(name: str) -> None:
        seen.append(name)
        if len(seen) == 2:
            raise AskHuman("a record cannot be read")

    def die(where: str) -> None:
        if where == "stepped:executing" and world.records("result"):
            raise Crash(where)

    parts = world.actions[ActionName.QUARANTINE_DATA]._parts
    parts.on_step = staticmethod(fail)
    if dies:
        with pytest.raises(Crash):
            world.run(world.worker(fail_point=die))
        parts.on_step = staticmethod(lambda name: None)
        world.restart()
    else:
        world.run()
    assert (world.only().state, world.only().result.data["missing"]) == ("failed", ["c"])
    assert dies or halves(world) in world.silent.messages[f"{world.only().id}:failed"]
    assert len(world.records("result")) == 1
    assert set(kept_out(world)) == {"a", "b"}
    assert world.parts.floor.quarantined("b") == frozenset(world.parts.state.quarantined("b"))
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["models"]) == ("done", True, ["b"])
    parts.on_step = staticmethod(lambda name: None)
    world.ask("undo")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("undone", {})


@pytest.mark.parametrize("shards", [1, 64])
def test_what_a_producer_tells_of_its_lineage_groups_and_that_is_all(
    new_world: Callable[..., Any], shards: int
) -> None:
    """Models without a configured upstream join by it, over shards too; another environment, column or nothing told do not."""
    world = new_world(models=MODELS, shards=shards)
    world.script.candidates = (Candidate(id="c1", action=ActionName.NOTIFY),)
    drift(world, "a", upstream=["lake/orders"])
    drift(world, "b", upstream=["lake/orders"])
    drift(world, "c", upstream="lake/orders")
    world.run()
    assert sorted(one.models for one in world.incidents()) == [["a", "b"], ["c"]]


def test_a_member_that_loses_nothing_itself_is_left_alone(new: Callable[..., Any]) -> None:
    """A producer names healthy models beside a harmed one: alone they would only be watched, so nothing is done to them."""
    world = new()
    world.script.losses = {"a": 0.2, "b": 0.01, "c": 0.2}
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    assert (incident.state, kept_out(world)) == ("resolved", {"a": ["a.csv"], "c": ["c.csv"]})
    assert [one.model for one in incident.members if one.spared] == ["b"]
    assert any("no data is kept out of b" in line["summary"] for line in incident.timeline)
    (intent,) = world.records("intent")
    assert intent["body"]["members"] == ["c"]
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["model"], entry["models"]) == ("a", ["c"])


def test_what_was_not_done_to_a_member_does_not_end_its_drift(new: Callable[..., Any]) -> None:
    """Its window could not be read, so nothing was kept out of it: the same rows, once they can be, are no rows from before."""
    world = new()
    window = {"start": "2026-11-20T08:00:00Z", "end": "2026-11-20T08:30:00Z"}
    drift(world, "a")
    drift(world, "b", window=window | {"uri": "/elsewhere.csv"})
    drift(world, "c")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("resolved", {"a": ["a.csv"], "c": ["c.csv"]})
    drift(world, "b", window=window | {"uri": str(world.data / "w.csv")})
    world.run()
    assert world.incidents()[-1].models == ["b"]
    assert world.incidents()[-1].triaged is None
    assert world.script.model_calls == 2


def test_taking_back_reaches_as_many_models_as_the_effect_did(new: Callable[..., Any]) -> None:
    """Few may be touched unattended: people allowed it for three, and are asked again before it is taken back for three."""
    world = new()
    confidence = '    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}\n'
    impact = '    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}\n'
    cheap = '    - {id: cheap, fact: plan.cost_usd, atMost: "9", else: escalate}\n'
    radius = "  limits:\n    blastRadius: {modelsAtMost: 1, else: escalate}\n"
    loose(world, "", **{confidence: cheap, impact: "", "  limits:\n": radius})
    for model in MODELS:
        drift(world, model)
    world.run()
    world.approve("bob")
    world.run()
    assert set(kept_out(world)) == {*MODELS}
    world.ask("undo")
    world.run()
    assert (world.only().state, world.pending().why) == ("awaiting_approval", ("blast-radius-models",))
    assert set(kept_out(world)) == {*MODELS}
    world.approve("bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("undone", {})


def test_a_model_of_another_environment_is_not_judged_as_of_this_one(new: Callable[..., Any]) -> None:
    """Whoever writes to Redis lets production's group point at an incident of staging: its rules do not serve for production."""
    world = new()
    staging = {name: world.settings.models[name].model_copy(update={"environment": "staging"}) for name in "ac"}
    models = world.settings.models | staging
    world.settings = world.parts.settings = world.settings.model_copy(update={"models": models})
    careful = '  require:\n    - {id: careful, fact: plan.cost_usd, atLeast: "99", else: escalate, environments: [production]}\n'
    loose(world, "", **{"  require:\n": careful})
    drift(world, "a", environment="staging")
    drift(world, "c", environment="staging")
    world.take_in()
    event = parse_event(json.dumps(world.event("b", columns=COLUMNS)))
    for name in group_names(event, world.settings.models["b"]):
        world.client.set(world.store.keys.group("production", name), world.only().id)
    drift(world, "b")
    world.run()
    incident = world.only()
    assert (incident.models, incident.state, kept_out(world)) == (["a", "c", "b"], "awaiting_approval", {})
    assert "got `production`, expected `staging`" in str(incident.members[2].problem)
    assert "careful" in incident.members[2].failing
    assert [one.failing for one in incident.members[:2]] == [[], []]


def test_lists_and_shows_every_model(new: Callable[..., Any]) -> None:
    """`models` beside `model`, and each member with its own figures."""
    from io import StringIO

    from rich.console import Console

    from driftwarden.service.cli.render import render_incident
    from driftwarden.service.workflow.incident import list_view, show_view

    world = new()
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    listed, shown = list_view(incident), json.loads(json.dumps(show_view(incident, None)))
    assert (listed["model"], listed["models"]) == ("a", [*MODELS])
    assert [(one["model"], one["outcome"], one["relative_loss"]) for one in shown["members"]] == [
        ("a", "execute", "0.2"),
        ("b", "execute", "0.2"),
        ("c", "execute", "0.2"),
    ]
    out = StringIO()
    render_incident(Console(file=out, width=160), incident, trace_url=None)
    assert "models" in out.getvalue()
    assert "fed from sensors" in out.getvalue()
