"""From the intake to the incidents, a batch at a time: pipelined admissions, each of them idempotent; who calls acknowledges.

The scripts touch declared keys only, so the caller names the incidents that an event may join. It guesses from what it saw
last, and from what the events before in the batch will do; a wrong guess writes nothing, and is put right by the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftwarden.contracts.event import DriftEvent
from driftwarden.service.workflow.grouping import first_told
from driftwarden.service.workflow.sharding import Shards
from driftwarden.service.workflow.store_types import ID_LENGTHS, Admission, Keys, identity_of, texts
from driftwarden.stream.intake import Delivery
from driftwarden.stream.scripts import Arg, Call, Scripts

EVENTS_PER_INCIDENT_MAX = 500
EVENT_BYTES_PER_INCIDENT_MAX = 16 * 1024 * 1024
_CALLS_MAX = 256  # in one round trip
_BYTES_MAX = 8 * 1024 * 1024
_GUESSES_MAX = 20_000

Args = list[Arg]
Groups = Callable[[DriftEvent], Sequence[str]]


@dataclass
class _Waiting:
    """One event on its way; `pointers`: where the incidents that it may join are named, as guesses are kept."""

    place: int
    delivery: Delivery
    keys: Keys
    identity: str
    group_keys: list[str]
    pointers: list[str]
    length: int = 0

    @property
    def incident(self) -> str:
        """The incident that it opens if it joins none."""
        return self.keys.incident_id(self.identity, ID_LENGTHS[self.length])


class Admitting:
    """The script `admit` on batches; thread-safe."""

    def __init__(self, scripts: Scripts, shards: Shards, *, identity_ttl_ms: int, group_window_ms: int) -> None:
        """`scripts` of the workflow."""
        self._scripts, self._shards = scripts, shards
        self._identity_ttl_ms, self._group_window_ms = identity_ttl_ms, group_window_ms
        self._guesses: dict[str, str] = {}

    def admit(self, deliveries: Sequence[Delivery], groups: Groups, now: str) -> list[Admission]:
        """Open, join or recognise, in this order within each model; the answers in the order of `deliveries`."""
        identities = [identity_of(one.event.source, one.event.id) for one in deliveries]
        models = [one.event.model for one in deliveries]
        first = {one.event.model: one.event for one in reversed(deliveries)}
        at_home = self._shards.are_at_home(
            [*zip(identities, models, strict=True)], self._identity_ttl_ms, told=lambda model: first_told(first[model])
        )
        found = {place: Admission("duplicate", "") for place, home in enumerate(at_home) if not home}
        waiting = [
            self._waiting(place, one, identities[place], groups)
            for place, one in enumerate(deliveries)
            if place not in found
        ]
        while waiting:
            wave, rest = _cut(waiting)
            again = []
            for one, reply in zip(wave, self._scripts.run_many("admit", self._calls(wave, now)), strict=True):
                kind, *named = texts(reply)
                if kind == "MOVED":
                    self._guesses.update(zip(one.pointers, named, strict=True))
                one.length += kind == "COLLISION"
                if kind in {"MOVED", "LATER", "COLLISION"}:
                    again.append(one)
                    continue
                if kind == "opened":
                    self._guesses.update(dict.fromkeys(one.pointers, named[0]))
                known = kind in {"opened", "joined"}
                found[one.place] = Admission(kind if known else "duplicate", named[0])  # type: ignore[arg-type]
            waiting = again + rest
        if len(self._guesses) > _GUESSES_MAX:
            self._guesses.clear()
        return [found[place] for place in range(len(deliveries))]

    def _waiting(self, place: int, delivery: Delivery, identity: str, groups: Groups) -> _Waiting:
        event = delivery.event
        keys, environment = self._shards.of_model(event.model), event.data.environment
        group_keys = [keys.group(environment, name) for name in dict.fromkeys(groups(event))]
        pointers = [f"{keys.model(event.model)} {environment}", *group_keys]
        return _Waiting(place, delivery, keys, identity, group_keys, pointers)

    def _calls(self, wave: Sequence[_Waiting], now: str) -> list[Call]:
        calls: list[Call] = []
        guesses: dict[str, str] = {}
        before: dict[str, str] = {}
        for one in wave:
            named = [guesses.get(pointer, self._guesses.get(pointer, "")) for pointer in one.pointers]
            may_join = [*dict.fromkeys(incident for incident in named if incident)]
            model = one.delivery.event.model
            calls.append(self._call(one, may_join, before.get(model), now))
            if not may_join:
                guesses.update(dict.fromkeys(one.pointers, one.incident))
            before[model] = one.identity
        return calls

    def _call(self, one: _Waiting, may_join: list[str], before: str | None, now: str) -> Call:
        k, event, incident = one.keys, one.delivery.event, one.incident
        keys = [
            *[k.activations, k.seen(one.identity), k.wf(incident), k.wf(incident, "events"), k.wf(incident, "keys")],
            *[k.model(event.model), k.index, k.ids, k.model(event.model, "incidents"), k.counts, k.transitions],
            *[k.seen(before or one.identity), *one.group_keys],
        ]
        for other in may_join:
            keys += [k.wf(other), k.wf(other, "events"), k.wf(other, "keys")]
        about: Args = [one.delivery.entry_id, incident, one.identity, event.model, event.data.environment]
        content: Args = [event.correlation_id, event.raw, now, self._identity_ttl_ms]
        limits: Args = [EVENTS_PER_INCIDENT_MAX, EVENT_BYTES_PER_INCIDENT_MAX]
        grouped: Args = [int(before is not None), self._group_window_ms, len(one.group_keys)]
        return keys, [*about, *content, *limits, *grouped, *may_join]


def _cut(waiting: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
    """As many as one round trip may carry, and the rest."""
    size = 0
    for count, one in enumerate(waiting[:_CALLS_MAX]):
        size += len(one.delivery.event.raw)
        if count and size > _BYTES_MAX:
            return waiting[:count], waiting[count:]
    return waiting[:_CALLS_MAX], waiting[_CALLS_MAX:]
