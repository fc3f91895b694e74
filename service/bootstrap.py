"""The composition root: chooses the real parts from the settings, and plugs them together. Nothing else reads the environment."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import Clock, SystemClock
from driftwarden.errors import Error
from driftwarden.keyfile import make_folder
from driftwarden.resilience import Breakers
from driftwarden.service.auditing import keep_audit, open_audit, process_name
from driftwarden.service.state_key import check_seal, open_seal
from driftwarden.settings import Settings, load_settings
from driftwarden.telemetry import configure_logging, register_secret

if TYPE_CHECKING:
    from redis import Redis

    from driftwarden.contracts.ports import Trainer
    from driftwarden.knowledge import KnowledgeBase
    from driftwarden.policies import Policy
    from driftwarden.service.workflow.approvals import Approvals
    from driftwarden.service.workflow.parts import DecisionClock, Parts
    from driftwarden.service.workflow.policy_agreement import PolicyAgreement
    from driftwarden.service.workflow.policy_watch import PolicyWatch
    from driftwarden.service.workflow.store import WorkflowStore
    from driftwarden.stream.intake import Intake
    from driftwarden.tracing import Tracing

log = logging.getLogger(__name__)

# Libraries must not call home from here, whoever imports them first.
TELEMETRY_OFF = {
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ANONYMIZED_TELEMETRY": "False",
    "CHROMA_TELEMETRY": "False",
}

# A registry that is away is found out soon, and waited for by us: each request is bounded, and repeated once.
REGISTRY_BOUNDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

# Imported once by the fork server, so that each sandboxed call starts warm.
SANDBOX_PRELOAD = (
    "driftwarden.service.tasks",
    "driftwarden.pipelines.tasks",
    "driftwarden.pipelines.diagnostics",
    "driftwarden.pipelines.monitoring",
    "driftwarden.pipelines.training",
    "driftwarden.pipelines.rehearsal",
    "driftwarden.pipelines.diagnosis_input",
    "driftwarden.pipelines.pipeline_registry",
    "driftwarden.pipelines.settings",
    "evidently",
    "evidently.presets",
    "kedro.framework.project",
    "kedro.framework.session",
    "kedro.runner",
    "mlflow.models",
    "pandas",
    "pyarrow.parquet",
    "sklearn.ensemble",
    "sklearn.metrics",
    "sklearn.model_selection",
    "scipy.stats",
    "mlflow.sklearn",
    "skops.io",
)


def read_settings() -> Settings:
    """Settings of this process, secrets known to the redaction, libraries' telemetry off."""
    os.environ.update(TELEMETRY_OFF)
    for name, bound in REGISTRY_BOUNDS.items():
        os.environ.setdefault(name, bound)
    settings = load_settings()
    for secret in (settings.google_api_key, settings.langfuse_secret_key, settings.redis.url):
        register_secret(secret.get_secret_value() if secret else None)
    return settings


@contextmanager
def open_redis(settings: Settings) -> Iterator["Redis"]:
    """The configured Redis, or the embedded one for as long as this block lasts."""
    from driftwarden.stream.client import connect
    from driftwarden.stream.embedded import EmbeddedRedis

    if settings.redis.url is not None:
        client = connect(settings.redis.url.get_secret_value())
        try:
            yield client
        finally:
            client.close()
        return
    with EmbeddedRedis.acquire(settings.home) as embedded:
        client = connect(embedded.url)
        try:
            yield client
        finally:
            client.close()


def redis_url(settings: Settings) -> str:
    """Where Redis is: the configured address, or the embedded server's while it runs."""
    from driftwarden.stream.embedded import running_url

    if settings.redis.url is not None:
        return settings.redis.url.get_secret_value()
    return running_url(settings.home) or ""


@contextmanager
def open_knowledge(settings: Settings | None = None) -> Iterator["KnowledgeBase"]:
    """The knowledge base, as its owner or through it."""
    settings = settings or read_settings()
    with open_redis(settings) as client:
        knowledge = _knowledge(settings, client)
        try:
            yield knowledge
        finally:
            knowledge.close()


def _knowledge(settings: Settings, client: Any) -> Any:
    from driftwarden.knowledge import RedisRecordStore, connect_knowledge

    records = RedisRecordStore(client, f"{settings.redis.prefix}knowledge")
    return connect_knowledge(settings.home, records, chroma_url=settings.chroma.url)


@dataclass
class Views:
    """What commands that look, and those that ask something of the service, need of Redis."""

    settings: Settings
    client: "Redis"
    store: "WorkflowStore"
    approvals: "Approvals"


