"""`bench throughput`, no-op steps: the real store and workers, every state and commit, and steps that do nothing.

Workers run in processes of their own, as several `driftwarden serve` would: an interpreter keeps one core busy, however many
threads it has. Such a process reads one line of JSON, says that it is ready, works until its standard input ends, and says
what CPU it took.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from driftwarden.errors import GiveUp, shorten

_ENDS_WITHIN_S = 30.0


@dataclass(frozen=True)
class Share:
    """What one process works with; `events` of the bench, which tells the models that are watched."""

    url: str
    folder: str
    events: int
    workers: int
    name: str


class Crew:
    """The processes while they work."""

    def __init__(self, children: "list[subprocess.Popen[bytes]]", begun_s: float) -> None:
        """`begun_s`: CPU seconds that they had taken when they were ready."""
        self._children, self._begun_s = children, begun_s

    def stop(self) -> float:
        """Let them end; returns the CPU seconds that they took since they were ready."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        took_s = sum(map(_heard, self._children)) - self._begun_s
        for child in self._children:
            _await(child)
        return took_s


@contextmanager
def crew(url: str, folder: Path, *, events: int, workers: int, processes: int) -> Iterator[Crew]:
    """`workers` spread over `processes` (at most one each), ready; none of them outlives this block."""
    count = min(processes, workers)
    shares = [
        Share(url, str(folder), events, workers // count + (number < workers % count), f"bench-{number}")
        for number in range(count)
    ]
    children: list[subprocess.Popen[bytes]] = []
    try:
        children.extend(map(_start, shares))  # one by one: what was started is ended, whatever the next one raises
        yield Crew(children, sum(map(_heard, children)))
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _start(share: Share) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-m", "driftwarden.service.bench_noop"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(share)).encode() + b"\n")
    child.stdin.flush()
    return child


def _await(child: "subprocess.Popen[bytes]") -> None:
    try:
        code = child.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise GiveUp(f"a process of no-op workers did not end within {_ENDS_WITHIN_S:g} s") from None
    if code:
        raise GiveUp(f"a process of no-op workers ended with {code}")


def _heard(child: "subprocess.Popen[bytes]") -> float:
    """The next CPU time that it says; it ended where it says nothing."""
    assert child.stdout is not None
    line = child.stdout.readline()
    try:
        return float(line)
    except ValueError:
        raise GiveUp(f"a process of no-op workers said `{shorten(line.decode('utf-8', 'replace'))}`") from None


def _work(share: Share, say: Any, until: Any) -> None:
    """Be one of the processes; `until` returns when it is to end."""
    from driftwarden.clock import SystemClock, rfc3339
    from driftwarden.service.bench_scripted import Unwritten, does_nothing
    from driftwarden.service.bench_throughput import Bench
    from driftwarden.service.workflow.floor import AuditFloor
    from driftwarden.service.workflow.process import INTAKE_BATCH
    from driftwarden.service.workflow.runner import Worker
    from driftwarden.service.workflow.store import WorkflowStore
    from driftwarden.stream.client import connect
    from driftwarden.stream.intake import Intake

    client, clock, stop = connect(share.url), SystemClock(), threading.Event()
    bench = Bench(client, Path(share.folder), share.events, share.workers)
    store, intake = WorkflowStore(client, seal=bench.seal()), Intake(client, share.name)
    unwritten: Any = Unwritten()
    parts = replace(bench.parts(unwritten), floor=AuditFloor(lambda: ()))

    def take_in() -> None:
        while not stop.is_set():
            if deliveries := intake.read(INTAKE_BATCH, block_ms=200):
                store.admit_many(deliveries, now=rfc3339(clock.now()))

    workers = [Worker(parts, store, f"{share.name}-w{n}", advance=does_nothing) for n in range(share.workers)]
    work = [take_in, *(lambda worker=worker: worker.run(stop, block_ms=200) for worker in workers)]
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    say()
    until()
    say()
    stop.set()
    for thread in threads:
        thread.join()
    client.close()


def main() -> None:
    """A process of such workers."""
    import time

    from driftwarden.telemetry import quiet_libraries

    quiet_libraries()

    def say() -> None:
        sys.stdout.write(f"{time.process_time()}\n")
        sys.stdout.flush()

    share = Share(**json.loads(sys.stdin.readline()))
    _work(share, say, sys.stdin.read)


if __name__ == "__main__":
    main()
