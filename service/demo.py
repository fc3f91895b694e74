"""The demo's play and its summary: one stream, window by window, and what the service made of it."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from driftwarden.errors import BadInput
from driftwarden.keyfile import make_folder
from driftwarden.service.registering import entry_of
from driftwarden.service.stage import Played, Stage
from driftwarden.service.streams import StreamWindow
from driftwarden.service.workflow.incident import Incident, list_view
from driftwarden.service.workflow.stats import figures

MARKER = ".driftwarden-demo"


@dataclass
class Scene:
    """One window as the summary tells it: who scored it, how well, what a frozen first champion would have scored."""

    window: StreamWindow
    played: Played
    value: float | None
    frozen: float | None
    incidents: list[Incident] = field(default_factory=list)


@dataclass
class Outcome:
    """Everything the summary needs."""

    scenes: list[Scene]
    incidents: list[Incident]
    approvals: list[Any]
    stats: dict[str, Any]
    versions: list[dict[str, Any]]
    unaccounted: list[int]
    audit_ok: bool
    audit_records: int


def demo_home(configured: str | None, here: Path) -> Path:
    """The folder of a demo: `DRIFTWARDEN_HOME` itself where that is set and empty, else `demo` in the state folder.

    An earlier demo there is removed; a folder that no demo made is never touched (BadInput).
    """
    if configured:
        home = Path(configured).expanduser().absolute()
        if not home.exists() or not any(home.iterdir()):
            return _marked(home)
        if not (home / MARKER).exists():
            home = home / "demo"
    else:
        home = here / ".driftwarden" / "demo"
    if home.exists() and any(home.iterdir()):
        if not (home / MARKER).exists():
            raise BadInput(
                "folder of the demo",
                got="something else in it",
                expected="an empty folder, or an earlier demo",
                where=str(home),
            )
        from driftwarden.stream.embedded import stop

        stop(home)
        shutil.rmtree(home)
    return _marked(home)


def _marked(home: Path) -> Path:
    make_folder(home)
    (home / MARKER).write_text("made by `driftwarden demo`; removed by the next one\n", encoding="utf-8")
    return home


def write_conf(stage: Stage) -> Path:
    """A `conf` folder with the demo's model and policy, so that every command can look further into it afterwards."""
    settings = stage.service.settings
    folder = settings.home / "conf" / "local" / "driftwarden"
    folder.mkdir(parents=True, exist_ok=True)
    model = {stage.model.name: entry_of(stage.model)}
    (folder / "models.yml").write_text(yaml.safe_dump({"models": model}, sort_keys=False), encoding="utf-8")
    (folder / "policy.yml").write_text(settings.policy_path.read_text(encoding="utf-8"), encoding="utf-8")
    return settings.home / "conf"


def play(
    stage: Stage, *, on_step: Callable[[StreamWindow, str], None], on_scene: Callable[[Scene], None]
) -> list[Scene]:
    """Play every window; `on_step` hears what is going on in a window, `on_scene` what became of it."""
    from driftwarden.service.cli.render import incident_of

    scenes = []
    first = stage.champion()
    for window in stage.stream.windows:
        played = stage.play(window, partial(on_step, window))
        truth = stage.truth_of(window)
        value = stage.score(played.champion, [truth])[0]
        frozen = value if played.champion == first else stage.score(first, [truth])[0]
        incidents = [incident_of(stage.service.store.get(id)) for id in played.incidents]
        scene = Scene(window, played, value, frozen, incidents)
        on_scene(scene)
        scenes.append(scene)
    return scenes


def sum_up(stage: Stage, scenes: list[Scene]) -> Outcome:
    """Figures after the last window, the registry held against the audit log version by version."""
    from driftwarden.audit import read_records, verify
    from driftwarden.service.cli.render import incident_of

    parts, settings = stage.service.parts, stage.service.settings
    incidents = [incident_of(record) for record in stage.service.store.list(limit=100_000)][::-1]
    approvals = parts.approvals.list()
    report = verify(settings.audit_dir)
    accounts: dict[int, dict[str, Any]] = {}
    for record in read_records(settings.audit_dir):
        if record.type == "result":
            for version in versions_of(record.body):
                accounts.setdefault(version, {"incident": record.incident, "record": record.hash})
    versions = [
        version | {"audit": accounts.get(int(version["version"]))}
        for version in parts.registry.versions(stage.model, 1000)
    ][::-1]
    return Outcome(
        scenes=scenes,
        incidents=incidents,
        approvals=approvals,
        stats=figures(incidents, approvals, spend_usd=parts.ledger.spend_usd(), harmful_loss=settings.harmful_loss),
        versions=versions,
        unaccounted=[int(one["version"]) for one in versions if one["audit"] is None],
        audit_ok=report.ok,
        audit_records=report.records,
    )


def versions_of(body: dict[str, Any]) -> set[int]:
    """Versions that a `result` record speaks of: made the champion, or trained and compared on the way."""
    found = {body.get("after"), (body.get("data") or {}).get("challenger"), (body.get("data") or {}).get("promoted")}
    return {
        int(version)
        for version in found
        if isinstance(version, int) or (isinstance(version, str) and version.isdigit())
    }


def document(stage: Stage, outcome: Outcome, *, seconds: float, stream: str, seed: int | None) -> dict[str, Any]:
    """The document of `driftwarden demo --json` (contract §6)."""
    counted = Counter(one.outcome for one in outcome.incidents)
    return {
        "stream": stream,
        "seed": seed,
        "events": sum(scene.played.event is not None for scene in outcome.scenes),
        "outcomes": {name: counted.get(name, 0) for name in ("execute", "escalate", "monitor")},
        "incidents": [list_view(one) for one in outcome.incidents],
        "versions": [
            {
                "version": int(one["version"]),
                "aliases": one.get("aliases") or [],
                "strategy": one.get("strategy"),
                "incident": (one["audit"] or {}).get("incident"),
                "audit": (one["audit"] or {}).get("record"),
            }
            for one in outcome.versions
        ],
        "performance": {
            "metric": stage.model.metric,
            "with": mean([scene.value for scene in outcome.scenes]),
            "without": mean([scene.frozen for scene in outcome.scenes]),
            "windows": [
                {
                    "index": scene.window.index,
                    "end": scene.window.end,
                    "champion": scene.played.champion,
                    "with": scene.value,
                    "without": scene.frozen,
                }
                for scene in outcome.scenes
            ],
        },
        "response_seconds": outcome.stats["response_seconds"],
        "approvals": [one.id for one in outcome.approvals if one.state == "pending"],
        "audit": {
            "ok": outcome.audit_ok,
            "records": outcome.audit_records,
            "unaccounted_versions": outcome.unaccounted,
        },
        "home": str(stage.service.settings.home),
        "seconds": round(seconds, 3),
    }


def mean(values: list[float | None]) -> float | None:
    """Mean of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return round(fmean(known), 6) if known else None
