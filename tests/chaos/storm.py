"""One run of chaos: processes over one Redis and one folder, faults by a seed, and the checker at the end.

This process has no threads: it forks whatever runs from itself, warm. The workers' only way to Redis is the proxy; the
checker's own is not.
"""

import contextlib
import ctypes
import gc
import os
import random
import select
import shutil
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.outside import be_outside, read_acknowledged
from chaos.plant import LEASE_S, MODELS, REDIS_WAS_AWAY, SHARDS, STOP_WITHIN_S, Plant, work
from chaos.proxy import PR_SET_PDEATHSIG, ProxyProcess
from chaos.server import Server
from crash.history import Acknowledged, History, conserved, judge, read_history, read_sink, take_dump
from crash.plant import LATER_S, PREFIX, make_template
from crash.sink import EFFECT_TAG
from sqlalchemy.engine import Engine

from driftwarden.errors import Error
from driftwarden.service.workflow.store import WorkflowStore

LOOK_SHARE = 0.1  # of the time goes into asking for conservation, at most
LOOK_EVERY_S = 1.0
TURN_S = 0.05
PUMP_EVERY_S = 1.0
INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I7")


@dataclass(frozen=True)
class Plan:
    """What is asked for: `seconds` of faults, at least `faults_min` of them and `events_min` events acknowledged meanwhile;
    `rate` events a second, a fault every `fault_every_s` on the average."""

    seed: str
    seconds: float = 120.0
    workers: int = 4
    threads: int = 2
    rate: float = 4.0
    fault_every_s: float = 1.5
    faults_min: int = 0
    events_min: int = 1
    lease_s: float = LEASE_S
    settle_s: float = 300.0
    progress_s: float = 5.0


@dataclass
class Child:
    """A process of the run; `wakes_at`: it is stopped until then."""

    name: str
    pid: int
    handle: int
    wakes_at: float | None = None


@dataclass
class Outcome:
    """What came of a run; no faults where everything held."""

    faults: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    history: History | None = None
    settled_s: float = 0.0


