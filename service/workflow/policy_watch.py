"""The policy on disk, looked at again and again: what loads comes into force, what does not leaves the old one there."""

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from driftwarden.clock import Clock
from driftwarden.contracts.ports import AuditLog, Notifier
from driftwarden.errors import BadInput, unreadable
from driftwarden.policies import Policy, load_policy
from driftwarden.service.workflow.parts import SERVICE
from driftwarden.service.workflow.policy_agreement import PolicyAgreement, describe, differing
from driftwarden.settings import PACKAGED_CONF, Settings

log = logging.getLogger(__name__)

# Workers that differ for longer are not in the middle of a change: people are told.
PATIENCE = timedelta(minutes=5)

Seen = tuple[Path, bytes | str]


class Holder(Protocol):
    """Where the policy in force is kept."""

    def __call__(self) -> Policy:
        """The policy now."""
        ...

    def replace(self, policy: Policy) -> None:
        """Put another in force."""
        ...


def policy_files(settings: Settings) -> tuple[Path, ...]:
    """Where a policy may lie, the one that the settings name last: a file that appears before it takes its place."""
    own = (settings.conf / layer / "driftwarden" / "policy.yml" for layer in ("local", "base"))
    files = (*own, PACKAGED_CONF / "base" / "driftwarden" / "policy.yml")
    return files[: files.index(settings.policy_path) + 1] if settings.policy_path in files else (settings.policy_path,)


def read_policy_file(path: Path) -> bytes:
    """The bytes of a policy; raises BadInput where they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unread(error, path) from None


def parse_policy(content: bytes, path: Path) -> Policy:
    """A policy from the bytes of a file; raises BadInput with file and line where it does not load."""
    try:
        return load_policy(content.decode("utf-8"), str(path))
    except (UnicodeDecodeError, RecursionError) as error:
        raise _unread(error, path) from None


def _unread(error: Exception, path: Path) -> BadInput:
    return BadInput("cannot read the policy", got=unreadable(error), expected="a UTF-8 file", where=str(path))


class PolicyWatch:
    """Reloads the policy of one process and keeps its word among the others; `tick` is called about once a second."""

    def __init__(
        self,
        holder: Holder,
        agreement: PolicyAgreement,
        files: Sequence[Path],
        *,
        audit: AuditLog,
        notifier: Notifier,
        clock: Clock,
    ) -> None:
        """`files`: where a policy may lie, the one in force last; one that appears before it takes its place."""
        self._holder, self._agreement, self._files = holder, agreement, tuple(files)
        self._audit, self._notifier, self._clock = audit, notifier, clock
        self._judged: Seen | None = None
        self._pending: Seen | None = None
        self._differ_since: datetime | None = None

    def tick(self) -> None:
        """Look at the disk, then at the others. Raises LogUnwritable, Retry (Redis is away)."""
        self.look()
        self.compare()

    # The disk

    def look(self) -> None:
        """Take up what the file says now.

        Half a file may load, and be laxer than the whole: what is new is judged once two looks in a row saw the same bytes.
        Only a policy that executes nothing is taken at first sight. Raises LogUnwritable.
        """
        path, seen, fault = self._read()
        if seen == self._judged:
            self._pending = None
            return
        policy: Policy | None = None
        if fault is None and isinstance(seen[1], bytes):
            try:
                policy = parse_policy(seen[1], path)
            except BadInput as error:
                fault = error.diagnostics()
        stops = policy is not None and policy.enforcement != "enforce"
        if not stops and seen != self._pending:
            self._pending = seen
            return
        if policy is not None:
            self._take(policy, path)
            self._judged, self._pending = seen, None
            return
        self._judged, self._pending = seen, None
        self._refuse(fault or "the policy does not load", seen)

    def _read(self) -> tuple[Path, Seen, str | None]:
        path = self._files[-1]
        try:
            path = next((file for file in self._files[:-1] if file.is_file()), path)
            return path, (path, read_policy_file(path)), None
        except OSError as error:  # a folder that may not be looked into
            fault = _unread(error, path).diagnostics()
        except BadInput as error:
            fault = error.diagnostics()
        return path, (path, fault), fault

    def _take(self, policy: Policy, path: Path) -> None:
        before = self._holder()
        if policy.digest != before.digest:
            # On disk before anything is decided by it: a replay finds the policy of every decision.
            change = self._audit.append("policy_change", policy.change_record(now=self._clock.now()), actor=SERVICE)
            if policy.enforcement != before.enforcement:
                self._record_mode(before, policy, change)
            self._holder.replace(policy)
            log.warning(
                "the policy in force is now %s %s, enforcement %s", policy.name, policy.revision, policy.enforcement
            )
        elif self._agreement.fault is not None:
            log.warning("the policy on disk is again the one in force: %s %s", policy.name, policy.revision)
        self._agreement.fault = None
        self._files = self._files[: self._files.index(path) + 1]

    def _record_mode(self, before: Policy, after: Policy, change: str) -> None:
        reason = f"policy {after.name} {after.revision}: enforcement {before.enforcement} -> {after.enforcement}"
        self._audit.append(
            "mode_change",
            {
                "halted": after.enforcement != "enforce",
                "reason": reason,
                "model": None,
                "enforcement": {"before": before.enforcement, "after": after.enforcement},
            },
            actor=SERVICE,
            causation=change,
        )

    def _refuse(self, fault: str, seen: Seen) -> None:
        held = self._holder()
        self._agreement.fault = fault
        log.error("the policy on disk does not load, %s %s stays in force: %s", held.name, held.revision, fault)
        content = seen[1] if isinstance(seen[1], bytes) else b""
        key = hashlib.sha256("\n".join((fault, held.digest, hashlib.sha256(content).hexdigest())).encode()).hexdigest()
        self._notifier.notify(
            "the policy on disk does not load",
            f"{fault}\n{held.name} {held.revision} stays in force\ndriftwarden policy check {seen[0]}",
            key=f"policy:{key[:32]}",
            fields={"digest": held.digest},
        )

    # The others

    def compare(self) -> None:
        """Keep this process's word fresh, and say once where others hold another policy. Raises Retry, BadInput."""
        mine = self._holder().digest
        others = differing(self._agreement.announce(), mine)
        now = self._clock.now()
        if not others:
            if self._differ_since is not None:
                log.warning("all workers hold the same policy again")
            self._differ_since = None
            return
        if self._differ_since is None:
            self._differ_since = now
            log.warning("nothing executes until all workers hold the same policy: %s", describe(others))
        elif now - self._differ_since >= PATIENCE:
            digests = sorted({mine, *(held.digest if held else "?" for held in others.values())})
            key = hashlib.sha256("\n".join(digests).encode()).hexdigest()
            self._notifier.notify(
                "workers hold different policies: nothing executes",
                f"{describe(others)}; this process holds {mine}\ndriftwarden doctor",
                key=f"policies:{key[:32]}",
                fields={"digests": digests},
            )
