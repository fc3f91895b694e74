"""One consumer group of one stream: created from the beginning, recreated when it vanishes, read without losing entries.

A group starts at 0, never at `$`: entries that came before the first worker count too, and whoever reads recognises
repeats. Redis 6.2 commands only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driftwarden.stream.client import BLOCK_MS_MAX

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True)
class Entry:
    """An entry in this consumer's hands; `fields` None: it is pending, and no longer in the stream."""

    id: str
    fields: tuple[tuple[bytes, bytes], ...] | None

    def get(self, name: bytes) -> str:
        """A field's text, empty where it is missing."""
        return next((value.decode("utf-8", "replace") for key, value in self.fields or () if key == name), "")


class Group:
    """Reads of one consumer group; the client answers bytes."""

    def __init__(self, client: "Redis", stream: str, name: str) -> None:
        """Name the stream and the group; nothing is asked of the server yet."""
        self.stream, self.name = stream, name
        self._client: Any = client

    def ensure(self) -> None:
        """Create stream and group where they are missing."""
        from redis.exceptions import ResponseError

        try:
            self._client.xgroup_create(self.stream, self.name, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def own(self, consumer: str, *, after: str = "0", count: int = 10) -> list[Entry]:
        """Entries that were delivered to this consumer and not settled, after an id."""
        return self._read(consumer, after, count, None)

    def fresh(self, consumer: str, *, count: int, block_ms: int) -> list[Entry]:
        """Entries that nobody was given yet; waits at most `block_ms` (0: not at all, at most two seconds)."""
        return self._read(consumer, ">", count, min(block_ms, BLOCK_MS_MAX))

    def stale(self, consumer: str, *, idle_ms: int) -> Iterator[Entry]:
        """Take over, one at a time, entries that others were given and have not touched for `idle_ms`."""
        cursor = b"0-0"
        while True:
            reply = self._again("XAUTOCLAIM", self.stream, self.name, consumer, idle_ms, cursor, "COUNT", 1, "JUSTID")
            cursor = reply[0]
            for entry_id in reply[1]:
                # A second, plain claim counts the delivery and brings the entry; it is ours since the line above. An
                # entry that was deleted comes back without fields (6.2 hides even its id in a plain XAUTOCLAIM).
                claimed = self._again("XCLAIM", self.stream, self.name, consumer, 0, entry_id)
                if (
                    claimed
                ):  # else it is pending no more: settled meanwhile, or the group is a new one that hands it out again
                    yield _entry(claimed[0]) if claimed[0] else Entry(entry_id.decode(), None)
            if cursor == b"0-0":
                return

    def deliveries(self, entry_id: str) -> int:
        """How often a pending entry was handed out; 1 where that is not known (any more)."""
        from redis.exceptions import ResponseError

        try:
            found = self._client.xpending_range(self.stream, self.name, entry_id, entry_id, 1)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return 1
        return int(found[0]["times_delivered"]) if found else 1

    def forget(self, entry_id: str) -> None:
        """Settle an entry that is of no use."""
        self._again("XACK", self.stream, self.name, entry_id)
        self._client.execute_command("XDEL", self.stream, entry_id)

    def _read(self, consumer: str, after: str, count: int, block_ms: int | None) -> list[Entry]:
        block: tuple[Any, ...] = ("BLOCK", block_ms) if block_ms else ()
        reply = self._again(
            "XREADGROUP", "GROUP", self.name, consumer, "COUNT", count, *block, "STREAMS", self.stream, after
        )
        return [_entry(item) for item in reply[0][1]] if reply else []

    def _again(self, command: str, *args: Any) -> Any:
        from redis.exceptions import ResponseError

        # A command name with a space in it keeps redis-py from folding the fields into a dict, where a repeated field
        # would vanish; it is sent as two words.
        words = f"{command} {args[0]}"
        try:
            return self._client.execute_command(words, *args[1:])
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")) and "no longer exists" not in str(error):
                raise
            self.ensure()
            return self._client.execute_command(words, *args[1:])


def _entry(item: Any) -> Entry:
    entry_id, flat = item
    if flat is None:
        return Entry(entry_id.decode(), None)
    return Entry(entry_id.decode(), tuple(zip(flat[::2], flat[1::2], strict=True)))