class Storm:
    """One run in one folder."""

    def __init__(self, folder: Path, plan: Plan, tell: Callable[[str], None]) -> None:
        """`tell` is given each progress line."""
        self._folder, self._plan, self._tell = folder, plan, tell
        self._chance = random.Random(f"{plan.seed} faults")
        self.outcome = Outcome()
        self._done = self.outcome.done
        self._workers: list[Child] = []
        self._outside: Child | None = None
        self._due: list[tuple[float, Callable[[], None]]] = []  # what ends, or comes back, later
        self._begun = 0
        self._client: Any = None
        self._next_look = self._next_line = 0.0
        self._ended = self._acknowledged = self._effects = 0
        self._quiet = False  # silence and delay do not overlap with themselves

    def run(self) -> Outcome:
        """All of it."""
        make_template(self._folder, MODELS)
        (self._folder / "logs").mkdir()
        with self._proxied() as self._proxy:
            self._warm_up()
            try:
                self._begin()
                self._rage()
                self._settle()
                self._end()
            finally:
                for child in [*self._workers, *([self._outside] if self._outside else [])]:
                    os.kill(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
            self.outcome.faults = [
                *dict.fromkeys(self.outcome.faults),
                *judged(self._folder, self._server, self.outcome),
            ]
            self._done |= Counter({f"proxy {name}": count for name, count in self._proxy.tell("look").items()})
            told = [file.read_text(errors="replace") for file in (self._folder / "logs").glob("*.log")]
            self._done["fenced"] = sum(text.count("handed over:") for text in told)
            self._done["unforeseen"] = sum(text.count("Traceback (most recent call last)") for text in told)
            self._server.kill()
        return self.outcome

    @contextlib.contextmanager
    def _proxied(self) -> Iterator[ProxyProcess]:
        self._server = Server(self._folder / "redis")
        try:
            with ProxyProcess(self._server.port, f"{self._plan.seed} proxy") as proxy:
                self._url = f"redis://127.0.0.1:{proxy.port}"
                yield proxy
        finally:
            self._server.kill()

    def _warm_up(self) -> None:
        """Live a little here, so that what libraries compile once is there in every fork of this process."""
        self._client = self._server.wait()
        warm(self._folder, self._server.url)
        self._client.flushall()
        self._client.script_flush()
        # Asks for nothing but timers, past the proxy.
        self._store = WorkflowStore(self._client, prefix=PREFIX, shards=SHARDS, retry_for_s=0.0)

    # Processes

    def _fork(self, name: str, live: Callable[[], int]) -> Child:
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # it does not outlive this process
                code = live()
            except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent's work
                (self._folder / "logs" / f"{name}.error").write_text("".join(traceback.format_exception(error)))
            finally:
                os._exit(code)
        return Child(name, pid, os.pidfd_open(pid))

    def _start_worker(self) -> None:
        self._begun += 1
        name, plan = f"w{self._begun}", self._plan
        about = (self._folder, self._url, name, plan.seed)
        self._workers.append(self._fork(name, lambda: work(*about, threads=plan.threads, lease_s=plan.lease_s)))

    def _start_outside(self) -> None:
        about = (self._folder, self._url, self._plan.seed)
        self._outside = self._fork("outside", lambda: be_outside(*about, rate=self._plan.rate))

    def _begin(self) -> None:
        for _ in range(self._plan.workers):
            self._start_worker()
        self._start_outside()

    def _turn(self) -> None:
        """A short wait, and what follows from it: the dead are followed, what is due is done."""
        handles = [child.handle for child in self._workers]
        ended = select.select(handles, [], [], TURN_S)[0]
        for child in [one for one in self._workers if one.handle in ended]:
            self._workers.remove(child)
            code = self._reap(child)
            self._done["ended by itself" if code != REDIS_WAS_AWAY else "redis away at its start"] += 1
            if code != REDIS_WAS_AWAY:
                self._fault(f"{child.name} ended by itself with {code}{self._error(child)}")
            self._later(0.5, self._start_worker)
        if self._outside and select.select([self._outside.handle], [], [], 0)[0]:
            child, self._outside = self._outside, None
            code = self._reap(child)
            if code != REDIS_WAS_AWAY:
                self._fault(f"the world outside ended with {code}{self._error(child)}")
            self._later(0.5, self._start_outside)
        for one in [one for one in self._due if one[0] <= time.monotonic()]:
            self._due.remove(one)
            one[1]()
        self._look()

    def _reap(self, child: Child) -> int:
        os.close(child.handle)
        return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])

    def _error(self, child: Child) -> str:
        file = self._folder / "logs" / f"{child.name}.error"
        return f": {file.read_text().strip().splitlines()[-1]} ({file})" if file.exists() else ""

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, do))

    def _fault(self, line: str) -> None:
        self.outcome.faults.append(line)
        self._tell(f"FAULT {line}")

    # Faults

    def _rage(self) -> None:
        chance, end = self._chance, time.monotonic() + self._plan.seconds
        faults = {
            self._kill: 24, self._pause: 16, self._kill_redis: 6, self._cut: 14, self._drop: 18, self._tear: 8,
            self._delay: 7, self._silence: 7,
        }  # fmt: skip
        next_fault = time.monotonic() + chance.expovariate(1 / self._plan.fault_every_s)
        begun, latest = 0, end + self._plan.settle_s
        while (going := time.monotonic() < end or begun < self._plan.faults_min) or (
            self._acknowledged < self._plan.events_min and time.monotonic() < latest
        ):
            self._turn()
            if going and time.monotonic() >= next_fault:
                begun += 1
                chance.choices([*faults], [*faults.values()])[0]()
                next_fault = time.monotonic() + chance.expovariate(1 / self._plan.fault_every_s)

    def _pick(self, among: list[Child]) -> Child | None:
        pick = self._chance.random()
        return among[int(pick * len(among))] if among else None

    def _kill(self) -> None:
        """Also one that is stopped may die. Another starts soon."""
        child, after_s = self._pick(self._workers), self._chance.uniform(0, 1)
        if child is None:
            return
        self._workers.remove(child)
        os.kill(child.pid, signal.SIGKILL)
        self._reap(child)
        self._done["kills"] += 1
        self._later(after_s, self._start_worker)

    def _pause(self) -> None:
        """Beyond its lease: another takes over what it held, and it finds out only when it goes on."""
        pick, seconds = self._chance.random(), self._plan.lease_s * self._chance.uniform(1.2, 2.5)
        self._stop_one(pick, seconds)

    def _stop_one(self, pick: float, seconds: float) -> None:
        awake = self._awake()
        if len(awake) < 2:  # the others were killed, or found no Redis at their start: a little later
            self._later(0.5, lambda: self._stop_one(pick, seconds))
            return
        child = awake[int(pick * len(awake))]
        os.kill(child.pid, signal.SIGSTOP)
        child.wakes_at = time.monotonic() + seconds
        self._done["stops"] += 1
        self._later(seconds, lambda: self._wake(child))

    def _awake(self) -> list[Child]:
        return [one for one in self._workers if one.wakes_at is None]

    def _wake(self, child: Child) -> None:
        if child in self._workers:
            os.kill(child.pid, signal.SIGCONT)
            child.wakes_at = None

    def _kill_redis(self) -> None:
        seconds = self._chance.uniform(0.1, 3)
        if not self._server.runs:
            return
        self._server.kill()
        self._done["restarts"] += 1
        self._later(seconds, self._server.start)

    def _cut(self) -> None:
        self._proxy.tell("cut", self._chance.choice([0.3, 0.6, 1.0]))

    def _drop(self) -> None:
        self._proxy.tell("drop", self._chance.randint(1, 6))

    def _tear(self) -> None:
        self._proxy.tell("tear", self._chance.randint(1, 4))

    def _delay(self) -> None:
        most_s, seconds = self._chance.choice([0.02, 0.1, 0.4]), self._chance.uniform(1, 4)
        self._proxy.tell("delay", most_s)
        self._done["delays"] += 1
        self._later(seconds, lambda: self._proxy.tell("delay", 0.0) and None)

    def _silence(self) -> None:
        seconds = self._chance.uniform(0.5, 7)
        if self._quiet:
            return
        self._quiet = True
        self._proxy.tell("silence")
        self._done["silences"] += 1
        self._later(seconds, self._speak_again)

    def _speak_again(self) -> None:
        self._quiet = False
        self._proxy.tell("calm")

    # The end

    def _settle(self) -> None:
        """Faults stop; whoever is left finishes everything, as if every timer were due."""
        self._tell("faults stop; everything is let finish")
        for child in self._workers:
            self._wake(child)
        due, self._due = self._due, []
        for _, do in due:
            do()
        self._proxy.tell("calm")
        if not self._server.runs:
            self._server.start()
        self._server.wait().close()
        begun, pumped, told = time.monotonic(), 0.0, False
        while time.monotonic() < begun + self._plan.settle_s:
            self._turn()
            if self._outside and not told:
                os.kill(self._outside.pid, signal.SIGTERM)
                told = True
            if time.monotonic() >= pumped + PUMP_EVERY_S:
                self._store.pump_timers(ahead_s=LATER_S)
                pumped = time.monotonic()
                if (self._folder / "quiet.txt").exists() and self._is_at_rest():
                    break
        else:
            self._fault(f"not at rest {self._plan.settle_s:g} s after the last fault")
        self.outcome.settled_s = time.monotonic() - begun

    def _is_at_rest(self) -> bool:
        dump = take_dump(self._client, PREFIX, light=True)
        left = [*dump.entries("events"), *dump.entries("activations")]
        return not left and all(one.ended and not one.signals for one in dump.incidents.values())

    def _end(self) -> None:
        """Everybody is asked to stop, and does."""
        for child in self._workers:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S + 30
        for child in [*self._workers]:
            if select.select([child.handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._workers.remove(child)
                if code := self._reap(child):
                    self._fault(f"{child.name} was asked to stop and ended with {code}{self._error(child)}")
            else:
                self._fault(f"{child.name} does not stop")

    # Looking

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._next_look and self._server.runs:
            try:
                sent = acknowledged(self._folder)
                dump = take_dump(self._client, PREFIX, light=True)
            except (Error, OSError, *_redis_errors()):  # it is loading, or was killed just now
                return
            self.outcome.faults += conserved(dump, sent)
            self._done["looks"] += 1
            self._ended = sum(one.ended for one in dump.incidents.values())
            self._acknowledged = len(sent)
            self._next_look = now + max(LOOK_EVERY_S, (time.monotonic() - now) / LOOK_SHARE)
        if now >= self._next_line:
            self._next_line = now + self._plan.progress_s
            self._tell(self._line())

    def _line(self) -> str:
        proxy, done = self._proxy.tell("look"), self._done
        self._count_effects()
        cuts = proxy["cut"] + proxy["dropped"] + proxy["torn"] + proxy["silenced"]
        return (
            f"{self._acknowledged} events acknowledged, {self._ended} incidents ended, {self._effects} effects; "
            f"{done['kills']} kills, {done['stops']} stops, {cuts} cuts, {done['restarts']} restarts of redis"
        )

    def _count_effects(self) -> None:
        """As the registry has them now; whoever is stopped while it writes there locks it, and is waited for by nobody here."""
        database, pattern = self._folder / "mlflow" / "mlflow.db", f"{EFFECT_TAG}%"
        asked = "SELECT count(*) FROM registered_model_tags WHERE key LIKE ? AND value LIKE '%\"done\"%'"
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(database, timeout=0)) as one,
        ):
            (self._effects,) = one.execute(asked, (pattern,)).fetchone()


