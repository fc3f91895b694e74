"""Training by real Kedro runs in processes of their own, into a real registry."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from driftwarden.contracts.effects import TrainingResult
from driftwarden.contracts.watch import Training
from driftwarden.errors import BadInput, GiveUp
from driftwarden.pipelines import registry, scoring
from driftwarden.pipelines.runner import KedroTrainer

Versions = tuple[TrainingResult, TrainingResult]


def test_a_version_says_where_it_comes_from(factory: Any, versions: Versions) -> None:
    """Tags carry key, correlation, incident, strategy and window; the metric is the holdout's."""
    version = registry.version_of(factory.tracking_uri, "factory", versions[1].version)
    tags = version.tags
    assert tags["driftwarden.idempotency_key"] == "key-2"
    assert tags["driftwarden.correlation_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert tags["driftwarden.incident"] == "inc-1"
    assert tags["driftwarden.strategy"] == "reweighted"
    window = json.loads(tags["driftwarden.window"])
    assert (window["rows"], window["row_end"]) == (2_400, 2_400)
    assert (window["start"], window["end"]) == ("2026-01-01T00:00:00.000000Z", "2026-04-10T23:00:00.000000Z")
    assert versions[1].metrics["roc_auc"] > 0.8


def test_reference_and_holdout_are_kept_with_the_run(factory: Any, versions: Versions) -> None:
    """The monitors find training rows with their target beside the version."""
    version = registry.version_of(factory.tracking_uri, "factory", versions[0].version)
    reference = registry.artifact(factory.tracking_uri, version, registry.REFERENCE_FILE)
    holdout = registry.artifact(factory.tracking_uri, version, registry.HOLDOUT_FILE)
    assert reference is not None
    assert holdout is not None
    assert reference.resolve().is_relative_to(factory.folder / "artifacts")
    assert pd.read_parquet(reference).shape == (1_200, 5)
    assert len(pd.read_parquet(holdout)) == 1_200  # few rows: each is judged by a fit without its block
    assert registry.artifact(factory.tracking_uri, version, "absent.parquet") is None


def test_a_model_is_loaded_without_pickle_and_scores_any_window(factory: Any, versions: Versions) -> None:
    """The version is a skops file; unseen categories and a vanished column are scored."""
    pickles = [path for path in factory.folder.rglob("*") if path.suffix in {".pkl", ".pickle"}]
    assert pickles == []
    window = pd.read_parquet(factory.history).tail(50).assign(machine="Z").drop(columns="load")
    label, score = scoring.predict(factory.tracking_uri, "factory", versions[0].version, window, "classification")
    assert score is not None
    assert set(label.tolist()) <= {0, 1}
    assert ((score >= 0) & (score <= 1)).all()


def test_a_model_that_needs_other_types_is_not_loaded(
    factory: Any, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model file lists as trusted counts for nothing: only our own list does."""
    monkeypatch.setattr(registry, "TRUSTED_TYPES", ())
    registry.load_model.cache_clear()
    with pytest.raises(GiveUp, match="cannot load version 1"):
        registry.load_model(factory.tracking_uri, "factory", versions[0].version)


def test_the_same_key_is_trained_once(factory: Any, versions: Versions) -> None:
    """A second call finds the version by its tag and starts nothing."""
    again = KedroTrainer(factory.folder / "work", environ={}, python="/bin/false").train(factory.request("key-1"))
    assert again.replayed
    assert (again.version, again.run_id, again.rows) == (1, versions[0].run_id, 1_200)


def test_rows_that_cannot_be_trained_on_are_one_line(factory: Any, versions: Versions) -> None:
    """The pipeline's own error comes back as it was raised; no version is left."""
    with pytest.raises(GiveUp, match="no labelled rows in the window"):
        factory.trainer.train(factory.request("key-empty", rows=factory.rows(start="2030-01-01T00:00:00Z")))
    assert registry.find_by_key(factory.tracking_uri, "factory", "key-empty") is None


def test_a_run_that_takes_too_long_is_killed_with_all_it_started(factory: Any, tmp_path: Path) -> None:
    """The process group ends with the time limit."""
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/pid\nwait\n")
    sleeper.chmod(0o755)
    trainer = KedroTrainer(tmp_path / "work", environ=os.environ, python=str(sleeper))
    with pytest.raises(GiveUp, match="killed after 1 s"):
        trainer.train(factory.request("key-slow", timeout_s=1))
    try:
        started = os.pidfd_open(int((tmp_path / "pid").read_text()))
    except ProcessLookupError:
        return  # gone and buried already
    assert select.select([started], [], [], 60)[0], "what the run had started is still alive"
    os.close(started)


def test_a_failing_run_shows_its_last_lines_without_secrets(factory: Any, tmp_path: Path) -> None:
    """What the process said last is the reason, with secrets struck out and driftwarden's own settings withheld."""
    failing = tmp_path / "python"
    failing.write_text('#!/bin/sh\necho "hook=$DRIFTWARDEN_HOOK url=$DRIFTWARDEN_REDIS_URL s3=$STORE_SECRET"\nexit 3\n')
    failing.chmod(0o755)
    environ = {**os.environ, "DRIFTWARDEN_REDIS_URL": "redis://:hunter2hunter2@h", "STORE_SECRET": "tops3cret-value"}
    with pytest.raises(GiveUp) as caught:
        KedroTrainer(tmp_path / "work", environ=environ, python=str(failing)).train(factory.request("key-fail"))
    message = caught.value.diagnostics()
    assert "exit code 3" in message
    assert "hook=off url= s3=***" in message
    assert "hunter2" not in message


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own Kedro project whose pipeline registers a version with the key it is given."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "shop"\nproject_name = "shop"\nkedro_init_version = "1.7.0"\nsource_dir = "src"\n'
    )
    package = folder / "src" / "shop"
    package.mkdir(parents=True)
    for conf in ("base", "local"):
        (folder / "conf" / conf).mkdir(parents=True)
    (folder / "conf" / "base" / "parameters.yml").write_text("driftwarden: {window: null, strategy: all}\n")
    (folder / "conf" / "base" / "catalog.yml").write_text("{}\n")
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text("")
    (package / "pipeline_registry.py").write_text(
        "import os\n"
        "from kedro.pipeline import node, pipeline\n"
        "def register(key, window, strategy):\n"
        "    if strategy == 'recent':\n"
        "        raise ValueError('no rows left after cleaning')\n"
        "    from mlflow import MlflowClient\n"
        "    client = MlflowClient(os.environ['MLFLOW_TRACKING_URI'])\n"
        "    tags = {'driftwarden.idempotency_key': key, 'seen': f\"{window['row_end']} {strategy}\"}\n"
        "    client.create_model_version('factory', 'file:///nowhere', tags=tags)\n"
        "    return key\n"
        "def register_pipelines():\n"
        "    names = ['driftwarden.idempotency_key', 'driftwarden.window', 'driftwarden.strategy']\n"
        "    return {'retrain': pipeline([node(register, ['params:' + n for n in names], 'done')])}\n"
    )
    return folder


def test_a_pipeline_of_ones_own_project_is_run_with_the_contracts_parameters(
    factory: Any, versions: Versions, project: Path
) -> None:
    """Window, strategy and key arrive as runtime parameters, and the version is found by its tag."""
    training = Training(kedro_project=str(project), pipeline="retrain")
    model = factory.model.model_copy(update={"training": training})
    result = factory.trainer.train(factory.request("key-project", model=model))
    version = registry.version_of(factory.tracking_uri, "factory", result.version)
    assert not result.replayed
    assert version.tags["seen"] == "2400 all"


def test_a_failing_project_says_why_and_a_wrong_one_is_bad_input(
    factory: Any, versions: Versions, project: Path, tmp_path: Path
) -> None:
    """The project's own exception is in the message."""
    training = Training(kedro_project=str(project), pipeline="retrain")
    model = factory.model.model_copy(update={"training": training})
    with pytest.raises(GiveUp, match="no rows left after cleaning"):
        factory.trainer.train(factory.request("key-project-fails", model=model, strategy="recent"))
    absent = factory.model.model_copy(update={"training": Training(kedro_project=str(tmp_path))})
    with pytest.raises(BadInput, match="kedro project"):
        factory.trainer.train(factory.request("key-no-project", model=absent))


def test_many_first_opens_of_a_fresh_registry_make_one_schema(tmp_path: Path) -> None:
    """MLflow alone destroys a fresh SQLite file that three processes open at once."""
    code = (
        "import sys; from driftwarden.pipelines.registry import client;"
        "print(len(client(sys.argv[1]).search_registered_models()))"
    )
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=800) for process in processes]
    assert [out.strip() for out, _ in outputs] == ["0", "0", "0"], outputs