@contextmanager
def open_views(settings: Settings | None = None, clock: Clock | None = None) -> Iterator[Views]:
    """The store and the queue, without the service's heavy parts."""
    from driftwarden.service.workflow.approvals import Approvals
    from driftwarden.service.workflow.store import WorkflowStore

    settings = settings or read_settings()
    with open_redis(settings) as client:
        store = WorkflowStore(client, prefix=settings.redis.prefix, shards=settings.redis.shards)
        store.shards.check()
        yield Views(
            settings=settings,
            client=client,
            store=store,
            approvals=Approvals(client, settings.redis.prefix, clock or SystemClock()),
        )


def load_policy_in_force(settings: Settings) -> "Policy":
    """The policy that the settings name; raises BadInput where it does not load."""
    from driftwarden.service.workflow.policy_watch import parse_policy, read_policy_file

    return parse_policy(read_policy_file(settings.policy_path), settings.policy_path)


def start_tracing(settings: Settings) -> "Tracing":
    """Traces: always kept locally, sent to Langfuse where its keys are set, to a collector where one is named."""
    from driftwarden.tracing import Langfuse, TracingSettings, configure_tracing

    langfuse = None
    if settings.langfuse_public_key and settings.langfuse_secret_key:
        langfuse = Langfuse(
            settings.langfuse.base_url,
            settings.langfuse_public_key.get_secret_value(),
            settings.langfuse_secret_key.get_secret_value(),
        )
    return configure_tracing(
        TracingSettings(
            folder=settings.home / "traces",
            langfuse=langfuse,
            otlp_endpoint=settings.otlp_endpoint,
            environment=settings.langfuse.environment,
        )
    )


@dataclass
class Service:
    """A running stack: everything the workers need, and the threads that drive it."""

    settings: Settings
    parts: "Parts"
    store: "WorkflowStore"
    client: "Redis"
    tracing: "Tracing"
    intake: Callable[[str], "Intake"]
    sandbox: Any
    policy: "PolicyHolder"
    policy_watch: "PolicyWatch"
    agreement: "PolicyAgreement"
    audit_healthy: Callable[[], bool]
    housekeeping: Callable[[], None]
    trainer: "Trainer"
    client_url: str

    def process_name(self) -> str:
        """Name of this process among the workers."""
        return process_name()


class PolicyHolder:
    """The policy in force of this process."""

    def __init__(self, policy: "Policy") -> None:
        """Start with this one."""
        self._policy = policy
        self._lock = threading.Lock()

    def __call__(self) -> "Policy":
        """The policy now."""
        with self._lock:
            return self._policy

    def replace(self, policy: "Policy") -> None:
        """Put another in force."""
        with self._lock:
            self._policy = policy