def _redis_errors() -> tuple[type[Exception], ...]:
    from redis import RedisError

    return (RedisError,)


def acknowledged(folder: Path) -> list[Acknowledged]:
    """What XADD acknowledged so far."""
    return [Acknowledged(one["entry"], one["raw"].encode("latin-1")) for one in read_acknowledged(folder)]


def judged(folder: Path, server: Server, outcome: Outcome) -> list[str]:
    """The checker's word on a folder, from the audit log, Redis and the registry alone."""
    client = server.wait()
    sink = read_sink(folder / "mlflow" / "mlflow.db")
    about: dict[str, Any] = {"audit": folder / "audit", "sink": sink, "messages": folder / "messages.jsonl"}
    outcome.history = read_history(client, acknowledged(folder), prefix=PREFIX, **about)
    client.close()
    return judge(outcome.history)


def warm(template: Path, url: str) -> None:
    """One incident from its event to its end, in this process, over a copy of the folder."""
    folder = template.parent / f"{template.name}-warm"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("redis"))
    plant = Plant(folder, url, "warm", "warm")
    plant.answer = "approve"  # should anybody be asked
    plant.publish("e1", "ann")
    plant.rest()
    plant.close()
    for engine in (one for one in gc.get_objects() if isinstance(one, Engine)):
        engine.dispose()  # no connection goes through a fork
    shutil.rmtree(folder)
    gc.collect()
    gc.freeze()  # a fork that collects would copy all of it
