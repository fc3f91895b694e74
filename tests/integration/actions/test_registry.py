"""The registry as the service reads it, on real MLflow."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from driftwarden.actions.registry import KEY_TAG, MlflowRegistry, first_open
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import AskHuman, BadInput, Refused


def _model(name: str) -> WatchedModel:
    return WatchedModel(name=name, task="classification", target="y", metric="accuracy")


def test_an_unknown_model_has_nothing(registry: MlflowRegistry) -> None:
    """No champion, no versions, no records: None and empty, not an error."""
    model = _model("nobody")

    assert registry.champion(model) is None
    assert registry.previous(model) is None
    assert registry.versions(model) == []
    assert registry.find_by_key(model, "k") is None
    assert registry.effect(model, "k") is None
    assert not registry.has_version(model, 1)
    assert registry.training_window(model, 1) == {}


def test_versions_are_whole_numbers_newest_first(world: Any) -> None:
    """Aliases, strategy, rows and incident stand with each version."""
    world.register({"driftwarden.strategy": "recent", "driftwarden.window": '{"rows": 42}', KEY_TAG: "k-1"})

    newest, oldest = world.registry.versions(world.model)

    assert (newest["version"], newest["strategy"], newest["rows"], newest["aliases"]) == (2, "recent", 42, [])
    assert (oldest["version"], oldest["aliases"], oldest["rows"]) == (1, ["champion"], None)
    assert newest["created_at"].endswith("Z")
    assert world.registry.find_by_key(world.model, "k-1") == 2


def test_the_tables_tell_what_the_api_tells(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from MLflow's tables, versions are what its search says of them; where the tables are none, it is asked."""
    for number in range(3):
        world.register({"driftwarden.strategy": f"recent-{number}", "driftwarden.window": '{"rows": 42}'})
    world.registry.tag_version(world.model, 4, {"driftwarden.previous_champion": "2"})
    told = world.registry.versions(world.model, 3)
    assert [one["version"] for one in told] == [4, 3, 2]
    assert [one["was_champion"] for one in told] == [False, False, True]
    assert world.registry.champion(world.model, informs=True) == world.registry.champion(world.model) == 1

    for query in ("_ALIASES", "_BEHIND"):
        monkeypatch.setattr(f"driftwarden.actions.registry_rows.{query}", "SELECT nothing FROM nowhere")
    assert world.registry.versions(world.model, 3) == told
    assert world.registry.champion(world.model, informs=True) == 1


