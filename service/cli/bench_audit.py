"""`driftwarden bench audit`: records made durable and verified, against bare write + fdatasync and bare SHA-256."""

import contextlib
import hashlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from driftwarden.service.cli.common import json_option, print_json

_MIB = 1024 * 1024
# A thread that makes fewer in a slice measures how threads start rather than how they go on.
_RECORDS_OF_A_THREAD_MIN = 25


def _body(index: int) -> dict[str, Any]:
    """A decision as the service writes it: facts, twelve rules with verdicts, about 2 KiB."""
    rules = [
        {
            "id": f"rule-{n}",
            "verdict": "pass",
            "effect": None,
            "got": str(n),
            "expected": f"at least {n}",
            "message": "ok",
        }
        for n in range(12)
    ]
    facts = {
        "model": {"name": f"model-{index % 40}"},
        "plan": {"confidence": "0.9312"},
        "evidence": {"rows": 4000 + index},
    }
    digest = "sha256:" + "0" * 64
    return {"facts": facts, "decision": {"outcome": "execute", "rules": rules, "decisive": []}, "policy_digest": digest}


class _Appender:
    """A writer fed by so many threads, slice after slice; the batches that it makes durable are kept."""

    def __init__(self, directory: Path, records: int, threads: int) -> None:
        from driftwarden.audit import AuditWriter, Limits
        from driftwarden.audit.files import write_durably
        from driftwarden.clock import SystemClock
        from driftwarden.contracts.ports import Actor

        self._batches: list[bytes] = []

        def write(handle: int, data: bytes) -> None:
            write_durably(handle, data)
            self._batches.append(data)

        self._actor, self._bodies = Actor(kind="service", id="bench"), [_body(index) for index in range(records)]
        limits = Limits(idle_s=None, checkpoint_records=records + 8)
        self._writer = AuditWriter(directory, stream="bench", clock=SystemClock(), limits=limits, write=write)
        self._threads, self._gate = threads, threading.Barrier(threads + 1)

    def append(self, first: int, last: int) -> tuple[float, float, list[bytes]]:
        """Seconds, of the clock and of CPU, to append the records from `first` to `last` (excluded), and the bytes of
        every batch."""
        self._batches.clear()
        workers = [threading.Thread(target=self._work, args=(first + n, last)) for n in range(self._threads)]
        for worker in workers:
            worker.start()
        self._gate.wait()
        begun, begun_cpu = time.perf_counter(), time.process_time()
        for worker in workers:
            worker.join()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
        return seconds, cpu, list(self._batches)

    def _work(self, first: int, last: int) -> None:
        self._gate.wait()
        for index in range(first, last, self._threads):
            incident = f"inc-{index:08d}"
            self._writer.append(
                "decision", self._bodies[index], actor=self._actor, incident=incident, correlation_id="ab" * 16
            )

    def close(self) -> None:
        """Close the log."""
        self._writer.close()


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process, and the threads that it starts meanwhile, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _bare_append(handle: int, batches: list[bytes]) -> list[float]:
    """Seconds to write and fdatasync the same bytes in the same batches, batch by batch."""
    moments = [time.perf_counter()]
    for piece in batches:
        os.write(handle, piece)
        getattr(os, "fdatasync", os.fsync)(handle)
        moments.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(moments)]


