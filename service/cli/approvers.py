"""`driftwarden approvers`: who may approve, and with which keys."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text

if TYPE_CHECKING:
    from driftwarden.service.signing.sshsig import PublicKey
    from driftwarden.settings import Approver, Settings


@click.group()
def approvers() -> None:
    """Who may approve, for which groups of the policy, and with which keys (approvers.yml of the settings).

    \b
    Example:
      driftwarden approvers enroll ada --group ml-oncall
    """


@approvers.command()
@click.argument("name", required=False)
@click.option("--group", "groups", multiple=True, help="A group of the policy; several times for several.")
@click.option("--key", "key", type=click.Path(), help="An OpenSSH Ed25519 key, private or public (default: a new one).")
@json_option
def enroll(name: str | None, groups: tuple[str, ...], key: str | None, as_json: bool) -> None:
    """List a key for a person (default: you). Without --key a new one is made, readable by you alone.

    \b
    Example:
      driftwarden approvers enroll ada --group ml-oncall --key ~/.ssh/id_ed25519.pub
    """
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.signing.keys import check_name
    from driftwarden.service.signing.roster import ListNotYours, read_roster

    settings, who = read_settings(), check_name(name or getpass.getuser())
    there = read_roster(settings).get(who)
    wanted = _groups(settings, groups, there)
    public, path = own_key(settings, who, key)
    try:
        entry = enroll_key(settings, who, wanted, public)
    except ListNotYours:
        if path is not None:
            groups_ = " --group ".join(wanted)
            note(
                f"private key: {path}. Whoever may write the list enrolls its public half, from a file that they can read:"
            )
            note(f"  driftwarden approvers enroll {who} --group {groups_} --key {path.name}.pub")
        raise
    if as_json:
        print_json(view(who, entry))
        return
    note(f"{who} may approve for {', '.join(entry.groups)} with the key {public.fingerprint}")
    if path is not None:
        note(f"private key: {path} (keep it yours: whoever holds it approves as {who})")


@approvers.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Everyone who is or was listed, and their keys.

    \b
    Example:
      driftwarden approvers list --json
    """
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.signing.roster import read_roster

    found = read_roster(read_settings())
    views = [view(name, found[name]) for name in sorted(found)]
    if as_json:
        print_json_lines(views)
        return
    if not views:
        note("nobody is enrolled")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "groups", "key", "enrolled", "revoked"):
        table.add_column(column, overflow="fold")
    for one in views:
        for key in one["keys"] or [{}]:
            why = f"{key['revoked_at'][:19]} ({key.get('revoked_reason') or '-'})" if key.get("revoked_at") else "-"
            table.add_row(
                safe_text(one["name"], 64),
                safe_text(", ".join(one["groups"]), 120),
                key.get("fingerprint") or "none",
                (key.get("enrolled_at") or "-")[:19],
                safe_text(why, 120),
            )
    console().print(table, markup=False)


@approvers.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; it stands in the audit log.")
@json_option
def revoke(name: str, reason: str, as_json: bool) -> None:
    """End every key of a person, at once and for good. What they signed and is not used up yet counts no more.

    \b
    Example:
      driftwarden approvers revoke ada --reason "laptop was stolen"
    """
    from driftwarden.contracts.ports import Actor
    from driftwarden.service.auditing import open_audit
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.signing import roster
    from driftwarden.service.workflow.halts import check_reason

    why = check_reason(reason)
    settings, clock, by = read_settings(), SystemClock(), getpass.getuser()
    # Taking a right away must not wait for a log that may be what is wrong.
    entry = roster.revoke(settings, name, why, clock.now())
    body = {"verdict": "approver_revoked", "approver": name, "by": by, "reason": why}
    with open_audit(settings, clock, role="cli") as audit:
        audit.append("mode_change", body, actor=Actor(kind="human", id=by))
    if as_json:
        print_json(view(name, entry))
    else:
        note(f"{name} cannot approve any more; to come back, they enroll another key")


def view(name: str, entry: "Approver") -> dict[str, Any]:
    """One person as `--json` shows them."""
    from driftwarden.service.signing.sshsig import parse_public

    keys = [
        {"public_key": one.public, "fingerprint": parse_public(one.public).fingerprint}
        | one.model_dump(mode="json", exclude={"public"})
        for one in entry.keys
    ]
    return {"name": name, "groups": list(entry.groups), "active": entry.active, "keys": keys}


