"""Settings: packaged defaults, overlaid by `conf/base/driftwarden/*.yml`, `conf/local/driftwarden/*.yml`, then the environment.

This module and the composition root are the only readers of the environment.
"""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator

from driftwarden.contracts.base import Value
from driftwarden.contracts.watch import Duration, WatchedModel
from driftwarden.errors import BadInput, NotFound, kind_of, unreadable
from driftwarden.resilience import BreakersSettings, DegradedSettings, StepDeadlines
from driftwarden.strict import load_yaml

PACKAGED_CONF = Path(__file__).parent / "conf"
SETTINGS_FILES = ("settings.yml", "models.yml", "approvers.yml")

Origins = dict[tuple[str | int, ...], str]


class RedisSettings(Value):
    """`url` None: the embedded server. `prefix` may be a hash tag, like `{driftwarden}:`, which keeps all keys on one slot.

    `shards`: over how many groups of keys incidents are spread; never changes once there are any.
    """

    url: SecretStr | None = None
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+|\{[A-Za-z0-9_.-]+\}):$")] = "driftwarden:"
    shards: Annotated[int, Field(ge=1, le=1024)] = 1


class MlflowSettings(Value):
    """`tracking_uri` None: SQLite below the state folder, artifacts beside it."""

    tracking_uri: str | None = None


class ChromaSettings(Value):
    """`url` None: on disk below the state folder."""

    url: str | None = None


class AgentSettings(Value):
    """How long the agents may think, and whether the offline reasoner steps in where a remote model fails."""

    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    llm_calls_max: Annotated[int, Field(ge=2, le=500)] = 60
    fallback_offline: bool = True
    ollama_url: str | None = None


class LangfuseSettings(Value):
    """Traces go to Langfuse where both keys are set (environment only), and are always kept locally."""

    base_url: str = "https://cloud.langfuse.com"
    environment: str = "production"


class ServiceSettings(Value):
    """Workers, leases and bounds of one process.

    `state_key_file`: the key that seals what is kept in Redis, the same on every host (default: made below the state folder).
    `closed_ttl`: how long a closed incident stays in Redis (None: for good). `group_window`: how long others' events with the
    same cause upstream may join an incident; `group_measured_max`: how many windows of theirs are measured in one step;
    `windows_measured_max`: how many windows of one model are, to find the worst that joined an incident.
    """

    workers: Annotated[int, Field(ge=1, le=64)] = 2
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    identity_ttl: Duration = timedelta(days=30)
    closed_ttl: Annotated[Duration, Field(ge=timedelta(days=1))] | None = timedelta(days=90)
    group_window: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(hours=1)
    crashes_max: Annotated[int, Field(ge=1, le=100)] = 3
    tries_max: Annotated[int, Field(ge=1, le=100)] = 4
    state_key_file: Path | None = None
    group_measured_max: Annotated[int, Field(ge=0, le=1000)] = 10
    windows_measured_max: Annotated[int, Field(ge=1, le=100)] = 8
    triage_fdr: Annotated[float, Field(gt=0, lt=1)] = 0.05
    approval_reminder: Annotated[Duration, Field(ge=timedelta(minutes=1))] = timedelta(hours=1)
    stop_within: Annotated[Duration, Field(ge=timedelta(0), le=timedelta(days=1))] = timedelta(seconds=30)
    step_deadlines: StepDeadlines = StepDeadlines()
    breakers: BreakersSettings = BreakersSettings()
    degraded: DegradedSettings = DegradedSettings()


