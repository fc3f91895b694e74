"""Performance reports cost the intake nothing, are measured once, and push nobody else's windows out of the history."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fakes.workflow_world import PREFIX, SEAL, World

from driftwarden.clock import rfc3339
from driftwarden.errors import Away, GiveUp
from driftwarden.service.workflow.metrics import KEPT_OF_A_SOURCE, WINDOWS_KEPT
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.service.workflow.reports import BATCH, measure_reports
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import Intake


@pytest.fixture
def scored(world: World, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The windows of each call that measures."""
    calls: list[list[str]] = []
    call = world.script.call

    def counted(task: str, payload: dict[str, Any], **bounds: Any) -> dict[str, Any]:
        if task.endswith(":score"):
            calls.append([one["paths"][0].rpartition("/")[2] for one in payload["windows"]])
        return call(task, payload, **bounds)

    monkeypatch.setattr(world.script, "call", counted)
    return calls


def serving(world: World) -> tuple[ServiceProcess, Callable[[], None]]:
    """A process, and what its intake does."""
    intake = Intake(world.client, "i0", prefix=PREFIX, before_burial=bury(world.parts), reclaim_after_ms=0)
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=0)

    def take() -> None:
        while deliveries := intake.read(50):
            process.take_or_set_aside(deliveries)

    return process, take


def ago(world: World, **span: float) -> str:
    """A moment before now."""
    return rfc3339(world.clock.moment - timedelta(**span))


def test_a_storm_of_reports_delays_no_drift(world: World, scored: list[list[str]]) -> None:
    """While they are taken in nothing is measured; afterwards each window is, the newest first, some at a time."""
    process, take = serving(world)
    for minute in range(3 * BATCH):
        world.report(uri=str(world.data / "w.csv"), end=ago(world, minutes=minute))
    world.send()
    take()
    assert (scored, len(world.incidents())) == ([], 1)
    assert {one["basis"] for one in world.parts.metrics.last("m", 500)} == {"reported"}
    while process.measure_reported():
        pass
    assert [len(call) for call in scored] == [BATCH] * 3
    assert {(one["basis"], one["value"]) for one in world.parts.metrics.last("m", 500)} == {("measured", "0.9")}
    assert (world.parts.metrics.with_unmeasured(), world.client.keys(f"{PREFIX}measuring:*")) == ([], [])


def test_a_report_that_comes_again_is_measured_once(world: World, scored: list[list[str]]) -> None:
    """Delivered twice, and a third time after another report of the same window: one record each, no measurement more."""
    process, take = serving(world)
    for repeat in (False, True, False):
        if repeat:
            world.report(uri=str(world.data / "history.csv"), end=ago(world, minutes=1))
        else:
            world._sent = 0  # the same id again
            world.report(uri=str(world.data / "w.csv"), end=ago(world, minutes=1))
        take()
        while process.measure_reported():
            pass
        world._sent = 10
    assert scored == [["w.csv"], ["history.csv"]]
    assert len(world.records("event")) == 2
    (window,) = world.parts.metrics.last("m")
    assert window["uri"].endswith("history.csv")
    assert not {"reports", "by", "told", "unmeasured"} & set(window)


