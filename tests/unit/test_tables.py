"""Tables: which files may be opened, how they are read, and what a selection of rows means."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, NotFound
from driftwarden.tables import read_rows, read_rows_at, read_table, resolve
from driftwarden.windows import check_window


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    pd.DataFrame({"a": [1, 2]}).to_csv(folder / "rows.csv", index=False)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    return folder


def days(*numbers: int) -> list[str]:
    return [f"2026-01-{number:02d}T00:00:00Z" for number in numbers]


def saved(path: Path, **columns: object) -> str:
    frame = pd.DataFrame(columns)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return str(path)


class TestResolve:
    def test_a_path_and_a_file_uri_below_a_root_are_the_same_file(self, root: Path) -> None:
        """Both forms of the contract lead to the real path."""
        file = root / "rows.csv"
        assert resolve(str(file), [root]) == resolve(file.as_uri(), [root]) == file.resolve()

    @pytest.mark.parametrize("uri", ["{root}/../secret.csv", "{root}/link.csv", "/etc/passwd", "file:///etc/passwd"])
    def test_what_lies_outside_the_roots_is_refused(self, root: Path, uri: str) -> None:
        """Neither dots, nor a link, nor an absolute path lead out."""
        (root / "link.csv").symlink_to(root.parent / "secret.csv")
        with pytest.raises(BadInput, match="outside the allowed roots"):
            resolve(uri.format(root=root), [root])

    def test_outside_absent_and_present_look_the_same(self, root: Path) -> None:
        """A caller cannot ask which files exist elsewhere."""
        for name in ("secret.csv", "absent.csv"):
            with pytest.raises(BadInput, match="outside the allowed roots"):
                resolve(str(root.parent / name), [root])

    @pytest.mark.parametrize(
        "uri", ["s3://bucket/x.csv", "http://127.0.0.1/x.csv", "file://host/x.csv", "file://[x/y.csv", "", "a\0b"]
    )
    def test_what_is_no_local_path_is_refused(self, root: Path, uri: str) -> None:
        """Only plain paths and file URIs of this machine are read."""
        with pytest.raises(BadInput):
            resolve(uri, [root])

    def test_absent_folder_and_pipe_are_each_named(self, root: Path) -> None:
        """A file is a file: not absent, not a folder, and not a pipe that would never end."""
        os.mkfifo(root / "pipe.csv")
        with pytest.raises(NotFound, match="no such file"):
            resolve(str(root / "absent.csv"), [root])
        with pytest.raises(BadInput, match="not a file"):
            resolve(str(root), [root])
        with pytest.raises(BadInput, match="not a file"):
            resolve(str(root / "pipe.csv"), [root])
        assert resolve(str(root), [root], kind="folder") == root.resolve()

    def test_no_roots_allow_nothing(self, root: Path) -> None:
        """An empty list of roots fails closed."""
        with pytest.raises(BadInput, match="no root is allowed"):
            resolve(str(root / "rows.csv"), [])


class TestReadTable:
    @pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
    def test_reads_what_was_written(self, tmp_path: Path, name: str) -> None:
        """Parquet and csv give the same rows and columns."""
        file = saved(tmp_path / name, a=[1, 2], b=["x", None])
        assert read_table(file)["a"].tolist() == [1, 2]
        assert list(read_table(file, ["b"]).columns) == ["b"]

    @pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.csv"])
    def test_rubbish_is_one_line(self, tmp_path: Path, name: str) -> None:
        """An unreadable file is a BadInput of one line that names it."""
        (tmp_path / name).write_bytes(b"\xff\xfe\x00rubbish\x00" * 20)
        with pytest.raises(BadInput) as caught:
            read_table(tmp_path / name)
        assert name in caught.value.diagnostics()
        assert "\n" not in caught.value.diagnostics()

    def test_a_small_archive_cannot_hold_a_huge_table(self, tmp_path: Path) -> None:
        """The bound counts bytes after decompression."""
        with gzip.open(tmp_path / "bomb.csv.gz", "wb") as file:
            file.write(b"a\n" + b"1" * 2_000_000)
        with pytest.raises(BadInput, match="too large"):
            read_table(tmp_path / "bomb.csv.gz", bytes_max=100_000)

    @pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
    def test_too_many_rows_are_refused(self, tmp_path: Path, name: str) -> None:
        """Long tables are refused whatever their format."""
        with pytest.raises(BadInput, match="too l"):
            read_table(saved(tmp_path / name, a=range(11)), rows_max=10)

    def test_an_absent_column_and_an_unknown_format_are_named(self, tmp_path: Path) -> None:
        """The message says what was asked for and what is there."""
        with pytest.raises(BadInput, match="got `z`, expected one of a"):
            read_table(saved(tmp_path / "t.parquet", a=[1]), ["z"])
        (tmp_path / "t.pickle").write_bytes(b"")
        with pytest.raises(BadInput, match="unknown kind of table"):
            read_table(tmp_path / "t.pickle")


class TestReadRows:
    def test_rows_come_in_time_order_and_ties_keep_theirs(self, tmp_path: Path) -> None:
        """Ordering is stable, over files of both kinds."""
        first = saved(tmp_path / "a.csv", ts=days(3, 1), v=[1, 2])
        second = saved(tmp_path / "b.parquet", ts=days(1, 2), v=[3, 4])
        frame = read_rows(RowSelection(paths=(first, second), time_column="ts"))
        assert frame["v"].tolist() == [2, 3, 4, 1]
        assert frame.index.tolist() == [0, 1, 2, 3]

    def test_a_folder_is_its_tables_in_name_order(self, tmp_path: Path) -> None:
        """Other files are passed over, and a file named twice is read once."""
        saved(tmp_path / "2.csv", v=[2])
        one = saved(tmp_path / "1.csv", v=[1])
        (tmp_path / "notes.txt").write_text("no table")
        assert read_rows(RowSelection(paths=(str(tmp_path), one)))["v"].tolist() == [1, 2]

    def test_a_link_out_of_a_folder_is_refused(self, root: Path) -> None:
        """A folder below the roots does not lead to files elsewhere."""
        (root / "link.csv").symlink_to(root.parent / "secret.csv")
        with pytest.raises(BadInput, match="link out of the folder"):
            read_rows(RowSelection(paths=(str(root),)))

    def test_cuts_by_time_exclude_the_end(self, tmp_path: Path) -> None:
        """`start` <= time < `end`."""
        selection = RowSelection(
            paths=(saved(tmp_path / "a.csv", ts=days(1, 2, 3, 4), v=[1, 2, 3, 4]),), time_column="ts"
        )
        chosen = selection.narrowed(start=days(2)[0], end=days(4)[0])
        assert read_rows(chosen)["v"].tolist() == [2, 3]

    def test_positions_count_after_ordering_and_exclusion(self, tmp_path: Path) -> None:
        """A position is one in the whole ordered table without the excluded rows."""
        paths = (saved(tmp_path / "a.csv", ts=days(4, 3, 2, 1), v=[4, 3, 2, 1]),)
        gone = ExcludedRows(start=days(2)[0], end=days(3)[0])
        frame, positions = read_rows_at(RowSelection(paths=paths, time_column="ts", row_start=1, excluded=(gone,)))
        assert frame["v"].tolist() == [3, 4]
        assert positions.tolist() == [1, 2]

    def test_an_excluded_file_is_never_read(self, tmp_path: Path) -> None:
        """A quarantined batch may be unreadable and does no harm."""
        good, bad = saved(tmp_path / "a.csv", v=[1]), tmp_path / "b.parquet"
        bad.write_bytes(b"rubbish")
        selection = RowSelection(paths=(str(tmp_path),), excluded=(ExcludedRows(path=str(bad)),))
        assert read_rows(selection)["v"].tolist() == [1]
        assert good

    def test_everything_excluded_is_an_empty_table_with_columns(self, tmp_path: Path) -> None:
        """No rows are left, and the columns are still known."""
        file = saved(tmp_path / "a.csv", v=[1])
        frame = read_rows(RowSelection(paths=(file,), excluded=(ExcludedRows(path=file),)))
        assert (len(frame), list(frame.columns)) == (0, ["v"])

    def test_late_labels_are_joined_and_the_latest_correction_counts(self, tmp_path: Path) -> None:
        """The truth comes from its own table, by key, whatever the key's type is there."""
        rows = saved(tmp_path / "rows.parquet", id=["1", "2", "3"], v=[1, 2, 3])
        labels = saved(tmp_path / "labels.csv", id=[2, 1, 2], y=[0, 1, 1])
        selection = RowSelection(paths=(rows,), target="y", labels_path=labels, labels_key="id", labelled_only=True)
        assert read_rows(selection)[["v", "y"]].to_numpy().tolist() == [[1, 1.0], [2, 1.0]]

    def test_labels_of_later_rows_are_not_seen(self, tmp_path: Path) -> None:
        """A label is there only where its row's time <= `labels_until`; the row itself stays."""
        file = saved(tmp_path / "a.csv", ts=days(1, 2, 3), y=[1, 0, 1])
        selection = RowSelection(paths=(file,), time_column="ts", target="y", labels_until=days(2)[0])
        assert read_rows(selection)["y"].isna().tolist() == [False, False, True]
        assert len(read_rows(selection.narrowed(labelled_only=True))) == 2

    def test_last_rows_counts_labelled_rows_where_only_those_are_wanted(self, tmp_path: Path) -> None:
        """The newest rows among those that have a label."""
        file = saved(tmp_path / "a.csv", v=[1, 2, 3, 4], y=[1, 0, 1, None])
        selection = RowSelection(paths=(file,), target="y", labelled_only=True, last_rows=2)
        assert read_rows(selection)["v"].tolist() == [2, 3]

    def test_a_numeric_time_column_orders_and_cuts_by_number(self, tmp_path: Path) -> None:
        """Streams whose time is a number are cut by that number."""
        file = saved(tmp_path / "a.csv", t=[0.3, 0.1, 0.2], v=[3, 1, 2])
        selection = RowSelection(paths=(file,), time_column="t")
        assert read_rows(selection.narrowed(start="0.15"))["v"].tolist() == [2, 3]
        with pytest.raises(BadInput, match="a number, as the time column holds"):
            read_rows(selection.narrowed(start=days(1)[0]))

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"time_column": "gone"}, "table without the time column"),
            ({"time_column": "v"}, "bound in time"),
            ({"labels_until": "2026-01-01T00:00:00Z", "target": "v"}, "no time column"),
            ({"start": "2026-01-01T00:00:00Z"}, "no time column"),
            ({"target": "gone", "labelled_only": True}, "table without the target"),
            ({"labels_path": "labels.csv"}, "expected both names"),
            ({"excluded": (ExcludedRows(),)}, "neither path nor time"),
            ({"paths": ()}, "no file"),
        ],
    )
    def test_a_selection_that_cannot_be_read_says_why(
        self, tmp_path: Path, changes: dict[str, object], match: str
    ) -> None:
        """Nothing is guessed: a contradiction is a BadInput."""
        selection = RowSelection(paths=(saved(tmp_path / "a.csv", v=[1, 2]),))
        if changes == {"time_column": "v"}:
            changes = {"time_column": "v", "end": "soon"}
        with pytest.raises(BadInput, match=match):
            read_rows(selection.narrowed(**changes))


class TestCheckWindow:
    model = WatchedModel(name="m", task="classification", target="y", metric="accuracy", features=("a", "b"))

    def faults(self, frame: pd.DataFrame) -> list[str]:
        return [reason.fault for reason in check_window(frame, self.model)]

    def test_a_sound_window_has_no_faults(self) -> None:
        """Nothing to say."""
        assert self.faults(pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "y": [0, 1]})) == []

    def test_every_fault_has_its_reason(self) -> None:
        """Each of the faults that the service must name is named, with its columns."""
        frame = pd.DataFrame({"a": [1.0, np.inf, np.nan], "y": [1, 1, 1]})
        assert self.faults(frame) == ["vanished", "one_class", "infinite_values", "missing_values"]
        assert self.faults(frame.drop(columns="y"))[1] == "no_target"
        assert self.faults(frame.assign(y=None))[1] == "no_labels"
        assert self.faults(pd.DataFrame({"a": [], "b": [], "y": []})) == ["empty"]
        assert check_window(frame, self.model)[0].columns == ("b",)
