"""Requests that were answered, expired or were replaced, and whose incident has ended: out of the way of those that are open.

They stand in a hash of their own beside the queue's (`approvals.py`). Once their incident has left Redis they go, but for those
that were rejected: its event may come again, under the same name, and the same plan is not asked for anew. People reject by
hand, so these are few.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources import files
from typing import Any

from driftwarden.service.workflow.approvals import OPEN, Approvals

TOGETHER = (
    100  # in one step: whoever answers a request meanwhile is kept from it by few steps, however many there are to move
)

Of = Callable[[Collection[str]], Collection[str]]  # of these incidents, those of which something holds


class Settled:
    """The settled requests of one queue; thread-safe."""

    def __init__(self, approvals: Approvals) -> None:
        """Asks nothing yet."""
        self._approvals = approvals
        script = files(__package__).joinpath("put_away.lua").read_text(encoding="utf-8")
        self._put_away = approvals.redis.register_script(script)

    def put_away(self, over: Of) -> int:
        """Move those whose incident has ended or is gone; returns how many. One that is open never is moved.

        Where one of those that move together is answered meanwhile, they are left for the next time.
        """
        recent = self._approvals.stored()
        settled = {id: found for id, found in recent.items() if found[1].state not in OPEN}
        ended = frozenset(over({one.incident for _, one in settled.values()}) if settled else ())
        moving, moved = {id: raw for id, (raw, one) in settled.items() if one.incident in ended}, 0
        for some in _in_parts(moving):
            stands = self._approvals.redis.hmget(self._approvals.past, [*some])
            new = {id: (seen or b"", raw) for (id, raw), seen in zip(some.items(), stands, strict=True)}
            moved += len(some) * self._written(self._approvals.key, some, new)
        return moved

    def forget(self, gone: Of) -> int:
        """Remove those whose incident has left Redis; returns how many. What was rejected stays."""
        found = {id: one for id, one in self._approvals.stored(past=True).items() if one[1].state != "rejected"}
        left = frozenset(gone({one.incident for _, one in found.values()}) if found else ())
        leaving = {id: raw for id, (raw, one) in found.items() if one.incident in left}
        return sum(len(some) * self._written(self._approvals.past, some, {}) for some in _in_parts(leaving))

    def _written(self, leave: str, gone: Mapping[str, bytes], new: Mapping[str, tuple[bytes, bytes]]) -> bool:
        args: list[Any] = [len(gone), *(part for one in gone.items() for part in one)]
        for id, (seen, value) in new.items():
            args += [id, seen, value]
        return bool(self._put_away(keys=[leave, self._approvals.past], args=args) in {b"OK", "OK"})


def _in_parts(found: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    names = [*found]
    for at in range(0, len(names), TOGETHER):
        yield {name: found[name] for name in names[at : at + TOGETHER]}
