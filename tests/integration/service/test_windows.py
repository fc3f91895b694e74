"""Several windows in one incident: the worst that can be read speaks, and no producer silences another."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import BadInput, shorten
from driftwarden.policies import load_policy
from driftwarden.service.workflow.stored import load_incident

HARMFUL, CLEAN = 0.2, 0.0
QUARANTINE = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
NONE = (Candidate(id="c1", action=ActionName.NONE),)


class Rows:
    """Stands in for the sandbox: what the model loses on each file, or why the file is no table; the times of its rows."""

    def __init__(self, script: Any) -> None:
        self.script, self.says, self.span = script, dict[str, float | str](), dict[str, list[str]]()
        self.basis, self.bases, self.measured = "measured", dict[str, str](), list[str]()

    def call(self, task: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        """As `Script.call`, by file."""
        answer: dict[str, Any] = self.script.call(task, payload, **limits)
        if not task.endswith(":measure"):
            return answer
        name = Path(payload["current"]["paths"][0]).name
        self.measured.append(name)
        said = self.says.get(name, self.script.loss)
        if isinstance(said, str):
            raise BadInput("table", got=said, expected="parquet or csv")
        answer["performance"] |= {"relative_loss": said, "basis": self.bases.get(name, self.basis)}
        return answer | {"span": self.span.get(name)}


@pytest.fixture
def world(new_world: Callable[..., Any]) -> Any:
    """A world whose windows are measured by file."""
    world = new_world()
    world.rows = world.parts.sandbox = Rows(world.script)
    return world


def tell(
    world: Any, name: str, loss: float | str | None = HARMFUL, *, source: str = "monitor", at: int = 0, **data: Any
) -> None:
    """A drift event of the hour that begins `at` hours from now; `loss` None: the file is not there."""
    if loss is not None:
        (world.data / name).write_text("x,y\n1,0\n2,1\n")
        world.rows.says[name] = loss
    window = hour(world, at) | {"rows": 2, "uri": str(world.data / name)}
    event = world.event(window=window, **data)
    world.send(event | {"source": source})


def hour(world: Any, at: int) -> dict[str, str]:
    """The hour that begins `at` hours from now."""
    start = world.clock.now() + timedelta(hours=at)
    return {"start": rfc3339(start), "end": rfc3339(start + timedelta(hours=1))}


def timed(world: Any, name: str, at: int) -> None:
    """The file's rows are of that hour."""
    world.rows.span[name] = [*hour(world, at).values()]


def spoken(world: Any) -> str:
    """The file whose rows the newest incident is about."""
    return Path(world.incidents()[-1].event["window"]["uri"]).name


def test_a_clean_window_of_another_producer_silences_nobody(world: Any) -> None:
    """After each harmful window somebody sends a readable, harmless and later one: it is acted on all the same."""
    for turn in range(3):
        tell(world, f"harm-{turn}.csv", HARMFUL - turn / 100, at=2 * turn)
        tell(world, f"clean-{turn}.csv", CLEAN, source="attacker", at=2 * turn + 1)
        timed(world, f"clean-{turn}.csv", 2 * turn + 1)
    world.run()
    incident = world.only()
    assert (incident.state, incident.outcome, len(world.plant.moves)) == ("verifying", "execute", 1)
    assert (spoken(world), incident.facts["impact"]["relative_loss"]) == ("harm-0.csv", "0.2")
    (finding,) = world.records("finding")
    speaks = [(one["source"], Path(one["uri"]).name) for one in finding["body"]["windows"] if one["speaks"]]
    assert (speaks, finding["body"]["windows_told"]) == ([("monitor", "harm-0.csv")], 6)


def test_a_clean_window_that_joins_while_people_are_asked_ends_nothing(world: Any) -> None:
    """The question stays open, for the same plan and window, and what was signed meanwhile counts."""
    world.script.win = 0.5
    tell(world, "harm.csv")
    world.run()
    before = world.pending()
    tell(world, "clean.csv", CLEAN, source="attacker", at=1)
    world.run()
    assert (world.only().state, world.pending().id, spoken(world)) == ("awaiting_approval", before.id, "harm.csv")
    world.approve()
    world.run()
    assert len(world.plant.moves) == 1


def test_harmless_windows_are_only_watched(world: Any) -> None:
    """However many: each was measured, and none of them asks for anything."""
    for number in range(5):
        tell(world, f"w{number}.csv", CLEAN, source=f"monitor-{number}")
    world.run()
    assert (world.only().state, world.only().outcome, world.plant.moves) == ("closed", "monitor", [])


def test_a_producer_corrects_itself_with_later_rows(world: Any) -> None:
    """The newer window of the same source, whose rows are later: the drift is over, in whatever order the events came."""
    timed(world, "clean.csv", 1)
    tell(world, "clean.csv", CLEAN, at=1)
    tell(world, "harm.csv", at=0)
    world.run()
    assert (spoken(world), world.only().state, world.plant.moves) == ("clean.csv", "closed", [])
    assert "harm.csv" not in world.rows.measured


