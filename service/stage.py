"""The stage on which demo and benchmark play: a plant that writes windows and labels, and the real service beside it.

The plant knows the stream; the service sees files, events and labels, like anyone's. One step of the plant is one window:
its rows are written, the monitor looks at them, drift is published by XADD, labels that are due arrive, and the plant waits
until the service has nothing left to do.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, GiveUp, LogUnwritable
from driftwarden.keyfile import make_folder
from driftwarden.service.bootstrap import Service, open_service
from driftwarden.service.registering import first_champion
from driftwarden.service.streams import HISTORY, KEY, LABELS, ReplayStream, StreamWindow
from driftwarden.service.workflow.transitions import TERMINAL
from driftwarden.settings import PACKAGED_CONF, Settings
from driftwarden.stream.publisher import Publisher, build_event

if TYPE_CHECKING:
    import pandas as pd

    from driftwarden.service.workflow.process import ServiceProcess

STEP_TIMEOUT_S = 900.0
POLL_S = 0.02
AT_REST = frozenset(state.value for state in TERMINAL) | {"awaiting_approval", "verifying"}


@dataclass
class Played:
    """What one window brought: the event that was published (or None), the champion that scored it, its incidents."""

    window: StreamWindow
    uri: str
    champion: int
    event: dict[str, Any] | None
    incidents: list[str] = field(default_factory=list)


def stage_settings(home: Path, stream: ReplayStream, *, policy: Path | None = None, model: str = "offline") -> Settings:
    """Settings of a stage: everything embedded below `home`, no configured server, the demo's policy unless another is named."""
    from driftwarden.settings import load_settings

    environ = {"DRIFTWARDEN_HOME": str(home), "DRIFTWARDEN_CONF": str(PACKAGED_CONF), "DRIFTWARDEN_MODEL": model}
    base = load_settings(environ, cwd=home.parent)
    watched = stream.model(home / "data" / stream.name)
    return base.model_copy(
        update={
            "models": {watched.name: watched},
            "policy_path": policy or PACKAGED_CONF / "demo" / "driftwarden" / "policy.yml",
        }
    )


