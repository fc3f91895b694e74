"""A small model in a state folder of its own: rows, files that are wrong in every way, settings, events."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

POLICY = """
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: stack, revision: "1"}
spec:
  enforcement: enforce
  timeZone: UTC
  tiers:
    - name: watched
      models: ["tiny"]
      allow: [retrain, rollback, quarantine_data, notify]
      approvals: {required: 1, from: [ml-oncall], expiresAfter: 24h}
    - name: others
      models: ["*"]
      allow: []
      approvals: {required: 1, from: [ml-oncall], expiresAfter: 24h}
  require:
    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}
"""
SETTINGS = """
service: {{lease_s: {lease_s}, workers: 2}}
rehearsal: {{replicates: 100}}
"""
ENTRY = """
  {name}:
    registered_model: tiny
    task: classification
    target: y
    time_column: ts
    metric: accuracy
    data: {{history: "{data}/history.parquet", roots: ["{data}"]}}
"""


def rows(count: int, start: str, *, flipped: bool = False, seed: int = 1) -> pd.DataFrame:
    """Two numbers and a letter that decide a class, a minute each; `flipped`: the classes are exchanged."""
    rng = np.random.default_rng(seed)
    x, z, k = rng.normal(0, 1, count), rng.normal(0, 1, count), rng.choice(["a", "b", "c"], count)
    y = ((x + 0.5 * z + (k == "a") * 0.5 + rng.normal(0, 0.3, count)) > 0).astype(int)
    ts = pd.date_range(start, periods=count, freq="min", tz="UTC")
    return pd.DataFrame({"ts": ts, "x": x, "z": z, "k": k, "y": 1 - y if flipped else y})


class Stack:
    """Folders of one service, and its events."""

    def __init__(self, folder: Path, models: tuple[str, ...] = (), *, lease_s: int = 60) -> None:
        self.folder, self.home, self.conf, self.data = folder, folder / "home", folder / "conf", folder / "data"
        self.data.mkdir(parents=True)
        own = self.conf / "local" / "driftwarden"
        own.mkdir(parents=True)
        (own / "policy.yml").write_text(POLICY)
        (own / "settings.yml").write_text(SETTINGS.format(lease_s=lease_s))
        entries = "".join(ENTRY.format(name=name, data=self.data) for name in ("tiny", *models))
        (own / "models.yml").write_text(f"models:{entries}")
        rows(500, "2026-11-01").to_parquet(self.data / "history.parquet", index=False)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the service's processes."""
        return {**os.environ, "DRIFTWARDEN_HOME": str(self.home), "DRIFTWARDEN_CONF": str(self.conf)}

    def window(self, number: int, *, flipped: bool) -> str:
        """A window of 300 rows as a file; returns where it is."""
        file = self.data / f"w{number}.parquet"
        start = f"2026-11-{9 + number:02d}"
        rows(300, start, flipped=flipped, seed=number).to_parquet(file, index=False)
        return str(file)

    def event(self, id: str, uri: str | None, *, model: str = "tiny", day: int = 10, **more: Any) -> dict[str, Any]:
        """A drift event, as any producer would write it."""
        start, end = f"2026-11-{day:02d}T00:00:00Z", f"2026-11-{day:02d}T05:00:00Z"
        window = {"start": start, "end": end, "rows": 300} | ({"uri": uri} if uri is not None else {})
        data = {"model": model, "kind": "concept_drift", "window": window, **more}
        return {
            "specversion": "1.0",
            "id": id,
            "source": "stack",
            "type": "io.driftwarden.drift.v1",
            "time": end,
            "data": data,
        }

    def register(self) -> int:
        """Train the first champion, as `driftwarden models register` does."""
        from driftwarden.actions.registry import MlflowRegistry
        from driftwarden.clock import SystemClock
        from driftwarden.contracts.data import RowSelection
        from driftwarden.pipelines.runner import KedroTrainer
        from driftwarden.service.auditing import open_audit
        from driftwarden.service.registering import first_champion
        from driftwarden.settings import load_settings

        settings = load_settings(self.environ)
        model = settings.models["tiny"]
        selection = RowSelection(
            paths=(str(self.data / "history.parquet"),), time_column="ts", target="y", labelled_only=True
        )
        with open_audit(settings, SystemClock(), role="cli") as audit:
            return first_champion(
                model, selection, registry=MlflowRegistry(settings.tracking_uri, settings.artifact_root),
                trainer=KedroTrainer(settings.home / "training", environ=self.environ), audit=audit, clock=SystemClock(),
            ).version  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Every record of the audit log, read as a stranger would: lines of JSON."""
        files = sorted((self.home / "audit").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def bad_files(data: Path) -> dict[str, str]:
    """Windows that are wrong in every way, by what is wrong."""
    good = rows(300, "2026-11-10", seed=9)
    wrong = {
        "no-target": good.drop(columns="y"),
        "empty": good.iloc[:0],
        "one-class": good.assign(y=1),
        "not-finite": good.assign(x=[np.nan, np.inf, -np.inf] * 100),
        "vanished": good.drop(columns="z"),
    }
    for name, table in wrong.items():
        table.to_parquet(data / f"{name}.parquet", index=False)
    outside = data.parent / "outside.parquet"
    good.to_parquet(outside, index=False)
    (data / "link.parquet").symlink_to(outside)
    (data / "torn.parquet").write_bytes((data / "history.parquet").read_bytes()[:500])
    files = {name: str(data / f"{name}.parquet") for name in (*wrong, "torn")}
    return files | {
        "absent": str(data / "absent.parquet"),
        "outside": str(outside),
        "climbing": f"{data}/../outside.parquet",
        "linked": str(data / "link.parquet"),
        "system": "/etc/passwd",
        "remote": "http://127.0.0.1:9/w.parquet",
    }