@pytest.mark.parametrize("lie", ["earlier rows", "rows without times", "all rows", "its own reference", "reported"])
def test_the_name_of_a_producer_is_not_enough_to_correct_it(world: Any, lie: str) -> None:
    """Whoever writes another's source into an event proves nothing by it: not that its rows are later, nor that they are well."""
    data = {"reference": {"uri": str(world.data / "clean.csv")}} if lie == "its own reference" else {}
    world.rows.basis = "reported" if lie == "reported" else "measured"
    timed(world, "clean.csv", -1 if lie == "earlier rows" else 1)
    if lie == "all rows":
        world.rows.span["clean.csv"][0] = hour(world, -9)["start"]
    if lie == "rows without times":
        del world.rows.span["clean.csv"]
    tell(world, "harm.csv", at=0)
    tell(world, "clean.csv", CLEAN, at=1, **data)
    world.run()
    assert (spoken(world), len(world.plant.moves)) == ("harm.csv", 1)


@pytest.mark.parametrize("loss", [None, "bytes that are no table"])
def test_a_newest_window_that_cannot_be_read_leaves_it_to_the_earlier(world: Any, loss: Any) -> None:
    """It is missing, or malformed: what was readable before speaks, and is acted on."""
    tell(world, "harm.csv")
    tell(world, "broken.csv", loss, at=1)
    world.run()
    incident = world.only()
    assert (incident.state, spoken(world), len(world.plant.moves)) == ("verifying", "harm.csv", 1)
    assert (incident.problem, incident.concerned[0].unknown) == (None, 1)


@pytest.mark.parametrize("loss", [None, "bytes that are no table"])
def test_what_cannot_be_read_is_not_made_harmless_by_what_can(world: Any, loss: Any) -> None:
    """A harmless window beside it: nobody knows, so people are told, and nobody closes it."""
    world.script.candidates = NONE
    tell(world, "broken.csv", loss, at=1)
    tell(world, "clean.csv", CLEAN, source="attacker")
    world.run()
    incident = world.only()
    assert (incident.state, incident.outcome, incident.candidate.action) == ("awaiting_approval", "escalate", "notify")
    assert incident.facts["impact"] == {"relative_loss": None, "usd_per_day": None}
    assert incident.rehearsal_notes["refused"]["c1"].startswith("what m loses on 1 other window is not known (")
    world.approve()
    world.run()
    assert (world.only().state, world.plant.moves) == ("resolved", [])


def test_where_none_can_be_read_the_incident_fails(world: Any) -> None:
    """As a single one does."""
    tell(world, "gone.csv", None)
    tell(world, "lost.csv", None, at=1)
    world.run()
    assert world.only().state == "failed"
    assert shorten(world.data / "lost.csv") in str(world.only().problem)


def test_what_is_measured_is_bounded_and_the_rest_is_not_harmless(new_world: Callable[..., Any]) -> None:
    """A storm of 500 windows: a few are measured, and as long as these are harmless, people are asked."""
    world = new_world(memory_log=True)
    world.rows = world.parts.sandbox = Rows(world.script)
    for number in range(500):
        tell(world, f"w{number}.csv", CLEAN, source=f"attacker-{number}")
    world.take_in()
    world.worker().work_once()
    bound = world.settings.service.windows_measured_max
    # Each is measured once, and the one that speaks once more, whole.
    assert len(world.rows.measured) == bound + 1
    assert (world.only().state, world.only().outcome) == ("awaiting_approval", "escalate")
    assert world.only().concerned[0].unknown == 500 - bound
    assert "more windows came than are measured" in str(world.only().concerned[0].unknown_why)


def test_the_loudest_are_measured_first(world: Any) -> None:
    """One source in a crowd: what its producer says orders the measuring, and the measurement decides."""
    for number in range(20):
        told = {"source": "loud", "drift_share": 0.9} if number == 10 else {"source": f"quiet-{number}"}
        tell(world, "harm.csv" if number == 10 else f"w{number}.csv", HARMFUL if number == 10 else CLEAN, **told)
    world.run()
    assert (spoken(world), len(world.plant.moves)) == ("harm.csv", 1)


def test_unknown_windows_stop_no_repair_and_turn_no_dry_run(world: Any) -> None:
    """What is known to be harmful is judged as always: an unreadable window beside it changes no word of the decision."""
    world.govern(enforcement="dryRun")
    tell(world, "harm.csv")
    tell(world, "broken.csv", "no table", at=1)
    world.run()
    assert (world.only().outcome, world.only().decision["would_be"]) == ("monitor", "execute")


