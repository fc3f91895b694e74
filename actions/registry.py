"""The MLflow model registry: versions, the aliases `champion` and `challenger`, and the record of every effect on them.

Tags it writes, all read back by `lookup` after a crash:
  registered model  `driftwarden.effect.<key>`         JSON record of one effect that is over (key: the idempotency key)
                    `driftwarden.effect-<step>.<key>`  as far as it has come: `split`, `compared`, `begun` (or refused)
  version           `driftwarden.previous_champion`    the champion that this version replaced
  version, run      `driftwarden.incident`, `driftwarden.correlation_id`
Read only, left on versions by training runs: `driftwarden.idempotency_key` (contract §7), `driftwarden.strategy`,
`driftwarden.window` (JSON: `rows`, `start`, `end`, `row_start`, `row_end`).
"""

import fcntl
import json
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from driftwarden.actions.registry_rows import read_alias, read_versions
from driftwarden.clock import rfc3339
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import AskHuman, BadInput, Error, GiveUp, NotFound, Refused, Retry
from driftwarden.keyfile import make_folder

JsonObject = dict[str, Any]

CHAMPION, CHALLENGER = "champion", "challenger"
KEY_TAG = "driftwarden.idempotency_key"
INCIDENT_TAG, CORRELATION_TAG = "driftwarden.incident", "driftwarden.correlation_id"
PREVIOUS_TAG = "driftwarden.previous_champion"
EFFECT_TAG = "driftwarden.effect."
# Each step of an effect has a tag of its own, and the furthest one counts: MLflow has no compare-and-set of tags, and what a
# worker writes late that was paused in the middle of its call must not stand over what its successor has written.
STEP_TAG = "driftwarden.effect-{step}."
_STEPS = {"split": "split", "compared": "compared", "refused": "begun", "begun": "begun", "done": "done"}
RUNS_MAX = 1_024
_ORDER = ("split", "compared", "begun", "done")
_RETRYABLE = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
_NAME = re.compile(r"[^'\"`\\:/\x00-\x1f]{1,256}")
_TAG_KEY = re.compile(r"[A-Za-z0-9._-]{1,200}")


class Lease(Protocol):
    """The right to act on a model, held by one worker at a time."""

    def check(self) -> None:
        """Raise Fenced where another worker holds it now."""
        ...


