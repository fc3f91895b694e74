"""`driftwarden bench audit`: records made durable and verified, against bare write + fdatasync and bare SHA-256."""

import hashlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from driftwarden.service.cli.common import json_option, print_json

_MIB = 1024 * 1024


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


def _append_all(directory: Path, records: int, threads: int) -> tuple[float, list[int]]:
    """Seconds for all appends by so many threads, and the size in bytes of every batch that was synced."""
    from driftwarden.audit import AuditWriter, Limits
    from driftwarden.audit.files import sync_data
    from driftwarden.clock import SystemClock
    from driftwarden.contracts.ports import Actor

    sizes: list[int] = []

    def sync(handle: int) -> None:
        sync_data(handle)
        sizes.append(os.fstat(handle).st_size)

    actor, bodies = Actor(kind="service", id="bench"), [_body(index) for index in range(records)]
    limits = Limits(idle_s=None, checkpoint_records=records + 8)
    writer = AuditWriter(directory, stream="bench", clock=SystemClock(), limits=limits, sync=sync)
    gate = threading.Barrier(threads + 1)

    def work(first: int) -> None:
        gate.wait()
        for index in range(first, records, threads):
            writer.append("decision", bodies[index], actor=actor, incident=f"inc-{index:08d}", correlation_id="ab" * 16)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    batches = [after - before for before, after in itertools.pairwise(sizes)]
    writer.close()
    return seconds, batches


def _bare_append(source: Path, target: Path, batches: list[int]) -> float:
    """Seconds to write and fdatasync the same bytes in the same batches."""
    data, offset = source.read_bytes(), 0
    pieces = []
    for size in batches:
        pieces.append(data[offset : offset + size])
        offset += size
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        begun = time.perf_counter()
        for piece in pieces:
            os.write(handle, piece)
            getattr(os, "fdatasync", os.fsync)(handle)
        return time.perf_counter() - begun
    finally:
        os.close(handle)


def _appends(folder: Path, threads: int, records: int, rounds: int) -> dict[str, Any]:
    """The median of rounds in which the writer and the bare loop take turns on the same disk."""
    ours, bare, batch_records = [], [], []
    for number in range(rounds):
        directory = folder / f"append-{threads}-{number}" / "audit"
        seconds, batches = _append_all(directory, records, threads)
        (source,) = directory.glob("*.jsonl")
        ours.append(records / seconds)
        bare.append(records / _bare_append(source, directory / "bare", batches))
        batch_records.append(records / len(batches))
    rate, yardstick = statistics.median(ours), statistics.median(bare)
    return {
        "threads": threads,
        "records": records,
        "records_per_second": round(rate),
        "bare_write_fdatasync_records_per_second": round(yardstick),
        "share_of_bare": round(statistics.median(a / b for a, b in zip(ours, bare, strict=True)), 3),
        "records_per_sync": round(statistics.median(batch_records), 1),
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
    with AuditWriter(
        directory, stream="bench", clock=SystemClock(), limits=Limits(idle_s=None), sync=lambda handle: None
    ) as writer:
        (path,) = directory.glob("*.jsonl")
        index = 0
        while path.stat().st_size < mib * _MIB:
            writer.append("decision", _body(index), actor=actor, incident=f"inc-{index:08d}", correlation_id="ab" * 16)
            index += 1
    size = path.stat().st_size / 1e6
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
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure on the disk of `folder` (default: the working directory); CPU seconds for verification, wall for appends."""
    with tempfile.TemporaryDirectory(prefix="driftwarden-bench-", dir=folder or Path.cwd()) as scratch:
        where = Path(scratch)
        # A lone thread waits for the disk at every record: fewer of them say the same.
        appends = [_appends(where, count, records if count > 1 else max(1, records // 8), rounds) for count in threads]
        return {"append": appends, "verify": _verification(where, mib, rounds)}


@click.command()
@click.option(
    "--records", type=click.IntRange(min=64), default=2000, show_default=True, help="Records for each append run."
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
    for one in result["append"]:
        click.echo(
            f"append, {one['threads']:2} threads: {one['records_per_second']:,} records/s, {one['records_per_sync']} a sync;"
            f" bare write + fdatasync {one['bare_write_fdatasync_records_per_second']:,} ({one['share_of_bare']:.0%} of it)"
        )
    checked = result["verify"]
    click.echo(
        f"verify {checked['megabytes']} MB: raw bytes {checked['raw_mb_per_second']} MB/s, strict re-encoding"
        f" {checked['strict_mb_per_second']} MB/s; bare SHA-256 {checked['bare_sha256_mb_per_second']} MB/s"
    )
