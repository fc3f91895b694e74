"""A real MLflow registry on SQLite, a real Redis, and a trainer that registers real versions without a Kedro run."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from driftwarden.actions.catalogue import build_actions
from driftwarden.actions.notify import FileNotifier
from driftwarden.actions.registry import KEY_TAG, MlflowRegistry
from driftwarden.actions.state import RedisStateStore
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import ActionRequest, Comparison, TrainingRequest, TrainingResult
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.ports import Action
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import Fenced
from driftwarden.sealing import Seal
from driftwarden.settings import ActionSettings, Settings
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

NOW = "2026-11-20T09:00:00.000000Z"
_numbers = itertools.count(1)

SEAL = Seal(b"k" * 32)


class Crash(BaseException):
    """The process dies here."""


class Held:
    """A lease that is held until `lost`."""

    lost = False

    def check(self) -> None:
        """Raise Fenced once lost."""
        if self.lost:
            raise Fenced("another worker has taken over")


@dataclass
class RegisteringTrainer:
    """Registers a version at every call, as a training run that knows nothing of earlier ones."""

    registry: MlflowRegistry
    source: str
    requests: list[TrainingRequest] = field(default_factory=list)
    dies: bool = False

    def train(self, request: TrainingRequest) -> TrainingResult:
        """Register, and die where the test says so."""
        self.requests.append(request)
        version = register(self.registry, request.model, self.source, {KEY_TAG: request.idempotency_key})
        if self.dies:
            raise Crash("after the version was registered")
        return TrainingResult(version=version, run_id="", rows=10)


@dataclass
class ScriptedComparer:
    """Finds the challenger better by `gain` with probability `win`."""

    gain: float | None = 0.1
    win: float | None = 0.95
    rows: list[Any] = field(default_factory=list)

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: Any) -> Comparison:
        """The scripted figures."""
        self.rows.append(rows)
        return Comparison(
            metric=model.metric,
            higher_is_better=True,
            rows=500,
            champion=champion,
            challenger=challenger,
            relative_gain=self.gain,
            win_probability=self.win,
        )


class InProcessSandbox:
    """Calls the task here; the real sandbox has its own tests."""

    def call(
        self, task: str, payload: dict[str, Any], *, timeout_s: float, memory_bytes: int | None = None
    ) -> dict[str, Any]:
        """Only the actions' own tasks."""
        from driftwarden.actions import tasks

        module, _, name = task.partition(":")
        assert module == tasks.__name__
        answer: dict[str, Any] = getattr(tasks, name)(payload)
        return answer


def register(registry: MlflowRegistry, model: WatchedModel, source: str, tags: dict[str, str] | None = None) -> int:
    """One more version of the model, as any tool would register it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=registry.tracking_uri, registry_uri=registry.tracking_uri)
    try:
        client.get_registered_model(model.registered_model)
    except MlflowException:
        client.create_registered_model(model.registered_model)
    return int(client.create_model_version(model.registered_model, source, tags=tags).version)


def set_alias(registry: MlflowRegistry, model: WatchedModel, alias: str, version: int) -> None:
    """Move an alias behind everybody's back."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registry.tracking_uri, registry_uri=registry.tracking_uri)
    client.set_registered_model_alias(model.registered_model, alias, str(version))


@dataclass
class World:
    """One model with a champion, and the actions over it."""

    folder: Path
    registry: MlflowRegistry
    state: RedisStateStore
    source: str
    promotion: str = "refit"
    model: WatchedModel = field(init=False)
    trainer: RegisteringTrainer = field(init=False)
    comparer: ScriptedComparer = field(default_factory=ScriptedComparer)
    lease: Held = field(default_factory=Held)
    steps: list[str] = field(default_factory=list)
    crash_at: int | None = None
    crash: ClassVar[type[BaseException]] = Crash

    def __post_init__(self) -> None:
        """Register the model's first champion."""
        self.model = WatchedModel(
            name=f"model-{next(_numbers)}", task="classification", target="y", metric="accuracy", time_column="ts"
        )
        self.trainer = RegisteringTrainer(self.registry, self.source)
        set_alias(self.registry, self.model, "champion", register(self.registry, self.model, self.source))

    def step(self, name: str) -> None:
        """Note the step; die after it where the test says so."""
        self.steps.append(name)
        if self.crash_at is not None and len(self.steps) == self.crash_at:
            raise Crash(name)

    def action(self, name: ActionName) -> Action:
        """An action of a process that has just started."""
        settings = Settings(
            home=self.folder,
            conf=self.folder,
            audit_dir=self.folder,
            policy_path=self.folder / "policy.yml",
            actions=ActionSettings(promotion=self.promotion),
        )
        return build_actions(
            registry=self.registry,
            trainer=self.trainer,
            comparer=self.comparer,
            sandbox=InProcessSandbox(),
            state=self.state,
            notifier=FileNotifier(self.folder / "notifications.jsonl"),
            lease=self.lease,
            settings=settings,
            on_step=self.step,
        )[name]

    def request(self, action: ActionName, params: dict[str, Any] | None = None, **changes: Any) -> ActionRequest:
        """A request on the present champion."""
        rows = RowSelection(paths=("/data/rows.parquet",), time_column="ts", target="y", labelled_only=True)
        values: dict[str, Any] = {
            "incident": "inc-1",
            "correlation_id": "a" * 32,
            "idempotency_key": f"{next(_numbers):064x}",
            "model": self.model,
            "candidate": Candidate(id="c1", action=action, params=params or {}),
            "champion_version": self.registry.champion(self.model),
            "now": NOW,
            "training_rows": rows.narrowed(row_end=800),
            "evaluation_rows": rows.narrowed(row_start=800, row_end=1000),
        }
        return ActionRequest(**(values | changes))

    def register(self, tags: dict[str, str] | None = None) -> int:
        """One more version, as any tool would register it."""
        return register(self.registry, self.model, self.source, tags)

    def set_alias(self, alias: str, version: int) -> None:
        """Move an alias behind everybody's back."""
        set_alias(self.registry, self.model, alias, version)

    def tags(self, version: int) -> dict[str, str]:
        """Tags of a version in the registry."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.registry.tracking_uri, registry_uri=self.registry.tracking_uri)
        return dict(client.get_model_version(self.model.registered_model, str(version)).tags)

    def version_count(self) -> int:
        """Versions in the registry's own record."""
        return len(self.registry.versions(self.model, 100))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    """One SQLite registry for all tests: each has a model of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    return MlflowRegistry(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, registry: MlflowRegistry) -> str:
    """A saved scikit-learn model."""
    registry.champion(WatchedModel(name="warm", task="classification", target="y", metric="accuracy"))
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("model") / "m"
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    mlflow.sklearn.save_model(fitted, str(folder), pip_requirements=["scikit-learn"])
    return folder.as_uri()


@pytest.fixture(scope="session")
def redis_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded server."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        client = connect(server.url)
        yield client
        client.close()


@pytest.fixture
def state(redis_client: Any) -> RedisStateStore:
    """An empty state store."""
    redis_client.flushall()
    return RedisStateStore(redis_client, "driftwarden:", SEAL)


@pytest.fixture
def new_world(tmp_path: Path, registry: MlflowRegistry, state: RedisStateStore, source: str) -> Callable[..., World]:
    """Makes worlds, each with a model of its own."""
    return lambda **values: World(tmp_path, registry, state, source, **values)


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """One world."""
    return new_world()
