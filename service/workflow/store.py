"""The workflow store: incidents in Redis, moved from state to state in atomic steps that survive the death of any process.

The truth is the hash of the incident; an entry of `activations` is only the handle by which somebody takes it up. Keys,
all below the prefix (`driftwarden:`); times are Redis's own, in ms:

    events                   stream, the intake; group `workers`; an entry is acknowledged after it was admitted
    dead-letters             stream (`driftwarden.stream.dead_letters`)
    activations              stream: incident, model, why; group `workers`; an entry is pending while its incident is leased
    transitions              stream for watchers (about the last 100,000): incident, model, version, from, state, fence
    timers                   zset `<incident>|<model>` -> due; one timer an incident, set or cleared by each commit
    incidents, incident-ids  zsets of all incidents: by time of opening, by name
    counts                   hash: state -> how many incidents
    wf:<incident>            hash: identity, model, environment, correlation, opened, updated, state, version, doc (JSON),
                             mac (of doc) and sealed (`<version>|<state>` it was sealed at), fence, lease (until), owner,
                             entry (of the running activation), run (1 while leased), crashes, wake (1: activated while
                             leased), tok (of the last commit), atok (of the last claim), handed (fence of the last claim
                             that was handed back), done (1: finished), bytes (of its events), weighed (events dealt with),
                             signals (last seq), letter (JSON, a dead letter to be written), joinable (1: events of its
                             groups may join), reason, predecessor, successor
    wf:<incident>:events     list of raw events;  wf:<incident>:keys  list of their identities, in the same order, each
                             `<identity>|<model>` where that is not the incident's own model
    wf:<incident>:signals    hash token -> `<seq>|<JSON>`
    model:<model>            hash: active (incident that holds the model's slot), open:<environment> (incident that later
                             events join)
    model:<model>:queue      zset of incidents that wait for the slot, by time
    model:<model>:incidents  zset by time of opening;  model:<model>:verifying  set;  model:<model>:performance  list
    group:<environment>:<name>   incident that events of this group join, whatever their model; expires
    seen:<identity>          `<kind>|<incident>|<entry>`, expires;  once:<token>  marks a signal that was left, expires

An incident that is not finished is at any instant in `activations`, in `timers` or in its model's queue: a park or release
without a timer of its own gets a backstop. Scripts are repeated with the same token while the server is away.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.event import DriftEvent
from driftwarden.errors import Fenced, NotFound
from driftwarden.sealing import Seal
from driftwarden.service.workflow.admitting import Admitting, Groups
from driftwarden.service.workflow.store_reader import IncidentReader
from driftwarden.service.workflow.store_types import (
    ID_LENGTHS,
    Admission,
    Claim,
    Disposition,
    IncidentRecord,
    JsonObject,
    Keys,
    Signal,
    Transition,
    claim_of,
    identity_of,
    sealed_name,
    signals_of,
    texts,
)
from driftwarden.stream.client import RETRY_FOR_S
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.group import Entry, Group
from driftwarden.stream.intake import Delivery
from driftwarden.stream.scripts import Arg, Scripts

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

GROUP = "workers"
REPORTS_PER_MODEL_MAX = 1000
BACKSTOP_S = 24 * 3600.0
_ONCE_TTL_MS = 24 * 3600 * 1000
_CONSUMER_IDLE_MS = 6 * 3600 * 1000
_ACKNOWLEDGED_AT_ONCE = 1000

Args = list[Arg]
__all__ = ["Admission", "Claim", "Disposition", "IncidentRecord", "Signal", "Transition", "WorkflowStore"]


class WorkflowStore(IncidentReader):
    """Incidents of one Redis; thread-safe. A consumer (a worker with a name of its own) holds one claim at a time."""

    def __init__(
        self,
        client: "Redis",
        *,
        prefix: str = "driftwarden:",
        identity_ttl_s: float = 30 * 24 * 3600.0,
        group_window_s: float = 3600.0,
        crashes_max: int = 3,
        retry_for_s: float = RETRY_FOR_S,
        fail_point: Callable[[str], None] | None = None,
        seal: Seal | None = None,
    ) -> None:
        """`client` answers bytes; `fail_point` is told `before:<script>` and `after:<script>` (crash tests).

        Without a `seal` (for those who only look) no document is genuine.
        """
        super().__init__(client, prefix=prefix, retry_for_s=retry_for_s)
        self._seal = seal
        self._identity_ttl_ms, self._crashes_max = int(identity_ttl_s * 1000), crashes_max
        self._activations = Group(client, self.keys.activations, GROUP)
        hooks: Any = {"retry_for_s": retry_for_s, "fail_point": fail_point}
        self._scripts = Scripts(client, "driftwarden.service.workflow", **hooks)
        self._stream_scripts = Scripts(client, "driftwarden.stream", **hooks)
        self._letters = DeadLetters(client, prefix, scripts=self._stream_scripts)
        self._admitting = Admitting(
            self._scripts,
            lambda model: self.keys,
            identity_ttl_ms=self._identity_ttl_ms,
            group_window_ms=int(group_window_s * 1000),
        )
        self._next_sweep: dict[str, float] = {}

    # What comes in

    def admit(self, entry_id: str, event: DriftEvent, *, now: str, groups: Sequence[str] = ()) -> Admission:
        """One event, as `admit_many`; `groups`: opaque names, by which events of several models share an incident."""
        return self.admit_many([Delivery(entry_id, event)], now=now, groups=lambda event: groups)[0]

    def admit_many(
        self, deliveries: Sequence[Delivery], *, now: str, groups: Groups = lambda event: ()
    ) -> list[Admission]:
        """Open an incident for each drift event, let it join an open one (its model's, else one of its `groups`), or
        recognise it, in the order they came; then acknowledge their entries together. What became of each, in turn.

        A crash in between leaves entries that come again, have the same answer, and change nothing.
        """
        admissions = self._admitting.admit(deliveries, groups, now)
        self.acknowledge([one.entry_id for one in deliveries])
        return admissions

    def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """Settle entries of the intake that were admitted."""
        for first in range(0, len(entry_ids), _ACKNOWLEDGED_AT_ONCE):
            batch = entry_ids[first : first + _ACKNOWLEDGED_AT_ONCE]
            self._stream_scripts.run("acknowledge", [self.keys.intake], [GROUP, *batch])

    def record_performance(self, entry_id: str, event: DriftEvent) -> Admission:
        """Keep a performance report and wake its model's incidents in `verifying`; opens none; settles the entry."""
        k, identity, model = self.keys, identity_of(event.source, event.id), event.model
        reports, verifying = k.model(model, "performance"), k.model(model, "verifying")
        kind = self._scripts.run(
            "performance",
            [k.activations, k.seen(identity), reports, verifying],
            [entry_id, model, event.raw, self._identity_ttl_ms, REPORTS_PER_MODEL_MAX],
        ).decode()
        self.acknowledge([entry_id])
        return Admission("performance" if kind == "performance" else "duplicate", "")

    def performance_reports(self, model: str, limit: int = REPORTS_PER_MODEL_MAX) -> tuple[str, ...]:
        """Raw performance events of a model, the newest last."""
        return texts(self._ask(self._client.lrange, self.keys.model(model, "performance"), -limit, -1))

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

    def pump_timers(self, *, ahead_s: float = 0.0, limit: int = 100) -> int:
        """Turn due timers into activations and return how many; `ahead_s` as if it were that much later (simulations)."""
        reply = self._scripts.run("timers", [self.keys.timers, self.keys.activations], [limit, int(ahead_s * 1000)])
        return int(reply)

    # What a worker does

    def claim(self, consumer: str, *, block_ms: int, lease_ms: int) -> Claim | None:
        """Take up the next incident whose model is free, waiting at most `block_ms` (two seconds); None: nothing to do.

        First what this consumer's forerunner of the same name left, then fresh activations, now and then those whose
        worker has not been heard of for `lease_ms`.
        """
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
        """Prolong the lease (call it every third of it); raises Fenced where somebody else has taken over."""
        about: Args = [GROUP, claim.consumer, claim.entry, str(claim.fence), claim.lease_ms]
        if self._scripts.run("heartbeat", [self.keys.activations, self.keys.wf(claim.incident)], about) != b"OK":
            raise Fenced(f"{claim.incident} was taken over")

    def hand_back(self, claim: Claim, *, after_s: float = 0.0) -> None:
        """Give the lease up without a commit: another worker goes on at once, or at the earliest `after_s` from now.

        Raises Fenced.
        """
        about: Args = [GROUP, claim.entry, str(claim.fence), claim.incident, claim.model, int(after_s * 1000)]
        keys = [self.keys.activations, self.keys.wf(claim.incident), self.keys.timers]
        if self._scripts.run("hand_back", keys, about) != b"OK":
            raise Fenced(f"{claim.incident} was taken over")

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
        """Make one step durable; returns the claim as it is now, with events and signals that came meanwhile.

        `go` keeps lease and slot; `park` ends the lease and keeps the model's slot; `release` gives the slot to the next in
        line; `finish` ends the incident. `due_s`: when it is taken up again by itself (replaces the timer set before; park
        and release without one get a backstop of a day). `accepting`: later events of the model may join. `handled`: the
        signals that this step dealt with. `weighed`: how many of its events it has dealt with (default: all that the claim has
        seen); where it finishes, is `split`, or fails in a crash loop, the events beyond these open the `successor`. Raises Fenced:
        somebody else has taken over, nothing was written.
        """
        if due_s is None and disposition in {"park", "release"}:
            due_s = BACKSTOP_S
        k, model, following = self.keys, claim.model, _Following(claim.model)
        last_signal = claim.signals[-1].seq if claim.signals else 0
        token = token or uuid.uuid4().hex
        content = json.dumps(doc, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
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
        _, version, events, signals, followed_by = reply
        return replace(
            claim,
            state=state,
            doc=json.loads(content),
            version=int(version),
            events=claim.events[:dealt] if split else claim.events + (texts(events) if disposition != "finish" else ()),
            signals=signals_of(signals),
            crashes=0,
            genuine=self._seal is not None,
            successor=followed_by.decode() or None,
        )

    def trim(self) -> int:
        """Backstop: cut what is settled off the streams, forget consumers that are long gone; returns entries cut."""
        streams = (self.keys.intake, self.keys.activations)
        return sum(int(self._scripts.run("trim", [stream], [GROUP, _CONSUMER_IDLE_MS])) for stream in streams)

    # Within

    def _candidates(self, consumer: str, block_ms: int, lease_ms: int) -> Iterator[Entry]:
        group, after = self._activations, "0"
        while own := self._ask(group.own, consumer, after=after):
            yield from own
            after = own[-1].id
        if time.monotonic() >= self._next_sweep.get(consumer, 0.0):
            yield from self._of_the_dead(consumer, lease_ms)
        while fresh := self._ask(group.fresh, consumer, count=1, block_ms=block_ms):
            yield from fresh
            block_ms = 0
        yield from self._of_the_dead(consumer, lease_ms)

    def _of_the_dead(self, consumer: str, lease_ms: int) -> Iterator[Entry]:
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
        return own + [k.model(model, "incidents") for model in self.models]

    def learn(self, k: Keys, reply: Sequence[bytes]) -> None:
        """UNSEEN or COLLISION: the identity of the first event left over, and the models whose they are."""
        kind, identity, *models = texts(reply)
        self.models = tuple(models)
        self._length += kind == "COLLISION"
        self.incident = k.incident_id(identity, ID_LENGTHS[self._length])
