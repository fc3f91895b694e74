"""The hook in a user's Kedro project: events by configuration alone, and never a broken run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes.warm import warm

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.publisher import build_event

CODE = """
from kedro.pipeline import node, pipeline

def score(rows):
    if "price" not in rows.columns:
        raise KeyError("price (token=abcdef123456)")
    return rows.assign(said=(rows["price"] > 10).astype(int))

def register_pipelines():
    return {"__default__": pipeline([node(score, "orders", "scored")])}
"""
CATALOG = """
orders: {type: pandas.CSVDataset, filepath: data/orders.csv}
scored:
  type: pandas.ParquetDataset
  filepath: data/scored.parquet
"""
PRELOAD = ("kedro.framework.session", "kedro.runner", "kedro_datasets.pandas", "evidently.metrics", "redis")
WATCH = """
model: shop
environment: staging
timeout_s: 600
watch:
  orders: {reference: data/reference.csv}
"""


def orders(seed: int, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"price": rng.normal(10 + shift, 2, 500), "kind": rng.choice(["a", "b"], 500)})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project that knows nothing of driftwarden."""
    folder = tmp_path / "shop"
    (folder / "pyproject.toml").parent.mkdir()
    (folder / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "shop"\nproject_name = "shop"\nkedro_init_version = "1.7.0"\nsource_dir = "src"\n'
    )
    package = folder / "src" / "shop"
    package.mkdir(parents=True)
    for conf in ("base", "local"):
        (folder / "conf" / conf).mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text("")
    (package / "pipeline_registry.py").write_text(CODE)
    (folder / "conf" / "base" / "catalog.yml").write_text(CATALOG)
    (folder / "data").mkdir()
    orders(0).to_csv(folder / "data" / "reference.csv", index=False)
    orders(1).to_csv(folder / "data" / "orders.csv", index=False)
    return folder


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with EmbeddedRedis.acquire(tmp_path / "state") as server:
        yield server.url


Run = Callable[..., "subprocess.CompletedProcess[str]"]
KNOWN = {"KEDRO_DISABLE_TELEMETRY": "1", "COLUMNS": "300"}


def environment(**more: str) -> dict[str, str]:
    """Of a user who has configured nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRIFTWARDEN_", "KEDRO_LOGGING"))}
    return kept | KNOWN | more


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`kedro run` in a process of its own that has Kedro and Evidently in memory."""
    with warm(tmp_path_factory.mktemp("warm"), "kedro.framework.cli:main", preload=PRELOAD, **KNOWN) as kedro:
        yield lambda project, **more: kedro.run(["kedro", "run"], cwd=project, environ=environment(**more))


def published(url: str) -> list[DriftEvent]:
    client = connect(url)
    entries: Any = client.xrange("driftwarden:events")
    client.close()
    return [parse_event(fields[b"event"]) for _, fields in entries]


def test_drift_of_a_watched_data_set_is_published(project: Path, redis_url: str) -> None:
    """One YAML file is all it takes, as its user would run it; the window's file and the reference's stand in the event."""
    (project / "conf" / "base" / "driftwarden.yml").write_text(WATCH)
    orders(1, shift=3).to_csv(project / "data" / "orders.csv", index=False)
    command = [sys.executable, "-m", "kedro", "run"]
    environ = environment(DRIFTWARDEN_REDIS_URL=redis_url)
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    (event,) = published(redis_url)
    raw = json.loads(event.raw)
    assert (event.model, event.kind, raw["data"]["environment"]) == ("shop", "data_drift", "staging")
    assert raw["data"]["window"] == {"rows": 500, "uri": (project / "data" / "orders.csv").resolve().as_uri()}
    assert [column["name"] for column in raw["data"]["columns"] if column["drifted"]] == ["price"]
    assert raw["data"]["upstream"] == [str((project / "data" / "orders.csv").resolve())]


def test_the_sources_of_a_data_set_are_its_pipeline_s_free_inputs() -> None:
    """Without parameters, and only those that feed it; without a pipeline, or from too many, nothing is told."""
    from kedro.pipeline import node, pipeline

    from driftwarden.pipelines.hook import DriftwardenHooks

    many = [f"part_{number}" for number in range(20)]
    run = pipeline(
        [
            node(lambda *rows: rows, ["orders", "params:cut"], "clean"),
            node(lambda *rows: rows, ["clean", "customers", "parameters"], "scored"),
            node(lambda *rows: rows, many, "merged"),
            node(lambda rows: rows, "weather", "forecast"),
        ]
    )
    hooks = DriftwardenHooks()
    assert hooks._upstream("scored") == []
    hooks.before_pipeline_run(run)
    assert hooks._upstream("scored") == ["customers", "orders"]
    assert hooks._upstream("weather") == ["weather"]
    assert hooks._upstream("merged") == []


def test_a_failure_and_the_schema_change_behind_it_are_published(run: Run, project: Path, redis_url: str) -> None:
    """Both come from one run, without the secret in the error's text; the user's error is untouched."""
    (project / "conf" / "base" / "driftwarden.yml").write_text(WATCH)
    orders(1).drop(columns="price").to_csv(project / "data" / "orders.csv", index=False)
    done = run(project, DRIFTWARDEN_REDIS_URL=redis_url)
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr
    change, failure = published(redis_url)
    assert (change.kind, failure.kind) == ("schema_change", "pipeline_failure")
    error = json.loads(failure.raw)["data"]["error"]
    assert error["type"] == "KeyError"
    assert "abcdef123456" not in failure.raw


