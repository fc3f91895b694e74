"""One shard of the workflow store: what moves its incidents. Every script here touches keys of one slot.

The keys and their fields stand above `store.py`.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.errors import Fenced, NotFound
from driftwarden.sealing import Seal
from driftwarden.service.workflow.store_types import (
    ID_LENGTHS,
    Claim,
    Disposition,
    JsonObject,
    Keys,
    Signal,
    claim_of,
    sealed_name,
    signals_of,
    texts,
)
from driftwarden.stream.client import patiently
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.group import Entry, Group
from driftwarden.stream.scripts import Arg, Scripts

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

GROUP = "workers"
BACKSTOP_S = 24 * 3600.0
_ONCE_TTL_MS = 24 * 3600 * 1000

Args = list[Arg]
_finite = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _document(doc: JsonObject) -> str:
    """The text that is stored; raises ValueError for a number that is not finite, as no JSON holds it."""
    content = to_json(doc, inf_nan_mode="constants")
    return _finite(doc) if b"NaN" in content or b"Infinity" in content else content.decode()


@dataclass(frozen=True)
class ShardParts:
    """What the shards of one store share. Without a `seal` no document is genuine."""

    client: "Redis"
    scripts: Scripts
    letters: DeadLetters
    seal: Seal | None
    crashes_max: int
    retry_for_s: float


class Shard:
    """Incidents of one shard; thread-safe."""

    def __init__(self, keys: Keys, parts: ShardParts) -> None:
        """`keys` of the shard. Asks nothing yet."""
        self.keys = keys
        self._scripts, self._letters, self._seal = parts.scripts, parts.letters, parts.seal
        self._crashes_max, self._retry_for_s = parts.crashes_max, parts.retry_for_s
        self._activations = Group(parts.client, keys.activations, GROUP)
        self._next_sweep: dict[str, float] = {}
        self._held: dict[str, set[str]] = {}  # entries in a consumer's hands, where it is known which

    def wake(self, incident: str, why: str, payload: Any = None) -> None:
        """Leave a signal for an incident (also a finished one) and activate it; raises NotFound."""
        k, token = self.keys, uuid.uuid4().hex
        signal = json.dumps({"why": why, "payload": payload, "at": rfc3339(SystemClock().now())})
        reply = self._scripts.run(
            "wake",
            [k.wf(incident), k.wf(incident, "signals"), k.activations, k.once(token)],
            [incident, token, signal, why, _ONCE_TTL_MS],
        )
        if reply == b"GONE":
            raise NotFound("no such incident", got=incident, expected="an id of `driftwarden incidents list`")

    def claim(self, consumer: str, *, block_ms: int, lease_ms: int) -> Claim | None:
        """As `WorkflowStore.claim`."""
        for entry in self._candidates(consumer, block_ms, lease_ms):
            incident, model = entry.get(b"incident"), entry.get(b"model")
            if not incident or not model:
                self._ask(self._activations.forget, entry.id)
                continue
            try:
                claim = self._acquire(entry, incident, model, consumer, lease_ms)
            except (
                KeyError,
                ValueError,
            ):  # tampered with: its lease runs out, and after some of that it fails, with a letter
                log.warning("an incident cannot be read", extra={"incident": incident})
                continue
            if claim is not None:
                return claim
        return None

    def heartbeat(self, claim: Claim) -> None:
        """As `WorkflowStore.heartbeat`."""
        about: Args = [GROUP, claim.consumer, claim.entry, str(claim.fence), claim.lease_ms]
        if self._scripts.run("heartbeat", [self.keys.activations, self.keys.wf(claim.incident)], about) != b"OK":
            raise Fenced(f"{claim.incident} was taken over")

    def hand_back(self, claim: Claim, *, after_s: float = 0.0) -> None:
        """As `WorkflowStore.hand_back`."""
        about: Args = [GROUP, claim.entry, str(claim.fence), claim.incident, claim.model, int(after_s * 1000)]
        keys = [self.keys.activations, self.keys.wf(claim.incident), self.keys.timers]
        if self._scripts.run("hand_back", keys, about) != b"OK":
            raise Fenced(f"{claim.incident} was taken over")
        self._settled(claim)

    def commit(
        self,
        claim: Claim,
        *,
        state: str,
        doc: JsonObject,
        disposition: Disposition,
        due_s: float | None = None,
        accepting: bool,
        handled: Iterable[Signal] = (),
        token: str | None = None,
        weighed: int | None = None,
        split: bool = False,
    ) -> Claim:
        """As `WorkflowStore.commit`."""
        if due_s is None and disposition in {"park", "release"}:
            due_s = BACKSTOP_S
        k, model, following = self.keys, claim.model, _Following(claim.model)
        last_signal = claim.signals[-1].seq if claim.signals else 0
        token = token or uuid.uuid4().hex
        content = _document(doc)
        tokens = [signal.token for signal in handled]
        name = sealed_name(claim.incident, claim.version + 1, state)
        mac = self._seal.mac("incident", name, content) if self._seal else ""
        while True:
            step: Args = [claim.incident, model, str(claim.fence), claim.version, token, state, disposition]
            when: Args = ["" if due_s is None else max(0, int(due_s * 1000)), claim.lease_ms, content]
            now = rfc3339(SystemClock().now())
            dealt = len(claim.events) if weighed is None else weighed
            known: Args = [int(accepting), len(claim.events), last_signal, following.incident, now, dealt, mac]
            whose: Args = [int(split), len(following.models), *following.models]
            reply = self._scripts.run(
                "commit",
                [
                    *[k.activations, k.wf(claim.incident), k.model(model), k.model(model, "queue"), k.timers],
                    *[k.transitions, k.wf(claim.incident, "signals"), k.wf(claim.incident, "events"), k.counts],
                    *[k.model(model, "verifying"), k.wf(claim.incident, "keys"), k.index, k.ids],
                    *following.keys(k, claim.incident),
                ],
                [GROUP, claim.consumer, claim.entry, *step, *when, *known, *whose, *tokens],
            )
            answer = reply[0].decode()
            if answer == "OK":
                break
            if answer == "FENCED":
                raise Fenced(f"{claim.incident} was taken over")
            following.learn(k, reply)
        if disposition != "go":
            self._settled(claim)
        _, version, events, signals, followed_by = reply
        return replace(
            claim,
            state=state,
            doc=doc,  # nobody else holds it, or may change it from here on
            version=int(version),
            events=claim.events[:dealt] if split else claim.events + (texts(events) if disposition != "finish" else ()),
            signals=signals_of(signals),
            crashes=0,
            genuine=self._seal is not None,
            successor=followed_by.decode() or None,
        )

    def sweep_due(self, consumer: str) -> bool:
        """Whether it is time to look for entries of workers that died."""
        return time.monotonic() >= self._next_sweep.get(consumer, 0.0)

    def sweep_soon(self) -> None:
        """As `WorkflowStore.sweep_soon`."""
        self._next_sweep.clear()

    # Within

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return patiently(lambda: call(*args, **options), for_s=self._retry_for_s)

    def _candidates(self, consumer: str, block_ms: int, lease_ms: int) -> Iterator[Entry]:
        yield from self._left_behind(consumer)
        if self.sweep_due(consumer):
            yield from self._of_the_dead(consumer, lease_ms)
        while fresh := self._fresh(consumer, block_ms):
            yield from fresh
            block_ms = 0
        yield from self._of_the_dead(consumer, lease_ms)

    def _left_behind(self, consumer: str) -> Iterator[Entry]:
        """What this consumer was given and did not settle; nobody is asked where that is known to be nothing."""
        if self._held.get(consumer) == set():
            return
        after = "0"
        while own := self._ask(self._activations.own, consumer, after=after):
            yield from own
            after = own[-1].id
        if after == "0":
            self._held[consumer] = set()

    def _fresh(self, consumer: str, block_ms: int) -> list[Entry]:
        held, asked = self._held.pop(consumer, None), 0  # an answer that was lost leaves an entry that nobody knows of

        def ask() -> list[Entry]:
            nonlocal asked
            asked += 1
            return self._activations.fresh(consumer, count=1, block_ms=block_ms)

        found: list[Entry] = self._ask(ask)
        if held is not None and asked == 1:
            self._held[consumer] = held | {entry.id for entry in found}
        return found

    def _settled(self, claim: Claim) -> None:
        """The script that ended this lease has settled its entry."""
        if (held := self._held.get(claim.consumer)) is not None:
            held.discard(claim.entry)

    def _of_the_dead(self, consumer: str, lease_ms: int) -> Iterator[Entry]:
        self._held.pop(consumer, None)
        stale = self._activations.stale(consumer, idle_ms=lease_ms)
        while (entry := self._ask(next, stale, None)) is not None:
            yield entry
        self._next_sweep[consumer] = time.monotonic() + lease_ms / 3000

    def _acquire(self, entry: Entry, incident: str, model: str, consumer: str, lease_ms: int) -> Claim | None:
        k, token, following = self.keys, uuid.uuid4().hex, _Following(model)
        letter = b""
        asked: Args = [GROUP, consumer, entry.id, incident, model, lease_ms, self._crashes_max, token]
        while True:
            now = rfc3339(SystemClock().now())
            reply = self._scripts.run(
                "acquire",
                [
                    *[k.activations, k.wf(incident), k.model(model), k.model(model, "queue")],
                    *[k.transitions, k.wf(incident, "signals"), k.wf(incident, "events"), k.counts],
                    *[k.model(model, "verifying"), k.timers, k.wf(incident, "keys"), k.index, k.ids],
                    *following.keys(k, incident),
                ],
                [*asked, following.incident, now, letter, *following.models],
            )
            if reply[0] == b"LETTER":
                letter = self._write_letter(incident, reply[1])
            elif reply[0] in {b"UNSEEN", b"COLLISION"}:
                following.learn(k, reply)
            else:
                break
        if reply[0] == b"FAILED" and len(reply) > 2:
            self._write_letter(incident, reply[2])  # a crash before it: whoever takes the incident up writes it
        if reply[0] != b"OK":
            return None
        about = {"entry": entry.id, "why": entry.get(b"why"), "consumer": consumer, "lease_ms": lease_ms}
        return claim_of(incident, reply, self._seal, **about)

    def _write_letter(self, incident: str, text: bytes) -> bytes:
        """The dead letter of a crash loop, once; returns it as it stood in the incident."""
        try:
            said = json.loads(text)
            about = {name: str(said[name]) for name in ("reason", "got", "expected")}
        except (ValueError, KeyError, TypeError):
            about = {"reason": "crash-loop", "got": "a note that cannot be read", "expected": ""}
        crashes = about["got"] if about["got"].isascii() and about["got"].isdigit() else "1"
        letter: dict[str, Arg] = {"kind": "incident", "incident": incident, "field": "", "deliveries": crashes}
        self._letters.write(f"incident {incident} {text!r}", letter | about)
        return text


class _Following:
    """The successor that a script may have to open: nothing at first, then what its answer told of the events left over."""

    def __init__(self, model: str) -> None:
        """`model`: of the incident that ends."""
        self._model, self._length = model, 0
        self.incident = ""
        self.models: tuple[str, ...] = ()

    def keys(self, k: Keys, ending: str) -> list[str]:
        """As `commit` and `acquire` expect them last; where no successor is known, keys of the ending one stand in."""
        after, lead = self.incident or ending, self.models[0] if self.models else self._model
        own = [k.wf(after), k.wf(after, "events"), k.wf(after, "keys"), k.model(lead)]
        return [*own, k.queues, *(k.model(model, "incidents") for model in self.models)]

    def learn(self, k: Keys, reply: Sequence[bytes]) -> None:
        """UNSEEN or COLLISION: the identity of the first event left over, and the models whose they are."""
        kind, identity, *models = texts(reply)
        self.models = tuple(models)
        self._length += kind == "COLLISION"
        self.incident = k.incident_id(identity, ID_LENGTHS[self._length])
