"""Quarantine, reference and messages over a real Redis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from driftwarden.actions.state import RedisStateStore
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.contracts.watch import DataSource
from driftwarden.errors import AskHuman, Away, Fenced, Refused, Retry
from driftwarden.sealing import Seal

SEAL = Seal(b"k" * 32)
QUARANTINE, REFRESH, NOTIFY = ActionName.QUARANTINE_DATA, ActionName.REFRESH_REFERENCE, ActionName.NOTIFY
WINDOW = {
    "window_uri": "file:///data/w%207.parquet",
    "window_start": "2026-11-19T00:00:00Z",
    "window_end": "2026-11-20T00:00:00Z",
}


def test_a_batch_is_quarantined_once_and_released(world: Any, state: RedisStateStore) -> None:
    """The record names the rows to keep out, by file and by time; undo lets them in again."""
    request = world.request(QUARANTINE, **WINDOW)
    action = world.action(QUARANTINE)

    result = action.execute(request)

    (batch,) = state.quarantined(world.model.name).values()
    assert (batch["path"], batch["start"], batch["end"]) == (
        "/data/w 7.parquet",
        WINDOW["window_start"],
        WINDOW["window_end"],
    )
    assert result.changed
    assert action.execute(request).replayed
    action.undo(request, result)
    assert state.quarantined(world.model.name) == {}
    assert action.undo(request, result).replayed


def test_a_batch_of_another_incident_stays_its_own(world: Any, state: RedisStateStore) -> None:
    """The second incident changes nothing and may release nothing."""
    action = world.action(QUARANTINE)
    action.execute(world.request(QUARANTINE, **WINDOW))
    second = world.request(QUARANTINE, incident="inc-2", **WINDOW)

    result = action.execute(second)

    assert not result.changed
    assert "inc-1" in result.detail
    with pytest.raises(Refused):
        action.undo(second, result)
    assert len(state.quarantined(world.model.name)) == 1


@pytest.mark.parametrize(
    ("window", "kept_out"),
    [
        ({"window_start": "2000-01-01T00:00:00Z", "window_end": "2100-01-01T00:00:00Z"}, 100),
        ({"window_start": "2026-11-01T00:00:00Z", "window_end": "2026-11-03T06:00:00Z"}, 54),
        ({"window_uri": "HISTORY"}, 100),
    ],
)
def test_no_window_keeps_most_of_the_history_out(
    world: Any, state: RedisStateStore, window: dict[str, str], kept_out: int, tmp_path: Path
) -> None:
    """However wide a producer says that its window is: a batch is at most half of the rows that are known."""
    file = tmp_path / "history.parquet"
    pd.DataFrame({"ts": pd.date_range("2026-11-01", periods=100, freq="h", tz="UTC"), "y": 1.0}).to_parquet(file)
    world.model = world.model.model_copy(update={"data": DataSource(history=str(file), roots=(str(tmp_path),))})
    known = RowSelection(paths=(str(file),), time_column="ts", target="y")
    named = {key: str(file) if value == "HISTORY" else value for key, value in window.items()}
    request = world.request(QUARANTINE, **(named | {"training_rows": known, "evaluation_rows": None}))

    for attempt in (world.action(QUARANTINE).precheck, world.action(QUARANTINE).execute):
        with pytest.raises(Refused, match=f"{kept_out} of the 100 rows known would be kept out"):
            attempt(request)
    assert state.quarantined(world.model.name) == {}
    half = {"window_start": "2026-11-01T00:00:00Z", "window_end": "2026-11-03T02:00:00Z"}
    request = world.request(QUARANTINE, **(half | {"training_rows": known, "evaluation_rows": None}))
    assert world.action(QUARANTINE).execute(request).changed
    beside = known.narrowed(excluded=(ExcludedRows(start=half["window_start"], end=half["window_end"]),))
    more = {"window_start": "2026-11-03T02:00:00Z", "window_end": "2026-11-03T03:00:00Z"}
    with pytest.raises(Refused, match="51 of the 100 rows known"):
        world.action(QUARANTINE).precheck(world.request(QUARANTINE, **(more | {"training_rows": beside})))
    window = tmp_path / "window.parquet"
    pd.DataFrame({"ts": pd.date_range("2026-12-01", periods=200, freq="h", tz="UTC"), "y": 1.0}).to_parquet(window)
    both = known.narrowed(paths=(str(file), str(window)))
    named = {"window_uri": str(window), "window_start": "2026-12-01T00:00:00Z", "window_end": "2026-12-01T01:00:00Z"}
    with pytest.raises(Refused, match="200 of the 300 rows known"):
        world.action(QUARANTINE).precheck(world.request(QUARANTINE, **(named | {"training_rows": both})))
    uncounted = world.request(QUARANTINE, **(half | {"training_rows": None, "evaluation_rows": None}))
    with pytest.raises(Refused, match="cannot be counted"):
        world.action(QUARANTINE).precheck(uncounted)


@pytest.mark.parametrize("name", [QUARANTINE, REFRESH])
def test_only_the_events_own_window_counts(world: Any, name: ActionName) -> None:
    """An event without a window, or a plan that names another file, is refused."""
    with pytest.raises(Refused, match="no window"):
        world.action(name).precheck(world.request(name))
    with pytest.raises(Refused, match="not the event's window"):
        world.action(name).precheck(world.request(name, {"uri": "/etc/passwd"}, **WINDOW))


@pytest.mark.parametrize(("name", "step"), [(QUARANTINE, "quarantined"), (REFRESH, "set")])
def test_a_crash_after_the_write_is_found(new_world: Callable[..., Any], name: ActionName, step: str) -> None:
    """The effect happened, its result was lost: it is found, not done again."""
    world = new_world(crash_at=1)
    request = world.request(name, **WINDOW)
    with pytest.raises(world.crash, match=step):
        world.action(name).execute(request)
    world.crash_at = None

    assert world.action(name).lookup(request).changed
    assert world.action(name).execute(request).replayed


@pytest.mark.parametrize("name", [QUARANTINE, REFRESH, NOTIFY])
def test_without_the_lease_nothing_is_written(world: Any, name: ActionName) -> None:
    """Fenced before the first write."""
    world.lease.lost = True

    with pytest.raises(Fenced):
        world.action(name).execute(world.request(name, **WINDOW))
    assert world.state.quarantined(world.model.name) == {}
    assert world.state.reference(world.model.name) is None
    assert not (world.folder / "notifications.jsonl").exists()


def test_the_reference_is_replaced_and_put_back(world: Any, state: RedisStateStore) -> None:
    """Two refreshes, the second undone: the first is in force again, and both keys are still known."""
    action, name = world.action(REFRESH), world.model.name
    first = world.request(REFRESH, **WINDOW)
    second = world.request(REFRESH, **(WINDOW | {"window_uri": "/data/w8.parquet"}))
    action.execute(first)
    result = action.execute(second)
    assert state.reference(name)["uri"] == "/data/w8.parquet"

    action.undo(second, result)

    assert state.reference(name)["uri"] == WINDOW["window_uri"]
    assert action.undo(second, result).replayed
    assert action.lookup(first).replayed
    assert action.execute(second).replayed
    assert state.reference(name)["uri"] == WINDOW["window_uri"]


def test_a_reference_that_was_replaced_since_is_not_put_back(world: Any, state: RedisStateStore) -> None:
    """Undoing the first refresh after the second would take away what somebody else decided."""
    action = world.action(REFRESH)
    first = world.request(REFRESH, **WINDOW)
    result = action.execute(first)
    action.execute(world.request(REFRESH, **WINDOW))

    with pytest.raises(Refused, match="no longer"):
        action.undo(first, result)
    assert action.execute(first).replayed


def test_the_first_reference_undone_leaves_none(world: Any, state: RedisStateStore) -> None:
    """Then the champion's training rows are the reference again."""
    action, request = world.action(REFRESH), world.request(REFRESH, **WINDOW)
    result = action.execute(request)

    action.undo(request, result)

    assert state.reference(world.model.name) is None
    assert action.undo(request, result).replayed


