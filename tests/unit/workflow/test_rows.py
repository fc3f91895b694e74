"""Which rows a model learns from: nothing outside its roots, nothing quarantined, no label before its delay is over."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwarden.contracts.data import ExcludedRows
from driftwarden.contracts.watch import DataSource, Labels, WatchedModel
from driftwarden.errors import BadInput
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.settings import Settings

NOW = "2026-11-20T09:00:00.000000Z"
RANGE = {"start": "2026-11-20T07:00:00Z", "end": "2026-11-20T08:00:00Z"}


def rows(folder: Path, history: str, quarantined: dict[str, Any] | None = None, **about: Any) -> ModelRows:
    """Rows of a model whose history is this file or folder."""
    settings = Settings(home=folder, conf=folder, audit_dir=folder, policy_path=folder)
    data = DataSource(history=str(folder / history), roots=(str(folder),))
    values: dict[str, Any] = {
        "task": "classification",
        "target": "y",
        "metric": "accuracy",
        "time_column": "ts",
    } | about
    return ModelRows(settings, WatchedModel(name="m", data=data, **values), quarantined or {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A history of one file, one of two, and a window."""
    (tmp_path / "many").mkdir()
    for name in ("one.csv", "w.csv", "many/a.csv", "many/b.csv"):
        (tmp_path / name).write_text("ts,y\n")
    return tmp_path


def test_a_batch_of_one_appended_file_is_kept_out_by_time(folder: Path) -> None:
    """The history's only file is not lost for the sake of one batch."""
    batch = {"b": {"uri": str(folder / "one.csv"), **RANGE}}
    assert rows(folder, "one.csv", batch).known(NOW).excluded == (ExcludedRows(**RANGE),)


def test_a_batch_of_its_own_file_is_kept_out_by_file_and_time(folder: Path) -> None:
    """The same rows may stand in the history again."""
    batch = {"b": {"uri": str(folder / "w.csv"), **RANGE}}
    found = rows(folder, "one.csv", batch).known(NOW).excluded
    assert set(found) == {ExcludedRows(**RANGE), ExcludedRows(path=str(folder / "w.csv"))}


def test_without_times_a_batch_is_kept_out_by_file(folder: Path) -> None:
    """Also where that is all there is: nothing is learned from it then."""
    batch = {"b": {"uri": str(folder / "one.csv"), **RANGE}}
    found = rows(folder, "one.csv", batch, time_column=None).known(NOW).excluded
    assert found == (ExcludedRows(path=str(folder / "one.csv")),)


def test_files_in_name_order_and_the_window_once(folder: Path) -> None:
    """A folder's files; a window that is one of them is not read twice."""
    found = rows(folder, "many").known(NOW, str(folder / "many" / "b.csv")).paths
    assert [Path(path).name for path in found] == ["a.csv", "b.csv"]
    assert len(rows(folder, "many").known(NOW, str(folder / "w.csv")).paths) == 3


def test_labels_are_seen_when_their_delay_is_over(folder: Path) -> None:
    """A delay of an hour: labels of rows up to eight o'clock."""
    late = rows(folder, "one.csv", labels=Labels(delay=timedelta(hours=1)))
    assert late.known(NOW).labels_until == "2026-11-20T08:00:00.000000Z"
    assert rows(folder, "one.csv").known(NOW).labels_until is None


def test_rows_after_an_effect(folder: Path) -> None:
    """By time where there are times, else in files that were not there; reported windows only where the history lacks them."""
    then = {"until": NOW, "paths": [str(folder / "many" / "a.csv")]}
    timed, plain = rows(folder, "many"), rows(folder, "many", time_column=None)
    assert getattr(timed.after(then, NOW), "start", None) == NOW
    assert [Path(path).name for path in getattr(plain.after(then, NOW), "paths", ())] == ["b.csv"]
    assert plain.after(then | {"paths": [str(folder / "many" / name) for name in ("a.csv", "b.csv")]}, NOW) is None
    assert timed.after(then, NOW, [{"uri": str(folder / "many" / "b.csv")}]) is None
    reported = timed.after(then, NOW, [{"uri": str(folder / "w.csv")}, {"uri": None}])
    assert getattr(reported, "paths", ()) == (str(folder / "w.csv"),)
    # Somebody's report of a file that may not be read takes nobody else's away.
    both = [{"uri": "/etc/passwd"}, {"uri": str(folder / "w.csv")}]
    assert getattr(timed.after(then, NOW, both), "paths", ()) == (str(folder / "w.csv"),)
    with pytest.raises(BadInput):
        timed.after(then, NOW, both[:1])


@pytest.mark.parametrize("uri", ["/etc/passwd", "../x.csv", "http://127.0.0.1/x.csv"])
def test_nothing_outside_the_roots(folder: Path, uri: str) -> None:
    """Whoever names it."""
    with pytest.raises(BadInput):
        rows(folder, "one.csv").window(uri, NOW)
    with pytest.raises(BadInput):
        rows(folder, "one.csv").known(NOW, uri)