def key_folders(settings: "Settings") -> tuple[Path, ...]:
    """Where private keys are kept, the place for new ones first: with the embedded stack in the state folder; where a
    service is shared, in the person's own folder, which the service's account does not read."""
    shared, own = settings.home / "keys", Path(click.get_app_dir("driftwarden")) / "keys"
    return (shared, own) if settings.redis.url is None else (own, shared)


def own_key(settings: "Settings", name: str, file: str | None) -> tuple["PublicKey", Path | None]:
    """The public key to enroll, and where its private half is, if that is here: the file's, or one that is made now."""
    from driftwarden.service.signing.keys import create_key, key_path, read_key_file
    from driftwarden.service.signing.sshsig import public_of

    kept = key_path(key_folders(settings)[0], name)
    if file is not None:
        path = Path(file).expanduser().absolute()
        public, private = read_key_file(path, ask_passphrase)
        if private and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            kept.unlink(missing_ok=True)  # a link to a file that is gone
            kept.symlink_to(path)
        return public, path if private else None
    if kept.exists():
        public = read_key_file(kept, ask_passphrase)[0]
        if not _is_revoked(settings, public):
            return public, kept
        for path in (kept, kept.with_name(kept.name + ".pub")):
            if path.exists():
                path.replace(path.with_name(f"{path.name}.revoked-{os.urandom(4).hex()}"))
    return public_of(create_key(kept)), kept


def _is_revoked(settings: "Settings", public: "PublicKey") -> bool:
    from driftwarden.service.signing.roster import read_roster
    from driftwarden.service.signing.sshsig import parse_public

    ended = (one for entry in read_roster(settings).values() for one in entry.keys if one.revoked_at is not None)
    return any(parse_public(one.public) == public for one in ended)


def enroll_key(
    settings: "Settings", name: str, groups: tuple[str, ...], public: "PublicKey", *, first: bool = False
) -> "Approver":
    """List the key; the audit record stands before the list is changed. `first`: only while nobody is listed."""
    from driftwarden.contracts.ports import Actor
    from driftwarden.service.auditing import open_audit
    from driftwarden.service.signing.roster import enrol

    clock, by = SystemClock(), getpass.getuser()

    def announce(entry: "Approver") -> None:
        body = {
            "verdict": "approver_enrolled",
            "approver": name,
            "by": by,
            "reason": "the first use, while nobody was enrolled" if first else "enrolled by hand",
            "groups": list(entry.groups),
            "public_key": public.line,
            "fingerprint": public.fingerprint,
            "first_use": first,
        }
        with open_audit(settings, clock, role="cli") as audit:
            audit.append("mode_change", body, actor=Actor(kind="human", id=by))

    return enrol(settings, name, groups, public, clock.now(), first=first, announce=announce)


def ask_passphrase(path: Path) -> str | None:
    """The passphrase of a key, typed; None where there is no terminal to type at."""
    return getpass.getpass(f"passphrase of {path}: ", sys.stderr) if sys.stdin.isatty() else None


def _groups(settings: "Settings", given: tuple[str, ...], there: "Approver | None") -> tuple[str, ...]:
    """The groups that were given; without any, those the person has, or the policy's only one."""
    asked = groups_of_policy(settings)
    for group in given:
        if not group.strip():
            raise BadInput("option --group", got="nothing", expected=f"one of the policy: {', '.join(asked)}")
        if group not in asked:
            note(f"no tier of the policy in force asks for the group {safe_text(group, 80)}")
    if given or (there is not None and there.groups):
        return given
    if len(asked) != 1:
        raise BadInput("option --group", got="nothing", expected=f"one of the policy: {', '.join(asked) or 'none'}")
    return asked


def groups_of_policy(settings: "Settings") -> tuple[str, ...]:
    """Every group that a tier of the policy in force asks for."""
    from driftwarden.service.bootstrap import load_policy_in_force

    tiers = load_policy_in_force(settings).document.tiers
    return tuple(dict.fromkeys(group for tier in tiers if tier.approvals for group in tier.approvals.groups))
