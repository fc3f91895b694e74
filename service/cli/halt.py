"""`driftwarden halt` and `driftwarden resume`: the kill switch."""

import getpass

import click

from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.service.cli.common import AnswerIsNo, json_option, note, print_json


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


def _switch(reason: str, model: str | None, *, halted: bool, as_json: bool) -> None:
    from driftwarden.service.bootstrap import open_audit, open_redis, read_settings
    from driftwarden.service.workflow.halts import Halts, check_reason

    why = check_reason(reason)
    settings, clock, who = read_settings(), SystemClock(), getpass.getuser()
    if model is not None:
        settings.watched(model)
    with open_redis(settings) as client, open_audit(settings, clock, role="cli") as audit:
        halts = Halts(client, settings.redis.prefix, settings.home, clock)
        body = {"halted": halted, "reason": why, "model": model}
        if halted:
            # Halting must not wait for a log that may be what is wrong.
            halts.halt(model, reason=why, by=who)
        audit.append("mode_change", body, actor=Actor(kind="human", id=who))
        changed = True if halted else halts.resume(model)
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
    if not changed:
        raise AnswerIsNo
