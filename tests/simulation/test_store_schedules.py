"""The store under a seeded scheduler: fixed seeds, and those that failed once (seeds.txt). More of them: `make simulate`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation.cases import Case
from simulation.lab import Lab
from simulation.virtual import no_pauses, virtual_scripts
from simulation.watching import Broken

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

CASES = 400
MET = {
    *("die", "die after", "lose", "refuse", "sleeps", "time"),  # what the scheduler does
    *("opened", "joined", "duplicate", "FENCED", "QUEUED", "COALESCED", "SETTLED", "FAILED", "UNSEEN", "effect"),
}
KEPT = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server under a virtual clock."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        connect(server.url).config_set("appendonly", "no")  # the server itself is not killed here
        with virtual_scripts(), no_pauses():
            lab = Lab(server.url)
            yield lab
            lab.close()


def run(lab: Lab, seed: int) -> Case:
    """One case; what it says where it fails begins with its seed."""
    case = Case(lab, seed)
    try:
        case.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, its seed is told
        told = "\n  ".join(case.trace)
        pytest.fail(f"seed {seed}: {error!r}\n  {told}\nA line with this seed in tests/simulation/seeds.txt keeps it.")
    return case


@pytest.mark.parametrize("seed", KEPT)
def test_a_seed_that_failed_once_holds(lab: Lab, seed: int) -> None:
    """What was found stays found."""
    run(lab, seed)


def test_every_interleaving_keeps_the_invariants(lab: Lab) -> None:
    """Lost replies, deaths, sleep beyond the lease, repeats, timers, clocks that jump: I1 to I7 hold throughout."""
    seen: Counter[str] = Counter()
    for seed in range(CASES):
        seen.update(run(lab, seed).watch.seen)
    assert not MET - set(seen), f"{CASES} cases never met {MET - set(seen)}"


def test_the_same_seed_is_the_same_case(lab: Lab) -> None:
    """What was printed can be run again: the same steps in the same order."""
    for seed in range(20):
        one, other = run(lab, seed), run(lab, seed)
        assert one.story() == other.story()


def test_a_broken_invariant_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incident without a handle is found at the very step that lost it."""

    def lose(case: Case) -> None:
        for keys in case.watch.shards:
            lab.wire.call(("DEL", keys.activations, keys.timers))
        lab.hub.execute(lab.hub.audits[0])

    monkeypatch.setattr(Case, "_finish", lose)
    found = []
    for seed in range(40):
        try:
            Case(lab, seed).run()
        except Broken as error:
            found.append(str(error)[:2])
    assert "I5" in found
