"""The intake: hands out the entries of `<prefix>events` to the workers of one group, and buries what cannot be read.

Stream `<prefix>events`, group `workers`; an entry is one field `event`. It is settled (XACK and XDEL) after it was admitted,
or has its dead letter; until then it comes again, here or to another worker, and both of these know it again.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, EventRejected, shorten
from driftwarden.stream.client import patiently
from driftwarden.stream.dead_letters import DeadLetters, pack
from driftwarden.stream.group import Entry, Group
from driftwarden.stream.scripts import Arg, Scripts
from driftwarden.strict import loads_json

if TYPE_CHECKING:
    from redis import Redis

GROUP = "workers"
RECLAIM_AFTER_MS = 30_000


@dataclass(frozen=True)
class Delivery:
    """An event that can be read, in this worker's hands until it is admitted."""

    entry_id: str
    event: DriftEvent


@dataclass(frozen=True)
class Rejection:
    """Why an entry goes to the dead letters; `source` and `event_id` as far as they could be read."""

    entry_id: str
    reason: str
    field: str
    got: str
    expected: str
    source: str = ""
    event_id: str = ""


class Intake:
    """One worker's reads. A worker admits what a read returned before it reads again: what it did not comes again."""

    def __init__(
        self,
        client: "Redis",
        consumer: str,
        *,
        prefix: str = "driftwarden:",
        reclaim_after_ms: int = RECLAIM_AFTER_MS,
        before_burial: Callable[[Rejection], None] | None = None,
        fail_point: Callable[[str], None] | None = None,
    ) -> None:
        """`consumer` is unique among live workers; `before_burial` is told of each rejection before its dead letter is
        written (after a crash in between: again). `fail_point` is told `before:<script>`, `after:<script>` (crash tests)."""
        self._group = Group(client, f"{prefix}events", GROUP)
        self._consumer, self._reclaim_after_ms, self._before_burial = consumer, reclaim_after_ms, before_burial
        self._scripts = Scripts(client, "driftwarden.stream", fail_point=fail_point)
        self._letters = DeadLetters(client, prefix, scripts=self._scripts)
        self._next_sweep = 0.0

    def read(self, count: int, block_ms: int = 0) -> list[Delivery]:
        """At most `count` (the free slots of this worker) events, waiting `block_ms` (at most 2000) for fresh ones.

        First those that this worker was given and did not admit, then fresh ones, then those of workers that died.
        Unreadable entries become dead letters on the way. Raises Retry where the server stays away.
        """
        if count < 1:
            return []
        deliveries = self._readable(patiently(lambda: self._group.own(self._consumer, count=count)))
        if not deliveries and time.monotonic() >= self._next_sweep:
            deliveries = self._of_the_dead(count)
        if not deliveries:
            fresh = patiently(lambda: self._group.fresh(self._consumer, count=count, block_ms=block_ms))
            deliveries = self._readable(fresh)
        return deliveries

    def set_aside(self, delivery: Delivery, error: Exception) -> None:
        """Make a dead letter of an event that could be read, and that nobody can take up: it must not stop the stream.

        Where `error` is an EventRejected, it says why; any other was not foreseen.
        """
        entry = Entry(delivery.entry_id, ((b"event", delivery.event.raw.encode("utf-8", "surrogatepass")),))
        if not isinstance(error, EventRejected):
            error = EventRejected("event", got=type(error).__name__, expected="an event that can be taken up")
        self._bury(entry, _rejection(entry, error))

    def _of_the_dead(self, count: int) -> list[Delivery]:
        def sweep() -> list[Delivery]:
            taken: list[Delivery] = []
            for entry in self._group.stale(self._consumer, idle_ms=self._reclaim_after_ms):
                taken += self._readable([entry])
                if len(taken) >= count:
                    break
            else:
                self._next_sweep = time.monotonic() + self._reclaim_after_ms / 3000
            return taken

        return patiently(sweep)

    def _readable(self, entries: list[Entry]) -> list[Delivery]:
        deliveries = []
        for entry in entries:
            if entry.fields is None:
                self._group.forget(entry.id)
                continue
            try:
                deliveries.append(Delivery(entry.id, _event(entry)))
            except EventRejected as error:
                self._bury(entry, _rejection(entry, error))
            except Exception as error:  # noqa: BLE001 - one entry that nobody foresaw must not stop the stream
                unforeseen = EventRejected("event", got=type(error).__name__, expected="an event that can be read")
                self._bury(entry, _rejection(entry, unforeseen))
        return deliveries

    def _bury(self, entry: Entry, rejection: Rejection) -> None:
        if self._before_burial:
            self._before_burial(rejection)
        shape, raw = pack(entry.fields or ())
        letter: dict[str, Arg] = {
            "kind": "event",
            "entry": entry.id,
            "reason": rejection.reason,
            "field": rejection.field,
            "got": rejection.got,
            "expected": rejection.expected,
            "source": rejection.source,
            "event_id": rejection.event_id,
            "deliveries": patiently(lambda: self._group.deliveries(entry.id)),
            "shape": shape,
            "raw": raw,
        }
        content = hashlib.sha256(raw).hexdigest()  # ids of entries can come again where a stream was deleted
        self._letters.write(f"entry {entry.id} {content}", letter)
        self._scripts.run("acknowledge", [self._group.stream], [GROUP, entry.id])


def _event(entry: Entry) -> DriftEvent:
    names = [name for name, _ in entry.fields or ()]
    if names != [b"event"]:
        shown = ", ".join(name.decode("utf-8", "replace") for name in names[:10])
        raise EventRejected(
            "event", got=f"an entry with the fields {shown}", expected="an entry with one field, `event`"
        )
    return parse_event((entry.fields or ())[0][1])


def _rejection(entry: Entry, error: EventRejected) -> Rejection:
    source, event_id = _identity(entry)
    return Rejection(
        entry_id=entry.id,
        reason=_clean(error.diagnostics()),
        field=_clean(error.field),
        got=_clean(shorten(error.got, 200)),
        expected=_clean(error.expected or ""),
        source=source,
        event_id=event_id,
    )


def _identity(entry: Entry) -> tuple[str, str]:
    raw = next((value for name, value in entry.fields or () if name == b"event"), b"")
    try:
        document = loads_json(raw)
    except BadInput:
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    pair = [document.get("source"), document.get("id")]
    if not all(isinstance(part, str) and 0 < len(part) <= 2048 for part in pair):
        return "", ""
    return _clean(str(pair[0])), _clean(str(pair[1]))


def _clean(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, as question marks."""
    return text.encode("utf-8", "replace").decode()
