"""Random histories of actions, put away and summed up at random moments: every figure is that of a ledger that keeps all."""

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftwarden.clock import rfc3339
from driftwarden.sealing import Seal
from driftwarden.service.workflow.changes import changes_of
from driftwarden.service.workflow.ledger import Caps, Ledger

HOUR_MS = 3_600_000
WEEK_MS = 8 * 24 * HOUR_MS
BEGIN_MS = 1_792_454_400_000  # 2026-10-20T00:00:00Z: both zones end their summer time within two weeks of it
MODELS = ("a", "b", "c")
ACTIONS = ("retrain", "rollback", "refresh_reference")
ZONES = ("UTC", "Europe/Berlin", "America/New_York")
SHORT = (
    Caps(rate_model=(2, 30 * HOUR_MS), rate_global=(4, HOUR_MS), breaker_window_ms=WEEK_MS),
    Caps(rate_model=(2, WEEK_MS), rate_global=(3, WEEK_MS), breaker_window_ms=HOUR_MS),
)
LONG_MS = 100 * 24 * HOUR_MS
LONG = Caps(rate_model=(3, LONG_MS), rate_global=(6, LONG_MS), breaker_window_ms=LONG_MS)

concerned = st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True)
ends = st.sampled_from(["done", "done", "done", "failed", "failed", "failed", "released", "runs"])
acts = st.tuples(
    st.just("act"), st.integers(0, 4), concerned, st.sampled_from(ACTIONS), ends, st.booleans(), st.integers(0, 2)
)
steps = st.one_of(
    acts,
    acts,
    st.tuples(st.just("harm"), st.integers(0, 4)),
    st.tuples(st.just("outcome"), st.integers(0, 4), st.sampled_from(MODELS), st.booleans()),
    st.tuples(st.just("put_away"), st.frozensets(st.integers(0, 4), max_size=2)),
    st.tuples(st.just("fold"), st.frozensets(st.integers(0, 4), max_size=2)),
)
histories = st.lists(st.tuples(st.sampled_from([1, 5, 23, 30, 200, 500]), steps), min_size=8, max_size=18)


class Twins:
    """The same done to a ledger that puts away and to one that keeps all; incident 0..4, under another name once it is gone."""

    def __init__(self, client: Any, zone: str) -> None:
        seal = Seal(b"k" * 32)
        self.kept, self.pruned = (Ledger(client, f"{prefix}:", seal) for prefix in ("kept", "pruned"))
        self.now_ms, self._zone = BEGIN_MS, zone
        self._names = {number: f"inc-{number}" for number in range(5)}
        self._acted: dict[str, int] = {}
        self.folded = False

    @property
    def now(self) -> str:
        """RFC 3339."""
        return rfc3339(datetime.fromtimestamp(self.now_ms / 1000, UTC))

    def act(self, number: int, models: list[str], action: str, end: str, undo: bool, which: int) -> None:
        """Both refuse it for the same cap, or both do it."""
        incident, caps = self._names[number], [Caps(), SHORT[1], LONG][0 if which == 2 and self.folded else which]
        about: dict[str, Any] = {
            "model": models[0],
            "models": models[1:],
            "action": action,
            "cost_usd": Decimal(number + 1),
        }
        about |= {"now": self.now, "caps": caps, "undo": undo}
        refused = self.kept.reserve(incident, **about)
        assert self.pruned.reserve(incident, **about) == refused
        if refused is not None:
            return
        self._acted[incident] = self.now_ms
        for ledger in (self.kept, self.pruned):
            if end == "released":
                ledger.release(incident)
            elif end != "runs":
                ledger.settle(incident, failed=end == "failed", changed_at=None if end == "failed" else self.now)

    def harm(self, number: int) -> None:
        """What it did last is found to have harmed."""
        for ledger in (self.kept, self.pruned):
            if not set(ledger.running()) & {self._names[number]}:
                ledger.fail_effect(self._names[number])

    def outcome(self, number: int, model: str, helped: bool) -> None:
        """Later rows have spoken."""
        for ledger in (self.kept, self.pruned):
            ledger.record_outcome(self._names[number], model=model, action="retrain", helped=helped)

    def put_away(self, opened: Collection[int]) -> None:
        """What is further back than a window of the policy, but of these incidents."""
        over = {name for number, name in self._names.items() if number not in opened}
        self.pruned.books.put_outcomes_away(lambda ids: [one for one in ids if one in over])
        self.pruned.books.put_away(self.now_ms, WEEK_MS, lambda ids: [one for one in ids if one in over])

    def fold(self, opened: Collection[int]) -> None:
        """What nothing needs, and did nothing for longer than the windows, leaves Redis, but for these incidents."""
        needed, gone = self.kept.needed() or frozenset(), set()
        for number, name in [*self._names.items()]:
            if number not in opened and name not in needed and self._acted.get(name, 0) < self.now_ms - 2 * WEEK_MS:
                gone.add(name)
                self._names[number] = f"{name}x"
        self.folded = self.folded or any(name in self._acted for name in gone)
        self.pruned.books.put_away(self.now_ms, WEEK_MS, lambda ids: [one for one in ids if one in gone])
        self.pruned.books.fold(0, 100, lambda ids: [one for one in ids if one in gone])

    def check(self) -> None:
        """Every figure that anybody asks for."""
        asking = self._names[0]
        for caps in SHORT:
            assert self._facts(self.pruned, asking, caps) == self._facts(self.kept, asking, caps)
        pruned, kept = self._facts(self.pruned, asking, LONG), self._facts(self.kept, asking, LONG)
        for model in MODELS if self.folded else ():
            for name in ("actions_in_window_model", "actions_in_window_global"):
                assert pruned[model].pop(name) >= kept[model].pop(name)
            for name in ("recent_runs", "recent_failures"):
                assert pruned[model].pop(name) in {None, kept[model].pop(name)}
        assert pruned == kept
        assert self._others(self.pruned) == self._others(self.kept)

    def _facts(self, ledger: Ledger, asking: str, caps: Caps) -> dict[str, dict[str, Any]]:
        zoned = Caps(
            self._zone,
            rate_model=caps.rate_model,
            rate_global=caps.rate_global,
            breaker_window_ms=caps.breaker_window_ms,
        )
        return ledger.facts_of(asking, models=MODELS, now=self.now, caps=zoned)

    def _others(self, ledger: Ledger) -> dict[str, Any]:
        return {
            "spend": [ledger.spend_usd(), *(ledger.spend_usd(model) for model in MODELS)],
            "track": [ledger.track_record(model=model, action="retrain") for model in MODELS],
            "changed": [
                max((one.at for one in changes_of(ledger.entries([m]), m, besides="")), default=None) for m in MODELS
            ],
            "needed": ledger.needed(),
            "running": sorted(ledger.running()),
        }


@given(histories, st.sampled_from(ZONES))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_figure_is_that_of_a_ledger_that_keeps_all(client: Any, history: list[Any], zone: str) -> None:
    """For every window of the policy exactly; for a longer one exactly until incidents are gone, then no less."""
    client.flushall()
    twins = Twins(client, zone)
    last = [(500, ("act", 0, ["c"], "retrain", "done", False, 0)), (1, ("put_away", ())), (1, ("fold", ()))]
    for hours, (what, *told) in [*history, *last]:
        twins.now_ms += hours * HOUR_MS
        getattr(twins, what)(*told)
        if what in {"put_away", "fold"}:
            twins.check()
