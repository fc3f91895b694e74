"""Which rows belong to a model: its history without quarantined batches, labels only where their delay is over."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.settings import Settings
from driftwarden.tables import resolve


class ModelRows:
    """Selections of one model's rows, every path below its allowed roots."""

    def __init__(self, settings: Settings, model: WatchedModel, quarantined: dict[str, dict[str, Any]]) -> None:
        """`quarantined` as the state store gives it: batch -> {uri, start, end, ...}."""
        self._settings, self._model, self._quarantined = settings, model, quarantined
        self._roots = settings.roots_of(model)

    def path(self, uri: str) -> Path:
        """A file of an event, below the roots; raises BadInput."""
        return resolve(uri, self._roots)

    def history_files(self) -> list[Path]:
        """The history's files in name order; empty where the model has none."""
        history = self._model.data.history
        if not history:
            return []
        path = resolve(history, self._roots, kind="any")
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.name.endswith((".parquet", ".csv", ".csv.gz")))
        return [path]

    def known(self, now: str, window_uri: str | None = None) -> RowSelection:
        """All rows that may be learned from at `now`: labelled, their labels' delay over, not quarantined."""
        files = self.history_files()
        if window_uri:
            window = self.path(window_uri)
            if window not in files:
                files.append(window)
        if not files:
            raise BadInput(
                f"model `{self._model.name}`",
                got="no history",
                expected="`data.history` in models.yml, or a window's uri",
            )
        labels = self._model.labels
        return RowSelection(
            paths=tuple(str(file) for file in files),
            time_column=self._model.time_column,
            target=self._model.target,
            labels_path=str(resolve(labels.uri, self._roots, kind="any")) if labels.uri else None,
            labels_key=labels.key,
            labels_until=self._labels_until(parse_rfc3339(now)),
            labelled_only=True,
            excluded=self._excluded(),
        )

    def window(self, uri: str, now: str) -> RowSelection:
        """The rows of one window, labels where they are known."""
        labels = self._model.labels
        return RowSelection(
            paths=(str(self.path(uri)),),
            time_column=self._model.time_column,
            target=self._model.target,
            labels_path=str(resolve(labels.uri, self._roots, kind="any")) if labels.uri else None,
            labels_key=labels.key,
            labels_until=self._labels_until(parse_rfc3339(now)),
        )

    def after(
        self, known_then: dict[str, Any], now: str, reported: Sequence[dict[str, Any]] = ()
    ) -> RowSelection | None:
        """Labelled rows that came after an effect, by time, else in the files that were not there; None: none yet.

        `reported`: windows of performance reports; where given, only files of theirs that the history lacks. One that may not be
        read keeps nobody from judging by the others. Raises BadInput.
        """
        selection = self.known(now)
        if reported:
            named = self._readable([str(one["uri"]) for one in reported if one.get("uri")])
            elsewhere = tuple(path for path in named if path not in selection.paths)
            if not elsewhere:
                return None
            selection = selection.narrowed(paths=elsewhere)
        if self._model.time_column and known_then.get("until"):
            return selection.narrowed(start=known_then["until"])
        new = tuple(path for path in selection.paths if path not in set(known_then.get("paths", ())))
        return selection.narrowed(paths=new) if new else None

    def _readable(self, uris: Sequence[str]) -> list[str]:
        """The files that may be read, each once; raises BadInput where none of them may."""
        found, problem = dict[str, None](), None
        for uri in uris:
            try:
                found[str(self.path(uri))] = None
            except BadInput as error:
                problem = error
        if problem is not None and not found:
            raise problem
        return list(found)

    def position_of(self, start: str, history: list[dict[str, Any]]) -> int:
        """Position, among the known rows, of the first row of the window that began at `start`; by the windows' own sizes.

        For models without a time column: the windows since then are the newest files. Raises BadInput where the files
        cannot tell.
        """
        from driftwarden.tables import count_rows

        wanted = sum(str(one.get("start")) >= start for one in history)
        excluded = {one.path for one in self._excluded()}
        files = [file for file in self.history_files() if str(file) not in excluded]
        if not 0 < wanted < len(files):
            raise BadInput(
                "files of the windows since the drift", got=f"{wanted} of {len(files)}", expected="fewer than all"
            )
        return sum(count_rows(file) for file in files[:-wanted])

    def _labels_until(self, now: datetime) -> str | None:
        delay = self._model.labels.delay
        return rfc3339(now - delay) if delay > timedelta(0) and self._model.time_column else None

    def _excluded(self) -> tuple[ExcludedRows, ...]:
        return tuple(rows for record in self._quarantined.values() for rows in self._excluded_by(record))

    def _excluded_by(self, record: dict[str, Any]) -> list[ExcludedRows]:
        """A batch's file and, where the rows have times, its time range: the history may hold the same rows again."""
        excluded = []
        if self._model.time_column and record.get("start") and record.get("end"):
            excluded.append(ExcludedRows(start=record["start"], end=record["end"]))
        try:
            path = self.path(record["uri"]) if record.get("uri") else None
        except BadInput:  # the batch is gone or was never below the roots: nothing to keep out by path
            path = None
        # One file that all rows are appended to is not kept out whole for the sake of one batch whose time is known.
        if path is not None and not (excluded and self.history_files() == [path]):
            excluded.append(ExcludedRows(path=str(path)))
        return excluded
