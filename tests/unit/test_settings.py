"""Settings: defaults, then the project's files, then the environment; a wrong one is named with its place."""

from pathlib import Path
from typing import Any

import pytest

from driftwarden.errors import BadInput, NotFound
from driftwarden.settings import PACKAGED_CONF, Settings, load_settings

MODEL = "models:\n  churn: {task: classification, target: y, metric: accuracy, data: {roots: [data]}}\n"


def write(folder: Path, name: str, text: str, layer: str = "base") -> Path:
    """One settings file of a user's project."""
    file = folder / "conf" / layer / "driftwarden" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, **environ: str) -> Settings:
    """The settings of a process that starts in this folder."""
    return load_settings(environ, cwd=folder)


def test_the_packaged_settings_are_the_defaults(tmp_path: Path) -> None:
    """What `settings.yml` says is what the code would do without it, so that the file never misleads."""
    loaded = load(tmp_path)
    bare = Settings(home=loaded.home, conf=loaded.conf, audit_dir=loaded.audit_dir, policy_path=loaded.policy_path)
    differing = {name for name in Settings.model_fields if getattr(loaded, name) != getattr(bare, name)}
    assert differing <= {"origins"}


def test_places_follow_the_contract(tmp_path: Path) -> None:
    """`.driftwarden` below the working directory, the log in it, the packaged policy; each can be moved."""
    loaded = load(tmp_path)
    assert (loaded.home, loaded.conf) == (tmp_path / ".driftwarden", tmp_path / "conf")
    assert loaded.audit_dir == loaded.home / "audit"
    assert loaded.policy_path == PACKAGED_CONF / "base" / "driftwarden" / "policy.yml"
    assert loaded.tracking_uri.startswith("sqlite:///")
    moved = load(
        tmp_path, DRIFTWARDEN_HOME="/srv/state", DRIFTWARDEN_AUDIT_DIR="/srv/log", DRIFTWARDEN_CONF="/srv/conf"
    )
    assert [str(place) for place in (moved.home, moved.audit_dir, moved.conf)] == [
        "/srv/state",
        "/srv/log",
        "/srv/conf",
    ]
    assert not (tmp_path / ".driftwarden").exists()


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    """base over packaged, local over base, the environment over all; what a layer does not name stays."""
    write(tmp_path, "settings.yml", "service: {workers: 3, lease_s: 20}\nlog_level: debug\n")
    write(tmp_path, "settings.yml", "service: {workers: 5}\n", layer="local")
    loaded = load(tmp_path, DRIFTWARDEN_LOG_LEVEL="error", DRIFTWARDEN_MODEL="")
    assert (loaded.service.workers, loaded.service.lease_s, loaded.service.crashes_max) == (5, 20.0, 3)
    assert (loaded.log_level, loaded.model) == ("error", "offline")
    assert loaded.origins["log_level"] == "environment DRIFTWARDEN_LOG_LEVEL"
    assert loaded.origins["service/lease_s"].endswith("base/driftwarden/settings.yml:1")