class MlflowRegistry:
    """The port `RegistryReader`, and the changes that actions make; mlflow is imported at the first use.

    MLflow's API answers, but for `versions`, and for `champion` where that only `informs`. Every method raises Retry where the
    server or database is away, GiveUp where it refuses.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: str | Path,
        *,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Nothing is opened yet; `artifact_root` is where training runs put their files.

        Each question to the server is asked within a `guard` (a breaker's `call`), which sees its errors as ours.
        """
        self.tracking_uri, self.artifact_root, self._guard = tracking_uri, str(artifact_root), guard
        self._lock = threading.RLock()
        self._client_or_none: Any = None
        self._runs: dict[str, Any] = {}

    def champion(self, model: WatchedModel, *, informs: bool = False) -> int | None:
        """Version behind the alias `champion`, or None, always asked anew; `informs`: no alias moves by the answer."""
        if informs:
            with self._open() as client:
                if (version := read_alias(client, _name(model), CHAMPION)) is not None:
                    return version
        return self._behind(model, CHAMPION)

    def challenger(self, model: WatchedModel) -> int | None:
        """Version behind the alias `challenger`, or None."""
        return self._behind(model, CHALLENGER)

    def previous(self, model: WatchedModel) -> int | None:
        """The champion that the present one replaced, or None where that is not known."""
        champion = self.champion(model)
        found = self._version(model, champion) if champion is not None else None
        text = found.tags.get(PREVIOUS_TAG, "") if found is not None else ""
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None

    def has_version(self, model: WatchedModel, version: int) -> bool:
        """Whether this version exists and is ready."""
        found = self._version(model, version)
        return found is not None and str(found.status) == "READY"

    def training_window(self, model: WatchedModel, version: int) -> JsonObject:
        """What the version was trained on (`start`, `end`, `row_start`, `row_end`, `rows`), {} where that is not known."""
        found = self._version(model, version)
        return {} if found is None else _window(found.tags)

    def versions(self, model: WatchedModel, limit: int = 10) -> list[JsonObject]:
        """Versions, newest first: `{version, aliases, created_at, strategy, rows, metrics, incident, run_id, was_champion}`.

        `was_champion`: it is the champion, or one of those listed replaced it; others are fits that a comparison needed.
        """
        found, behind = self._listed(model, limit)
        aliases: dict[int, list[str]] = {}
        for alias, version in behind.items():
            aliases.setdefault(version, []).append(alias)
        with self._open() as client:
            described = [_described(each, self._run(client, each.run_id), aliases) for each in found]
        replaced = {each.tags.get(PREVIOUS_TAG) for each in found}
        for entry in described:
            entry["was_champion"] = CHAMPION in entry["aliases"] or str(entry["version"]) in replaced
        return described

    def _listed(self, model: WatchedModel, limit: int) -> tuple[Any, dict[str, int]]:
        """The newest versions, newest first, and all aliases."""
        name = _name(model)
        with self._open() as client:
            if (listed := read_versions(client, name, limit)) is not None:
                return listed
        aliases = self._aliases(model)
        with self._open() as client:
            order = ["version_number DESC"]
            return client.search_model_versions(f"name='{name}'", max_results=limit, order_by=order), aliases

    def _run(self, client: Any, run_id: str | None) -> Any:
        """The data of a version's run, None where there is none; of a run that has ended they are asked for once."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        if run_id not in self._runs:
            try:
                run = client.get_run(run_id)
            except MlflowException:  # a run of another server, or deleted: the version is described without it
                return None
            if run.info.end_time is None:
                return run.data
            if len(self._runs) >= RUNS_MAX:
                self._runs.clear()
            self._runs[run_id] = run.data
        return self._runs.get(run_id)

    def find_by_key(self, model: WatchedModel, idempotency_key: str) -> int | None:
        """The version tagged with this idempotency key, or None; of several, the first."""
        if not re.fullmatch(r"[A-Za-z0-9:._-]{1,200}", idempotency_key):
            raise BadInput("idempotency key", got=idempotency_key, expected="letters, digits, `:._-`")
        with self._open() as client:
            found = client.search_model_versions(f"name='{_name(model)}' and tags.`{KEY_TAG}` = '{idempotency_key}'")
            return min((int(each.version) for each in found), default=None)

    def set_champion(self, model: WatchedModel, version: int, *, expected: int | None, lock: Lease) -> None:
        """Move the alias `champion` from `expected` to `version` and read it back.

        Raises Fenced (the lease is lost), Refused (the champion is not the expected one: nothing was done), AskHuman (the
        registry answers another version than the one just set). Idempotent: already there is done.
        """
        with self._lock:
            if not self.has_version(model, version):
                raise Refused(f"`{model.registered_model}` has no ready version {version}: the champion was not moved")
            lock.check()
            current = self._behind(model, CHAMPION)
            if current == version:
                return
            if current != expected:
                raise Refused(
                    f"champion of `{model.registered_model}` is version {current}, expected {expected}: it was not moved"
                )
            self._set_alias(model, CHAMPION, version)

    def set_challenger(self, model: WatchedModel, version: int, *, lock: Lease) -> None:
        """Point the alias `challenger` at `version` and read it back; raises as `set_champion`."""
        with self._lock:
            lock.check()
            if self._behind(model, CHALLENGER) != version:
                self._set_alias(model, CHALLENGER, version)

    def drop_challenger(self, model: WatchedModel, version: int, *, lock: Lease) -> None:
        """Take the alias `challenger` off a version that is the champion now; any other challenger stays."""
        with self._lock:
            lock.check()
            if self._behind(model, CHALLENGER) == version:
                with self._open() as client:
                    client.delete_registered_model_alias(_name(model), CHALLENGER)

    def tag_version(self, model: WatchedModel, version: int, tags: Mapping[str, str]) -> None:
        """Tag a version and the run it came from; a run that is gone or of another server is left alone."""
        with self._open() as client:
            found = client.get_model_version(_name(model), str(version))
            for key, value in tags.items():
                client.set_model_version_tag(_name(model), str(version), key, value)
        if found.run_id:
            try:
                with self._open() as client:
                    for key, value in tags.items():
                        client.set_tag(found.run_id, key, value)
            except NotFound:
                return
            finally:
                self._runs.pop(found.run_id, None)

    def effect(self, model: WatchedModel, key: str) -> JsonObject | None:
        """The furthest record that an effect left under its key, or None; a record that cannot be read asks a human."""
        found, names = self._registered(model), [_effect_tag(key, step) for step in _ORDER]
        kept = {} if found is None else {name: found.tags[name] for name in names if name in found.tags}
        records = [_record_of(model, key, name, text) for name, text in kept.items()]
        return max(records, key=lambda record: _ORDER.index(_STEPS[record["state"]]), default=None)

    def put_effect(self, model: WatchedModel, key: str, record: JsonObject, *, lock: Lease) -> None:
        """Write the record of an effect under its key; one of an earlier step than what stands there changes nothing."""
        text = json.dumps({**record, "key": key}, sort_keys=True, separators=(",", ":"), allow_nan=False)
        lock.check()
        with self._open() as client:
            client.set_registered_model_tag(_name(model), _effect_tag(key, _STEPS[record["state"]]), text)

    def _set_alias(self, model: WatchedModel, alias: str, version: int) -> None:
        with self._open() as client:
            client.set_registered_model_alias(_name(model), alias, str(version))
        got = self._behind(model, alias)
        if got != version:
            raise AskHuman(
                f"alias `{alias}` of `{model.registered_model}` was set to version {version} and reads back as {got}"
            )

    def _behind(self, model: WatchedModel, alias: str) -> int | None:
        """The version behind an alias, or None, as MLflow's API says, whatever its tables hold: an alias may move by it."""
        try:
            with self._open() as client:
                return int(client.get_model_version_by_alias(_name(model), alias).version)
        except (NotFound, GiveUp):
            # What says that there is no such alias differs between stores: only the list of them all tells for sure.
            return self._aliases(model).get(alias)

    def _aliases(self, model: WatchedModel) -> dict[str, int]:
        found = self._registered(model)
        return {} if found is None else {alias: int(version) for alias, version in found.aliases.items()}

    def _registered(self, model: WatchedModel) -> Any:
        try:
            with self._open() as client:
                return client.get_registered_model(_name(model))
        except NotFound:
            return None

    def _version(self, model: WatchedModel, version: int) -> Any:
        try:
            with self._open() as client:
                return client.get_model_version(_name(model), str(version))
        except NotFound:
            return None

    @contextmanager
    def _open(self) -> Iterator[Any]:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # mlflow has no other switch, and reads it when it is imported
        from mlflow.exceptions import MlflowException

        with self._guard():
            try:
                yield self._client()
            except MlflowException as error:
                raise _translated(error) from error

    def _client(self) -> Any:
        with self._lock:
            if self._client_or_none is None:
                from mlflow.tracking import MlflowClient

                for noisy in ("alembic", "mlflow.store.db.utils"):
                    logging.getLogger(noisy).setLevel(logging.WARNING)
                with first_open(self.tracking_uri):
                    client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
                    client.search_registered_models(max_results=1)
                self._client_or_none = client
            return self._client_or_none


