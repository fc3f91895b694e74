"""The crash matrix: a process is killed at each place of each scenario, another one goes on, and the checker asks what is left.

A recording run of a scenario tells the places in order, each with what was on disk there (Redis's append-only file, the
audit log, the registry's database, the messages). Two neighbours between which nothing was written leave the same world
behind: of those one is killed, and every place is killed at least once. What a fsync protects is also lost there, once.
"""

import gc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from crash.history import History, conserved, judge, read_history, take_dump
from crash.plant import PREFIX, Process, acknowledged, make_template, run_process, wait_for
from crash.points import Point, Points
from crash.scenarios import BY_NAME, SCENARIOS, Scenario
from crash.sink import read_sink

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

TIMEOUT_S = 180.0
_EXPIRE = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' and redis.call('HEXISTS', key, 'lease') == 1 then redis.call('HSET', key, 'lease', 0) end
  if kind == 'stream' then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for _, one in ipairs(redis.call('XPENDING', key, group[2], '-', '+', 1000)) do
        redis.call('XCLAIM', key, group[2], one[2], 0, one[1], 'IDLE', 1000000000, 'JUSTID')
      end
    end
  end
end
"""
LOST, TORN = "unsynced:", "torn:"  # these change what is on disk as they die


@dataclass(frozen=True)
class Passed:
    """A point of a recording run; `state` numbers what was on disk: equal numbers, equal worlds."""

    scenario: str
    point: Point
    state: int


@dataclass(frozen=True)
class Case:
    """One kill: the nth time that a process of the scenario comes to a place; None: nobody is killed."""

    scenario: str
    point: Point | None

    def __str__(self) -> str:
        """As `--only` takes it."""
        return f"{self.scenario}:{self.point}" if self.point else self.scenario


@dataclass
class Verdict:
    """What came of a case; `faults` is empty where everything held. `passed`: of a recording run."""

    case: Case
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


class Lane:
    """A folder and a Redis in which one case after another is run, each from an empty world."""

    def __init__(self, root: Path, *, keep: Path | None = None) -> None:
        """`keep`: where the folders of failed cases are left."""
        self.root, self._keep = root / f"lane-{os.getpid()}", keep
        self._template, self._folder = self.root / "template", self.root / "run"
        self.root.mkdir(parents=True)
        make_template(self._template)
        self._server = EmbeddedRedis.acquire(self.root)
        self.client = connect(self._server.url)
        self._warm_up()

    def _warm_up(self) -> None:
        """Live a scenario here, so that what the registry's library compiles once is there in every fork of this process."""
        from sqlalchemy.engine import Engine

        self._empty()
        scenario = SCENARIOS[0]
        process = self._process(scenario, "warm", Points(wrapping=False))
        scenario.steps(process)
        process.close()
        for engine in (one for one in gc.get_objects() if isinstance(one, Engine)):
            engine.dispose()  # no connection goes through a fork
        gc.collect()
        gc.freeze()  # a fork that collects would copy all of it

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self._server.release()

    def record(self, scenario: Scenario) -> Verdict:
        """Run it without a kill, and tell every point that was passed; the checker must have nothing to say."""
        verdict, begun = Verdict(Case(scenario.name, None)), time.monotonic()
        self._empty()
        log = self._folder / "points.jsonl"
        points = Points(passing=_writing(log, _fingerprints(self._folder, self._server.url)))
        self._live(scenario, "recorder", points, verdict)
        verdict.faults += self._judge(scenario)
        states: dict[str, int] = {}
        for line in log.read_text().splitlines() if log.exists() else ():
            place, nth, state = json.loads(line)
            number = states.setdefault(json.dumps(state), len(states))
            verdict.passed.append(Passed(scenario.name, Point(place, nth), number))
        return self._done(verdict, begun)

    def kill(self, case: Case) -> Verdict:
        """Kill a process at the case's point, let another one finish, and judge."""
        verdict, begun, scenario = Verdict(case), time.monotonic(), BY_NAME[case.scenario]
        self._empty()
        pid = self._start(scenario, "victim", Points(at=case.point))
        status = wait_for(pid, lambda: None, timeout_s=TIMEOUT_S)
        if status is None or not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            verdict.faults.append(f"the point was not reached: wait status {status} {self._error('victim')}")
            return self._done(verdict, begun)
        verdict.faults += self._conserved()
        self._expire()
        self._live(scenario, "heir", Points(), verdict)
        verdict.faults += self._judge(scenario)
        return self._done(verdict, begun)

    # Within

    def _empty(self) -> None:
        self.client.flushall()
        self.client.script_flush()  # loaded anew by each run: the points are the same in all of them
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._template, self._folder)

    def _start(self, scenario: Scenario, name: str, points: Points) -> int:
        return run_process(self._folder, name, lambda: self._process(scenario, name, points), scenario.steps)

    def _process(self, scenario: Scenario, name: str, points: Points) -> Process:
        about = (self._folder, self._server.url, name, scenario.script, points)
        return Process(*about, answer=scenario.answer, shards=scenario.shards)

    def _live(self, scenario: Scenario, name: str, points: Points, verdict: Verdict) -> None:
        """Run a process to its end, and ask at many an instant whether anything fell through."""
        seen: list[str] = []
        status = wait_for(
            self._start(scenario, name, points), lambda: seen.extend(self._conserved()), timeout_s=TIMEOUT_S
        )
        verdict.faults += dict.fromkeys(seen)
        if status != 0:
            ended = "did not come to rest" if status is None else f"ended with {os.waitstatus_to_exitcode(status)}"
            verdict.faults.append(f"the {name} {ended} {self._error(name)}")

    def _conserved(self) -> list[str]:
        told = acknowledged(self._folder)
        return conserved(take_dump(self.client, PREFIX, light=True), told)

    def history(self) -> History:
        """What the last run left behind."""
        folder = self._folder
        sink = read_sink(folder / "mlflow" / "mlflow.db")
        messages = folder / "messages.jsonl"
        return read_history(
            self.client, acknowledged(folder), audit=folder / "audit", sink=sink, messages=messages, prefix=PREFIX
        )

    def _judge(self, scenario: Scenario) -> list[str]:
        history = self.history()
        faults, sink = judge(history), history.sink
        ends = tuple(sorted(one.state for one in history.dump.incidents.values()))
        if (ends, sink.champions["m"]) != (scenario.ends, scenario.champion):
            wanted = f"{scenario.ends} and version {scenario.champion}"
            faults.append(f"ended as {ends} with champion {sink.champions['m']}, expected {wanted}")
        return faults

    def _expire(self) -> None:
        """As if the time had passed after which others take over what the dead held."""
        self.client.eval(_EXPIRE, 0, f"{PREFIX}*")

    def _error(self, name: str) -> str:
        file = self._folder / f"{name}.error"
        return file.read_text()[-1500:] if file.exists() else ""

    def _done(self, verdict: Verdict, begun: float) -> Verdict:
        verdict.seconds = time.monotonic() - begun
        if verdict.faults and self._keep is not None:
            kept = self._keep / str(verdict.case).replace(" ", "-").replace(":", "-").replace("/", "-")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self._folder, kept)
        return verdict


