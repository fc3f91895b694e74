"""The person at this terminal: how they are listed, and the key that they sign with."""

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftwarden.clock import Clock
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import json_option, note, safe_text
from driftwarden.strict import plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from driftwarden.service.bootstrap import Views
    from driftwarden.service.signing.grants import Verdict
    from driftwarden.service.workflow.approvals import ApprovalRequest
    from driftwarden.settings import Approver, Settings


@dataclass(frozen=True)
class Person:
    """Someone who is listed now, with a private key of theirs that counts."""

    name: str
    groups: tuple[str, ...]
    key: "Ed25519PrivateKey"


def signing(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that signs: `--reason`, `--as`, `--key`, `--json`."""
    command = json_option(command)
    command = click.option("--key", type=click.Path(), help="Your private key (default: the one that was enrolled).")(
        command
    )
    command = click.option("--as", "name", help="Your name in approvers.yml (default: this account's).")(command)
    return click.option("--reason", required=True, help="Why; it stands in the audit log.")(command)


def signed_reason(reason: str) -> str:
    """A reason that can be signed as the audit log will hold it; BadInput for an empty one, a secret, or a book."""
    from driftwarden.audit.redact import redact_text
    from driftwarden.service.signing.requests import REASON_CHARS_MAX
    from driftwarden.service.workflow.halts import check_reason

    why: str = plain(check_reason(reason))
    if redact_text(why) != why:
        raise BadInput("option --reason", got="what looks like a secret", expected="words for the audit log")
    if len(why) > REASON_CHARS_MAX:
        raise BadInput("option --reason", got=f"{len(why)} characters", expected=f"at most {REASON_CHARS_MAX}")
    return why


def listed(
    settings: "Settings", name: str | None, key: str | None, groups: Callable[[], tuple[str, ...]]
) -> tuple[str, "Approver"]:
    """The person as they are listed. With the embedded Redis, and while nobody at all is listed, whoever uses it first is
    enrolled for `groups`. Raises BadInput for anybody else."""
    from driftwarden.service.cli.approvers import enroll_key, own_key
    from driftwarden.service.signing.keys import check_name
    from driftwarden.service.signing.roster import read_roster, roster_file

    who, there = check_name(name or getpass.getuser()), read_roster(settings)
    if who in there:
        return who, there[who]
    if there:
        expected = f"someone listed in approvers.yml: {', '.join(sorted(there))} (--as NAME)"
        raise BadInput("you may not answer", got=who, expected=expected)
    if settings.redis.url is not None:
        how = f"driftwarden approvers enroll {who} --group {' --group '.join(groups() or ('NAME',))}"
        raise BadInput("you may not answer", got="nobody is enrolled", expected=f"first: {how}")
    public, path = own_key(settings, who, key)
    if path is None:
        raise BadInput("option --key", got="a public key", expected="a private one, to sign with")
    entry = enroll_key(settings, who, groups(), public, first=True)
    note(f"first use: {who} is enrolled for {', '.join(entry.groups)} with the key {public.fingerprint}")
    note(f"           private key {path}, list {roster_file(settings)}; add others with: driftwarden approvers enroll")
    return who, entry


def with_key(settings: "Settings", name: str, entry: "Approver", key: str | None) -> Person:
    """This person with a private key that is listed for them; raises BadInput where none is found."""
    from driftwarden.service.cli.approvers import ask_passphrase, key_folders
    from driftwarden.service.signing.keys import find_private, places_of
    from driftwarden.service.signing.roster import keys_of

    places = (Path(key).expanduser(),) if key else places_of(name, key_folders(settings))
    return Person(name, entry.groups, find_private(places, keys_of(entry), ask_passphrase))


def told(settings: "Settings", request: "ApprovalRequest") -> None:
    """What became of an answer: what counts now, for somebody who signed earlier may have been revoked since."""
    from driftwarden.service.signing.roster import read_roster
    from driftwarden.service.workflow.approvals import OPEN, standing

    count = len(standing(request, read_roster(settings))) if request.state in OPEN else request.required
    if count < request.required:
        lost = len(request.granted) - count
        why = f" ({lost} given earlier count no more: driftwarden approvals show {request.id})" if lost else ""
        missing = f"{request.required - count} more needed of {', '.join(request.groups)}"
        note(safe_text(f"{request.id}: signed; {missing}{why}"))
    else:
        note(f"{request.id} is {request.state}; follow it: driftwarden incidents show {request.incident}")


def approver_of(settings: "Settings", request: "ApprovalRequest", name: str | None, key: str | None) -> Person:
    """The person at this terminal, who may answer this request; raises BadInput."""
    who, entry = listed(settings, name, key, lambda: request.groups)
    if not set(request.groups) & set(entry.groups):
        got = f"groups: {', '.join(entry.groups) or 'none'}"
        raise BadInput(f"approver `{who}`", got=got, expected=f"one of: {', '.join(request.groups)}")
    return with_key(settings, who, entry, key)


def say(
    views: "Views", request: "ApprovalRequest", person: Person, verdict: "Verdict", why: str, clock: Clock
) -> "ApprovalRequest":
    """Sign this answer, leave it in the queue, and wake the incident."""
    from driftwarden.service.signing.grants import sign_grant

    group = next(one for one in request.groups if one in person.groups)
    question = request.question
    grant = sign_grant(question, verdict, by=person.name, group=group, at=clock.now(), reason=why, key=person.key)
    answer = views.approvals.grant if verdict == "approve" else views.approvals.refuse
    request = answer(request.id, grant)
    views.store.wake(request.incident, "approval", {"approval": request.id})
    return request