def test_metrics_come_from_the_run(world: Any) -> None:
    """A version that a run registered shows the run's finite metrics, and tags reach both."""
    from mlflow import MlflowClient

    uri = world.registry.tracking_uri
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment(world.model.name, artifact_location=(world.folder / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "accuracy", 0.9)
    client.log_metric(run.info.run_id, "broken", float("nan"))
    version = client.create_model_version(world.model.registered_model, world.source, run_id=run.info.run_id).version

    world.registry.tag_version(world.model, int(version), {"driftwarden.incident": "inc-9"})

    assert world.registry.versions(world.model, 1)[0]["metrics"] == {"accuracy": 0.9}
    assert client.get_run(run.info.run_id).data.tags["driftwarden.incident"] == "inc-9"


def test_the_run_of_a_version_is_read_until_it_has_ended(world: Any) -> None:
    """What a run still logs is seen; what was logged when it had ended is asked for once."""
    from mlflow import MlflowClient

    uri = world.registry.tracking_uri
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment(world.model.name, artifact_location=(world.folder / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.create_model_version(world.model.registered_model, world.source, run_id=run)
    seen = []
    for value in (0.7, 0.8, 0.9):
        client.log_metric(run, "accuracy", value)
        if value == 0.8:
            client.set_terminated(run)
        seen.append(world.registry.versions(world.model, 1)[0]["metrics"]["accuracy"])
    assert seen == [0.7, 0.8, 0.8]


def test_the_champion_moves_only_from_where_it_is_expected(world: Any) -> None:
    """Another champion than the expected one, or a version that is not there: nothing moves."""
    world.register()

    with pytest.raises(Refused, match="expected 7"):
        world.registry.set_champion(world.model, 2, expected=7, lock=world.lease)
    with pytest.raises(Refused, match="no ready version 5"):
        world.registry.set_champion(world.model, 5, expected=1, lock=world.lease)
    assert world.registry.champion(world.model) == 1
    world.registry.set_champion(world.model, 2, expected=1, lock=world.lease)
    world.registry.set_champion(world.model, 2, expected=1, lock=world.lease)
    assert world.registry.champion(world.model) == 2


def test_no_alias_moves_by_what_the_tables_say(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that answer otherwise than MLflow's API move nothing and keep nothing back; those of another MLflow are not read."""
    wrong = "SELECT 7 FROM registered_model_aliases WHERE workspace = :workspace AND name = :name AND :alias <> ''"
    monkeypatch.setattr("driftwarden.actions.registry_rows._BEHIND", wrong)
    world.register()
    assert (world.registry.champion(world.model, informs=True), world.registry.champion(world.model)) == (7, 1)

    with pytest.raises(Refused, match="is version 1, expected 7"):
        world.registry.set_champion(world.model, 2, expected=7, lock=world.lease)
    world.registry.set_champion(world.model, 2, expected=1, lock=world.lease)

    assert world.registry.champion(world.model, informs=True) == 7
    monkeypatch.setattr("mlflow.version.VERSION", "3.18.0")
    assert world.registry.champion(world.model, informs=True) == 2


@pytest.mark.parametrize("name", [ActionName.ROLLBACK, ActionName.RETRAIN])
def test_an_action_that_moves_an_alias_does_not_look_at_the_tables(
    world: Any, monkeypatch: pytest.MonkeyPatch, name: ActionName
) -> None:
    """Given tables that still name an old champion, it is checked, done, looked up and undone by what MLflow's API says."""
    world.action(ActionName.RETRAIN).execute(world.request(ActionName.RETRAIN))
    looked = []

    def stale(client: Any, registered: str, alias: str) -> int:
        looked.append((registered, alias))
        return 1

    monkeypatch.setattr("driftwarden.actions.registry.read_alias", stale)
    action, request = world.action(name), world.request(name)

    action.precheck(request)
    done = action.execute(request)
    assert (done.before, world.registry.champion(world.model)) == (3, done.after)
    assert action.lookup(request).after == done.after
    assert action.undo(request, done).after == 3
    assert world.registry.champion(world.model) == 3
    assert looked == []
    assert world.registry.champion(world.model, informs=True) == 1
    assert looked == [(world.model.registered_model, "champion")]


def test_a_record_that_is_not_ours_asks_a_human(world: Any) -> None:
    """A tag that somebody wrote over is never taken for an effect, nor for its absence."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=world.registry.tracking_uri, registry_uri=world.registry.tracking_uri)
    for text in ("done", '{"key": "other"}', "[1]"):
        client.set_registered_model_tag(world.model.registered_model, "driftwarden.effect.k", text)
        with pytest.raises(AskHuman):
            world.registry.effect(world.model, "k")


def test_what_is_written_late_stands_over_nothing(world: Any) -> None:
    """A worker that was paused in the middle of its call writes an earlier step after its successor has finished."""
    registry, lease = world.registry, world.lease
    for state in ("split", "compared", "begun", "refused", "begun", "done"):
        registry.put_effect(world.model, "k", {"state": state, "changed": state == "done"}, lock=lease)
        assert registry.effect(world.model, "k")["state"] == state
    for state in ("begun", "compared", "split"):
        registry.put_effect(world.model, "k", {"state": state, "changed": False}, lock=lease)
        assert registry.effect(world.model, "k") == {"state": "done", "changed": True, "key": "k"}


@pytest.mark.parametrize("name", ["a' or name like '%", "a/b", ""])
def test_names_that_could_be_read_as_a_filter_are_refused(registry: MlflowRegistry, name: str) -> None:
    """Quotes never reach the registry's filter language."""
    model = _model("m").model_copy(update={"registered_model": name})

    with pytest.raises(BadInput):
        registry.versions(model)


def test_one_process_at_a_time_opens_a_sqlite_store(tmp_path: Path) -> None:
    """While the store is being opened, its lock file is held; a server's address needs none."""
    with (
        first_open(f"sqlite:///{tmp_path}/new/mlflow.db"),
        (tmp_path / "new" / "mlflow.db.lock").open("a") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with first_open("http://127.0.0.1:1"):
        assert [file.name for file in tmp_path.rglob("*.lock")] == ["mlflow.db.lock"]