def _writing(log: Path, state: Callable[[], list[Any]]) -> Callable[[Point], None]:
    def passing(point: Point) -> None:
        with log.open("a") as file:
            file.write(json.dumps([point.place, point.nth, state()]) + "\n")

    return passing


def _fingerprints(folder: Path, url: str) -> Callable[[], list[Any]]:
    """What tells one world on disk from another: it grows with each write, whoever writes."""
    from redis import Redis

    ask: Any = Redis.execute_command  # as it is before anything is wrapped: looking is no point
    clients: list[Any] = []

    def state() -> list[Any]:
        if not clients:
            clients.append(connect(url))
        redis = ask(clients[0], "INFO", "persistence")["aof_current_size"]
        database = folder / "mlflow" / "mlflow.db"
        with database.open("rb") as file:
            file.seek(24)
            changes = file.read(4).hex()  # the database's own count of its transactions
        files = [folder / "messages.jsonl", folder / "acknowledged.jsonl", *sorted((folder / "audit").rglob("*"))]
        sizes = [path.stat().st_size for path in files if path.is_file()]
        return [redis, changes, sizes]

    return state


def choose(passed: Sequence[Passed], *, every: bool = False) -> list[Case]:
    """One case for each world that a scenario passes through, every place at least once; `every`: all of them."""
    if every:
        return [Case(one.scenario, one.point) for one in passed]
    losses = [one for one in passed if one.point.place.startswith(LOST)]
    others = [one for one in passed if not one.point.place.startswith((LOST, TORN))]
    taken: dict[str, int] = {}
    cases = []
    for _, same in groupby(
        sorted(others, key=lambda one: (one.scenario, one.state)), key=lambda one: (one.scenario, one.state)
    ):
        one = min(same, key=lambda one: taken.get(one.point.place, 0))
        taken[one.point.place] = taken.get(one.point.place, 0) + 1
        cases.append(one)
    for one in passed:
        if one.point.place not in taken and not one.point.place.startswith(LOST):
            taken[one.point.place] = 1
            cases.append(one)
    return [Case(one.scenario, one.point) for one in sorted([*cases, *losses], key=passed.index)]
