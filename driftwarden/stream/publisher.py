"""Publishing drift events: one entry of the intake stream each, checked before it leaves, kept on disk while Redis is away."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from driftwarden.clock import rfc3339
from driftwarden.contracts.event import DRIFT_TYPE, DriftEvent, parse_event
from driftwarden.errors import Error, EventRejected, Retry

if TYPE_CHECKING:
    from redis import Redis

    from driftwarden.stream.embedded import EmbeddedRedis
    from driftwarden.stream.spool import Sent, Spool

PREFIX = "driftwarden:"
SPOOL_WAIT_S = 60.0


def build_event(
    data: Mapping[str, Any],
    *,
    source: str,
    type: str = DRIFT_TYPE,
    id: str | None = None,
    time: datetime | str | None = None,
    subject: str | None = None,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """A CloudEvents 1.0 event around `data` (contract §2); without `id` a fresh UUID, without `time` the present."""
    moment = rfc3339(time or datetime.now(UTC)) if not isinstance(time, str) else time
    event = {"specversion": "1.0", "id": id or str(uuid.uuid4()), "source": source, "type": type, "time": moment}
    optional = {"subject": subject, "traceparent": traceparent}
    return event | {name: text for name, text in optional.items() if text is not None} | {"data": dict(data)}


class Publisher:
    """Publishes events to one Redis; connects when it first publishes, and may be used as a context manager.

    `url` None: the embedded server of `state_folder`, or where that is None too, what the settings say.
    """

    def __init__(
        self,
        url: str | None = None,
        prefix: str | None = None,
        *,
        state_folder: Path | None = None,
        timeout_s: float | None = None,
        retry_for_s: float | None = None,
    ) -> None:
        """Remember the address; nothing is opened yet.

        `timeout_s`: the most that one answer may take (default 5); `retry_for_s`: how long to ask again while the
        server is away (default 15).
        """
        self._url, self._prefix, self._state_folder = url, prefix, state_folder
        self._timeout_s, self._retry_for_s = timeout_s, retry_for_s
        self._client: Redis | None = None
        self._embedded: EmbeddedRedis | None = None

    def publish(self, event: Mapping[str, Any] | str) -> str:
        """Publish one event and return the id of its entry.

        Raises EventRejected (it would not be read: nothing is published), Retry (the server is away), BadInput (wrong
        address). A repeat after a lost reply publishes it twice; the pair of source and id makes that harmless.
        """
        content = checked(event).raw.encode()
        from driftwarden.stream.client import RETRY_FOR_S, patiently

        client = self._connected()
        stream = f"{self._prefix or PREFIX}events"
        entry_id = patiently(
            lambda: client.xadd(stream, {"event": content}),
            where=self._url or stream,
            for_s=RETRY_FOR_S if self._retry_for_s is None else self._retry_for_s,
        )
        assert isinstance(entry_id, bytes)
        return entry_id.decode()

    def close(self) -> None:
        """Disconnect, and leave the embedded server where it was joined."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._embedded is not None:
            self._embedded.release()
            self._embedded = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _connected(self) -> "Redis":
        if self._client is None:
            from driftwarden.stream.client import connect

            self._client = connect(self._url or self._configured(), timeout_s=self._timeout_s)
        return self._client

    def _configured(self) -> str:
        from driftwarden.stream.embedded import EmbeddedRedis

        folder = self._state_folder
        if folder is None:
            from driftwarden.settings import load_settings

            settings = load_settings()
            self._prefix = self._prefix or settings.redis.prefix
            if settings.redis.url is not None:
                return settings.redis.url.get_secret_value()
            folder = settings.home
        self._embedded = EmbeddedRedis.acquire(folder)
        return self._embedded.url


@dataclass(frozen=True)
class Delivered:
    """What became of an event: published (`entry`: its id, where this call sent it), or `kept` in the spool, and why."""

    kept: bool
    entry: str | None = None
    problem: Error | None = None


def deliver(
    event: Mapping[str, Any] | str, spool: "Spool", connect: Callable[[], Publisher], *, until: float
) -> Delivered:
    """Keep an event on disk, then publish what waits there, the oldest first, until `time.monotonic()` is `until`.

    Whatever dies or hangs after the first step, the event is not lost, and never overtakes one that waits. Where the disk
    does not take it, it is published at once. Raises EventRejected (it would not be read), SpoolFull (dropped, counted),
    or what publishing raises where neither disk nor Redis took it.
    """
    from driftwarden.stream.spool import NotKept, SpoolFull

    ready = checked(event)
    try:
        if not spool.has_room(ready):
            send_spooled(spool, connect, until=until)
        name = spool.put(ready)
    except SpoolFull:
        raise
    except (NotKept, OSError):  # what waits there cannot be taken away either: it is sent later, again at worst
        with connect() as publisher:
            return Delivered(kept=False, entry=publisher.publish(ready.raw))
    sent = send_spooled(spool, connect, until=until)
    return Delivered(kept=spool.holds(name), entry=sent.entries.get(name), problem=sent.problem)


def send_spooled(
    spool: "Spool",
    connect: Callable[[], Publisher],
    *,
    until: float,
    told: Callable[[DriftEvent, str], None] | None = None,
) -> "Sent":
    """Publish what waits in the spool; opens no connection where nothing does. `told` hears of each event and its entry."""
    publisher: Publisher | None = None

    def publish(event: DriftEvent) -> str:
        nonlocal publisher
        publisher = publisher or connect()
        entry = publisher.publish(event.raw)
        if told:
            told(event, entry)
        return entry

    try:
        return spool.send(publish, until=until)
    finally:
        if publisher is not None:
            publisher.close()


def send_in_order(spool: "Spool", publisher: Publisher, *, wait_s: float = SPOOL_WAIT_S) -> None:
    """Publish what waits in the spool before something newer; raises what stops it (Retry, or the server's refusal)."""
    sent = spool.send(
        lambda event: publisher.publish(event.raw), until=time.monotonic() + wait_s, wait_for_turn_s=wait_s
    )
    if sent.problem is not None:
        raise sent.problem
    if sent.busy:
        raise Retry(f"another process is sending what waits in the spool ({spool.folder})")


def checked(event: Mapping[str, Any] | str) -> DriftEvent:
    """The event as it will be read at the other end; raises EventRejected."""
    return parse_event(_encoded(event))


def _encoded(event: Mapping[str, Any] | str) -> bytes:
    try:
        text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError as error:
        raise EventRejected("event", got=f"character {error.start}, a lone surrogate", expected="text") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise EventRejected("event", got=error, expected="values that JSON knows") from None