def test_a_late_window_from_before_a_repair_resurrects_nothing(world: Any) -> None:
    """The model was mended; a clean window of the time since is joined by a harmful one of the time before."""
    tell(world, "harm.csv", at=-3)
    world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    assert world.only().state == "resolved"
    tell(world, "clean.csv", CLEAN)
    tell(world, "late.csv", HARMFUL, source="slow", at=-2)
    world.run()
    incident = world.incidents()[-1]
    assert (spoken(world), incident.state, len(incident.events)) == ("clean.csv", "closed", 2)
    assert len(world.plant.moves) == 1


def test_harm_since_a_repair_is_judged_without_what_was_mended(world: Any) -> None:
    """The window from before the repair is the worse: the milder one of the time since speaks."""
    tell(world, "harm.csv", at=-3)
    world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    tell(world, "late.csv", 0.5, source="slow", at=-2)
    tell(world, "still.csv", 0.1)
    world.run()
    assert (spoken(world), len(world.plant.moves)) == ("still.csv", 2)


def test_a_quarantine_ends_the_drift_of_its_own_rows_alone(world: Any) -> None:
    """What was kept out asks for nothing again; other rows that were measured before are acted on."""
    world.script.candidates, world.script.root_cause = QUARANTINE, RootCause.MISSING_VALUES
    tell(world, "bad.csv", at=-3)
    world.run()
    tell(world, "bad.csv", at=-3, kind="data_quality")
    world.run()
    second = world.incidents()[-1]
    assert (second.state, second.candidate.action) == ("closed", "none")
    assert "measured on rows from before" in second.finding.summary
    tell(world, "other.csv", at=-2)
    world.run()
    third = world.incidents()[-1]
    assert (spoken(world), third.state, third.candidate.action) == ("other.csv", "resolved", "quarantine_data")


def test_other_rows_that_harm_beside_those_kept_out_are_told_of(world: Any) -> None:
    """One batch is kept out for the whole incident: what it leaves is no secret, and its next event opens another."""
    world.script.candidates, world.script.root_cause = QUARANTINE, RootCause.MISSING_VALUES
    tell(world, "worse.csv", 0.3, at=-3)
    tell(world, "same.csv", 0.25, at=-3, source="another")
    tell(world, "bad.csv", 0.2, at=-2, source="another")
    world.run()
    incident = world.only()
    assert (spoken(world), incident.state) == ("worse.csv", "resolved")
    told = "other windows harm as well, and were not kept out: 1 of m"
    assert told in world.silent.messages[f"{incident.id}:besides"]
    assert any(line["summary"] == told for line in incident.timeline)


def test_rows_of_which_nobody_knows_beside_those_kept_out_are_told_of(world: Any) -> None:
    """The worst that could be read is kept out: what could not be read ends with the incident, and not in silence."""
    world.script.candidates, world.script.root_cause = QUARANTINE, RootCause.MISSING_VALUES
    tell(world, "bad.csv", at=-3)
    tell(world, "broken.csv", "no table", source="another", at=-2)
    world.run()
    incident = world.only()
    assert (spoken(world), incident.state, incident.concerned[0].besides) == ("bad.csv", "resolved", 0)
    assert "what m loses on 1 other window is not known (" in world.silent.messages[f"{incident.id}:besides"]


def test_what_is_said_to_harm_does_not_outshout_what_harms(world: Any) -> None:
    """A loss that only its producer reports, however large, comes after one that was measured."""
    tell(world, "harm.csv")
    world.rows.bases["loud.csv"] = "reported"
    tell(world, "loud.csv", 0.9, source="loud", at=1)
    world.run()
    assert (spoken(world), len(world.plant.moves)) == ("harm.csv", 1)


def test_windows_that_were_replaced_take_no_room(world: Any) -> None:
    """A producer goes on for longer than windows are measured: its newest speaks to the end."""
    world.script.win = 0.5
    for number in range(world.settings.service.windows_measured_max + 2):
        timed(world, f"w{number}.csv", number)
        tell(world, f"w{number}.csv", HARMFUL, at=number)
        world.run()
    assert (spoken(world), len(world.only().concerned[0].seen)) == (f"w{number}.csv", 1)
    assert world.only().state == "awaiting_approval"


def test_what_was_released_is_not_kept_out_again_for_old_drift(world: Any) -> None:
    """People took the quarantine back: a late event of the same rows does not undo their word."""
    world.script.candidates, world.script.root_cause = QUARANTINE, RootCause.MISSING_VALUES
    tell(world, "bad.csv", at=-3)
    world.run()
    world.ask("undo")
    world.run()
    world.approve("bob")
    world.run()
    assert world.only().state == "undone"
    tell(world, "bad.csv", at=-3)
    world.run()
    assert (world.incidents()[-1].state, world.incidents()[-1].triaged is not None) == ("closed", True)


