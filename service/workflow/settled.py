"""Requests that were answered, expired or were replaced, and whose incident has ended: out of the way of those that are open.

They stand in a hash of their own beside the queue's (`approvals.py`). Once their incident has left Redis they go, and in the same
step what they were is counted, and of each that was rejected who refused it is kept (`answered.py`): its event may come
again, under the same name, and the same plan is not asked for anew.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources import files
from typing import Any

from driftwarden.service.workflow.answered import Refusal, Tally, proves, read_tally, refusal_name
from driftwarden.service.workflow.approvals import OPEN, ApprovalRequest, Approvals

TOGETHER = (
    100  # in one step: whoever answers a request meanwhile is kept from it by few steps, however many there are to move
)

Of = Callable[[Collection[str]], Collection[str]]  # of these incidents, those of which something holds
Helped = Callable[
    [ApprovalRequest], bool | None
]  # whether the effect of one that was executed did; None: nobody judged it


def _nobody_judged(request: ApprovalRequest) -> bool | None:
    del request
    return None


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
            moved += len(some) * self._written(self._approvals.key, some, self._approvals.past, new)
        return moved

    def forget(self, gone: Of, helped: Helped = _nobody_judged) -> int:
        """Remove those whose incident has left Redis, and keep what they were; returns how many."""
        found = self._approvals.stored(past=True)
        left = frozenset(gone({one.incident for _, one in found.values()}) if found else ())
        leaving, removed = {id: raw for id, (raw, one) in found.items() if one.incident in left}, 0
        for some in _in_parts(leaving):
            new = self._counted([found[id][1] for id in some], helped)
            removed += len(some) * self._written(self._approvals.past, some, self._approvals.book, new)
        return removed

    def _counted(self, requests: Collection[ApprovalRequest], helped: Helped) -> dict[str, tuple[bytes, bytes]]:
        """What the book says of these: as it was seen, and as it is to be."""
        names = [*{one.model for one in requests}, *(refusal_name(one.id) for one in requests)]
        seen = dict(zip(names, self._approvals.redis.hmget(self._approvals.book, names), strict=True))
        tallies: dict[str, Tally] = {}
        new: dict[str, tuple[bytes, bytes]] = {}
        for one in requests:
            name = refusal_name(one.id)
            if seen[name] is not None:
                continue  # asked again after it was removed, and refused still: it counts already
            tally = tallies.setdefault(one.model, read_tally(seen[one.model]))
            tally.add(one, helped=helped(one) if proves(one) else None)
            if one.state == "rejected":
                refusal = Refusal(requested_at=one.requested_at, refused=one.refused)
                new[name] = b"", refusal.model_dump_json().encode()
        told = {model: (seen[model] or b"", tally.model_dump_json().encode()) for model, tally in tallies.items()}
        return new | told

    def _written(
        self, leave: str, gone: Mapping[str, bytes], into: str, new: Mapping[str, tuple[bytes, bytes]]
    ) -> bool:
        args: list[Any] = [len(gone), *(part for one in gone.items() for part in one)]
        for id, (seen, value) in new.items():
            args += [id, seen, value]
        return bool(self._put_away(keys=[leave, into], args=args) in {b"OK", "OK"})


def _in_parts(found: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    names = [*found]
    for at in range(0, len(names), TOGETHER):
        yield {name: found[name] for name in names[at : at + TOGETHER]}