@contextmanager
def first_open(tracking_uri: str) -> Iterator[None]:
    """Hold `<database>.lock` while a SQLite store is opened: two processes that create its tables at once both fail."""
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    database = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
    make_folder(database.parent)
    with database.with_name(database.name + ".lock").open("a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _translated(error: Any) -> Error:
    message = " ".join(str(error).split())[:300]
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(f"model registry: {message}")
    if error.error_code in _RETRYABLE:
        return Retry(f"model registry: {message}")
    return GiveUp(f"model registry: {message}")


def _name(model: WatchedModel) -> str:
    if not _NAME.fullmatch(model.registered_model):
        raise BadInput("registered model", got=model.registered_model, expected="a name without quotes, `/` and `:`")
    return model.registered_model


def _record_of(model: WatchedModel, key: str, name: str, text: str) -> JsonObject:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("key") != key or record.get("state") not in _STEPS:
        raise AskHuman(f"tag `{name}` of `{model.registered_model}` is not a record of ours")
    return record


def _effect_tag(key: str, step: str) -> str:
    if not _TAG_KEY.fullmatch(key):
        raise BadInput("effect key", got=key, expected="letters, digits, `._-`")
    return (EFFECT_TAG if step == "done" else STEP_TAG.format(step=step)) + key


def _window(tags: Mapping[str, str]) -> JsonObject:
    try:
        window = json.loads(tags.get("driftwarden.window", "{}"))
    except ValueError:
        return {}
    return window if isinstance(window, dict) else {}


def _described(found: Any, data: Any, aliases: Mapping[int, list[str]]) -> JsonObject:
    """A version, with what its run's `data` tell of it."""
    tags, metrics = dict(found.tags), {}
    if data is not None:
        tags = {**data.params, **data.tags, **tags}
        metrics = {name: value for name, value in data.metrics.items() if math.isfinite(value)}
    rows = _window(tags).get("rows")
    return {
        "version": int(found.version),
        "aliases": sorted(aliases.get(int(found.version), [])),
        "created_at": rfc3339(datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)),
        "strategy": tags.get("driftwarden.strategy"),
        "rows": rows if isinstance(rows, int) else None,
        "metrics": metrics,
        "incident": tags.get(INCIDENT_TAG),
        "run_id": found.run_id or None,
    }
