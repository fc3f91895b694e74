"""The MLflow registry as the pipelines use it: a safe first open, versions tagged with their key, models without pickle.

Tags of a version: `driftwarden.idempotency_key`, `.correlation_id`, `.incident`, `.strategy`, `.window` (JSON: `rows`,
`start`, `end`, and `row_start`, `row_end` as positions in the ordered table).
"""

import fcntl
import functools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from driftwarden.errors import GiveUp, NotFound, Retry
from driftwarden.keyfile import make_folder
from driftwarden.pipelines.quiet import quiet

TAG = "driftwarden."
KEY_TAG = TAG + "idempotency_key"
WINDOW_TAG = TAG + "window"
REFERENCE_FILE = "reference.parquet"
HOLDOUT_FILE = "holdout.parquet"
HOLDOUT_FILE = "holdout.parquet"

# What HistGradientBoosting needs beyond skops's own list. A model's own list of trusted types is never read.
TRUSTED_TYPES = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)
_KEY = re.compile(r"[A-Za-z0-9._:-]{1,200}")


@contextmanager
def first_open(tracking_uri: str) -> Iterator[None]:
    """Hold the lock `<database>.lock` of an SQLite registry: two first opens of a fresh file destroy each other."""
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    database = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
    make_folder(database.parent)
    with database.with_name(database.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def client(tracking_uri: str) -> Any:
    """An MlflowClient of this registry, its schema made once under a lock; raises Retry where it cannot be reached."""
    quiet()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with first_open(tracking_uri):
            opened = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            opened.search_registered_models(max_results=1)
    except (MlflowException, OSError) as error:
        raise Retry(f"cannot open the model registry: {type(error).__name__}") from None
    return opened


def version_of(tracking_uri: str, registered_model: str, version: int) -> Any:
    """The registry's record of a version; raises NotFound."""
    from mlflow.exceptions import MlflowException

    try:
        return client(tracking_uri).get_model_version(registered_model, str(version))
    except MlflowException:
        expected = f"a version of `{registered_model}`"
        raise NotFound("unknown model version", got=version, expected=expected) from None


def find_by_key(tracking_uri: str, registered_model: str, idempotency_key: str) -> Any | None:
    """The version tagged with this key (the oldest, were there two), or None."""
    if not _KEY.fullmatch(idempotency_key):
        raise GiveUp("idempotency key: expected up to 200 letters, digits and `. _ : -`")
    name = registered_model.replace("'", "")
    found = client(tracking_uri).search_model_versions(f"name = '{name}' AND tag.`{KEY_TAG}` = '{idempotency_key}'")
    return min(found, key=lambda item: int(item.version)) if found else None


def window_of(version: Any) -> dict[str, Any]:
    """The training window of a version, {} where its tag is absent or unreadable."""
    try:
        window = json.loads((version.tags or {}).get(WINDOW_TAG, "{}"))
    except ValueError:
        return {}
    return window if isinstance(window, dict) else {}


def artifact(tracking_uri: str, version: Any, name: str) -> Path | None:
    """A file that the version's run left, downloaded where the store is remote; None where there is none."""
    quiet()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return None
    try:
        root = client(tracking_uri).get_run(version.run_id).info.artifact_uri  # a local one is read where it is
        found = Path(download_artifacts(artifact_uri=f"{root}/{name}", tracking_uri=tracking_uri))
    except (MlflowException, OSError):
        return None
    return found if found.is_file() else None


def pip_requirements() -> list[str]:
    """What a version needs to be loaded; given, so that MLflow does not spend 15 s on finding out."""
    return [f"{name}=={installed(name)}" for name in ("scikit-learn", "skops", "pandas", "numpy")]


@functools.lru_cache(maxsize=8)
def load_model(tracking_uri: str, registered_model: str, version: int) -> Any:
    """The scikit-learn model of a version, cached in this process.

    Models in skops format are loaded with our own list of trusted types. Other formats (a user's own pipeline) execute
    code when they are loaded, which is why the tasks of this room run in a sandboxed process. Raises NotFound, GiveUp.
    """
    quiet()
    import yaml
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    version_of(tracking_uri, registered_model, version)
    try:
        source = client(tracking_uri).get_model_version_download_uri(registered_model, str(version))
        folder = Path(download_artifacts(artifact_uri=source, tracking_uri=tracking_uri))
        flavours = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]
        return _load(folder, flavours)
    except (MlflowException, OSError, KeyError, ValueError, TypeError, yaml.YAMLError) as error:
        raise GiveUp(f"cannot load version {version} of {registered_model}: {type(error).__name__}: {error}") from None


def _load(folder: Path, flavours: dict[str, Any]) -> Any:
    flavour = flavours.get("sklearn")
    if flavour is None:
        raise ValueError(f"flavours {', '.join(sorted(flavours))}, expected sklearn")
    if flavour.get("serialization_format") != "skops":
        import mlflow.sklearn

        return mlflow.sklearn.load_model(folder.as_uri())
    import skops.io

    file = (folder / str(flavour["pickled_model"])).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError("model file outside its folder")
    return skops.io.load(file, trusted=list(TRUSTED_TYPES))


def metrics_of(tracking_uri: str, version: Any) -> dict[str, float]:
    """The metrics of a version's run; {} where the run is gone."""
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return {}
    try:
        metrics = client(tracking_uri).get_run(version.run_id).data.metrics
    except MlflowException:
        return {}
    return {str(name): float(value) for name, value in metrics.items()}
