"""The world outside the service, in a process of its own: producers, people who answer, halt, and ask by hand.

All of it goes through the proxy. Who gets no answer asks again with the same words, as a producer or a person would.
"""

import contextlib
import json
import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import redis
from chaos.plant import ALONE, MODELS, REDIS_WAS_AWAY, TOGETHER, Plant, log_to

from driftwarden.errors import Error, Retry

log = logging.getLogger(__name__)

WAITING_MAX = 60  # entries of the intake and activations above which producers pause: the run is about faults, not load
PEOPLE_EVERY_S = 0.7
ASKABLE = {"failed": "retry", "rejected": "retry", "resolved": "undo", "verifying": "close"}
AWAY = (Error, redis.RedisError, OSError)
Word = Callable[[], object]


class Outside:
    """Acts by a seed. `quiet.txt` in the folder: it was asked to end, and everything that it had to say was heard."""

    def __init__(self, plant: Plant, seed: str, *, rate: float) -> None:
        """`rate`: events a second, while the service keeps up."""
        self._plant, self._rate = plant, rate
        self._events, self._people = random.Random(f"{seed} events"), random.Random(f"{seed} people")
        self._number = 0
        self._sent: list[tuple[str, bytes]] = []
        self._held: list[Word] = []
        self._unheard: list[Word] = []
        self._halted: set[str | None] = set()

    def run(self, closing: threading.Event) -> None:
        """Until `closing`; then nothing new comes, and everybody is answered."""
        next_event = next_word = time.monotonic()
        while not closing.wait(0.02):
            now = time.monotonic()
            if now >= next_event:
                next_event = now + self._events.expovariate(self._rate)
                self._try(self._send)
            if now >= next_word:
                next_word = now + PEOPLE_EVERY_S
                self._try(self._speak)
        self._close()

    def _try(self, word: Word) -> bool:
        try:
            word()
        except AWAY as error:
            log.info("not heard: %s", error)
            return False
        return True

    def _close(self) -> None:
        self._unheard += self._held
        self._unheard += [lambda one=one: self._resume(one) for one in self._halted]
        while True:
            self._plant.mend("late.csv")
            self._unheard = [word for word in self._unheard if not self._try(word)]
            heard = self._try(self._answer)
            if heard and not self._unheard:
                (self._plant.folder / "quiet.txt").touch()
            time.sleep(0.2)

    # Producers

    def _send(self) -> None:
        streams = [self._plant.store.keys.intake, *(keys.activations for keys in self._plant.store.shards.all)]
        if sum(int(self._plant.client.xlen(stream)) for stream in streams) > WAITING_MAX:
            return
        kind = self._events.random()
        self._number += 1
        if kind < 0.12 and self._sent:
            id, raw = self._events.choice(self._sent)
            word: Word = partial(self._plant._send, id, raw)
        elif kind < 0.18:
            word = self._unreadable(f"bad{self._number}")
        elif kind < 0.28:
            word = self._report(f"r{self._number}")
        else:
            word = self._drift(f"e{self._number}")
        if self._events.random() < 0.15:  # comes later, after others that were measured after it
            self._held.append(word)
            return
        if self._held and self._events.random() < 0.3:
            self._hold_on(self._held.pop(self._events.randrange(len(self._held))))
        self._hold_on(word)

    def _hold_on(self, word: Word) -> None:
        """Sent, or kept to be sent again: nobody knows whether it arrived."""
        if not self._try(word):
            self._held.append(word)

    def _drift(self, id: str) -> Word:
        chance, data = self._events, dict[str, Any]()
        model = chance.choice(TOGETHER if chance.random() < 0.4 else ALONE)
        if chance.random() < 0.02:
            model = "nobody"  # is watched by nobody
        if chance.random() < 0.5:
            columns = chance.sample(["x", "z"], chance.choice([1, 2]))
            data["columns"] = [
                {"name": one, "role": "feature", "drifted": True, "score": 0.9, "threshold": 0.1} for one in columns
            ]
        file = "late.csv" if chance.random() < 0.05 else "w.csv"
        day = f"{chance.randrange(1, 29):02}"
        month = "2026-01" if chance.random() < 0.1 else "2100-11"  # late: from before every change
        window = {"start": f"{month}-{day}T07:00:00Z", "end": f"{month}-{day}T08:00:00Z", "rows": 2,
                  "uri": str(self._plant.data / file)}  # fmt: skip
        content = self._plant.content(id, model, window=window, **data)
        self._sent.append((id, content))
        return lambda: self._plant._send(id, content)

    def _report(self, id: str) -> Word:
        model = self._events.choice(MODELS)
        return lambda: self._plant.report(id, model)

    def _unreadable(self, id: str) -> Word:
        whole = self._plant.content(id, "ann")
        raw = self._events.choice([b"\xff{", b"{}", b"", whole[: len(whole) // 2], b'{"id": 1, "source": []}'])
        return lambda: self._plant._send(id, raw)

    # People

    def _speak(self) -> None:
        chance = self._people
        self._unheard = [word for word in self._unheard if not self._try(word)]
        if chance.random() < 0.6:
            self._answer()
        if self._halted and chance.random() < 0.2:
            self._resume(chance.choice(sorted(self._halted, key=str)))
        elif chance.random() < 0.04:
            model = chance.choice([None, *MODELS])
            self._halted.add(model)
            self._plant.parts.halts.halt(model, reason="chaos", by="ada")
        if chance.random() < 0.15:
            self._ask()
        if chance.random() < 0.05:
            self._plant.mend("late.csv")
        elif chance.random() < 0.05:
            (self._plant.data / "late.csv").unlink(missing_ok=True)

    def _answer(self) -> None:
        """Everybody who is asked approves or refuses, and the incident is told of it."""
        plant = self._plant
        for one in [one for one in plant.parts.approvals.list() if one.state == "pending"]:
            approve = self._people.random() < 0.75
            said = plant.people.say(one, "bob", verdict="approve" if approve else "reject")
            self._unheard.append(lambda incident=one.incident: plant.store.wake(incident, "approval"))
            (plant.parts.approvals.grant if approve else plant.parts.approvals.refuse)(one.id, said)
        self._unheard = [word for word in self._unheard if not self._try(word)]

    def _ask(self) -> None:
        """A person asks something by hand of an incident of the last ones."""
        found = [one for one in self._plant.store.list(limit=30) if one.state in ASKABLE]
        if not found:
            return
        one = self._people.choice(found)
        what: Any = ASKABLE[one.state]
        said = self._plant.people.request(one.id, what, "ada").model_dump()
        self._unheard.append(lambda: self._plant.store.wake(one.id, what, said))

    def _resume(self, model: str | None) -> None:
        self._plant.parts.halts.resume(model)
        self._halted.discard(model)


def be_outside(folder: Path, url: str, seed: str, *, rate: float) -> int:
    """The process; it ends by being killed."""
    closing = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: closing.set())
    log_to(folder / "logs" / "outside.log")
    with contextlib.suppress(FileNotFoundError):
        (folder / "quiet.txt").unlink()
    try:
        plant = Plant(folder, url, "outside", seed)
    except Retry:
        return REDIS_WAS_AWAY
    Outside(plant, seed, rate=rate).run(closing)
    return 0


def read_acknowledged(folder: Path) -> list[dict[str, str]]:
    """What XADD acknowledged so far: id, entry, raw (latin-1)."""
    file = folder / "acknowledged.jsonl"
    whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]