def test_a_catalog_entry_can_watch_itself(run: Run, project: Path, redis_url: str) -> None:
    """`metadata: driftwarden:` of an output, with a reference out of the catalog."""
    (project / "conf" / "base" / "catalog.yml").write_text(
        CATALOG
        + "  metadata: {driftwarden: {model: shop, reference: before, prediction: said}}\n"
        + "before: {type: pandas.CSVDataset, filepath: data/before.csv}\n"
    )
    orders(0).assign(said=0).to_csv(project / "data" / "before.csv", index=False)
    done = run(project, DRIFTWARDEN_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    (event,) = published(redis_url)
    assert event.kind == "prediction_drift"


@pytest.mark.parametrize(
    ("settings", "environ", "said"),
    [
        (WATCH, {}, "no Redis is configured or running"),
        (WATCH, {"DRIFTWARDEN_REDIS_URL": "redis://127.0.0.1:1/0"}, "driftwarden"),
        (WATCH.replace("reference.csv", "absent.csv"), {}, "no such file"),
        ("model: shop\nwatch: {orders: {refrence: x}}\n", {}, "refrence"),
        ("a: [\n", {}, "driftwarden"),
    ],
)
def test_nothing_breaks_the_users_run(
    run: Run, project: Path, settings: str, environ: dict[str, str], said: str
) -> None:
    """Redis away or unset, a reference that is absent, a wrong configuration: logged, and the run succeeds."""
    (project / "conf" / "base" / "driftwarden.yml").write_text(settings)
    orders(1, shift=3).to_csv(project / "data" / "orders.csv", index=False)
    done = run(project, **environ)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr
    assert (project / "data" / "scored.parquet").exists()


@pytest.mark.parametrize(
    ("own", "settings", "stream"),
    [
        ("", "redis: {prefix: 'team:'}", "team:events"),
        ("redis_prefix: 'mine:'", "redis: {prefix: 'team:'}", "mine:events"),
        ("", "redis: {prefix: no-colon}", None),
        ("redis_prefix: no-colon", "", None),
    ],
)
def test_events_go_where_the_settings_say_that_the_service_reads(
    project: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, own: str, settings: str, stream: str | None
) -> None:
    """Never to another stream, which nobody reads; where the settings do not load, the event waits in the spool."""
    from kedro.config import OmegaConfigLoader

    from driftwarden.pipelines.hook import DriftwardenHooks
    from driftwarden.service.cli.main import run as command

    base = project / "conf" / "base"
    (base / "driftwarden").mkdir()
    (base / "driftwarden" / "settings.yml").write_text(settings)
    (base / "driftwarden.yml").write_text(f"model: shop\n{own}\n")
    monkeypatch.delenv("DRIFTWARDEN_HOME", raising=False)
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", redis_url)
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(project / "conf"))
    loader = OmegaConfigLoader(str(project / "conf"), base_env="base", default_run_env="local")
    hooks, client = DriftwardenHooks(), connect(redis_url)
    hooks.after_context_created(SimpleNamespace(project_path=project, config_loader=loader))
    hooks.on_pipeline_error(KeyError("price"), {})
    streams = {key.decode(): client.xlen(key) for key in client.scan_iter("*events")}
    assert streams == ({stream: 1} if stream else {})
    waiting = [*(project / ".driftwarden" / "spool").glob("*.json")]
    assert len(waiting) == (1 if settings and stream is None else 0)
    if stream == "team:events":
        monkeypatch.chdir(project)
        (project / "event.json").write_text(
            json.dumps(build_event({"model": "shop", "kind": "data_drift"}, source="t"))
        )
        assert command(["emit", "event.json"]) == 0
        assert client.xlen(stream) == 2
    client.close()


def test_what_one_run_could_not_publish_the_next_one_does(run: Run, project: Path, redis_url: str) -> None:
    """Redis is away during the first run; the second has nothing to say of its own, and sends what waits."""
    (project / "conf" / "base" / "driftwarden.yml").write_text(WATCH)
    orders(1, shift=3).to_csv(project / "data" / "orders.csv", index=False)
    kept = run(project, DRIFTWARDEN_REDIS_URL="redis://127.0.0.1:1/0")
    assert kept.returncode == 0, kept.stderr
    assert "kept data_drift of shop in the spool, not published" in kept.stdout + kept.stderr
    assert len(list((project / ".driftwarden" / "spool").glob("*.json"))) == 1
    orders(1).to_csv(project / "data" / "orders.csv", index=False)
    done = run(project, DRIFTWARDEN_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert [event.kind for event in published(redis_url)] == ["data_drift"]
    assert list((project / ".driftwarden" / "spool").glob("*.json")) == []


@pytest.mark.parametrize("off", [{}, {"DRIFTWARDEN_HOOK": "off"}])
def test_a_project_without_configuration_and_the_services_own_runs_are_silent(
    run: Run, project: Path, redis_url: str, off: dict[str, str]
) -> None:
    """Nothing is measured, nothing is said, nothing is published."""
    if off:
        (project / "conf" / "base" / "driftwarden.yml").write_text(WATCH)
    orders(1, shift=3).to_csv(project / "data" / "orders.csv", index=False)
    done = run(project, DRIFTWARDEN_REDIS_URL=redis_url, **off)
    assert done.returncode == 0, done.stderr
    assert "driftwarden" not in done.stdout + done.stderr
    assert published(redis_url) == []


def test_importing_the_hook_imports_nothing_heavy() -> None:
    """It sits in every Kedro command of its users."""
    heavy = "{'pandas', 'redis', 'evidently', 'mlflow', 'sklearn', 'scipy'}"
    code = f"import sys, driftwarden.pipelines.hook; print(sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