def test_ones_own_policy_and_models(tmp_path: Path) -> None:
    """A policy file of the project is the policy; a model's name is its registered model's, by default."""
    policy = write(tmp_path, "policy.yml", "anything")
    write(tmp_path, "models.yml", MODEL)
    loaded = load(tmp_path)
    assert loaded.policy_path == policy
    assert loaded.watched("churn").registered_model == "churn"
    with pytest.raises(NotFound, match="one of: churn"):
        loaded.watched("fraud")
    assert Path("data").resolve() in loaded.roots_of(loaded.watched("churn"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("settings.yml", "log_level: loud", ("log_level", "loud", "settings.yml:1")),
        ("settings.yml", "service:\n  workers: 0", ("service.workers", "`0`", "settings.yml:2")),
        ("settings.yml", "service:\n  wokers: 2", ("service.wokers", "a setting that exists", "settings.yml:2")),
        ("settings.yml", "colour: red", ("colour", "settings.yml:1")),
        ("settings.yml", "service: 3", ("service", "settings.yml:1")),
        ("settings.yml", "- a", ("settings", "a mapping", "settings.yml:1")),
        ("settings.yml", "home: x", ("not a setting", "home", "settings.yml:1")),
        ("settings.yml", "a: 1\na: 2", ("duplicate key", "settings.yml:2")),
        ("settings.yml", "service: {identity_ttl: 30}", ("service.identity_ttl", "a duration like")),
        ("models.yml", "modells: {}", ("unknown key", "only `models`", "models.yml:1")),
        (
            "models.yml",
            "models:\n  churn: {task: guess, target: y, metric: f1}",
            ("models.churn.task", "guess", "models.yml:2"),
        ),
        ("models.yml", "models:\n  churn: {task: regression, metric: r2}", ("models.churn.target", "nothing")),
        ("models.yml", "models:\n  churn: 5", ("models.churn", "models.yml:2")),
        (
            "models.yml",
            "models:\n  a: {task: regression, target: y, metric: r2, costs: {retrain_usd: 5.5}}",
            ("quoted decimal",),
        ),
        ("approvers.yml", "approvers:\n  ada: {groups: ml}", ("approvers.ada.groups", "approvers.yml:2")),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_place(
    tmp_path: Path, name: str, text: str, said: tuple[str, ...]
) -> None:
    """Which setting, what was got, what was expected, file and line."""
    write(tmp_path, name, text)
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    line = caught.value.diagnostics()
    assert [words for words in said if words not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize(
    ("environ", "secret"),
    [
        ({"DRIFTWARDEN_REDIS_URL": "redis://:hunter2hunter2@h:6379/0"}, "hunter2hunter2"),
        ({"GOOGLE_API_KEY": "AIza-very-secret"}, "very-secret"),
        ({"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-hidden"}, "sk-lf-hidden"),
    ],
)
def test_secrets_do_not_show(tmp_path: Path, environ: dict[str, str], secret: str) -> None:
    """Neither printed, nor dumped, nor in where they came from."""
    loaded = load(tmp_path, **environ)
    assert secret not in f"{loaded!r} {loaded.model_dump_json()}"


def test_a_wrong_secret_does_not_show(tmp_path: Path) -> None:
    """A key of the wrong type is refused without being repeated."""
    write(tmp_path, "settings.yml", "redis: {url: [hunter2]}")
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    assert "hunter2" not in caught.value.diagnostics()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "bytes that are not UTF-8"), (b"log_level: [", "not YAML")],
    ids=["bytes", "yaml"],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes, said: str) -> None:
    """Named with its path; never a traceback."""
    file = write(tmp_path, "settings.yml", "")
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    assert said in caught.value.diagnostics()
    assert str(file) in caught.value.diagnostics()


def test_the_environment_cannot_reach_into_a_scalar(tmp_path: Path) -> None:
    """A file that makes a group a number is told so, whatever the environment sets below it."""
    write(tmp_path, "settings.yml", "redis: 5")
    with pytest.raises(BadInput, match="a mapping"):
        load(tmp_path, DRIFTWARDEN_REDIS_URL="redis://h")


def test_settings_are_frozen(tmp_path: Path) -> None:
    """A value, not a place to write."""
    loaded: Any = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        loaded.model = "gemini"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("settings.yml", "service: 3", "setting `service`, got `3`, expected a mapping"),
        ("settings.yml", "data: {roots: data}", "setting `data.roots`, got `data`, expected a list"),
        ("settings.yml", "service: {workers: two}", "setting `service.workers`, got `two`, expected a whole number"),
        ("settings.yml", 'harmful_loss: "5"', "setting `harmful_loss`, got `5`, expected less than or equal to 1"),
        ("models.yml", "models: [a]", 'setting `models`, got `["a"]`, expected a mapping'),
        (
            "models.yml",
            "models: {a b: {task: regression, target: t, metric: r2}}",
            "setting `models.a b`, got `a b`, expected a name of 1 to 128 of `A-Z a-z 0-9 . _ -`",
        ),
        (
            "models.yml",
            "models: {a: {name: b, task: regression, target: t, metric: r2}}",
            "setting `models.a.name`, got `b`, expected no such key: the model's name is the key of its entry",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_words(tmp_path: Path, name: str, content: str, said: str) -> None:
    """File, line, setting, what came and what was expected: no name of a class of ours."""
    file = write(tmp_path, name, content)
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    assert caught.value.diagnostics() == f"{file}:1: {said}"