@contextmanager
def open_service(
    settings: Settings,
    *,
    clock: Clock | None = None,
    decision_clock: "DecisionClock | None" = None,
    policy: "Policy | None" = None,
    role: str = "serve",
    log_file: Path | None = None,
    sandbox_slots: int = 2,
) -> Iterator[Service]:
    """The whole stack with its real parts, for as long as the block lasts."""
    from driftwarden.actions.catalogue import build_actions
    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.actions.state import RedisStateStore
    from driftwarden.agents import AdkAdvisor
    from driftwarden.contracts.ports import Actor
    from driftwarden.knowledge import RedisRecordStore
    from driftwarden.knowledge.connect import PatientKnowledge
    from driftwarden.pipelines.quiet import LOGGING_VARIABLE, quiet
    from driftwarden.pipelines.runner import KedroTrainer
    from driftwarden.sandbox import ProcessSandbox, SandboxLimits
    from driftwarden.service.comparing import SandboxComparer
    from driftwarden.service.notifying import open_notifier
    from driftwarden.service.redis_watch import watching_redis
    from driftwarden.service.training import WarmTrainer
    from driftwarden.service.workflow.approvals import Approvals
    from driftwarden.service.workflow.floor import AuditFloor
    from driftwarden.service.workflow.forgetting import kept_for
    from driftwarden.service.workflow.halts import Halts
    from driftwarden.service.workflow.ledger import Ledger
    from driftwarden.service.workflow.metrics import MetricHistory
    from driftwarden.service.workflow.parts import HeldLease, Parts, RealTime
    from driftwarden.service.workflow.policy_agreement import PolicyAgreement
    from driftwarden.service.workflow.policy_watch import PolicyWatch, policy_files
    from driftwarden.service.workflow.process import bury
    from driftwarden.service.workflow.store import WorkflowStore
    from driftwarden.stream.intake import Intake

    clock, prefix = clock or SystemClock(), settings.redis.prefix
    make_folder(settings.home)
    holder = PolicyHolder(policy or load_policy_in_force(settings))
    with ExitStack() as stack:
        configure_logging(settings.log_level, file=log_file) if log_file else configure_logging(settings.log_level)
        tracing = start_tracing(settings)
        stack.callback(tracing.flush)
        client = stack.enter_context(open_redis(settings))
        audit = stack.enter_context(open_audit(settings, clock, role=role))
        audit.append(
            "policy_change", holder().change_record(now=clock.now()), actor=Actor(kind="service", id="driftwarden")
        )
        quiet()
        logging_of_kedro = {LOGGING_VARIABLE: os.environ[LOGGING_VARIABLE]}
        sandbox = ProcessSandbox(
            environ=os.environ,
            preload=SANDBOX_PRELOAD,
            slots=sandbox_slots,
            # Threads of one fit spin while another process has their core: half the cores each lets two calls run side by side.
            limits=SandboxLimits(threads=max(1, (os.cpu_count() or 2) // 2)),
            extra_environ=logging_of_kedro,
        )
        stack.callback(sandbox.close)
        sandbox.warm()
        breakers = Breakers(settings.service.breakers, clock)
        records = RedisRecordStore(client, f"{prefix}knowledge")
        knowledge = PatientKnowledge(settings.home, records, settings.chroma.url, breaker=breakers.chroma)
        stack.callback(knowledge.close)
        registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root, guard=breakers.mlflow.call)
        comparer = SandboxComparer(sandbox, settings)
        seal = open_seal(settings)
        check_seal(client, prefix, seal)
        store = WorkflowStore(
            client,
            prefix=prefix,
            shards=settings.redis.shards,
            upstream_of=settings.first_upstream,
            identity_ttl_s=settings.service.identity_ttl.total_seconds(),
            group_window_s=settings.service.group_window.total_seconds(),
            crashes_max=settings.service.crashes_max,
            seal=seal,
        )
        store.shards.pin()
        state = RedisStateStore(client, prefix, seal)
        notifier = open_notifier(settings, clock, os.environ)
        cold = KedroTrainer(settings.home / "training", environ=os.environ)
        trainer = WarmTrainer(sandbox, registry, cold, settings)
        actions = build_actions(
            registry=registry,
            trainer=trainer,
            comparer=comparer,
            state=state,
            notifier=notifier,
            sandbox=sandbox,
            settings=settings,
            lease=HeldLease(),
        )
        agreement = PolicyAgreement(client, prefix, process_name(unique=True), holder)
        agreement.announce()
        stack.callback(_leave, agreement)
        key = settings.google_api_key
        parts = Parts(
            settings=settings,
            clock=clock,
            decision_clock=decision_clock or RealTime(clock),
            audit=audit,
            policy=holder,
            registry=registry,
            state=state,
            actions=actions,
            ledger=Ledger(client, prefix, seal),
            floor=AuditFloor.over(settings.audit_dir, kept_for(settings.service)),
            halts=Halts(client, prefix, settings.home, clock),
            approvals=Approvals(client, prefix, clock),
            metrics=MetricHistory(client, prefix, seal),
            advisor=AdkAdvisor(
                settings.model,
                settings=settings.agents,
                google_api_key=key.get_secret_value() if key else None,
                tracing=tracing,
                breaker=breakers.model,
            ),
            knowledge=knowledge,
            sandbox=sandbox,
            comparer=comparer,
            notifier=notifier,
            span=tracing.span,
            require_agreement=agreement.require,
            breakers=breakers,
        )
        if role == "serve":
            plant = (parts.halts.plant, lambda: check_seal(client, prefix, seal))
            stack.enter_context(watching_redis(settings, client, notifier, plant))
        yield Service(
            settings=settings,
            parts=parts,
            store=store,
            client=client,
            tracing=tracing,
            intake=lambda consumer: Intake(client, consumer, prefix=prefix, before_burial=bury(parts)),
            sandbox=sandbox,
            policy=holder,
            policy_watch=PolicyWatch(
                holder, agreement, policy_files(settings), audit=audit, notifier=notifier, clock=clock
            ),
            agreement=agreement,
            audit_healthy=lambda: audit.healthy,
            housekeeping=lambda: keep_audit(settings, audit, clock),
            trainer=trainer,
            client_url=redis_url(settings),
        )


def _leave(agreement: "PolicyAgreement") -> None:
    try:
        agreement.leave()
    except Error as error:  # its word dies by itself
        log.warning("not signed off: %s", error.diagnostics())


def trace_url(settings: Settings, correlation_id: str) -> str | None:
    """Where a person reads the trace of one event, without starting the tracing."""
    if settings.langfuse_public_key and settings.langfuse_secret_key:
        return f"{settings.langfuse.base_url.rstrip('/')}/trace/{correlation_id}"
    file = settings.home / "traces" / f"{correlation_id}.jsonl"
    return file.absolute().as_uri() if file.exists() else None
