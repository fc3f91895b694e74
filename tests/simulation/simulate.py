"""`make simulate`: cases of the store under a seeded scheduler, in as many processes as there are cores, for minutes.

The seed is printed first; `--seed` runs the same cases again. A failing case prints its own seed and its steps; a line with
it in seeds.txt keeps it as a test.
"""

import argparse
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.cases import Case
from simulation.lab import Lab
from simulation.virtual import no_pauses, virtual_scripts

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

FAILURES_MAX = 3


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def simulate(first: int, stride: int, seconds: float, cases: int | None) -> tuple[int, int, list[str]]:
    """Every `stride`-th seed from `first` on; how many cases and steps there were, and each failure as text."""
    done, steps, failures, until = 0, 0, list[str](), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.acquire(Path(folder)) as server:
        connect(server.url).config_set("appendonly", "no")
        with virtual_scripts(), no_pauses():
            lab = Lab(server.url)
            while len(failures) < FAILURES_MAX and (done < cases if cases is not None else time.monotonic() < until):
                case = Case(lab, first + done * stride)
                try:
                    case.run()
                except Exception as error:  # noqa: BLE001 - whatever it is, its seed is told
                    failures.append("\n  ".join([f"seed {first + done * stride}: {error!r}", *case.trace]))
                done, steps = done + 1, steps + case.steps
            lab.close()
    return done, steps, failures


def main() -> int:
    """Run, print, and say with the exit code whether everything held."""
    parser = argparse.ArgumentParser(description="Simulate the workflow store.")
    parser.add_argument("--seed", type=int, default=None, help="first seed (default: a fresh one, printed)")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long (default: 180)")
    parser.add_argument("--cases", type=int, default=None, help="how many cases in each process, instead of a time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    asked = parser.parse_args()
    seed = secrets.randbelow(10**12) if asked.seed is None else asked.seed
    say(f"seed {seed} (again: make simulate ARGS='--seed {seed} --jobs {asked.jobs}')")
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        work = [(seed + job, asked.jobs, asked.seconds, asked.cases) for job in range(asked.jobs)]
        found = pool.starmap(simulate, work)
    minutes = (time.monotonic() - started) / 60
    cases, steps = sum(one[0] for one in found), sum(one[1] for one in found)
    failures = [text for one in found for text in one[2]]
    for text in failures:
        say(text)
    say(f"{cases:,} interleavings of {steps:,} steps, {cases / minutes:,.0f} a minute; {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
