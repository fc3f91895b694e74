"""One process's eye on its Redis: does it run, does it still hold what it acknowledged, does an event wait on this disk.

Key `<prefix>witness:<process>`: a number that this process counts up, and remembers. A Redis that knows a lower one, or
none, has lost writes that it had acknowledged (flushed, restored, restarted without every write on disk, or failed over
to a replica that was behind). What was lost cannot be known here; that something was, is said at once and loudly.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from driftwarden.contracts.event import DriftEvent
from driftwarden.contracts.ports import Notifier
from driftwarden.errors import Error
from driftwarden.service.auditing import process_name
from driftwarden.settings import Settings
from driftwarden.stream.client import patiently
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.spool import Spool

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

WITNESS_EVERY_TICKS = 5
SPOOL_EVERY_TICKS = 30
TOLD_EVERY_TICKS = 60
SEND_S = 10.0
TICK_S = 1.0
STOP_WITHIN_S = 5.0
_TTL_MS = 7 * 24 * 3600 * 1000


class RedisWatch:
    """`tick` is called about once a second, by one thread."""

    def __init__(
        self,
        client: "Redis",
        prefix: str,
        process: str,
        *,
        notifier: Notifier,
        spool: Spool | None = None,
        revive: Callable[[], bool] | None = None,
        plant: Sequence[Callable[[], None]] = (),
    ) -> None:
        """`process` is unique among live processes, for ever; `revive` starts an embedded server that died (True: it did);
        `plant` writes again what must be there after a loss (halts, the mark of the state's key)."""
        self._client: Any = client
        self._stream, self._key = f"{prefix}events", f"{prefix}witness:{process}"
        self._notifier, self._spool, self._revive, self._plant = notifier, spool, revive, plant
        self._count, self._server, self._ticks, self._losses = 0, "", 0, 0

    def tick(self) -> None:
        """Look; raises Retry where Redis is away."""
        if self._revive is not None and self._revive():
            log.error("the embedded redis had died and was started again; it holds every write that it answered")
        self._follow()
        if self._ticks % WITNESS_EVERY_TICKS == 0:
            self.look()
        if self._ticks % SPOOL_EVERY_TICKS == 0:
            self.send_spooled()
        self._ticks += 1

    def look(self) -> bool:
        """Count the witness up; False where Redis does not know the count before. Raises Retry."""
        self._recognise()
        following = self._count + 1
        # A repeat after a lost reply finds what it wrote itself.
        before = patiently(lambda: self._client.set(self._key, following, px=_TTL_MS, get=True), for_s=0)
        known = {str(self._count).encode(), str(following).encode()} if self._count else {None, b"1"}
        held = before in known
        if not held:
            self._say_lost(self._count, before)
        self._count = following
        return held

    def leave(self) -> None:
        """Take the witness away; where Redis is away it dies by itself."""
        with suppress(Error):
            patiently(lambda: self._client.delete(self._key), for_s=0)

    def send_spooled(self) -> int:
        """Publish what waits on this disk; returns how many events that were."""
        if self._spool is None:
            return 0

        def publish(event: DriftEvent) -> str:
            entry: bytes = patiently(lambda: self._client.xadd(self._stream, {"event": event.raw.encode()}), for_s=0)
            return entry.decode()

        sent = self._spool.send(publish, until=time.monotonic() + SEND_S)
        if sent.entries:
            log.info("%d events that waited in the spool were published", len(sent.entries))
        if sent.problem is not None:
            log.warning("events wait in the spool: %s", sent.problem.diagnostics())
        return len(sent.entries)

    def _follow(self) -> None:
        """Leave a master that the sentinels have replaced: until it is demoted, what it still takes is lost."""
        ask = getattr(getattr(self._client, "connection_pool", None), "get_master_address", None)
        if ask is not None:
            patiently(ask, for_s=0)

    def _recognise(self) -> None:
        """Say it where another server answers than before: restarted, or failed over."""
        about: Any = patiently(lambda: self._client.info("server"), for_s=0)
        server = str(about.get("run_id", ""))  # a cluster's nodes answer each for itself: its witness must do
        if server and self._server and server != self._server:
            log.warning("redis is another process than before: it was restarted, or a replica took over")
        self._server = server or self._server

    def _say_lost(self, expected: int, before: bytes | None) -> None:
        self._losses += 1
        found = "nothing" if before is None else before.decode("utf-8", "replace")[:40]
        message = (
            "redis has lost writes that it had acknowledged: it was flushed, restored, or a replica that was behind took "
            "over. Events and incidents may be gone; what the audit log tells of as done is not done again"
        )
        log.critical("%s", message, extra={"witness_expected": expected, "witness_found": found})
        for plant in self._plant:
            plant()
        try:
            key = f"{self._key}:{expected}:{self._losses}"
            self._notifier.notify(
                "redis has lost writes", message, key=key, fields={"expected": expected, "got": found}
            )
        except Error as error:
            log.warning("nobody could be told: %s", error.diagnostics())


@contextmanager
def watching_redis(
    settings: Settings, client: "Redis", notifier: Notifier, plant: Sequence[Callable[[], None]]
) -> Iterator[RedisWatch]:
    """A watch with a thread of its own, for as long as the block lasts."""
    with ExitStack() as stack:
        revive = None
        if settings.redis.url is None:
            revive = stack.enter_context(EmbeddedRedis.acquire(settings.home)).revive
        watch = RedisWatch(
            client,
            settings.redis.prefix,
            process_name(unique=True),
            notifier=notifier,
            spool=Spool(settings.home),
            revive=revive,
            plant=plant,
        )
        ended = threading.Event()
        thread = threading.Thread(target=_keep_watch, args=(watch, ended), name="driftwarden redis", daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            ended.set()
            thread.join(STOP_WITHIN_S)
            watch.leave()


def _keep_watch(watch: RedisWatch, ended: threading.Event) -> None:
    faults = 0  # in a row: a Redis that is away for hours is told of once a minute, not once a second
    while not ended.is_set():
        try:
            watch.tick()
            if faults:
                log.warning("redis answers again")
            faults = 0
        except Error as error:
            if faults % TOLD_EVERY_TICKS == 0:
                log.warning("redis: %s", error.diagnostics())
            faults += 1
        except Exception:
            log.exception("redis")
        ended.wait(TICK_S)