def _appends(folder: Path, threads: int, records: int, rounds: int) -> dict[str, Any]:
    """The writer and the bare loop take turns, slice by slice: a disk that others use too is as slow for both.

    `share_of_bare` is the median over the slices, `share_of_bare_quartiles` how far they lie apart: far apart, or above
    one, the disk was measured and not the writer. `bare_us_per_batch_quartiles` shows the disk's own spread.
    `cpu_us_per_record` hardly depends on the disk.
    """
    directory = folder / f"append-{threads}" / "audit"
    size = max(_RECORDS_OF_A_THREAD_MIN * threads, records // rounds)
    records = size * rounds
    appender = _Appender(directory, records, threads)
    ours, bare, disk, cpu = [], [], [], 0.0
    handle = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for first in range(0, records, size):
            seconds, spent, batches = appender.append(first, first + size)
            ours.append(seconds)
            cpu += spent
            each = _bare_append(handle, batches)
            bare.append(sum(each))
            disk += each
    finally:
        os.close(handle)
        appender.close()
    shares = [b / a for a, b in zip(ours, bare, strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
    spread = statistics.quantiles(disk, n=4) if len(disk) > 1 else disk * 3
    return {
        "threads": threads,
        "records": records,
        "slices": rounds,
        "records_per_second": round(records / sum(ours)),
        "bare_write_fdatasync_records_per_second": round(records / sum(bare)),
        "share_of_bare": round(middle, 3),
        "share_of_bare_quartiles": [round(low, 3), round(high, 3)],
        "bare_us_per_batch_quartiles": [round(seconds * 1e6) for seconds in spread],
        "records_per_sync": round(records / len(disk), 1),
        "cpu_us_per_record": round(cpu / records * 1e6, 1),
    }


def _cpu(work: Any, rounds: int) -> float:
    """Seconds of CPU, the median of some rounds."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def _verification(folder: Path, mib: int, rounds: int) -> dict[str, Any]:
    from driftwarden.audit import AuditWriter, Limits, verify
    from driftwarden.clock import SystemClock
    from driftwarden.contracts.ports import Actor

    directory, actor = folder / "verify" / "audit", Actor(kind="service", id="bench")
    held, index = bytearray(), 0  # a log that is only to be read need not be durable record by record
    with AuditWriter(
        directory,
        stream="bench",
        clock=SystemClock(),
        limits=Limits(idle_s=None),
        write=lambda handle, data: held.extend(data),
    ) as writer:
        while len(held) < mib * _MIB:
            writer.append("decision", _body(index), actor=actor, incident=f"inc-{index:08d}", correlation_id="ab" * 16)
            index += 1
    (path,) = directory.glob("*.jsonl")
    path.write_bytes(held)
    size = len(held) / 1e6
    lines = path.read_bytes().split(b"\n")
    report = verify(directory)
    fast = _cpu(lambda: verify(directory, strict=False), rounds)
    strict = _cpu(lambda: verify(directory), rounds)
    bare = _cpu(lambda: [hashlib.sha256(line).digest() for line in lines], rounds)
    return {
        "ok": report.ok,
        "records": report.records,
        "megabytes": round(size, 1),
        "raw_mb_per_second": round(size / fast),
        "strict_mb_per_second": round(size / strict),
        "bare_sha256_mb_per_second": round(size / bare),
        "raw_records_per_second": round(report.records / fast),
        "strict_records_per_second": round(report.records / strict),
    }


def run(
    *,
    threads: tuple[int, ...] = (1, 8, 64),
    records: int = 2000,
    mib: int = 48,
    rounds: int = 5,
    slices: int = 20,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure on the disk of `folder` (default: the working directory); CPU seconds for verification, wall for appends.

    Appends are measured twice: with every core, where threads pass Python's lock from core to core, and with one.
    """
    with tempfile.TemporaryDirectory(prefix="driftwarden-bench-", dir=folder or Path.cwd()) as scratch:
        where = Path(scratch)
        # A lone thread waits for the disk at every record: fewer of them say the same.
        appends = [_appends(where, count, records if count > 1 else max(1, records // 8), slices) for count in threads]
        pinned: list[dict[str, Any]] = []
        if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
            with _one_core():
                pinned = [_appends(where / "one-core", one["threads"], one["records"], slices) for one in appends]
        return {"append": appends, "append_one_core": pinned, "verify": _verification(where, mib, rounds)}


@click.command()
@click.option(
    "--records",
    type=click.IntRange(min=64),
    default=2000,
    show_default=True,
    help="Records for each append run; with many threads, at least 25 for each in each of 20 slices.",
)
@click.option(
    "--mib", type=click.IntRange(min=1, max=1024), default=48, show_default=True, help="Size of the verified log."
)
@json_option
def audit(records: int, mib: int, as_json: bool) -> None:
    """Records per second made durable, and megabytes per second verified, beside yardsticks in the same run.

    \b
    Example:
      driftwarden bench audit --json
    """
    result = run(records=records, mib=mib)
    if as_json:
        print_json(result)
        return
    named = [("", one) for one in result["append"]] + [(", one core", one) for one in result["append_one_core"]]
    for cores, one in named:
        click.echo(
            f"append{cores}, {one['threads']:2} threads: {one['records_per_second']:,} records/s, {one['records_per_sync']} a sync;"
            f" bare write + fdatasync {one['bare_write_fdatasync_records_per_second']:,} ({one['share_of_bare']:.0%} of it,"
            f" half of the slices {one['share_of_bare_quartiles'][0]:.0%} to {one['share_of_bare_quartiles'][1]:.0%};"
            f" half of the bare batches {one['bare_us_per_batch_quartiles'][0]} to"
            f" {one['bare_us_per_batch_quartiles'][2]} us);"
            f" {one['cpu_us_per_record']} us of CPU a record"
        )
    checked = result["verify"]
    click.echo(
        f"verify {checked['megabytes']} MB: raw bytes {checked['raw_mb_per_second']} MB/s, strict re-encoding"
        f" {checked['strict_mb_per_second']} MB/s; bare SHA-256 {checked['bare_sha256_mb_per_second']} MB/s"
    )