class NotifySettings(Value):
    """A command that gets each message to people as JSON on standard input; never a shell. Empty: none.

    The messages stand in `notifications.jsonl` of the state folder in any case.
    """

    command: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0

    @field_validator("command")
    @classmethod
    def _absolute(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not Path(command[0]).is_absolute():
            raise ValueError("a program's absolute path, then its arguments")
        return command


class DataSettings(Value):
    """Bounds of the tables that are read; `roots` are allowed for every model, beside its own."""

    roots: tuple[str, ...] = ()
    rows_max: Annotated[int, Field(ge=1000)] = 5_000_000
    bytes_max: Annotated[int, Field(ge=1_000_000)] = 2_000_000_000
    measure_rows_max: Annotated[int, Field(ge=500)] = 20_000


class RehearsalSettings(Value):
    """Rehearsals: newest labelled rows held out (`holdout_windows` windows' worth of them, at most `holdout_share` of all),
    windows a `recent` challenger sees, bootstrap replicates, bounds."""

    holdout_windows: Annotated[float, Field(gt=0, le=100)] = 1.0
    holdout_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.3
    recent_windows: Annotated[int, Field(ge=1, le=1000)] = 4
    holdout_rows_min: Annotated[int, Field(ge=20)] = 100
    holdout_rows_max: Annotated[int, Field(ge=50)] = 5_000
    recent_share: Annotated[float, Field(gt=0, le=1)] = 0.35
    recent_rows_min: Annotated[int, Field(ge=50)] = 400
    replicates: Annotated[int, Field(ge=100, le=10_000)] = 400
    candidates_max: Annotated[int, Field(ge=1, le=6)] = 4
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    memory_mib: Annotated[int, Field(ge=512)] = 4096


class AuditSettings(Value):
    """The audit log: when a file is full, when a checkpoint is due, what is personal, and how long files are kept.

    `personal`: body paths whose values are written as salted commitments (`reason`, `granted.*.by`). `keep` and `keep_mib`
    remove whole files from the front of a stream, on record; None keeps all. `keep` is at least 31 days: counters of the
    policy rest on the log.
    """

    file_mib: Annotated[int, Field(ge=1, le=16_384)] = 256
    file_age: Duration = timedelta(days=1)
    checkpoint_records: Annotated[int, Field(ge=1)] = 1024
    checkpoint_age: Duration = timedelta(minutes=5)
    personal: tuple[str, ...] = ()
    keep: Annotated[Duration, Field(ge=timedelta(days=31))] | None = None
    keep_mib: Annotated[int, Field(ge=1)] | None = None


class ActionSettings(Value):
    """`promotion`: `refit` trains the recipe that won again on all rows, `exact` promotes the very version that won.

    `quarantine_share_max`: the largest share of the rows known that all batches together may keep out.
    """

    promotion: Literal["exact", "refit"] = "refit"
    train_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    win_probability_min: Annotated[float, Field(ge=0, le=1)] = 0.5
    quarantine_share_max: Annotated[float, Field(gt=0, lt=1)] = 0.5


class VerificationSettings(Value):
    """An action is judged on labelled rows that came after it: at least `rows_min`, undone where it harmed with
    probability `p_harm` by more than `tolerance` (relative); `patience`: how long to wait for labels."""

    rows_min: Annotated[int, Field(ge=20)] = 100
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    p_harm: Annotated[float, Field(gt=0.5, le=1)] = 0.8
    patience: Duration = timedelta(days=30)


class ApproverKey(Value):
    """A public key in OpenSSH's one-line form; it counts from its enrolment until it is revoked."""

    public: Annotated[str, Field(pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{68}( [^\n]*)?$")]
    enrolled_at: str | None = None
    revoked_at: str | None = None
    revoked_reason: str | None = None


class Approver(Value):
    """A person who may approve, for which groups of the policy, by signing with one of these keys."""

    groups: tuple[str, ...]
    keys: tuple[ApproverKey, ...] = ()

    @property
    def active(self) -> bool:
        """True where a key of theirs counts: whoever has none, or only revoked ones, approves nothing."""
        return any(key.revoked_at is None for key in self.keys)


class Settings(Value):
    """Everything that is configured, for one process. Secrets render as stars."""

    home: Path
    conf: Path
    audit_dir: Path
    model: str = "offline"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    redis: RedisSettings = RedisSettings()
    mlflow: MlflowSettings = MlflowSettings()
    chroma: ChromaSettings = ChromaSettings()
    agents: AgentSettings = AgentSettings()
    langfuse: LangfuseSettings = LangfuseSettings()
    service: ServiceSettings = ServiceSettings()
    notify: NotifySettings = NotifySettings()
    data: DataSettings = DataSettings()
    rehearsal: RehearsalSettings = RehearsalSettings()
    actions: ActionSettings = ActionSettings()
    audit: AuditSettings = AuditSettings()
    verification: VerificationSettings = VerificationSettings()
    models: dict[str, WatchedModel] = {}
    approvers: dict[str, Approver] = {}
    policy_path: Path
    harmful_loss: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.02")
    google_api_key: SecretStr | None = None
    langfuse_public_key: SecretStr | None = None
    langfuse_secret_key: SecretStr | None = None
    otlp_endpoint: str | None = None
    origins: dict[str, str] = {}

    def watched(self, name: str) -> WatchedModel:
        """The model of this name; raises NotFound naming those that are known."""
        if name not in self.models:
            known = ", ".join(sorted(self.models)) or "none is registered"
            raise NotFound("unknown model", got=name, expected=f"one of: {known}")
        return self.models[name]

    def first_upstream(self, name: str) -> str | None:
        """The first data set that a model is fed from; None where none is configured, or the model is not watched."""
        model = self.models.get(name)
        return model.upstream[0] if model is not None and model.upstream else None

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the configured one, or SQLite below the state folder."""
        return self.mlflow.tracking_uri or f"sqlite:///{(self.home / 'mlflow' / 'mlflow.db').resolve()}"

    @property
    def artifact_root(self) -> Path:
        """Where artifacts of the local registry are kept."""
        return (self.home / "mlflow" / "artifacts").resolve()

    def roots_of(self, model: WatchedModel) -> tuple[Path, ...]:
        """Folders below which this model's files may be read: its own roots, the settings', and the service's own files."""
        named = [*model.data.roots, *self.data.roots]
        return (*tuple(Path(root).expanduser().resolve() for root in named), self.artifact_root)


def load_settings(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read all settings; a wrong one raises BadInput with file, line, what was got and what was expected."""
    env = os.environ if environ is None else environ
    here = Path.cwd() if cwd is None else cwd
    home = Path(env.get("DRIFTWARDEN_HOME") or here / ".driftwarden").expanduser().absolute()
    conf = Path(env.get("DRIFTWARDEN_CONF") or here / "conf").expanduser().absolute()
    origins: Origins = {}
    merged: dict[str, Any] = {}
    policy = PACKAGED_CONF / "base" / "driftwarden" / "policy.yml"
    for folder in (PACKAGED_CONF / "base", conf / "base", conf / "local"):
        folder = folder / "driftwarden"
        for name in SETTINGS_FILES:
            if (folder / name).is_file():
                _overlay(merged, folder / name, origins)
        if (folder / "policy.yml").is_file():
            policy = folder / "policy.yml"
    _overlay_environment(merged, env, origins)
    models = merged.get("models")
    if isinstance(models, dict):
        for name, entry in models.items():
            if isinstance(entry, dict) and "name" in entry:
                place = _place(origins, ("models", name, "name"))
                expected = "no such key: the model's name is the key of its entry"
                raise BadInput(f"setting `models.{name}.name`", got=entry["name"], expected=expected, where=place)
        merged["models"] = {
            name: {"name": name, **entry} if isinstance(entry, dict) else entry for name, entry in models.items()
        }
    for reserved in ("home", "conf", "audit_dir", "policy_path", "origins"):
        if reserved in merged:
            place = _place(origins, (reserved,))
            raise BadInput("not a setting", got=reserved, expected="an environment variable", where=place)
    merged |= {
        "home": home,
        "conf": conf,
        "audit_dir": Path(env.get("DRIFTWARDEN_AUDIT_DIR") or home / "audit").expanduser().absolute(),
        "policy_path": policy,
        "origins": {"/".join(map(str, path)): place for path, place in origins.items() if len(path) <= 2},
    }
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], origins) from None


_EXPECTED = {
    "extra_forbidden": "a setting that exists",
    "missing": "the setting to be there",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "decimal_type": "a decimal",
    "decimal_parsing": "a decimal",
}


def _refusal(first: Any, origins: Origins) -> BadInput:
    """The first fault that was found, in words."""
    path: tuple[str | int, ...] = tuple(first["loc"])
    value = first.get("input")
    got = value if isinstance(value, str) else json.dumps(value, default=str)
    if first["type"] == "missing":
        got = "nothing"
    elif "key" in str(path[-1:]) or "url" in str(path[-1:]):
        got = "a secret"
    said = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    expected = _EXPECTED.get(first["type"], said)
    if path[:1] == ("models",) and path[2:] == ("name",):
        path, expected = path[:2], "a name of 1 to 128 of `A-Z a-z 0-9 . _ -`"
    shown = ".".join(str(part) for part in path)
    return BadInput(f"setting `{shown}`", got=got, expected=expected, where=_place(origins, path))


def _place(origins: Origins, path: tuple[str | int, ...]) -> str:
    for length in range(len(path), -1, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return "settings"


def _overlay(merged: dict[str, Any], file: Path, origins: Origins) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            "cannot read settings", got=unreadable(error), expected="a UTF-8 file", where=str(file)
        ) from None
    data, lines = load_yaml(text, where=str(file))
    if data is None:
        return
    if not isinstance(data, dict):
        raise BadInput("settings", got=kind_of(data), expected="a mapping", where=f"{file}:1")
    if file.name != "settings.yml":
        key = file.stem
        if set(data) - {key}:
            wrong = sorted(set(data) - {key})[0]
            raise BadInput("unknown key", got=wrong, expected=f"only `{key}`", where=f"{file}:{lines[(wrong,)]}")
    _merge(merged, data)
    for path, line in lines.items():
        if path:
            origins[path] = f"{file}:{line}"


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


_ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "DRIFTWARDEN_REDIS_URL": ("redis", "url"),
    "DRIFTWARDEN_CHROMA_URL": ("chroma", "url"),
    "DRIFTWARDEN_MODEL": ("model",),
    "DRIFTWARDEN_LOG_LEVEL": ("log_level",),
    "MLFLOW_TRACKING_URI": ("mlflow", "tracking_uri"),
    "OLLAMA_API_BASE": ("agents", "ollama_url"),
    "GOOGLE_API_KEY": ("google_api_key",),
    "LANGFUSE_PUBLIC_KEY": ("langfuse_public_key",),
    "LANGFUSE_SECRET_KEY": ("langfuse_secret_key",),
    "LANGFUSE_BASE_URL": ("langfuse", "base_url"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("otlp_endpoint",),
}


def _overlay_environment(merged: dict[str, Any], env: Mapping[str, str], origins: Origins) -> None:
    for variable, path in _ENVIRONMENT.items():
        value = env.get(variable)
        if not value:
            continue
        target = merged
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                place = _place(origins, path)
                raise BadInput(f"setting `{part}`", got=kind_of(target), expected="a mapping", where=place)
        target[path[-1]] = value
        origins[path] = f"environment {variable}"