def test_a_change_in_between_is_tried_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare-and-set loses against another writer: nothing of theirs is overwritten."""
    action, request, state, name = (
        world.action(REFRESH),
        world.request(REFRESH, **WINDOW),
        world.state,
        world.model.name,
    )
    theirs = {"uri": "/data/theirs.parquet", "key": "theirs", "keys": ["theirs"]}
    really = state.set_reference

    def contested(model: str, record: Any, *, expected: Any) -> bool:
        really(model, theirs, expected=expected)
        return really(model, record, expected=expected)

    monkeypatch.setattr(state, "set_reference", contested)
    with pytest.raises(Retry):
        action.execute(request)
    assert state.reference(name) == theirs


def test_compare_and_set_tells_absent_from_other(state: RedisStateStore) -> None:
    """Only the exact record that was read may be replaced; None means none was there."""
    assert not state.set_reference("m", {"a": 1}, expected={"a": 0})
    assert state.set_reference("m", {"b": 2, "a": 1.5}, expected=None)
    assert not state.set_reference("m", {"a": 2}, expected=None)
    assert state.set_reference("m", None, expected={"a": 1.5, "b": 2})
    assert state.reference("m") is None
    assert not state.release("m", "nothing")


def test_what_is_not_a_record_of_ours_asks_a_human(state: RedisStateStore, redis_client: Any) -> None:
    """Somebody wrote into the keys by hand."""
    redis_client.set("driftwarden:reference:m", "[1]")
    redis_client.hset("driftwarden:quarantine:m", "b", "no json")

    with pytest.raises(AskHuman, match="driftwarden:reference:m"):
        state.reference("m")
    with pytest.raises(AskHuman):
        state.quarantined("m")


def test_a_server_that_is_away_is_waited_for() -> None:
    """No answer is not an answer, and no failed try of whoever asked."""
    import redis

    away = RedisStateStore(redis.Redis.from_url("unix:///nowhere/redis.sock"), "driftwarden:", SEAL)

    with pytest.raises(Away):
        away.quarantined("m")


def test_people_are_told_once(world: Any) -> None:
    """A message has the incident and the correlation id; a second call of the same effect sends none."""
    action = world.action(NOTIFY)
    request = world.request(NOTIFY, {"message": "look at the sensor"})

    first, second = action.execute(request), action.execute(request)

    lines = [json.loads(line) for line in (world.folder / "notifications.jsonl").read_text().splitlines()]
    assert [line["body"] for line in lines] == ["look at the sensor"]
    assert lines[0]["fields"]["incident"] == "inc-1"
    assert (first.changed, first.replayed, second.replayed) == (False, False, True)


@pytest.mark.parametrize("name", [ActionName.RECALIBRATE, ActionName.FALLBACK_MODEL])
def test_what_is_not_available_says_so(world: Any, name: ActionName) -> None:
    """Precheck, estimate and execute refuse with what to do instead."""
    action, request = world.action(name), world.request(name)

    for method in (action.estimate, action.precheck, action.execute):
        with pytest.raises(Refused, match=r"not available in this version; `(retrain|rollback)`"):
            method(request)
    assert action.lookup(request) is None


def test_none_does_nothing(world: Any) -> None:
    """`none` has a result, no effect, and nothing to undo."""
    action, request = world.action(ActionName.NONE), world.request(ActionName.NONE)

    result = action.execute(request)

    assert not result.changed
    with pytest.raises(Refused):
        action.undo(request, result)
