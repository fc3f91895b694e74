"""A very short chaos run: every kind of fault, a fixed seed, the checker content. `make chaos` runs for minutes to hours."""

from collections import Counter
from pathlib import Path

from chaos.plant import share
from chaos.storm import Plan, Storm

# The first faults of this seed are of every kind that the run is about.
SHORT = Plan(
    "3", seconds=2.0, workers=3, threads=1, rate=8.0, fault_every_s=0.25, faults_min=10, events_min=15, lease_s=1.0,
    settle_s=700.0,
)  # fmt: skip


def test_nothing_is_lost_or_done_twice_for_a_few_seconds(tmp_path: Path) -> None:
    """Killed, stopped, cut off and without their Redis, they finish everything."""
    lines: list[str] = []
    outcome = Storm(tmp_path / "run", SHORT, lines.append).run()
    assert outcome.faults == []
    assert outcome.history is not None
    assert len(outcome.history.acknowledged) >= SHORT.events_min
    assert {one.ended for one in outcome.history.dump.incidents.values()} == {True}
    assert outcome.history.records
    done = outcome.done
    assert min(done["kills"], done["stops"], done["restarts"], done["looks"]) > 0
    assert done["proxy cut"] + done["proxy dropped"] + done["proxy torn"] > 0
    assert "events acknowledged" in lines[0]


def test_what_is_scripted_follows_from_the_seed() -> None:
    """In every process alike, and evenly."""
    assert share("7", "a", 1) == share("7", "a", 1) != share("8", "a", 1)
    tenths = Counter(int(10 * share("s", number)) for number in range(2000))
    assert set(tenths) == set(range(10))
    assert min(tenths.values()) > 120