def test_the_worst_window_of_each_member_speaks(new_world: Callable[..., Any]) -> None:
    """Over several models the same holds for each: a clean window named beside a member's harmful one spares nobody."""
    world = new_world(models=("a", "b"), upstream=("sensors",))
    world.rows = world.parts.sandbox = Rows(world.script)
    world.script.candidates, world.script.root_cause = QUARANTINE, RootCause.MISSING_VALUES
    columns = [{"name": "x", "type": "numeric", "role": "feature", "drifted": True}]
    for model in ("a", "b"):
        tell(world, f"{model}-harm.csv", model=model, columns=columns)
        tell(world, f"{model}-clean.csv", CLEAN, model=model, columns=columns, source="attacker", at=1)
    world.run()
    incident = world.only()
    files = {one.model: Path(one.event["window"]["uri"]).name for one in incident.members}
    assert files == {"a": "a-harm.csv", "b": "b-harm.csv"}
    assert {one.model: one.performance["relative_loss"] for one in incident.members} == {"a": 0.2, "b": 0.2}
    assert not any(one.spared for one in incident.members)
    assert (incident.state, incident.outcome) == ("resolved", "execute")


def test_a_member_with_a_window_that_nobody_could_read_is_not_harmless(new_world: Callable[..., Any]) -> None:
    """Its readable window is harmless, another is broken: it is unknown, and escalates."""
    world = new_world(models=("a", "b"), upstream=("sensors",))
    world.rows = world.parts.sandbox = Rows(world.script)
    world.script.candidates = NONE
    columns = [{"name": "x", "type": "numeric", "role": "feature", "drifted": True}]
    tell(world, "a.csv", CLEAN, model="a", columns=columns)
    tell(world, "b-broken.csv", "no table", model="b", columns=columns)
    tell(world, "b-clean.csv", CLEAN, model="b", columns=columns, source="attacker", at=1)
    world.run()
    assert (world.only().state, world.only().facts["model"]["name"]) == ("awaiting_approval", "b")


def test_a_lead_of_whose_windows_none_that_counts_can_be_read_hides_nobody(new_world: Callable[..., Any]) -> None:
    """What could be read of it was mended since: it fails with the rest, and the other model's drift goes on."""
    world = new_world(models=("a", "b"), upstream=("sensors",))
    world.rows = world.parts.sandbox = Rows(world.script)
    columns = [{"name": "x", "type": "numeric", "role": "feature", "drifted": True}]
    tell(world, "a.csv", at=-3, model="a", columns=columns)
    world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    tell(world, "a-late.csv", at=-2, model="a", columns=columns)
    tell(world, "a-gone.csv", None, model="a", columns=columns)
    tell(world, "b.csv", model="b", columns=columns)
    world.run()
    found = [(one.models, one.state.value, len(one.events)) for one in world.incidents()[1:]]
    assert found == [(["a"], "failed", 2), (["b"], "resolved", 1)]


def test_a_process_that_dies_while_windows_are_weighed_begins_anew(world: Any) -> None:
    """Nothing was decided on half of them."""

    class Crash(BaseException):
        """The process dies here."""

    inner = world.rows.call

    def die(task: str, payload: dict[str, Any], **limits: Any) -> Any:
        if len(world.rows.measured) == 1:
            world.rows.call = inner
            raise Crash
        return inner(task, payload, **limits)

    world.rows.call = die
    tell(world, "clean.csv", CLEAN, source="attacker", at=1)
    tell(world, "harm.csv")
    with pytest.raises(Crash):
        world.run()
    world.restart()
    assert (spoken(world), len(world.plant.moves)) == ("harm.csv", 1)


def test_a_policy_without_an_impact_rule_is_asked_as_before(world: Any) -> None:
    """Unknown windows matter where the impact does: the rest of the decision is the same."""
    impact = '    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}\n'
    text = world.policy_text()
    assert impact in text
    world.policy.replace(load_policy(text.replace(impact, ""), "policy.yml"))
    tell(world, "clean.csv", CLEAN)
    tell(world, "broken.csv", "no table", at=1)
    world.run()
    assert (world.only().outcome, world.only().facts["impact"]["relative_loss"]) == ("execute", "0")


def test_what_was_stored_before_windows_were_kept_is_taken_over(world: Any) -> None:
    """A member told until when its rows reach; that is found in its events now."""
    tell(world, "harm.csv")
    world.take_in()
    world.run(world.worker())
    stored = json.loads(json.dumps(world.only().to_store()))
    for name in ("told", "seen", "unknown", "unknown_why", "over_since"):
        del stored["members"][0][name]
    stored["members"][0]["rows_until"] = "2026-11-20T09:00:00.000000Z"
    del stored["latest"]
    assert load_incident(stored).members[0].model == "m"