def test_a_process_that_dies_between_keeping_and_acknowledging_loses_nothing(
    world: World, scored: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report comes again, is known, and is settled."""
    process, take = serving(world)
    world.report(uri=str(world.data / "w.csv"), end=ago(world, minutes=1))
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "record_performance", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            take()
    while process.measure_reported():
        pass
    take()
    assert world.client.xlen(f"{PREFIX}events") == 0
    while process.measure_reported():
        pass
    assert (scored, len(world.records("event")), len(world.parts.metrics.last("m"))) == ([["w.csv"]], 1, 1)


@pytest.mark.parametrize("first", [True, False])
def test_a_report_and_an_incident_of_one_window_take_nothing_from_each_other(
    world: World, scored: list[list[str]], first: bool
) -> None:
    """Whichever comes first: the report goes on waiting, is measured, and can be verified by; the history shows one window."""
    process, take = serving(world)
    end, history = ago(world, minutes=1), world.parts.metrics
    own = {"end": end, "metric": "accuracy", "value": "0.7", "reference": "0.9", "incident": "inc-1", "labelled": True}
    if first:
        history.record("m", own)
    world.report(uri=str(world.data / "w.csv"), end=end)
    take()
    if not first:
        history.record("m", own)
    history.record("m", own | {"value": None, "labelled": False})  # its rows could not be read another time
    while process.measure_reported():
        pass
    (reported,) = [one for one in history.last("m") if one.get("basis")]
    assert (reported["basis"], reported["value"], reported["uri"].rpartition("/")[2]) == ("measured", "0.9", "w.csv")
    assert (scored, history.last("m", 1)) == ([["w.csv"]], history.last("m"))
    (window,) = history.windows("m")
    assert {name: window[name] for name in own if name != "labelled"} == {
        k: v for k, v in own.items() if k != "labelled"
    }


def test_only_what_was_measured_takes_the_place_of_a_report(world: World) -> None:
    """Not another source's, not a bare word, not a handful of rows; a later file of the same source, once it was measured."""
    history, end = world.parts.metrics, ago(world, minutes=1)

    def told(source: str, uri: str | None, rows: int | None = None) -> bool:
        word = {"end": end, "metric": "accuracy", "value": "0.99", "rows": rows, "basis": "reported", "uri": uri}
        return history.report("m", word, report=f"{source}{uri}", source=source)

    def measure(uri: str, rows: int) -> None:
        (found,) = [one for one in history.unmeasured("m", 10) if one[1]["uri"] == uri]
        assert history.measured("m", found[0], found[1] | {"unmeasured": False, "basis": "measured", "value": "0.6",
                                                           "rows": rows}, rows_max=1000)  # fmt: skip

    def standing() -> list[tuple[str | None, str]]:
        return [(one["uri"], one["basis"]) for one in history.last("m")]

    told("monitor", "harm.csv", rows=1000)
    told("other", "fine.csv", rows=1000)
    told("monitor", None)
    measure("harm.csv", 1000)
    assert sorted(standing(), key=str) == [("fine.csv", "reported"), ("harm.csv", "measured"), (None, "reported")]
    assert (history.windows("m")[0]["value"], history.windows("m")[0]["unmeasured"]) == ("0.6", True)
    told("monitor", "few.csv", rows=499)
    measure("few.csv", 499)
    measure("fine.csv", 1000)
    assert len(standing()) == 4
    told("monitor", "early.csv")  # is measured last, and turns out to be what the one told after it replaces
    told("monitor", "late.csv")
    measure("late.csv", 499)
    measure("early.csv", 300)
    assert {uri for uri, _ in standing()} == {"fine.csv", None, "harm.csv", "late.csv"}
    told("monitor", "whole.csv")
    measure("whole.csv", 500)
    assert sorted(standing()) == [("fine.csv", "measured"), ("whole.csv", "measured")]
    assert not any(told("monitor", uri) for uri in ("harm.csv", None, "few.csv", "early.csv", "late.csv", "whole.csv"))


def test_what_the_version_before_kept_of_a_window_stops_no_measurement(world: World) -> None:
    """It does not say in which order a source reported: it counts as the first."""
    history, end = world.parts.metrics, ago(world, minutes=1)
    word = {"end": end, "metric": "accuracy", "value": "0.99", "basis": "reported"}

    def measured(uri: str, rows: int) -> None:
        assert history.report("m", word | {"uri": uri}, report=uri, source="monitor")
        ((raw, window),) = history.unmeasured("m", 10)
        figure = {"unmeasured": False, "basis": "measured", "rows": rows}
        assert history.measured("m", raw, window | figure, rows_max=1000)

    measured("old.csv", 1000)
    key = f"{PREFIX}metrics:m"
    ((raw, score),) = world.client.zrange(key, 0, -1, withscores=True)
    kept = json.loads(SEAL.open("metrics", "m", raw) or "")
    del kept["place"]
    world.client.delete(key)
    world.client.zadd(key, {SEAL.close("metrics", "m", json.dumps(kept)): score})
    measured("few.csv", 100)
    measured("late.csv", 100)
    assert {one["uri"] for one in history.last("m")} == {"old.csv", "late.csv"}


def test_a_file_that_is_reported_again_stops_no_other_source_s_measurement(world: World) -> None:
    """It comes after what it takes the place of by now: that goes once it is measured again, and not with a stranger's."""
    history, end = world.parts.metrics, ago(world, minutes=1)
    word = {"end": end, "metric": "accuracy", "value": "0.99", "basis": "reported"}

    def told(uri: str, report: str, source: str = "monitor") -> None:
        assert history.report("m", word | {"uri": uri}, report=report, source=source)

    def measured(uri: str, **figure: Any) -> None:
        (found,) = [one for one in history.unmeasured("m", 10) if one[1]["uri"] == uri]
        assert history.measured("m", found[0], found[1] | {"unmeasured": False} | figure, rows_max=1000)

    for uri, rows in (("many.csv", 300), ("few.csv", 100)):
        told(uri, uri)
        measured(uri, basis="measured", rows=rows)
    told("many.csv", "again")
    told("absent.csv", "absent", source="other")
    measured("absent.csv")
    assert {(one["uri"], one["basis"]) for one in history.last("m")} == {
        ("many.csv", "measured"), ("few.csv", "measured"), ("absent.csv", "reported"),
    }  # fmt: skip
    measured("many.csv", basis="measured", rows=300)
    assert {one["uri"] for one in history.last("m")} == {"many.csv", "absent.csv"}


def test_two_processes_do_not_measure_the_same(world: World, scored: list[list[str]]) -> None:
    """One of them measures a model's windows; what is reported meanwhile is not overwritten, and measured after it."""
    process, take = serving(world)
    world.report(uri=str(world.data / "w.csv"), end=ago(world, minutes=1))
    take()
    call, others = world.script.call, []

    def meanwhile(task: str, payload: dict[str, Any], **bounds: Any) -> dict[str, Any]:
        if not others:
            others.append(measure_reports(world.parts, world.store))
            world.report(uri=str(world.data / "history.csv"), end=ago(world, minutes=1))
            take()
        return call(task, payload, **bounds)

    world.script.call = meanwhile  # type: ignore[method-assign]
    while process.measure_reported():
        pass
    assert (others, scored) == ([False], [["w.csv"], ["history.csv"]])
    (window,) = world.parts.metrics.last("m")
    assert (window["basis"], window["uri"].rpartition("/")[2]) == ("measured", "history.csv")


def test_what_cannot_be_measured_stands_as_reported_and_spoils_no_other(world: World, scored: list[list[str]]) -> None:
    """A window that kills the sandbox, one that is not there, one that can be read; and a registry that is away."""
    process, take = serving(world)
    for minute, name in enumerate(("w.csv", "absent.csv", "history.csv")):
        world.report(uri=str(world.data / name), end=ago(world, minutes=minute))
    take()
    call = world.script.call

    def killed(task: str, payload: dict[str, Any], **bounds: Any) -> dict[str, Any]:
        if any("w.csv" in one["paths"][0] for one in payload["windows"]):
            raise GiveUp("it was killed")
        return call(task, payload, **bounds)

    world.script.call = killed  # type: ignore[method-assign]
    champion = world.parts.registry.champion
    world.parts.registry.champion = lambda model: (_ for _ in ()).throw(Away("mlflow", "no answer"))  # type: ignore[method-assign]
    with pytest.raises(Away):
        process.measure_reported()
    assert [one.get("unmeasured") for one in world.parts.metrics.last("m")] == [True] * 3
    world.parts.registry.champion = champion  # type: ignore[method-assign]
    while process.measure_reported():
        pass
    told = {one["uri"].rpartition("/")[2]: (one["basis"], one["value"]) for one in world.parts.metrics.last("m")}
    assert told == {"w.csv": ("reported", "0.8"), "absent.csv": ("reported", "0.8"), "history.csv": ("measured", "0.9")}


def test_a_verification_waits_for_the_figure_and_is_woken(world: World) -> None:
    """Looked at before it was measured, a report is nobody's last word; measured, the incident is looked at again."""
    world.send()
    world.run()
    process, take = serving(world)
    world.report(uri=str(world.data / "w.csv"), value=0.83)
    world.clock.advance(minutes=5)
    take()
    worker = world.worker()
    assert worker.work_once()
    assert (world.only().verification.verdict, world.records("settlement")) == ("pending", [])
    world.script.score = None  # it can be read, and has no labels
    assert process.measure_reported()
    assert worker.work_once()
    assert world.only().verification.verdict == "reported"


def test_a_window_that_ends_in_the_future_is_a_dead_letter(world: World) -> None:
    """Clocks differ by five minutes at most; what lies beyond is refused with its reason, and stops nothing."""
    _, take = serving(world)
    world.report(uri=None, end=ago(world, minutes=-5))
    for year in range(2027, 2047):
        world.report(uri=str(world.data / "w.csv"), end=f"{year}-01-01T00:00:00Z")
    world.report(uri=None, end=ago(world, minutes=1))
    take()
    assert [one["end"] for one in world.parts.metrics.last("m", 500)] == [ago(world, minutes=1), ago(world, minutes=-5)]
    letters = [*DeadLetters(world.client, PREFIX).list()]
    assert len(letters) == len(world.records("dead_letter")) == 20
    (one,) = {(letter.field, letter.expected) for letter in letters}
    assert one == ("data.window.end", "a time at most 5 minutes ahead of the service's clock")
    assert world.records("dead_letter")[0]["body"]["event_id"] == "r2"
    assert (world.parts.metrics.with_unmeasured(), world.client.xlen(f"{PREFIX}events")) == ([], 0)


def test_a_drift_of_the_future_is_no_history(world: World) -> None:
    """Its incident says what is wrong with it; the model's windows stay those that were."""
    world.send(world.event(window={"start": "2027-01-01T00:00:00Z", "end": "2027-01-02T00:00:00Z", "rows": 2,
                                   "uri": str(world.data / "w.csv")}))  # fmt: skip
    world.run()
    assert len(world.incidents()) == 1
    assert world.parts.metrics.last("m") == []


def test_one_source_pushes_out_only_its_own(world: World) -> None:
    """Whoever reports without end has half of the history at most; the bound of the whole holds."""
    history, start = world.parts.metrics, world.clock.moment

    def told(source: str, number: int, minutes: float) -> None:
        window = {"end": rfc3339(start - timedelta(minutes=minutes)), "value": number, "source": source}
        history.report("m", window, report=f"{source}{number}", source=source)

    for number in range(KEPT_OF_A_SOURCE):
        told("monitor", number, 2000 - number)
    for number in range(WINDOWS_KEPT + 100):
        told("noise", number, 1000 - number)
    kept = [window["source"] for window in history.last("m", 10_000)]
    assert kept == ["monitor"] * KEPT_OF_A_SOURCE + ["noise"] * KEPT_OF_A_SOURCE
    assert history.last("m", 1)[0]["value"] == WINDOWS_KEPT + 99
    for number in range(10):
        history.record("m", {"end": rfc3339(start + timedelta(minutes=number)), "source": "our own"})
    kept = [window["source"] for window in history.last("m", 10_000)]
    assert (len(kept), kept.count("our own")) == (WINDOWS_KEPT, 10)
