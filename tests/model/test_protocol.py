"""The lease and commit protocol, every reachable state of a small case; each seeded fault is found, by name."""

from dataclasses import fields, replace

import pytest
from model.protocol import CHANGES_NOTHING, INVARIANTS, PROGRESS, Budget, Explored, Rules, begin, explore

PROTOCOL = Rules()
ONCE = "no key has two effects"
CONSERVED = "a conserved incident is in activations, timers or queue"

CASES = {
    "one model": (1, Budget(crashes=1, pauses=1, parks=1, news=1)),
    "a model each": (2, Budget(crashes=1, pauses=1, parks=1, news=1)),
    "one model, more of everything that goes wrong": (1, Budget(crashes=2, pauses=2, parks=2, news=0)),
}

# The guard that is left out, and an invariant that is then broken.
FAULTS = [
    ("checks_fence_at_commit", CHANGES_NOTHING),
    ("bumps_fence", "one lease holder of a model can commit"),
    ("respects_lease", CHANGES_NOTHING),
    ("respects_lease", ONCE),
    ("respects_slot", "one lease holder of a model can commit"),
    ("respects_slot", "one remediation of a model at a time"),
    ("intends_first", "the intent is stored before the effect"),
    ("looks_up", ONCE),
    ("checks_lease_before_effect", CHANGES_NOTHING),
    ("checks_lease_before_effect", ONCE),
    ("fences_heartbeat", CHANGES_NOTHING),
    ("beats_only_while_running", CONSERVED),
    ("hands_slot_over", "nobody queues for a slot that is free"),
    ("hands_slot_over", PROGRESS),
    ("parks_with_timer", CONSERVED),
    ("pumps_atomically", CONSERVED),
    ("remembers_wake", "news does not wait for a timer"),
    ("settles_own_entry_only", CHANGES_NOTHING),
]


def story(what: str, seen: Explored) -> str:
    """What a failing exploration says: the invariant, and the shortest way to where it breaks."""
    return "\n  ".join([f"{what}: {seen.violation}", *seen.trace])


@pytest.mark.parametrize("sink", ["queryable", "conditional"])
@pytest.mark.parametrize("name", CASES)
def test_the_protocol_keeps_every_invariant(name: str, sink: str) -> None:
    """Two workers, two incidents, crashes, sleep beyond the lease, timers and news in every order."""
    models, budget = CASES[name]
    # A conditional sink needs no bound on how long a call takes.
    seen = explore(begin(models, budget), replace(PROTOCOL, sink=sink, stalls=sink == "conditional"))
    assert seen.violation is None, story(name, seen)
    assert seen.states > 20_000


@pytest.mark.parametrize(("guard", "invariant"), FAULTS)
def test_each_seeded_fault_is_found(guard: str, invariant: str) -> None:
    """A protocol without this guard breaks the invariant that the guard is there for."""
    seen = explore(begin(1, Budget()), replace(PROTOCOL, **{guard: False}), watch={invariant})
    assert seen.violation == invariant, story(guard, seen)
    assert seen.trace


def test_every_guard_and_every_invariant_has_its_fault() -> None:
    """A guard that is added to the model must be seen to matter; so must an invariant."""
    assert {guard for guard, _ in FAULTS} == {field.name for field in fields(Rules)} - {"sink", "stalls"}
    assert {invariant for _, invariant in FAULTS} == set(INVARIANTS)


def test_a_call_that_outlives_its_lease_is_the_limit_of_a_queryable_sink() -> None:
    """No guard in Redis reaches a call that is under way: the outside is asked again, and what is ambiguous is a person's."""
    seen = explore(begin(1, Budget(news=0)), replace(PROTOCOL, sink="queryable", stalls=True), watch={ONCE})
    assert seen.violation == ONCE
    assert seen.trace[-2:] == ["worker 0: calls", "worker 1: calls"]


@pytest.mark.parametrize("guard", ["looks_up", "checks_lease_before_effect", "respects_lease"])
def test_a_conditional_sink_never_doubles(guard: str) -> None:
    """Whatever guard around the call is missing, its key holds."""
    without = replace(PROTOCOL, sink="conditional", stalls=True, **{guard: False})
    seen = explore(begin(1, Budget(news=0)), without, watch={ONCE})
    assert seen.violation is None, story(guard, seen)
    assert seen.states > 5_000
