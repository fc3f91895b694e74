"""`make crash`: every fail point of the durable workflow, each with a process that is really killed there (docs/durability.md).

    make crash                                        all of it
    make crash ARGS="--only 'verified:after:commit#4'"   one case; `--keep FOLDER` leaves what a failed case left behind
    make crash ARGS="--scenario undone --scenario lost"  all points of some scenarios
    make crash ARGS=--list                            the points of each scenario, none is killed
    make crash ARGS=--every                           also the points between which nothing was written

Exit code 0: every case held; 1: one did not, or there was no case.
"""
# ruff: noqa: T201 - a command tells what it does

import argparse
import logging
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest

conftest.pytest_configure()  # no network beyond this machine, nothing of the user's settings

from crash.matrix import Case, Lane, Passed, Verdict, choose  # noqa: E402
from crash.points import Point  # noqa: E402
from crash.scenarios import BY_NAME, SCENARIOS  # noqa: E402

from driftwarden.stream.embedded import stop  # noqa: E402

LANES_MAX = 8
MEMORY_BYTES_MIN = 2 << 30
_lane: list[Lane] = []


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code."""
    asked = _parser().parse_args(arguments)
    begun, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="driftwarden-crash-", dir=_place()))
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves no server behind, whoever ends it
    with _lanes(root, asked.jobs, asked.keep) as run:
        if asked.only:
            failed = _report([*run(_case(text) for text in asked.only)])
        else:
            names = asked.scenario or [one.name for one in SCENARIOS]
            recordings = [*run(Case(name, None) for name in names)]
            passed = [one for recording in recordings for one in recording.passed]
            failed = _report(recordings)
            if asked.list:
                _list(passed)
                return int(failed > 0)
            number, parts = asked.part
            cases = choose(passed, every=asked.every)[number - 1 :: parts]
            verdicts = [*_told(run(cases), cases)]
            failed += sum(bool(verdict.faults) for verdict in verdicts)
            _table(passed, recordings, verdicts)
            failed += not cases
    print(f"{time.monotonic() - begun:.0f} s, {failed} failures")
    return int(failed > 0)


def _place() -> Path | None:
    """In memory where there is a folder for that: what a fsync protects is taken away by hand, and disks are slow."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN
    return memory if roomy else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make crash", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="SCENARIO:POINT", help="one case; may be given again")
    parser.add_argument("--scenario", action="append", choices=[one.name for one in SCENARIOS], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="tell the points, kill nobody")
    parser.add_argument("--every", action="store_true", help="kill at every occurrence of every point")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="every Nth case, from the Kth on")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, LANES_MAX), help="cases side by side")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave there what failed cases left behind")
    return parser


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"`{text}`, expected K/N with K from 1 to N")
    return int(number), int(parts)


def _case(text: str) -> Case:
    scenario, _, point = text.partition(":")
    if scenario not in BY_NAME:
        raise SystemExit(f"scenario `{scenario}` is not known, expected one of {', '.join(BY_NAME)}")
    return Case(scenario, Point.parse(point) if point else None)


@contextmanager
def _lanes(root: Path, jobs: int, keep: Path | None) -> Iterator[Callable[[Iterable[Case]], Iterator[Verdict]]]:
    """Lanes side by side, forked from here: what is imported is imported once. Whatever happens, no server stays."""
    pool = multiprocessing.get_context("fork").Pool(jobs, initializer=_open_lane, initargs=(root, keep))
    try:
        yield lambda cases: pool.imap(_run, cases, chunksize=1)
        pool.close()
        pool.join()
    finally:
        pool.terminate()
        for lane in root.glob("lane-*"):
            stop(lane)
        shutil.rmtree(root, ignore_errors=True)


def _open_lane(root: Path, keep: Path | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _lane.append(Lane(root, keep=keep))
    multiprocessing.util.Finalize(None, _lane[0].close, exitpriority=10)


def _run(case: Case) -> Verdict:
    try:
        return _lane[0].kill(case) if case.point else _lane[0].record(BY_NAME[case.scenario])
    except Exception:  # noqa: BLE001 - a case that cannot even be judged has failed; the others go on
        return Verdict(case, faults=[traceback.format_exc()])


def _told(verdicts: Iterator[Verdict], cases: Sequence[Case]) -> Iterator[Verdict]:
    """Each verdict; a line for each scenario as it is done, and every hundred cases in between."""
    total, failed, begun = Counter(case.scenario for case in cases), 0, time.monotonic()
    seen: Counter[str] = Counter()
    for number, verdict in enumerate(verdicts, 1):
        scenario = verdict.case.scenario
        seen[scenario] += 1
        failed += _report([verdict])
        if seen[scenario] in {total[scenario]} or number % 100 == 0:
            done = f"{scenario} {seen[scenario]}/{total[scenario]}"
            print(f"{number:5}/{len(cases)}  {time.monotonic() - begun:5.0f} s  {failed} failed  {done}", flush=True)
        yield verdict


def _report(verdicts: Sequence[Verdict]) -> int:
    wrong = [verdict for verdict in verdicts if verdict.faults]
    for verdict in wrong:
        print(f"FAILED {verdict.case}")
        for fault in verdict.faults:
            print(f"    {fault}")
        print(f"    again: make crash ARGS=\"--only '{verdict.case}'\"", flush=True)
    return len(wrong)


def _list(passed: Sequence[Passed]) -> None:
    for one in passed:
        print(f"{one.scenario}:{one.point}  {one.state}")


def _table(passed: Sequence[Passed], recordings: Sequence[Verdict], verdicts: Sequence[Verdict]) -> None:
    print(f"{'scenario':14}{'points':>8}{'passed':>8}{'worlds':>8}{'cases':>8}{'failed':>8}{'seconds':>9}")
    rows: list[tuple[str, Any]] = [
        (one.case.scenario, lambda name, own=one.case.scenario: name == own) for one in recordings
    ]
    for title, belongs in [*rows, ("all", lambda name: True)]:
        points = [one for one in passed if belongs(one.scenario)]
        done = [one for one in verdicts if belongs(one.case.scenario)]
        worlds = {(one.scenario, one.state) for one in points}
        print(
            f"{title:14}{len({one.point.place for one in points}):8}{len(points):8}{len(worlds):8}{len(done):8}"
            f"{sum(bool(one.faults) for one in done):8}{sum(one.seconds for one in done):9.1f}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
