"""The workflow store: incidents in Redis, moved from state to state in atomic steps that survive the death of any process.

The truth is the hash of the incident; an entry of `activations` is only the handle by which somebody takes it up. All keys
stand below the prefix (`driftwarden:`); times are Redis's own, in ms. Shared, each on a slot of its own:

    events                   stream, the intake; group `workers`; an entry is acknowledged after it was admitted
    dead-letters             stream (`driftwarden.stream.dead_letters`)
    shards                   hash: model -> its shard, `#` -> how many there are (`sharding.py`)
    identity:<identity>      with several shards: the one on which an event was first seen, expires

Per shard, and with `redis.shards: 1` directly below the prefix too; else shard `i` has `{<i>}:` after the prefix, a hash tag
which puts all its keys on one slot of a cluster, and its incidents' ids end with three hex digits of `i`:

    activations              stream: incident, model, why; group `workers`; an entry is pending while its incident is leased
    transitions              stream for watchers (about the last 100,000): incident, model, version, from, state, fence
    timers                   zset `<incident>|<model>` -> due; one timer an incident, set or cleared by each commit
    incidents, incident-ids  zsets of all incidents: by time of opening, by name
    counts                   hash: state -> how many incidents
    removed                  number: closed incidents that were removed after their time (`forget`), and are counted nowhere else
    queues                   set: models that have a queue
    wf:<incident>            hash: identity, model, environment, correlation, opened, updated, state, version, doc (JSON),
                             mac (of doc) and sealed (`<version>|<state>` it was sealed at), fence, lease (until), owner,
                             entry (of the running activation), run (1 while leased), crashes, wake (1: activated while
                             leased), tok (of the last commit), atok (of the last claim), handed (fence of the last claim
                             that was handed back), done (1: finished), bytes (of its events), weighed (events dealt with),
                             signals (last seq), letter (JSON, a dead letter to be written), joinable (1: events of its
                             groups may join), group:<name> (place of the last event that came of a group, or the incident
                             in which it went on), reason, predecessor, successor
    wf:<incident>:events     list of raw events;  wf:<incident>:keys  list of their identities, in the same order, each
                             `<identity>|<model>` where that is not the incident's own model
    wf:<incident>:signals    hash token -> `<seq>|<JSON>`
    model:<model>            hash: active (incident that holds the model's slot), open:<environment> (incident that later
                             events join)
    model:<model>:queue      zset of incidents that wait for the slot, by time
    model:<model>:incidents  zset by time of opening;  model:<model>:verifying  set;  model:<model>:performance  list
    group:<environment>:<name>   incident that events of this group join, whatever their model; expires
    seen:<identity>          `<kind>|<incident>|<entry>`, expires;  once:<token>  marks a signal that was left, expires

A script touches keys of one slot, all of them declared. What takes two slots takes two steps, each of which may be repeated:
admit, then acknowledge; write the dead letter, then acknowledge what it is about, or take up the incident that holds it.

An incident that is not finished is at any instant in `activations`, in `timers` or in its model's queue: a park or release
without a timer of its own gets a backstop. Scripts are repeated with the same token while the server is away.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from driftwarden.contracts.event import DriftEvent
from driftwarden.sealing import Seal
from driftwarden.service.workflow.admitting import Admitting, Groups
from driftwarden.service.workflow.closed import Closed
from driftwarden.service.workflow.rotation import Rotation
from driftwarden.service.workflow.shard import GROUP, Shard, ShardParts
from driftwarden.service.workflow.sharding import Shards, Upstream
from driftwarden.service.workflow.store_reader import IncidentReader
from driftwarden.service.workflow.store_types import (
    Admission,
    Claim,
    Disposition,
    IncidentRecord,
    JsonObject,
    Signal,
    Transition,
    identity_of,
)
from driftwarden.stream.client import BLOCK_MS_MAX, RETRY_FOR_S
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import Delivery
from driftwarden.stream.scripts import Scripts

if TYPE_CHECKING:
    from redis import Redis

REPORTS_PER_MODEL_MAX = 1000
_CONSUMER_IDLE_MS = 6 * 3600 * 1000
_ACKNOWLEDGED_AT_ONCE = 1000

__all__ = ["Admission", "Claim", "Disposition", "IncidentRecord", "Signal", "Transition", "WorkflowStore"]


class WorkflowStore(IncidentReader):
    """Incidents of one Redis; thread-safe. A consumer (a worker with a name of its own) holds one claim at a time."""

    def __init__(
        self,
        client: "Redis",
        *,
        prefix: str = "driftwarden:",
        shards: int = 1,
        upstream_of: Upstream = lambda model: None,
        identity_ttl_s: float = 30 * 24 * 3600.0,
        group_window_s: float = 3600.0,
        crashes_max: int = 3,
        retry_for_s: float = RETRY_FOR_S,
        fail_point: Callable[[str], None] | None = None,
        seal: Seal | None = None,
    ) -> None:
        """`client` answers bytes; `fail_point` is told `before:<script>` and `after:<script>` (crash tests).

        `upstream_of`: the first data set that a model is fed from, which puts models of one upstream on one of several
        `shards`. Without a `seal` (for those who only look) no document is genuine.
        """
        hooks: Any = {"retry_for_s": retry_for_s, "fail_point": fail_point}
        self._scripts = Scripts(client, "driftwarden.service.workflow", **hooks)
        self._stream_scripts = Scripts(client, "driftwarden.stream", **hooks)
        self.shards = Shards(
            client, prefix, shards, upstream_of=upstream_of, scripts=self._scripts, retry_for_s=retry_for_s
        )
        super().__init__(client, self.shards, retry_for_s=retry_for_s)
        self._identity_ttl_ms = int(identity_ttl_s * 1000)
        letters = DeadLetters(client, prefix, scripts=self._stream_scripts)
        parts = ShardParts(client, self._scripts, letters, seal, crashes_max, retry_for_s)
        self._each = {keys.prefix: Shard(keys, parts) for keys in self.shards.all}
        self._rotation = Rotation(client, [*self._each.values()], retry_for_s=retry_for_s)
        self.closed = Closed(client, self._scripts, self.shards, retry_for_s=retry_for_s)
        self._admitting = Admitting(
            self._scripts,
            self.shards,
            identity_ttl_ms=self._identity_ttl_ms,
            group_window_ms=int(group_window_s * 1000),
        )

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
        identity, model = identity_of(event.source, event.id), event.model
        k = self.shards.of_model(model)
        if not self.shards.are_at_home([(identity, model)], self._identity_ttl_ms)[0]:
            self.acknowledge([entry_id])
            return Admission("duplicate", "")
        reports, verifying = k.model(model, "performance"), k.model(model, "verifying")
        kind = self._scripts.run(
            "performance",
            [k.activations, k.seen(identity), reports, verifying],
            [entry_id, model, event.raw, self._identity_ttl_ms, REPORTS_PER_MODEL_MAX],
        ).decode()
        self.acknowledge([entry_id])
        return Admission("performance" if kind == "performance" else "duplicate", "")

    def wake(self, incident: str, why: str, payload: Any = None) -> None:
        """Leave a signal for an incident (also a finished one) and activate it; raises NotFound."""
        self._shard(incident).wake(incident, why, payload)

    def pump_timers(self, *, ahead_s: float = 0.0, limit: int = 100) -> int:
        """Turn due timers into activations and return how many; `ahead_s` as if it were that much later (simulations)."""
        args: list[Any] = [limit, int(ahead_s * 1000)]
        calls = [([keys.timers, keys.activations], args) for keys in self.shards.all]
        return sum(int(reply) for reply in self._scripts.run_many("timers", calls))

    # What a worker does

    def claim(self, consumer: str, *, block_ms: int, lease_ms: int) -> Claim | None:
        """Take up the next incident whose model is free, waiting at most `block_ms` (two seconds); None: nothing to do.

        First what this consumer's forerunner of the same name left, then fresh activations, now and then those whose
        worker has not been heard of for `lease_ms`. Several shards are asked in turn.
        """
        if len(self._each) == 1:
            return self._each[self.keys.prefix].claim(consumer, block_ms=block_ms, lease_ms=lease_ms)
        return self._rotation.claim(consumer, block_ms=min(block_ms, BLOCK_MS_MAX), lease_ms=lease_ms)

    def heartbeat(self, claim: Claim) -> None:
        """Prolong the lease (call it every third of it); raises Fenced where somebody else has taken over."""
        self._shard(claim.incident).heartbeat(claim)

    def hand_back(self, claim: Claim, *, after_s: float = 0.0) -> None:
        """Give the lease up without a commit: another worker goes on at once, or at the earliest `after_s` from now.

        Raises Fenced.
        """
        self._shard(claim.incident).hand_back(claim, after_s=after_s)

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
        return self._shard(claim.incident).commit(
            claim,
            state=state,
            doc=doc,
            disposition=disposition,
            due_s=due_s,
            accepting=accepting,
            handled=handled,
            token=token,
            weighed=weighed,
            split=split,
        )

    def trim(self) -> int:
        """Backstop: cut what is settled off the streams, forget consumers that are long gone; returns entries cut."""
        streams = [self.keys.intake, *(keys.activations for keys in self.shards.all)]
        return sum(int(self._scripts.run("trim", [stream], [GROUP, _CONSUMER_IDLE_MS])) for stream in streams)

    def sweep_soon(self) -> None:
        """Let the next claims look for what workers that died left (as if the pause between sweeps were over)."""
        for shard in self._each.values():
            shard.sweep_soon()

    # Within

    def _shard(self, incident: str) -> Shard:
        return self._each[self.shards.of_incident(incident).prefix]
