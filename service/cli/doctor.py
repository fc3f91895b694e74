"""`driftwarden doctor`: what is configured, reachable and wrong, with the mend."""

from collections.abc import Callable
from pathlib import Path

import click

from driftwarden.errors import BadInput, Error, Retry
from driftwarden.service.cli.common import AnswerIsNo, console, json_option, print_json, safe_text
from driftwarden.service.cli.disk import Check, audit, state_folder
from driftwarden.settings import Settings

STUCK_S = 600.0
WAITS_LONG_S = 300.0
NAMES = {"_back_pressure": "back-pressure", "_reasoner": "agents' model", "audit": "audit log", "_halts": "halt"}
STYLE = {"ok": "green", "warning": "yellow", "fault": "red"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What is configured, reachable, and wrong, with the mend. Exit code 1 where something is at fault.

    \b
    Example:
      driftwarden doctor --json
    """
    checks = examine()
    ok = all(check.state != "fault" for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [check.__dict__ | {"mend": check.mend or None} for check in checks]})
    else:
        _print(checks, ok)
    if not ok:
        raise AnswerIsNo


def _print(checks: list[Check], ok: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        mend = f"\n[dim]mend: {escape(check.mend)}[/dim]" if check.mend and check.state != "ok" else ""
        table.add_row(
            f"[{STYLE[check.state]}]{check.state}[/]", check.name, f"{escape(safe_text(check.detail, 300))}{mend}"
        )
    out = console()
    out.print(table)
    out.print("everything that must work works" if ok else "[red]something is at fault[/red]")


def examine() -> list[Check]:
    """Every check, in the order in which things depend on each other."""
    from driftwarden.service.bootstrap import read_settings

    try:
        settings = read_settings()
    except Error as error:
        return [Check("settings", "fault", error.diagnostics(), "correct the file and line that are named")]
    checks = [Check("settings", "ok", f"state in {settings.home}, configuration in {settings.conf}")]
    for look in (
        _policy,
        state_folder,
        _redis,
        _spool,
        _state_key,
        _policy_in_force,
        _workers,
        _back_pressure,
        _registry,
        _models,
        _knowledge,
        _reasoner,
        _traces,
        audit,
        _halts,
        _approvers,
    ):
        checks += _guarded(look, settings)
    return checks


def _guarded(look: Callable[[Settings], list[Check]], settings: Settings) -> list[Check]:
    """What it finds, or, under the name that it has when all is well, why it cannot look."""
    name = NAMES.get(look.__name__) or look.__name__.strip("_").replace("_", " ")
    try:
        return look(settings)
    except ModuleNotFoundError as error:
        return [Check(name, "warning", f"module {error.name} is not installed", "install driftwarden[service]")]
    except Retry as error:
        mend = "bring it back, or correct its address in the settings; a service that runs goes on by itself"
        return [Check(name, "fault", error.diagnostics(), mend)]
    except Error as error:
        return [Check(name, "fault", error.diagnostics(), "see the message")]
    except OSError as error:
        return [Check(name, "fault", f"{type(error).__name__}: {error.strerror}", "check the folder and its rights")]


def _policy(settings: Settings) -> list[Check]:
    from driftwarden.service.bootstrap import load_policy_in_force

    try:
        policy = load_policy_in_force(settings)
    except BadInput as error:
        return [Check("policy", "fault", error.diagnostics(), f"driftwarden policy check {settings.policy_path}")]
    mode = policy.enforcement
    where = f"{policy.name} {policy.revision} from {settings.policy_path}, enforcement {mode}"
    if mode == "enforce":
        return [Check("policy", "ok", where)]
    mend = "write conf/local/driftwarden/policy.yml with `enforcement: enforce` once you trust its decisions"
    return [Check("policy", "warning", f"{where}: nothing executes", mend)]


def _policy_in_force(settings: Settings) -> list[Check]:
    """What the running processes hold, beside what lies on this disk."""
    from driftwarden.service.bootstrap import load_policy_in_force, open_redis
    from driftwarden.service.workflow.policy_agreement import describe, differing, live_holdings

    name = "policy in force"
    with open_redis(settings) as client:
        live = live_holdings(client, settings.redis.prefix)
    if not live:
        return [Check(name, "ok", "no service runs here; the next one starts with the file")]
    if len({held.digest if held else None for held in live.values()}) > 1 or None in live.values():
        mend = "put the same policy.yml on every host; a process that is gone is forgotten within seconds"
        return [Check(name, "fault", f"nothing executes until all agree: {describe(live)}", mend)]
    held = next(one for one in live.values() if one is not None)
    here = f"{held}, enforcement {held.enforcement}, in {len(live)} process{'es' if len(live) > 1 else ''}"
    if faults := sorted({one.fault for one in live.values() if one and one.fault}):
        detail = f"{here}: it stays in force, for what lies on disk does not load: {faults[0]}"
        return [Check(name, "fault", detail, "correct the file: it is taken up within seconds")]
    try:
        on_disk = load_policy_in_force(settings)
    except BadInput:
        return [Check(name, "warning", f"{here}; the file on this disk does not load", "see `policy`")]
    if differing(live, on_disk.digest):
        detail = f"{here}; the file on this disk is another: {on_disk.name} {on_disk.revision}"
        return [Check(name, "warning", detail, "it is taken up within seconds; if not, compare DRIFTWARDEN_CONF")]
    return [Check(name, "ok", f"{here}, as on disk")]


def _redis(settings: Settings) -> list[Check]:
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.durability import promises
    from driftwarden.stream.client import redact_url
    from driftwarden.stream.dead_letters import DeadLetters

    with open_redis(settings) as client:
        version = client.info("server")["redis_version"]
        promised = promises(client)
        waiting = client.xlen(f"{settings.redis.prefix}events")
        dead = DeadLetters(client, settings.redis.prefix).left()
    where = "embedded" if settings.redis.url is None else redact_url(settings.redis.url.get_secret_value())
    checks = [Check("redis", "ok", f"{where}, version {version}, {waiting} events waiting")]
    checks += [Check("redis durability", one.state, one.detail, one.mend) for one in promised]
    if dead:
        checks.append(Check("dead letters", "warning", f"{dead} could not be handled", "driftwarden dead-letters list"))
    return checks


def _spool(settings: Settings) -> list[Check]:
    from driftwarden.stream.spool import Spool

    spool = Spool(settings.home)
    found = spool.waiting()
    checks = [Check("spool", "ok", "no event waits for Redis")]
    if found.events:
        waits = "1 event waits" if found.events == 1 else f"{found.events} events wait"
        mend = "driftwarden emit --spool (a service of this state folder sends them too)"
        checks = [Check("spool", "warning", f"{waits} for Redis in {spool.folder}, since {found.since}", mend)]
    if found.dropped:
        counts = ", ".join(f"{why}: {count}" for why, count in sorted(found.dropped.items()))
        mend = f"raise spool.events, spool.mib or spool.max_age in driftwarden.yml; then remove {spool.folder}/dropped.json"
        detail = f"{sum(found.dropped.values())} events were never sent ({counts}), last at {found.last_dropped}"
        checks.append(Check("spool losses", "warning", detail, mend))
    if found.bad:
        detail = f"{found.bad} files of {spool.folder} could not be read as events"
        checks.append(Check("spool files", "warning", detail, "look at the files named *.bad, then remove them"))
    return checks


def _registry(settings: Settings) -> list[Check]:
    from driftwarden.pipelines.registry import client

    client(settings.tracking_uri)
    return [Check("registry", "ok", f"MLflow at {_no_password(settings.tracking_uri)}")]


def _no_password(uri: str) -> str:
    from driftwarden.stream.client import redact_url

    return redact_url(uri) if "@" in uri else uri


def _models(settings: Settings) -> list[Check]:
    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.service.registering import check_metric

    if not settings.models:
        return [Check("models", "warning", "no model is watched", "driftwarden models register NAME --data FILE ...")]
    registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
    checks = []
    for name, model in sorted(settings.models.items()):
        champion = registry.champion(model)
        try:
            check_metric(model.metric, model.task)
        except BadInput as error:
            checks.append(Check(f"model {name}", "fault", error.diagnostics(), "correct metric in models.yml"))
            continue
        missing = [root for root in model.data.roots if not Path(root).is_dir()]
        if champion is None:
            mend = f"register a version of {model.registered_model} and set its alias `champion`"
            checks.append(Check(f"model {name}", "fault", "has no champion", mend))
        elif missing:
            checks.append(
                Check(
                    f"model {name}", "fault", f"root {missing[0]} is not a folder", "correct data.roots in models.yml"
                )
            )
        else:
            checks.append(Check(f"model {name}", "ok", f"champion is version {champion}"))
    return checks


def _knowledge(settings: Settings) -> list[Check]:
    from driftwarden.service.bootstrap import open_knowledge

    with open_knowledge(settings) as knowledge:
        found = knowledge.search("gradual concept drift", limit=1)
    where = settings.chroma.url or "on disk"
    if not found:
        return [Check("knowledge", "fault", f"Chroma {where} finds nothing", "driftwarden knowledge list")]
    return [Check("knowledge", "ok", f"Chroma {where}, finds `{found[0].id}`")]


def _reasoner(settings: Settings) -> list[Check]:
    if settings.model == "offline":
        return [Check("agents' model", "ok", "the offline reasoner (no key, no server)")]
    if settings.model.startswith("gemini") and settings.google_api_key is None:
        return [
            Check("agents' model", "fault", f"{settings.model} has no key", "set GOOGLE_API_KEY, or model: offline")
        ]
    return [Check("agents' model", "ok", settings.model)]


def _traces(settings: Settings) -> list[Check]:
    both = bool(settings.langfuse_public_key), bool(settings.langfuse_secret_key)
    if any(both) and not all(both):
        missing = "LANGFUSE_SECRET_KEY" if both[0] else "LANGFUSE_PUBLIC_KEY"
        return [Check("traces", "fault", "one of two Langfuse keys is set", f"set {missing} too, or neither")]
    local = f"kept in {settings.home / 'traces'}"
    return [Check("traces", "ok", f"{local}, and sent to {settings.langfuse.base_url}" if all(both) else local)]


def _workers(settings: Settings) -> list[Check]:
    """Every process that lives, what it does without, and the last words of those that could not go on."""
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.workflow.health import processes

    with open_redis(settings) as client:
        found = processes(client, settings.redis.prefix)
    live = [one for one in found if one.is_live]
    workers = [line for one in live for line in one.workers()]
    late = [
        f"{one['incident']} in `{one['state']}` for {one['seconds']:.0f} s" for one in workers if one["doing"] == "late"
    ]
    stuck = [
        f"the intake of {one.name}" for one in live if one.said.intake_s is not None and one.said.intake_s > STUCK_S
    ]
    detail = f"{len(workers)} in {len(live)} processes" if live else "no service runs here"
    checks = [Check("workers", "ok", detail)]
    if late or stuck:
        detail = f"{detail}; late: {', '.join(late + stuck)}"
        mend = "another worker has its work; start the process again, which frees the thread, and look at what it waits for"
        checks = [Check("workers", "fault", detail, mend)]
    for one in found:
        if one.said.ended is not None:
            mend = "mend what it says, `driftwarden doctor` on that host, then start the service there again"
            checks.append(Check(f"process {one.name}", "fault", f"ended: {one.said.ended}", mend))
        checks += [
            Check(f"{breaker.name} ({one.name})", "warning", f"{breaker.state}: {breaker.reason}", "docs/degraded.md")
            for breaker in one.said.breakers.values()
            if breaker.state != "closed"
        ]
    return checks


def _back_pressure(settings: Settings) -> list[Check]:
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.workflow.backpressure import backpressure
    from driftwarden.service.workflow.health import processes

    name = NAMES["_back_pressure"]
    with open_redis(settings) as client:
        waits = backpressure(client, settings.redis.prefix, settings.redis.shards)
        live = [one for one in processes(client, settings.redis.prefix) if one.is_live]
    intake, activations = waits["intake"], waits["activations"]
    oldest_s = max(intake["oldest_seconds"] or 0.0, activations["oldest_seconds"] or 0.0)
    waiting = f"{intake['length']} events and {activations['waiting']} turns of incidents wait"
    detail = f"{waiting}, the oldest for {oldest_s:.0f} s"
    if not live and (intake["length"] or activations["waiting"] or activations["in_hand"] or waits["timers"]["due"]):
        left = f", {activations['in_hand']} are left by a worker that is gone" if activations["in_hand"] else ""
        return [Check(name, "warning", f"{detail}{left}, and no service runs", "driftwarden serve")]
    if oldest_s > WAITS_LONG_S:
        return [
            Check(name, "warning", detail, "more workers (serve --workers, or more processes); see driftwarden stats")
        ]
    return [Check(name, "ok", detail)]


def _state_key(settings: Settings) -> list[Check]:
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.state_key import open_seal, seal_opens

    with open_redis(settings) as client:
        opens = seal_opens(client, settings.redis.prefix, open_seal(settings))
    if opens is False:
        mend = "give every host that shares this Redis the same service.state_key_file (docs/security.md)"
        return [Check("state key", "fault", "this Redis was sealed with another key: the service does not start", mend)]
    return [Check("state key", "ok", "seals what is kept in Redis" if opens else "nothing is sealed yet")]


def _halts(settings: Settings) -> list[Check]:
    from driftwarden.clock import SystemClock
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.workflow.halts import Halts

    with open_redis(settings) as client:
        halts = Halts(client, settings.redis.prefix, settings.home, SystemClock()).all()
    return [
        Check(
            "halt",
            "warning",
            f"{'everything' if name == '*' else name} is halted: {record.get('reason')}",
            "driftwarden resume --reason ..." + ("" if name == "*" else f" --model {name}"),
        )
        for name, record in halts.items()
    ]


def _approvers(settings: Settings) -> list[Check]:
    able = sorted(name for name, approver in settings.approvers.items() if approver.active)
    if able:
        return [Check("approvers", "ok", ", ".join(able))]
    if settings.redis.url is None and not settings.approvers:
        return [Check("approvers", "ok", "nobody is listed: the first answer enrols whoever gives it (embedded Redis)")]
    found = "every key is revoked or missing" if settings.approvers else "nobody is listed"
    mend = "driftwarden approvers enroll NAME --group GROUP"
    return [Check("approvers", "warning", f"{found}: nothing that escalates can be approved", mend)]
