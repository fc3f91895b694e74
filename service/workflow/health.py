"""How every process is: each tells it to Redis every few seconds, and whoever looks sees who lives, who is late, what is away.

Hash `<prefix>processes`: process -> `<ms of the server> <ttl ms> <JSON of Said>`; dead after its time to live. Spans are
told as seconds that had passed by then, so that no two clocks are compared. A process that ends because it cannot go on
leaves last words, for a day or until one on the same host and folder starts. They decide nothing.
"""

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from driftwarden.service.workflow.store_types import moment
from driftwarden.stream.scripts import Scripts

if TYPE_CHECKING:
    from redis import Redis

TTL_MS = 15_000
LAST_WORDS_TTL_MS = 24 * 3600 * 1000
_PACKAGE = "driftwarden.service.workflow"
_PROCESSES_MAX = 10_000


class _Said(BaseModel):
    """Unknown fields are a later version's."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SaidWorker(_Said):
    """As `heart.WorkerView`."""

    name: str
    doing: Literal["waiting", "working", "late", "gone"]
    incident: str | None = None
    model: str | None = None
    state: str | None = None
    for_s: float = 0.0
    beat_s: float | None = None


class SaidBreaker(_Said):
    """As `resilience.BreakerView`."""

    name: str
    state: Literal["closed", "open", "half-open"]
    failures: int = 0
    reason: str | None = None
    for_s: float = 0.0
    again_s: float = 0.0


class Said(_Said):
    """What a process tells of itself; `ended`: its last words. `intake_s`: since its intake last came round; `books`: it reads what
    the ledger and the queue of approvals put away; `refusals`: also what is kept of requests that were removed. An earlier
    version knows of neither."""

    host: str
    pid: int
    folder: str = ""
    up_s: float = 0.0
    workers: tuple[SaidWorker, ...] = ()
    breakers: dict[str, SaidBreaker] = Field(default_factory=dict)
    audit_fault: str | None = None
    policy: str | None = None
    intake_s: float | None = None
    books: bool = False
    refusals: bool = False
    stopping: bool = False
    ended: str | None = None


class ProcessHealth(_Said):
    """A process as it told of itself `age_s` ago; `started_at` by the server's clock."""

    name: str
    said: Said
    age_s: float
    started_at: str

    @property
    def is_live(self) -> bool:
        """Whether it runs, as far as anybody knows."""
        return self.said.ended is None

    def workers(self) -> list[dict[str, Any]]:
        """A line for each of its workers."""
        if not self.is_live:
            return []
        return [
            {
                "process": self.name,
                "name": worker.name,
                "doing": worker.doing,
                "incident": worker.incident,
                "model": worker.model,
                "state": worker.state,
                "seconds": round(worker.for_s + self.age_s, 3),
                "heartbeat_seconds": None if worker.beat_s is None else round(worker.beat_s + self.age_s, 3),
            }
            for worker in self.said.workers
        ]

    def to_json(self) -> dict[str, Any]:
        """Without its workers."""
        said = self.said
        return {
            "name": self.name,
            "host": said.host,
            "pid": said.pid,
            "started_at": self.started_at,
            "heartbeat_seconds": round(self.age_s, 3),
            "stopping": said.stopping,
            "ended": said.ended,
            "audit": {"writable": said.audit_fault is None, "fault": said.audit_fault, "folder": said.folder},
            "breakers": {
                name: {"state": one.state, "failures": one.failures, "reason": one.reason}
                for name, one in said.breakers.items()
            },
            "policy": said.policy,
            "intake_seconds": None if said.intake_s is None else round(said.intake_s + self.age_s, 3),
        }


class Health:
    """One process's voice among those that share a Redis."""

    def __init__(self, client: "Redis", prefix: str, process: str) -> None:
        """`process` is unique among live processes, for ever."""
        self._client: Any = client
        self._key, self._process = f"{prefix}processes", process
        self._scripts = Scripts(client, _PACKAGE, retry_for_s=0)

    def tell(self, said: Said) -> None:
        """How it is now. Raises Retry where Redis is away, BadInput where it refuses."""
        _ask(self._scripts, self._key, self._process, said, TTL_MS)

    def begin(self, said: Said) -> None:
        """The first word: what earlier processes of this host and folder said at their end is over."""
        from driftwarden.stream.client import redis_errors

        _, told = _ask(self._scripts, self._key, self._process, said, TTL_MS)
        over = [name for name, _, one in told if one.ended and (one.host, one.folder) == (said.host, said.folder)]
        if over:
            with redis_errors():
                self._client.hdel(self._key, *over)

    def leave(self, said: Said) -> None:
        """The last word; nothing is left of a process that simply ends."""
        from driftwarden.stream.client import redis_errors

        if said.ended is not None:
            _ask(self._scripts, self._key, self._process, said, LAST_WORDS_TTL_MS)
            return
        with redis_errors():
            self._client.hdel(self._key, self._process)


def processes(client: "Redis", prefix: str) -> tuple[ProcessHealth, ...]:
    """Every process that lives, or left last words, by name. Raises Retry, BadInput."""
    now_ms, told = _ask(Scripts(client, _PACKAGE, retry_for_s=0), f"{prefix}processes", "", None, TTL_MS)
    return tuple(
        ProcessHealth(name=name, said=one, age_s=age_s, started_at=moment(int(now_ms - (one.up_s + age_s) * 1000)))
        for name, age_s, one in sorted(told, key=lambda each: each[0])
    )


def _ask(
    scripts: Scripts, key: str, process: str, said: Said | None, ttl_ms: int
) -> tuple[int, list[tuple[str, float, Said]]]:
    text = json.dumps(said.model_dump(mode="json")) if said is not None else ""
    now_ms, flat = scripts.run("processes", [key], [process, text, ttl_ms, 0])
    words = [word.decode("utf-8", "replace") for word in flat[: 3 * _PROCESSES_MAX]]
    found = []
    for name, age_ms, one in zip(words[::3], words[1::3], words[2::3], strict=True):
        try:
            found.append((name, int(age_ms) / 1000, Said.model_validate_json(one)))
        except ValidationError:  # not a word of ours
            continue
    return int(now_ms), found
