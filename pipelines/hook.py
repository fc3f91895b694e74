"""The Kedro hook: drift events from any Kedro project, by configuration alone (`driftwarden.yml` in its conf).

    model: churn                    # whose failure it is when a pipeline fails; default: every watched model
    environment: production
    redis_url: null                 # default: DRIFTWARDEN_REDIS_URL, else `redis.url` of conf/*/driftwarden/settings.yml, else the
                                    # running embedded server's
    redis_prefix: null              # default: `redis.prefix` of those settings
    timeout_s: 60                   # the most that one data set, or one failure, may hold a run up
    spool: {events: 1000, mib: 64, max_age: 7d}   # what is kept on this disk while Redis is away
    watch:
      scored_customers:             # a data set of the catalog
        model: churn
        reference: reference_customers   # a data set, or a parquet or csv file
        target: churned             # also: prediction, time_column, metric, alpha

A catalog entry's `metadata: {driftwarden: {...}}` says the same as an entry of `watch`. Nothing that goes wrong here
reaches the user's pipeline: it is logged, and the run goes on. An event is on disk before it is sent: what Redis did not
take is sent by a later run, in order. `DRIFTWARDEN_HOOK=off` silences it. This module imports nothing heavy; pandas,
Evidently and redis come with the first watched data set. An event says which of the pipeline's free inputs feed the data set
(`upstream`).
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec
from urllib.parse import urlsplit

from kedro.framework.hooks import hook_impl

from driftwarden import __version__
from driftwarden.errors import BadInput, Error, Retry, shorten

if TYPE_CHECKING:
    from driftwarden.stream.publisher import Publisher
    from driftwarden.stream.spool import Spool, SpoolBounds

JsonObject = dict[str, Any]
P = ParamSpec("P")

log = logging.getLogger("driftwarden.hook")

TIMEOUT_S = 60.0
SEND_S = 10.0  # the most that sending may hold a run up at one place
ANSWER_S = 3.0
AWAY_S = 30.0  # a Redis that did not answer is not asked again before
ROWS_MAX = 20_000
UPSTREAM_MAX = 16
_OFF = {"off", "0", "false", "no"}
_OPTIONS = {"model", "reference", "target", "prediction", "time_column", "metric", "alpha", "environment"}
_SETTINGS = {"model", "environment", "redis_url", "redis_prefix", "timeout_s", "spool", "watch"}


def _safe(hook: Callable[P, None]) -> Callable[P, None]:
    """A hook whose failures are logged and go no further; pluggy still sees the names of its arguments."""

    @functools.wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        if os.environ.get("DRIFTWARDEN_HOOK", "").strip().lower() in _OFF:
            return
        try:
            hook(*args, **kwargs)
        except Error as error:
            log.warning("driftwarden: %s", error.diagnostics())
        except Exception as error:  # noqa: BLE001 - a hook that raises would abort the user's pipeline
            log.warning("driftwarden: %s: %s", type(error).__name__, shorten(error, 300))

    return guarded


class DriftwardenHooks:
    """What Kedro calls. One instance per process; a run's state begins anew with `before_pipeline_run`."""

    def __init__(self) -> None:
        """Nothing is configured until a context is made."""
        self._settings: JsonObject = {}
        self._watched: dict[str, JsonObject] = {}
        self._files: dict[str, str] = {}
        self._project = Path()
        self._catalog: Any = None
        self._pipeline: Any = None
        self._done: set[str] = set()
        self._bounds: SpoolBounds | None = None
        self._away_until = 0.0

    @hook_impl
    @_safe
    def after_context_created(self, context: Any) -> None:
        """Read the project's `driftwarden.yml`; a project without one is left alone."""
        self._settings, self._watched, self._files, self._bounds = {}, {}, {}, None
        self._project = Path(context.project_path)
        settings = self._read(context.config_loader)
        unknown = sorted(set(settings) - _SETTINGS)
        if unknown:
            expected = f"one of {', '.join(sorted(_SETTINGS))}"
            raise BadInput("unknown key", got=unknown[0], expected=expected, where="driftwarden.yml")
        watch = settings.get("watch") or {}
        if not isinstance(watch, dict):
            raise BadInput("watch", got=type(watch).__name__, expected="data sets by name", where="driftwarden.yml")
        if settings.get("redis_prefix") is not None:
            _check_prefix(settings["redis_prefix"])
        self._settings = settings
        if settings.get("spool") is not None:
            from driftwarden.stream.spool import read_bounds

            self._bounds = read_bounds(settings["spool"], where="driftwarden.yml")
        for name, entry in watch.items():
            self._watch(str(name), entry, "driftwarden.yml")

    @hook_impl
    @_safe
    def after_catalog_created(self, catalog: Any, conf_catalog: JsonObject) -> None:
        """Read the catalog's own `metadata: driftwarden:`, and where each data set's file is."""
        self._catalog = catalog
        for name, entry in conf_catalog.items():
            if not isinstance(entry, dict):
                continue
            if isinstance(entry.get("filepath"), str) and not entry.get("versioned"):
                self._files[name] = entry["filepath"]
            ours = (entry.get("metadata") or {}).get("driftwarden")
            if ours is not None:
                self._watch(name, ours, "catalog.yml")

    @hook_impl
    @_safe
    def before_pipeline_run(self, pipeline: Any) -> None:
        """Each watched data set is measured once a run; what earlier runs could not send goes first."""
        self._done, self._pipeline = set(), pipeline
        self._flush()

    @hook_impl
    @_safe
    def after_pipeline_run(self) -> None:
        """Try once more what this run could not send."""
        self._flush()

    @hook_impl
    @_safe
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        """Measure a watched data set that a node is about to use."""
        self._observe(dataset_name, data)

    @hook_impl
    @_safe
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Measure a watched data set that a node has made."""
        self._observe(dataset_name, data)

    @hook_impl
    @_safe
    def on_pipeline_error(self, error: Exception, run_params: JsonObject) -> None:
        """Publish `pipeline_failure` for the models that this project serves."""
        own = self._settings.get("model")
        models = [str(own)] if own else sorted({str(entry["model"]) for entry in self._watched.values()})
        names = run_params.get("pipeline_names") or run_params.get("pipeline_name")
        for model in models:
            data = self._failure(model, error, names, run_params)
            self._bounded(functools.partial(self._publish, "failure", data), f"failure of {model}")

    def _read(self, loader: Any) -> JsonObject:
        from kedro.config import MissingConfigException

        loader.config_patterns.setdefault("driftwarden", ["driftwarden*"])
        try:
            settings = loader["driftwarden"]
        except (MissingConfigException, KeyError):
            return {}
        return dict(settings) if isinstance(settings, dict) else {}

    def _watch(self, name: str, entry: Any, where: str) -> None:
        if not isinstance(entry, dict):
            raise BadInput(f"watched data set {name}", got=type(entry).__name__, expected="its options", where=where)
        unknown = sorted(set(entry) - _OPTIONS)
        model = entry.get("model", self._settings.get("model"))
        if unknown or not model or not entry.get("reference"):
            got = unknown[0] if unknown else "no model" if not model else "no reference"
            expected = f"model, reference and any of {', '.join(sorted(_OPTIONS))}"
            raise BadInput(f"watched data set {name}", got=got, expected=expected, where=where)
        self._watched[name] = {**entry, "model": model}

    def _observe(self, name: str, data: Any) -> None:
        entry = self._watched.get(name)
        if entry is None or name in self._done or type(data).__module__.partition(".")[0] != "pandas":
            return
        self._done.add(name)
        self._bounded(functools.partial(self._measure, name, entry, data), f"data set {name}")

    def _flush(self) -> None:
        if (self._settings or self._watched) and (self._spool().folder).is_dir():
            self._bounded(self._send_spooled, "sending what waits in the spool", SEND_S)

    def _bounded(self, work: Callable[[], None], what: str, limit_max: float = float("inf")) -> None:
        """Run to the end or to the time limit, whichever comes first; a thread that is late is left to die."""
        limit = min(float(self._settings.get("timeout_s", TIMEOUT_S)), limit_max)
        thread = threading.Thread(target=_safe(work), name=f"driftwarden {what}", daemon=True)
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            log.warning("driftwarden: %s took over %g s and was left", what, limit)

    def _measure(self, name: str, entry: JsonObject, data: Any) -> None:
        from driftwarden.pipelines import monitoring
        from driftwarden.pipelines.detection import Roles, evenly

        reference, reference_uri = self._reference(str(entry["reference"]))
        request = monitoring.MonitorRequest(
            model=str(entry["model"]),
            reference=reference_uri,
            current=self._uri(name),
            environment=str(entry.get("environment", self._settings.get("environment", "production"))),
            source=f"driftwarden/kedro/{self._project.name}/{name}",
            **{key: entry[key] for key in ("target", "prediction", "time_column", "metric", "alpha") if key in entry},
        )
        roles = Roles(request.target, request.prediction, request.time_column)
        tables = monitoring.Tables(evenly(reference, ROWS_MAX), evenly(data.reset_index(drop=True), ROWS_MAX), roles)
        found = monitoring.find_drift(request, tables)
        performance = monitoring.measure_performance(request, tables)
        result = monitoring.build_event(request, tables, found, performance, rows=(len(reference), len(data)))
        if result["event"] is not None:
            upstream = self._upstream(name)
            if upstream:
                result["event"]["data"]["upstream"] = upstream
            self._send(result["event"])

    def _upstream(self, name: str) -> list[str]:
        """The free inputs of the pipeline that feed a data set: files where they are local tables, else names; few or none.

        The service only groups by it: models whose watched tables have a source in common drift for one reason.
        """
        if self._pipeline is None:
            return []
        try:
            made = name in self._pipeline.all_outputs()
            inputs = self._pipeline.to_outputs(name).inputs() if made else {name}
        except Exception as error:  # noqa: BLE001 - drift is published without its lineage
            log.info("driftwarden: lineage of %s: %s", name, shorten(error, 300))
            return []
        sources = sorted(source for source in inputs if not source.startswith("params:") and source != "parameters")
        return [self._uri(source) or source for source in sources] if len(sources) <= UPSTREAM_MAX else []

    def _reference(self, reference: str) -> tuple[Any, str]:
        if self._catalog is not None and reference in self._catalog:
            return self._catalog.load(reference), self._uri(reference)
        from driftwarden.tables import read_table

        file = (self._project / reference).resolve()
        return read_table(file), str(file)

    def _uri(self, name: str) -> str:
        """The file of a data set, where it is a local table that others can read; else empty."""
        file = self._files.get(name, "")
        if (
            not file
            or (urlsplit(file).scheme not in {"", "file"})
            or not file.endswith((".parquet", ".csv", ".csv.gz"))
        ):
            return ""
        return str((self._project / file.removeprefix("file://")).resolve())

    def _failure(self, model: str, error: Exception, names: Any, run_params: JsonObject) -> JsonObject:
        from driftwarden.sandbox import redact, secret_values

        message = redact(shorten(error, 500), secret_values(os.environ))
        return {
            "model": model,
            "kind": "pipeline_failure",
            "environment": str(self._settings.get("environment", "production")),
            "detector": {"name": "driftwarden-kedro-hook", "version": __version__},
            "error": {"type": type(error).__name__, "message": message},
            "pipeline": names if isinstance(names, str) else ", ".join(map(str, names or ["__default__"])),
            "run_id": str(run_params.get("run_id", "")),
        }

    def _publish(self, what: str, data: JsonObject) -> None:
        from driftwarden.stream.publisher import build_event

        self._send(build_event(data, source=f"driftwarden/kedro/{self._project.name}/{what}"))

    def _send(self, event: JsonObject) -> None:
        from driftwarden.stream.publisher import deliver

        kind, model, spool = event["data"]["kind"], event["data"]["model"], self._spool()
        done = deliver(event, spool, self._publisher, until=self._until())
        self._remember(done.problem)
        if done.kept:
            reason = done.problem.diagnostics() if done.problem else "another process is sending what waits there"
            log.warning("driftwarden: kept %s of %s in the spool, not published: %s", kind, model, reason)
        else:
            log.info("driftwarden: published %s of %s as %s", kind, model, done.entry or "part of what waited")

    def _send_spooled(self) -> None:
        from driftwarden.stream.publisher import send_spooled

        sent = send_spooled(self._spool(), self._publisher, until=self._until())
        self._remember(sent.problem)
        if sent.entries:
            log.info("driftwarden: published %d events that waited in the spool", len(sent.entries))
        if sent.problem is not None:
            log.warning("driftwarden: events wait in the spool: %s", sent.problem.diagnostics())

    def _until(self) -> float:
        """Until when to send: now, where Redis did not answer a moment ago."""
        now = time.monotonic()
        limit = min(float(self._settings.get("timeout_s", TIMEOUT_S)), SEND_S)
        return now if now < self._away_until else now + limit

    def _remember(self, problem: Error | None) -> None:
        """After a fault, only the spool is asked for a while: many data sets do not wait one after the other."""
        if problem is not None and time.monotonic() >= self._away_until:
            self._away_until = time.monotonic() + AWAY_S

    def _publisher(self) -> "Publisher":
        """To where the service of these settings reads; raises BadInput where they do not load: nobody may read elsewhere."""
        from driftwarden.settings import load_settings
        from driftwarden.stream.publisher import Publisher

        redis = load_settings(cwd=self._project).redis
        url = self._settings.get("redis_url") or (redis.url.get_secret_value() if redis.url else self._running())
        if not url:
            raise Retry("no Redis is configured or running")
        prefix = self._settings.get("redis_prefix") or redis.prefix
        return Publisher(str(url), str(prefix), timeout_s=ANSWER_S, retry_for_s=0)

    def _spool(self) -> "Spool":
        from driftwarden.stream.spool import Spool

        return Spool(self._home(), self._bounds)

    def _home(self) -> Path:
        return Path(os.environ.get("DRIFTWARDEN_HOME") or self._project / ".driftwarden")

    def _running(self) -> str | None:
        """Address of the embedded server, where one runs for this project; a user's pipeline starts none."""
        from driftwarden.stream.embedded import running_url

        return running_url(self._home())


def _check_prefix(prefix: object) -> None:
    from pydantic import ValidationError

    from driftwarden.settings import RedisSettings

    try:
        RedisSettings.model_validate({"prefix": prefix})
    except ValidationError:
        expected = "letters, digits and `_.-` before a colon, like `driftwarden:`"
        raise BadInput("redis_prefix", got=prefix, expected=expected, where="driftwarden.yml") from None


hooks = DriftwardenHooks()
