"""`driftwarden halt` and `driftwarden resume`: the kill switch."""

import getpass
from typing import TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, Error, unreadable
from driftwarden.service.cli.common import AnswerIsNo, json_option, note, print_json

if TYPE_CHECKING:
    from driftwarden.settings import Settings


@click.command()
@click.option("--reason", required=True, help="Why; it stands in the audit log.")
@click.option("--model", help="Only this model (default: everything).")
@json_option
def halt(reason: str, model: str | None, as_json: bool) -> None:
    """Stop all actions, or one model's, at once. Detection, diagnosis and decisions go on; nothing executes.

    \b
    Example:
      driftwarden halt --reason "deploy of the feature store" --model fraud-v7
    """
    _switch(reason, model, halted=True, as_json=as_json)


@click.command()
@click.option("--reason", required=True, help="Why; it stands in the audit log.")
@click.option("--model", help="Only this model (default: the halt of everything).")
@json_option
def resume(reason: str, model: str | None, as_json: bool) -> None:
    """Lift a halt.

    \b
    Example:
      driftwarden resume --reason "deploy is done" --model fraud-v7
    """
    _switch(reason, model, halted=False, as_json=as_json)


class _NoServer:
    """Stands in for a Redis that is away: the halt's file is written all the same."""

    def hset(self, *_: object) -> int:
        """Keep nothing."""
        return 0


def _switch(reason: str, model: str | None, *, halted: bool, as_json: bool) -> None:
    from driftwarden.service.auditing import open_audit
    from driftwarden.service.bootstrap import open_redis, read_settings
    from driftwarden.service.workflow.halts import Halts, check_reason

    why = check_reason(reason)
    settings, clock, who = read_settings(), SystemClock(), getpass.getuser()
    if model is not None:
        settings.watched(model)
    actor, body = Actor(kind="human", id=who), {"halted": halted, "reason": why, "model": model}
    if halted:
        # Halting waits neither for a server nor for a log that may be what is wrong.
        remaining, away = _halt(settings, clock, model, why=why, who=who)
        changed = True
        try:
            with open_audit(settings, clock, role="cli") as audit:
                audit.append("mode_change", body, actor=actor)
        except (Error, OSError):
            note("the halt is in force, and the audit log does not tell of it")
            raise
    else:
        away = None
        with open_redis(settings) as client, open_audit(settings, clock, role="cli") as audit:
            halts = Halts(client, settings.redis.prefix, settings.home, clock)
            audit.append("mode_change", body, actor=actor)
            changed = halts.resume(model)
            remaining = halts.all()
    target = f"model {model}" if model else "everything"
    if as_json:
        print_json({"halted": halted, "model": model, "changed": changed, "in_force": remaining})
    elif not changed:
        note(f"model {model} was not halted" if model else "there was no halt of everything")
    else:
        note(f"{target} is {'halted: nothing executes until `driftwarden resume`' if halted else 'resumed'}")
        for name, record in remaining.items():
            note(f"halt in force: {'everything' if name == '*' else name}: {record.get('reason')}")
    if away is not None:
        note(f"only services with the state folder {settings.home} see it; halt again for the others: {away}")
    if not changed or away is not None:
        raise AnswerIsNo


def _halt(
    settings: "Settings", clock: SystemClock, model: str | None, *, why: str, who: str
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Halt; returns the halts in force, and why Redis does not know of it (None: it does)."""
    from driftwarden.service.bootstrap import open_redis
    from driftwarden.service.workflow.halts import Halts

    try:
        try:
            with open_redis(settings) as client:
                halts = Halts(client, settings.redis.prefix, settings.home, clock)
                halts.halt(model, reason=why, by=who)
                return halts.all(), None
        except Error as error:
            Halts(_NoServer(), settings.redis.prefix, settings.home, clock).halt(model, reason=why, by=who)
            return {model or "*": {"reason": why, "by": who}}, error.diagnostics()
    except OSError as error:
        raise BadInput(
            "not halted: the state folder", got=unreadable(error), expected="one to write to", where=str(settings.home)
        ) from None
