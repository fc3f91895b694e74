"""Who may approve: `approvers.yml` of the settings, read from disk at the moment it is asked, and changed under a lock."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from driftwarden.clock import rfc3339
from driftwarden.errors import BadInput, NotFound, NotYet
from driftwarden.service.signing.keys import check_name
from driftwarden.service.signing.sshsig import PublicKey, parse_public
from driftwarden.settings import Approver, ApproverKey, Settings, load_settings
from driftwarden.strict import load_yaml

FILE = "approvers.yml"
_HEAD = "# Who may approve, and for which groups of the policy. Written by `driftwarden approvers`; edit as you like.\n"


class ListNotYours(BadInput):
    """This account may not change the list of approvers."""

    def __init__(self, file: Path) -> None:
        """Name the `file`."""
        super().__init__(
            "list of approvers", got="no right to write it", expected="an account that has it", where=str(file)
        )


def read_roster(settings: Settings) -> dict[str, Approver]:
    """Everyone who is listed now, revoked keys included; raises BadInput where the settings do not load any more."""
    environ = {"DRIFTWARDEN_HOME": str(settings.home), "DRIFTWARDEN_CONF": str(settings.conf)}
    return load_settings(environ).approvers


def roster_in_force(settings: Settings) -> dict[str, Approver]:
    """As `read_roster`, for a running service; raises NotYet where the settings do not load just now: nobody is believed."""
    try:
        return read_roster(settings)
    except BadInput as error:
        raise NotYet(f"who may approve cannot be read: {error.diagnostics()}") from None


def keys_of(approver: Approver) -> frozenset[PublicKey]:
    """The keys that count now; raises BadInput where one is not a key."""
    return frozenset(parse_public(one.public) for one in approver.keys if one.revoked_at is None)


def enrol(
    settings: Settings,
    name: str,
    groups: tuple[str, ...],
    key: PublicKey,
    now: datetime,
    *,
    first: bool = False,
    announce: Callable[[Approver], object] = lambda entry: None,
) -> Approver:
    """List this key for this person; returns the entry as it then is. Groups are added to the ones that were there.

    `announce` hears the entry before it is written. Raises BadInput where the key is someone else's, or was revoked:
    whoever lost a key needs another one. `first`: also where anybody at all is listed by now.
    """
    check_name(name)
    with _changing(settings) as listed:
        if first and listed:
            names = ", ".join(sorted(listed))
            raise BadInput("first approver", got=f"enrolled already: {names}", expected="nobody yet")
        for other, entry in listed.items():
            for one in entry.keys:
                if parse_public(one.public, where=FILE) != key:
                    continue
                if other != name:
                    raise BadInput(
                        f"key {key.fingerprint}", got=f"a key of {other}", expected="a key that is nobody else's"
                    )
                if one.revoked_at is not None:
                    raise BadInput(f"key {key.fingerprint}", got="revoked", expected="another key")
        there = listed.get(name, Approver(groups=()))
        keys = there.keys
        if key not in keys_of(there):
            keys = (*keys, ApproverKey(public=key.line, enrolled_at=rfc3339(now)))
        entry = Approver(groups=tuple(dict.fromkeys((*there.groups, *groups))), keys=keys)
        announce(entry)
        _write(settings, name, entry)
    return entry


def revoke(settings: Settings, name: str, reason: str, now: datetime) -> Approver:
    """End every key of this person, at once and for good: what they signed and is not used up yet counts no more."""
    with _changing(settings) as listed:
        if name not in listed:
            names = ", ".join(sorted(listed)) or "nobody is enrolled"
            raise NotFound("no such approver", got=name, expected=f"one of: {names}")
        ended = {"revoked_at": rfc3339(now), "revoked_reason": reason}
        there = listed[name]
        if not keys_of(there):
            raise BadInput(f"approver `{name}`", got="no key that counts", expected="one that can be revoked")
        keys = tuple(one if one.revoked_at else one.model_copy(update=ended) for one in there.keys)
        entry = there.model_copy(update={"keys": keys})
        _write(settings, name, entry)
    return entry


def roster_file(settings: Settings) -> Path:
    """The file that enrolments are written to."""
    return settings.conf / "local" / "driftwarden" / FILE


@contextmanager
def _changing(settings: Settings) -> Iterator[dict[str, Approver]]:
    """What is listed, while nobody else changes it."""
    file = roster_file(settings)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f".{FILE}.lock").open("w")
    except PermissionError:
        raise ListNotYours(file) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_roster(settings)


def _write(settings: Settings, name: str, entry: Approver) -> None:
    """Replace one entry of the local file, leaving the others as they are; the file is whole at any moment."""
    file = roster_file(settings)
    document: dict[str, Any] = {"approvers": {}}
    if file.exists():
        found, _ = load_yaml(file.read_text(encoding="utf-8"), where=str(file))
        if isinstance(found, dict) and isinstance(found.get("approvers"), dict):
            document = found
    document["approvers"][name] = entry.model_dump(mode="json", exclude_none=True)
    made = file.with_name(f".{FILE}.{os.getpid()}")
    with made.open("w", encoding="utf-8") as out:
        out.write(_HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096))
        out.flush()
        os.fsync(out.fileno())
    made.replace(file)
