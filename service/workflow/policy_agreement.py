"""Do all live processes hold the same policy? Each announces its own; while two differ, nothing executes.

Hash `<prefix>policies`: process -> `<ms of the server> <JSON of Holding>`, written again at every heartbeat and at every
question, and dead TTL_MS later. Whoever can write to Redis can make processes wait; what a process may execute is still
only what its own policy, from its own file, allows.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from driftwarden.errors import Error, NotYet
from driftwarden.stream.scripts import Scripts

if TYPE_CHECKING:
    from redis import Redis

TTL_MS = 15_000
_PACKAGE = "driftwarden.service.workflow"


class Disagreed(NotYet):
    """Not all workers hold the same policy, or it cannot be told: nothing executes until they do. No fault of the step."""


class HeldPolicy(Protocol):
    """What is announced of a policy."""

    @property
    def digest(self) -> str:
        """Its digest (contract §4)."""
        ...

    @property
    def name(self) -> str:
        """As its author named it."""
        ...

    @property
    def revision(self) -> str:
        """As its author wrote it."""
        ...

    @property
    def enforcement(self) -> str:
        """`enforce`, `dryRun` or `halt`."""
        ...


@dataclass(frozen=True)
class Holding:
    """The policy that a process holds; `fault`: why the policy on its disk is not in force."""

    digest: str
    name: str
    revision: str
    enforcement: str
    fault: str | None = None

    def __str__(self) -> str:
        """For a person: name, revision and the first digits of the digest."""
        return f"{self.name} {self.revision} ({self.digest.removeprefix('sha256:')[:12]})"


Holdings = dict[str, Holding | None]


class PolicyAgreement:
    """One process's voice among those that share a Redis; thread-safe."""

    def __init__(
        self,
        client: "Redis",
        prefix: str,
        process: str,
        policy: Callable[[], HeldPolicy],
        *,
        ahead_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`process` is unique among live processes, for ever; `ahead_s`: as if it were that much later (tests)."""
        self._client: Any = client
        self._key, self._process, self._policy, self._ahead_s = f"{prefix}policies", process, policy, ahead_s
        self._scripts = Scripts(client, _PACKAGE, retry_for_s=0)
        self.fault: str | None = None

    def announce(self) -> Holdings:
        """Say which policy this process holds; returns what every live one holds (None: it cannot be read).

        Raises Retry where Redis is away, BadInput where it refuses.
        """
        return self._announce(self._policy())

    def _announce(self, policy: HeldPolicy) -> Holdings:
        told = json.dumps(asdict(_holding(policy, self.fault)))
        return _ask(self._scripts, self._key, self._process, told, self._ahead_s())

    def leave(self) -> None:
        """The process ends: it holds nothing any more. Where Redis is away its word dies by itself."""
        from driftwarden.stream.client import redis_errors

        with redis_errors():
            self._client.hdel(self._key, self._process)

    def agreed(self, digest: str | None = None) -> bool | None:
        """True where every live process holds this one's policy (and that is the one of `digest`), False, None: unknown.

        The answer is of one moment: this process's word and the others' are written and read in one step.
        """
        mine = self._policy()
        if digest is not None and digest != mine.digest:
            return False
        try:
            return not self._others(mine)
        except Error:
            return None

    def require(self, digest: str | None = None) -> None:
        """Raise Disagreed, naming who holds what, unless it is sure that all agree (on the policy of `digest`)."""
        mine = self._policy()
        if digest is not None and digest != mine.digest:
            raise Disagreed("the policy has changed since the decision was made: it is made again")
        try:
            others = self._others(mine)
        except Error as error:
            raise Disagreed(f"whether all workers hold the same policy is unknown: {error.diagnostics()}") from None
        if others:
            raise Disagreed(f"workers hold different policies: {describe(others)}; this one holds {_holding(mine)}")

    def _others(self, mine: HeldPolicy) -> Holdings:
        return differing(self._announce(mine), mine.digest)


def live_holdings(client: "Redis", prefix: str) -> Holdings:
    """What every live process holds, without a word of one's own. Raises Retry, BadInput."""
    return _ask(Scripts(client, _PACKAGE, retry_for_s=0), f"{prefix}policies", "", "", 0.0)


def differing(holdings: Holdings, digest: str) -> Holdings:
    """Those who hold another policy, or what cannot be read."""
    return {name: held for name, held in holdings.items() if held is None or held.digest != digest}


def describe(holdings: Holdings) -> str:
    """Who holds what, in one line."""
    return ", ".join(f"{name} holds {held or 'what cannot be read'}" for name, held in sorted(holdings.items()))


def _holding(policy: HeldPolicy, fault: str | None = None) -> Holding:
    return Holding(policy.digest, policy.name, policy.revision, policy.enforcement, fault)


def _ask(scripts: Scripts, key: str, process: str, holding: str, ahead_s: float) -> Holdings:
    reply = scripts.run("policy_agreement", [key], [process, holding, TTL_MS, int(ahead_s * 1000)])
    words = [word.decode("utf-8", "replace") for word in reply]
    return {name: _read(text) for name, text in zip(words[::2], words[1::2], strict=True)}


def _read(text: str) -> Holding | None:
    try:
        told = json.loads(text)
        fields = {name: told.get(name) for name in ("digest", "name", "revision", "enforcement")}
    except (ValueError, AttributeError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    fault = told.get("fault")
    return Holding(**fields, fault=fault if isinstance(fault, str) else None)