class Stage:
    """One stream, one model, one service."""

    def __init__(self, service: Service, stream: ReplayStream, process: "ServiceProcess") -> None:
        """Use `open_stage`."""
        self.service, self.stream, self._process = service, stream, process
        self.model: WatchedModel = service.settings.models[stream.name]
        self.folder = service.settings.home / "data" / stream.name
        self._publisher = Publisher(service.client_url, service.settings.redis.prefix)
        self._unlabelled: list[tuple[StreamWindow, Path]] = []

    def train_first(self) -> int:
        """Train and register the first champion on the stream's training rows; returns its version."""
        file = self.folder / HISTORY / "w0000.parquet"
        self._write(file, self.stream.train, labelled=True, first_row=0)
        parts = self.service.parts
        result = first_champion(
            self.model,
            self._rows_of(file).narrowed(labelled_only=True),
            registry=parts.registry,  # type: ignore[arg-type] # the stage always runs on the real one
            trainer=self.service.trainer,
            audit=parts.audit,
            clock=parts.clock,
        )
        return result.version

    def play(self, window: StreamWindow, say: Callable[[str], None] = lambda text: None) -> Played:
        """Let one window happen, and wait until the service has done what it wants to do about it."""
        champion = self.champion()
        file = self.folder / HISTORY / f"w{window.index + 1:04d}.parquet"
        delayed = self.stream.label_delay_windows > 0
        self._write(file, window.rows, labelled=not delayed, first_row=self._first_row(window))
        self._unlabelled.append((window, file))
        say("labels")
        self._deliver_labels(window)
        say("monitoring")
        event = self._watch(window, file, champion)
        played = Played(window, str(file), champion, event)
        if event is not None:
            before = {record.id for record in self.service.store.list(limit=100_000)}
            self._publisher.publish(event)
            say("deciding")
            self.settle()
            after = self.service.store.list(limit=100_000)
            identity = (event["source"], event["id"])
            played.incidents = [
                record.id
                for record in after
                if record.id not in before
                or identity in {(one["source"], one["id"]) for one in record.doc.get("events", ())}
            ]
        return played

    def champion(self) -> int:
        """The version in force."""
        version = self.service.parts.registry.champion(self.model)
        if version is None:
            raise GiveUp(f"model `{self.model.name}` has no champion")
        return version

    def settle(self) -> None:
        """Wait until no event, activation or step is under way; raises GiveUp where that takes too long."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        quiet = 0
        while quiet < 2:
            if self._process.stopping:
                raise LogUnwritable("the service stopped: its audit log cannot be written")
            if time.monotonic() > deadline:
                raise GiveUp(f"the service did not come to rest within {STEP_TIMEOUT_S:.0f} s")
            quiet = quiet + 1 if self._at_rest() else 0
            time.sleep(POLL_S)

    def _at_rest(self) -> bool:
        """Nothing waits in the intake, to be measured or activated, and every incident has ended or waits for time or people."""
        store = self.service.store
        if any(store.backlog()) or self.service.parts.metrics.with_unmeasured():
            return False
        return all(state in AT_REST for state in store.counts())

    def score(self, version: int, windows: list[RowSelection]) -> list[float | None]:
        """A version's metric on each selection of rows."""
        answer = self.service.sandbox.call(
            "driftwarden.pipelines.tasks:score",
            {
                "model": self.model.model_dump(mode="json"),
                "tracking_uri": self.service.settings.tracking_uri,
                "version": version,
                "windows": [one.model_dump(mode="json") for one in windows],
            },
            timeout_s=300.0,
        )
        return [one["value"] for one in answer["scores"]]

    def truth_of(self, window: StreamWindow) -> RowSelection:
        """The window with its labels, for the figures of the summary; written where the service has no root."""
        file = self.service.settings.home / "truth" / self.stream.name / f"w{window.index + 1:04d}.parquet"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            window.rows.to_parquet(file, index=False)
        return RowSelection(
            paths=(str(file),), time_column=self.model.time_column, target=self.model.target, labelled_only=True
        )

    def _rows_of(self, file: Path) -> RowSelection:
        """A file's rows, with the labels that have arrived."""
        labels = self.model.labels
        return RowSelection(
            paths=(str(file),),
            time_column=self.model.time_column,
            target=self.model.target,
            labels_path=labels.uri,
            labels_key=labels.key,
        )

    def _first_row(self, window: StreamWindow) -> int:
        return len(self.stream.train) + sum(len(one.rows) for one in self.stream.windows[: window.index])

    def _write(self, file: Path, rows: "pd.DataFrame", *, labelled: bool, first_row: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.stream.label_delay_windows > 0:
            rows = rows.assign(**{KEY: range(first_row, first_row + len(rows))})
            if labelled:
                self._write_labels(file, rows)
            rows = rows.drop(columns=[self.stream.target])
        made = file.with_suffix(".tmp")
        rows.to_parquet(made, index=False)
        made.replace(file)

    def _write_labels(self, file: Path, rows: "pd.DataFrame") -> None:
        labels = self.folder / LABELS / file.name
        labels.parent.mkdir(parents=True, exist_ok=True)
        made = labels.with_suffix(".tmp")
        rows[[KEY, self.stream.target]].to_parquet(made, index=False)
        made.replace(labels)

    def _deliver_labels(self, now: StreamWindow) -> None:
        """Labels whose delay is over arrive, and a performance report says so."""
        while self._unlabelled and self._unlabelled[0][0].index + self.stream.label_delay_windows <= now.index:
            window, file = self._unlabelled.pop(0)
            if self.stream.label_delay_windows > 0:
                first = self._first_row(window)
                self._write_labels(file, window.rows.assign(**{KEY: range(first, first + len(window.rows))}))
            event = build_event(
                {
                    "model": self.model.name,
                    "environment": self.model.environment,
                    "window": {"start": window.start, "end": window.end, "rows": len(window.rows), "uri": str(file)},
                    "performance": {"metric": self.model.metric, "labelled_rows": len(window.rows)},
                },
                source=f"driftwarden/stage/{self.stream.name}",
                type="io.driftwarden.performance.v1",
                id=f"{self.stream.name}-w{window.index + 1:04d}-labels",
            )
            self._publisher.publish(event)
            self.settle()

    def _watch(self, window: StreamWindow, file: Path, champion: int) -> dict[str, Any] | None:
        selection = self._rows_of(file)
        answer = self.service.sandbox.call(
            "driftwarden.service.tasks:watch",
            {
                "model": self.model.model_dump(mode="json"),
                "tracking_uri": self.service.settings.tracking_uri,
                "champion_version": champion,
                "current": selection.model_dump(mode="json"),
                "reference": (self.service.parts.state.reference(self.model.name) or {}).get("uri"),
                "window": {"uri": str(file), "start": window.start, "end": window.end},
                "source": f"driftwarden/monitor/{self.stream.name}",
            },
            timeout_s=300.0,
        )
        event: dict[str, Any] | None = answer["event"]
        # The same stream gives the same ids, hence the same correlation ids and bootstrap seeds: a replay is a replay.
        return event and event | {"id": f"{self.stream.name}-w{window.index + 1:04d}"}


@contextmanager
def open_stage(
    home: Path, stream: ReplayStream, *, policy: Path | None = None, workers: int = 2, model: str = "offline"
) -> Iterator[Stage]:
    """A fresh stage below `home`, which must be absent or empty."""
    from driftwarden.service.workflow.parts import StreamTime
    from driftwarden.service.workflow.process import ServiceProcess

    if home.exists() and any(entry.name != ".driftwarden-demo" for entry in home.iterdir()):
        raise BadInput("folder to play in is not empty", expected="an empty folder", where=str(home))
    make_folder(home)
    settings = stage_settings(home, stream, policy=policy, model=model)
    with open_service(
        settings,
        clock=SystemClock(),
        decision_clock=StreamTime(),
        role="stage",
        log_file=home / "driftwarden.log",
        sandbox_slots=workers + 1,
    ) as service:
        name = service.process_name()
        process = ServiceProcess(service.parts, service.store, service.intake(name), name=name, workers=workers)
        process.start()
        try:
            yield Stage(service, stream, process)
        finally:
            process.stop()


def seconds_between(start: str, end: str) -> float:
    """Seconds from one RFC 3339 moment to another."""
    return (parse_rfc3339(end) - parse_rfc3339(start)).total_seconds()
