"""`make chaos`: the durable workflow while processes, Redis and the network between them fail (docs/durability.md).

    make chaos                                    two minutes, a new seed
    make chaos ARGS="--minutes 2 --seed 7 --workers 4"
    make chaos ARGS="--minutes 240"               rounds of ten minutes, each judged, each with a seed of its own
    make chaos ARGS="--judge FOLDER"              what a failed run left behind, judged again

What is asked for follows from the seed: events, what people say, faults and their order. When each of it meets which
instruction is the machine's scheduling, which no seed repeats: run a failing seed several times.

Exit code 0: every invariant held; 1: one did not.
"""
# ruff: noqa: T201 - a command tells what it does

import argparse
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest

conftest.pytest_configure()  # no network beyond this machine, nothing of the user's settings

from chaos.server import Server  # noqa: E402
from chaos.storm import INVARIANTS, Outcome, Plan, Storm, judged  # noqa: E402

ROUND_MINUTES = 10.0
MEMORY_BYTES_MIN = 4 << 30
FAULTS_SHOWN = 50


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code."""
    asked = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves nobody behind, whoever ends it
    if asked.judge is not None:
        return _judge(asked.judge)
    first = secrets.randbelow(10**9) if asked.seed is None else asked.seed
    left, number = asked.minutes, 0
    while left > 0:
        minutes, seed = min(left, ROUND_MINUTES), first + number
        if not _round(seed, minutes, asked):
            return 1
        left, number = left - minutes, number + 1
    return 0


def _round(seed: int, minutes: float, asked: argparse.Namespace) -> bool:
    print(f"seed {seed}: {minutes:g} minutes, {asked.workers} processes of {asked.threads} workers", flush=True)
    print("(what is asked for follows from the seed; when it meets what, from the machine's scheduling)", flush=True)
    root = Path(tempfile.mkdtemp(prefix=f"driftwarden-chaos-{seed}-", dir=_place()))
    begun, kept = time.monotonic(), None
    plan = Plan(str(seed), seconds=60 * minutes, workers=asked.workers, threads=asked.threads, rate=asked.rate)
    try:
        outcome = Storm(
            root / "run", plan, lambda line: print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True)
        ).run()
        if outcome.faults or asked.keep:
            kept = _keep(root / "run", seed)
    except BaseException:
        print(f"what it left behind: {_keep(root / 'run', seed)}", flush=True)
        raise
    finally:
        shutil.rmtree(root, ignore_errors=True)
    _table(seed, outcome)
    if outcome.faults:
        print(f"again:  make chaos ARGS='--seed {seed} --minutes {minutes:g} --workers {asked.workers}'")
    if kept is not None:
        print(f"judged again:  make chaos ARGS='--judge {kept}'")
        print(f"to look at:  {kept}: logs/ of each process, audit/, mlflow/mlflow.db, redis/ (its append-only file)")
    return not outcome.faults


def _keep(folder: Path, seed: int) -> Path:
    """On disk, out of the memory that it may have lain in."""
    kept = Path(tempfile.mkdtemp(prefix=f"driftwarden-chaos-{seed}-kept-"))
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    return kept


def _judge(folder: Path) -> int:
    if not (folder / "redis").is_dir():
        raise SystemExit(f"`{folder}` holds no run, expected a folder that a failed run has named")
    server, outcome = Server(folder / "redis"), Outcome()
    try:
        outcome.faults = judged(folder, server, outcome)
    finally:
        server.kill()
    _table(None, outcome)
    return int(bool(outcome.faults))


def _table(seed: int | None, outcome: Outcome) -> None:
    """What happened, and what the checker says of each invariant."""
    history, done = outcome.history, outcome.done
    assert history is not None
    if seed is not None:
        rows = {
            "kills of processes": done["kills"],
            "stops beyond the lease": done["stops"],
            "restarts of redis": done["restarts"],
            "connections cut": done["proxy cut"],
            "replies swallowed": done["proxy dropped"],
            "replies torn": done["proxy torn"],
            "silences": done["silences"],
            "connections in them": done["proxy silenced"],
            "delays": done["delays"],
            "redis away at a start": done["redis away at its start"],
            "workers told to let go": done["fenced"],
            "tracebacks in the logs": done["unforeseen"],
            "conservation asked": done["looks"],
            "seconds to rest": round(outcome.settled_s),
        }
        for name, count in rows.items():
            print(f"    {name:26}{count:8}")
    ends = Counter(one.state for one in history.dump.incidents.values())
    letters = Counter(one.fields.get("kind") for one in history.dump.entries("dead-letters"))
    moves = [one for one in history.sink.moves or () if one.before is not None]
    verdicts = Counter(str(one["body"].get("verdict")) for one in history.of_type("approval"))
    told = {
        "events acknowledged": len(history.acknowledged),
        "of these distinct": len({one.identity for one in history.acknowledged if one.identity}),
        **{f"incidents {state}": count for state, count in sorted(ends.items())},
        **{f"dead letters ({kind})": count for kind, count in sorted(letters.items(), key=str)},
        "effects in the registry": sum(one.happened for one in history.sink.effects),
        "moves of a champion": len(moves),
        **{f"approval {verdict}": count for verdict, count in sorted(verdicts.items())},
        "audit records": len(history.records),
    }
    for name, count in told.items():
        print(f"    {name:26}{count:8}")
    wrong = Counter(fault[:2] if fault[:2] in INVARIANTS else "else" for fault in outcome.faults)
    for name in (*INVARIANTS, *(["else"] if wrong["else"] else [])):
        print(f"    {name:26}{f'{wrong[name]} faults' if wrong[name] else 'held':>8}")
    for fault in outcome.faults[:FAULTS_SHOWN]:
        print(f"FAILED {fault}")


def _place() -> Path | None:
    """In memory where there is a folder for that: only processes are killed here, and the memory outlives them."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN
    return memory if roomy else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="of faults (default 2); then everything is let finish"
    )
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--workers", type=int, default=4, help="processes (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="workers in each process (default 2)")
    parser.add_argument(
        "--rate", type=float, default=4.0, help="events a second, while the service keeps up (default 4)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder also where everything held")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge what a failed run left behind")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
