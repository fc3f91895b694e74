"""What the ledger puts away, on a real server: no figure that anybody asks for is another for it, and nothing is done by halves."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import pytest
from redis.crc import key_slot

from driftwarden.errors import Retry
from driftwarden.sealing import Seal
from driftwarden.service.workflow.changes import changes_of
from driftwarden.service.workflow.ledger import Caps, Ledger

DAY_MS = 86_400_000
NOW_MS = 1_795_165_200_000  # 2026-11-20T09:00:00Z
NOW = "2026-11-20T09:00:00Z"
SHORT, LONG = Caps(rate_model=(9, DAY_MS), rate_global=(9, DAY_MS)), Caps(rate_global=(2, 40 * DAY_MS))
PAST = "driftwarden:ledger:past{driftwarden:ledger}"
MODELS = ["a", "b", "c", "d"]


@pytest.fixture
def ledger(client: Any) -> Ledger:
    """An empty ledger."""
    return Ledger(client, "driftwarden:", Seal(b"k" * 32))


def act(ledger: Ledger, incident: str, day: int, *models: str, action: str = "retrain", **more: Any) -> None:
    """One effect that changed something on this day of November 2026."""
    at, undo = f"2026-11-{day:02d}T09:00:00Z", more.pop("undo", False)
    about = {"model": models[0], "models": models[1:], "action": action, "cost_usd": Decimal(5), "undo": undo}
    assert ledger.reserve(incident, **about, now=at, caps=Caps()) is None
    ledger.settle(incident, cost_usd=Decimal(3), changed_at=at, **more)


def everything(ids: Collection[str]) -> Collection[str]:
    """All of them have ended, or are gone."""
    return ids


def put_away(ledger: Ledger, over: Any = everything) -> int:
    """What is older than eight days goes."""
    return ledger.books.put_away(NOW_MS, 8 * DAY_MS, over)


def fold(ledger: Ledger, gone: Any = everything) -> None:
    """One look at every book."""
    cursor = ledger.books.fold(0, 100, gone)
    while cursor:
        cursor = ledger.books.fold(cursor, 100, gone)


def figures(ledger: Ledger) -> dict[str, Any]:
    """What decisions, people and the retention ask for."""
    return {
        "facts": [ledger.facts_of("inc-9", models=MODELS, now=NOW, caps=caps) for caps in (SHORT, LONG)],
        "spend": [ledger.spend_usd(), *(ledger.spend_usd(model) for model in MODELS)],
        "changes": [
            max((one.at for one in changes_of(ledger.entries([m]), m, besides="inc-9")), default=None) for m in MODELS
        ],
        "track": [ledger.track_record(model=model, action="retrain") for model in MODELS],
        "running": (ledger.running(), ledger.running_by_model(besides="inc-9")),
    }


def history(ledger: Ledger) -> None:
    """Two old effects, one of them over two models; one that was released; a recent one, and one that runs."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 2, "b", "a", failed=True)
    ledger.record_outcome("inc-1", model="a", action="retrain", helped=True)
    ledger.record_outcome("inc-2", model="b", action="retrain", helped=False)
    act(ledger, "inc-3", 3, "c")
    ledger.release("inc-3")
    act(ledger, "inc-4", 19, "c")
    about: dict[str, Any] = {"model": "d", "action": "retrain", "cost_usd": Decimal(1), "caps": Caps()}
    assert ledger.reserve("inc-5", **about, now="2026-11-01T09:00:00Z") is None


def test_what_is_put_away_changes_no_figure(ledger: Ledger, client: Any) -> None:
    """Neither by the windows of the policy nor by longer ones, nor once its incidents are gone; again and again."""
    history(ledger)
    before, needed = figures(ledger), ledger.needed()
    assert (put_away(ledger), ledger.books.put_outcomes_away(everything)) == (3, 2)
    assert {key.decode() for key in client.hkeys("driftwarden:ledger")} == {"inc-4", "inc-5"}
    assert client.hlen("driftwarden:track") == 0
    assert (figures(ledger), ledger.needed()) == (before, needed)
    assert (put_away(ledger), ledger.books.put_outcomes_away(everything)) == (0, 0)
    fold(ledger)
    size = client.hlen(PAST)
    fold(ledger)
    assert client.hlen(PAST) == size
    assert [book.entries for book in ledger.books.all().values() if book] == [{}, {}]
    after = figures(ledger)
    # How many of what left Redis failed inside a window that reaches behind it, nobody knows any more.
    assert (after.pop("facts")[0], after) == (before.pop("facts")[0], before)
    assert ledger.needed() == frozenset({"before", "inc-4", "inc-5"})


def test_a_longer_window_counts_what_was_put_away(ledger: Ledger) -> None:
    """The policy was changed since: two actions in forty days are still two, once each; the asking incident's own are not."""
    act(ledger, "inc-1", 1, "a", "b")
    act(ledger, "inc-2", 2, "c")
    act(ledger, "inc-3", 19, "d")
    assert put_away(ledger) == 2
    asked: dict[str, Any] = {"model": "z", "action": "retrain", "cost_usd": Decimal(1), "now": NOW}
    three = Caps(rate_global=(4, 40 * DAY_MS))
    assert ledger.reserve("inc-7", **asked, caps=three) is None
    assert ledger.reserve("inc-8", **(asked | {"model": "y"}), caps=three) == "rate-global"
    assert ledger.reserve("inc-2", **(asked | {"model": "y"}), caps=three) is None
    assert (
        ledger.reserve("inc-9", **(asked | {"model": "c"}), caps=Caps(rate_model=(1, 40 * DAY_MS))) == "rate-per-model"
    )


def test_what_left_redis_counts_whole_in_a_longer_window(ledger: Ledger) -> None:
    """Each action of it as if it were the last, and once where all are counted; what failed of it is unknown, which escalates."""
    for number in (1, 2, 3):
        act(ledger, f"inc-{number}", number, "a", "b")
    act(ledger, "inc-4", 19, "d")
    week = Caps(rate_model=(9, 40 * DAY_MS), rate_global=(9, 40 * DAY_MS))
    long = Caps(rate_model=week.rate_model, rate_global=week.rate_global, breaker_window_ms=40 * DAY_MS)
    before = ledger.facts_of("inc-9", models=["a", "b", "d"], now=NOW, caps=week)
    assert put_away(ledger) == 3
    fold(ledger)
    assert ledger.facts_of("inc-9", models=["a", "b", "d"], now=NOW, caps=week) == before
    found = ledger.facts_of("inc-9", models=["b"], now=NOW, caps=long)["b"]
    assert (found["actions_in_window_model"], found["actions_in_window_global"]) == (3, 4)
    assert (found["recent_runs"], found["recent_failures"]) == (None, None)
    asked: dict[str, Any] = {"action": "retrain", "cost_usd": Decimal(1), "now": NOW}
    refused = ledger.reserve("inc-8", model="b", **asked, caps=Caps(rate_model=(3, 40 * DAY_MS)))
    assert refused == "rate-per-model"
    assert ledger.reserve("inc-8", model="z", **asked, caps=Caps(rate_global=(4, 40 * DAY_MS))) == "rate-global"
    assert ledger.reserve("inc-8", model="z", **asked, caps=Caps(rate_global=(5, 40 * DAY_MS))) is None


def test_the_first_moment_of_the_day_is_of_the_day(ledger: Ledger) -> None:
    """What happened on the stroke of midnight, and is all that was put away, is spent today by whoever looks back from then."""
    about: dict[str, Any] = {"model": "a", "action": "retrain", "cost_usd": Decimal(3), "caps": Caps()}
    assert ledger.reserve("inc-1", **about, now="2026-11-01T00:00:00Z") is None
    ledger.settle("inc-1")
    act(ledger, "inc-2", 19, "b")
    then: dict[str, Any] = {"models": ["z"], "now": "2026-11-01T09:00:00Z", "caps": Caps(rate_global=(9, 3_600_000))}
    before = ledger.facts_of("inc-9", **then)
    assert put_away(ledger) == 1
    assert ledger.facts_of("inc-9", **then) == before
    assert before["z"]["spent_usd_today"] == "6"


def test_who_takes_the_mark_away_hides_nothing(ledger: Ledger, client: Any) -> None:
    """Without it all books are looked through; with an older one, counters are unknown."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 12, "b")
    assert put_away(ledger) == 1
    older = client.hget(PAST, "#")
    act(ledger, "inc-3", 2, "c")
    act(ledger, "inc-4", 20, "d")
    assert put_away(ledger) == 1
    asked: dict[str, Any] = {"model": "z", "action": "retrain", "cost_usd": Decimal(1), "now": NOW}
    two = Caps(rate_global=(4, 40 * DAY_MS))
    client.hdel(PAST, "#")
    assert ledger.facts("inc-9", model="z", now=NOW, caps=two)["actions_in_window_global"] == 4
    assert ledger.reserve("inc-9", **asked, caps=two) == "rate-global"
    client.hset(PAST, "#", older)
    assert set(ledger.facts("inc-9", model="c", now=NOW, caps=SHORT).values()) == {None}


def test_what_is_open_recent_or_not_ours_stays(ledger: Ledger, client: Any) -> None:
    """An incident that goes on, a reservation that runs; by the clock of the latest action, whatever the host's says."""
    act(ledger, "inc-1", 1, "a")
    assert put_away(ledger) == 0  # nothing was done since: where the stream is the clock it may still be that day
    act(ledger, "inc-2", 19, "a")
    assert put_away(ledger, lambda ids: [one for one in ids if one != "inc-1"]) == 0
    client.hset("driftwarden:ledger", "inc-7", "0" * 64 + ' {"at": 1, "cost": 0, "state": "done"}')
    assert ledger.books.put_away(NOW_MS - 30 * DAY_MS, 8 * DAY_MS, everything) == 0
    assert put_away(ledger) == 1
    assert client.hlen("driftwarden:ledger") == 2


def test_what_changes_meanwhile_is_left_for_the_next_time(ledger: Ledger, client: Any) -> None:
    """Somebody wrote the entry, or the book, between the look and the move: nothing is moved, and nothing lost."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 19, "b")

    def settles(ids: Collection[str]) -> Collection[str]:
        ledger.settle("inc-1", cost_usd=Decimal(4))
        return ids

    assert put_away(ledger, settles) == 0
    assert ledger.spend_usd("a") == Decimal(4)
    assert client.exists(PAST) == 0
    assert put_away(ledger) == 1

    def another(ids: Collection[str]) -> Collection[str]:
        act(ledger, "inc-3", 2, "a")
        assert put_away(ledger) == 1
        return ids

    ledger.books.fold(0, 100, another)
    assert set(ledger.entries(["a"])) == {f"inc-{n}#@{NOW_MS - days * DAY_MS}" for n, days in ((1, 19), (3, 18))} | {
        "inc-2"
    }


def test_an_outcome_that_stands_in_both_counts_once(ledger: Ledger, client: Any) -> None:
    """The process died between the two steps; the next one takes the second."""
    act(ledger, "inc-1", 1, "a")
    ledger.record_outcome("inc-1", model="a", action="retrain", helped=True)
    picture = client.dump("driftwarden:track")
    assert ledger.books.put_outcomes_away(everything) == 1
    client.restore("driftwarden:track", 0, picture)
    assert ledger.track_record(model="a", action="retrain")["successes"] == 1
    ledger.record_outcome("inc-1", model="a", action="retrain", helped=False)  # what was said last counts
    assert ledger.books.put_outcomes_away(everything) == 1
    found = ledger.track_record(model="a", action="retrain")
    assert (found["successes"], found["failures"]) == (0, 1)


def test_an_outcome_that_is_put_back_counts_once(ledger: Ledger, client: Any) -> None:
    """However often, and long after its incident is gone: a track record is not made by copies of one success."""
    act(ledger, "inc-1", 1, "a")
    ledger.record_outcome("inc-1", model="a", action="retrain", helped=True)
    picture = client.dump("driftwarden:track")
    for _ in range(3):
        assert ledger.books.put_outcomes_away(everything) == 1
        fold(ledger)
        client.restore("driftwarden:track", 0, picture)
    assert ledger.track_record(model="a", action="retrain")["successes"] == 1


def test_two_processes_put_an_outcome_away_once(ledger: Ledger) -> None:
    """One looked; before it goes on, the other moved it, and summed up what was gone."""
    act(ledger, "inc-1", 1, "a")
    ledger.record_outcome("inc-1", model="a", action="retrain", helped=True)

    def meanwhile(ids: Collection[str]) -> Collection[str]:
        ledger.books.put_outcomes_away(everything)
        fold(ledger)
        return ids

    ledger.books.put_outcomes_away(meanwhile)
    assert ledger.track_record(model="a", action="retrain")["successes"] == 1


def test_what_is_released_while_it_moves_stays_released(ledger: Ledger, client: Any) -> None:
    """Who released it had read it before it moved, and writes it back afterwards: it counts nowhere, also once it moves again."""
    act(ledger, "inc-1", 1, "a", "b")
    act(ledger, "inc-2", 19, "c")
    picture = client.hgetall("driftwarden:ledger")
    assert put_away(ledger) == 1
    client.hset("driftwarden:ledger", "inc-1", picture[b"inc-1"])
    ledger.release("inc-1")
    assert ledger.spend_usd("a") == 0
    assert put_away(ledger) == 1
    assert (ledger.spend_usd("a"), set(ledger.entries())) == (Decimal(0), {"inc-2"})


def test_a_failure_is_one_whatever_is_put_back(ledger: Ledger, client: Any) -> None:
    """A copy of the entry from before it was found to have harmed: beside the book, moved once more, and once it is summed up."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 19, "c")
    picture = client.dump("driftwarden:ledger")
    assert put_away(ledger) == 1
    ledger.fail_effect("inc-1")
    for then in (lambda: None, lambda: put_away(ledger), lambda: fold(ledger)):
        client.restore("driftwarden:ledger", 0, picture, replace=True)
        then()
        assert ledger.facts("inc-9", model="a", now=NOW, caps=SHORT)["last_action_failed"] is True
    assert put_away(ledger) == 1
    fold(ledger)
    assert ledger.facts("inc-9", model="a", now=NOW, caps=SHORT)["last_action_failed"] is True


def test_what_is_summed_up_for_one_model_is_spent_once(ledger: Ledger, client: Any) -> None:
    """The process died before the book of the other one."""
    act(ledger, "inc-1", 1, "a", "b")
    act(ledger, "inc-2", 19, "c")
    assert put_away(ledger) == 1
    book = client.hget(PAST, "b")
    fold(ledger)
    client.hset(PAST, "b", book)
    assert (ledger.spend_usd("a"), ledger.spend_usd("b"), ledger.spend_usd()) == (Decimal(3), Decimal(0), Decimal(6))


def test_a_later_effect_of_the_same_incident_is_another(ledger: Ledger) -> None:
    """It was put away, and is then taken back by hand; harm that is found later counts for what was done."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 10, "b")
    assert put_away(ledger) == 1
    ledger.fail_effect("inc-1")
    (failed,) = (entry for entry in ledger.entries(["a"]).values() if entry["model"] == "a")
    assert failed["failed"] is True
    act(ledger, "inc-1", 11, "a", undo=True)
    act(ledger, "inc-3", 20, "b")
    assert put_away(ledger) == 2
    own = [entry for key, entry in ledger.entries(["a"]).items() if key.startswith("inc-1#")]
    assert [entry["undo"] for entry in own] == [False, True]
    assert ledger.spend_usd("a") == Decimal(6)


def test_a_quarantine_that_was_not_released_is_still_needed(ledger: Ledger) -> None:
    """It can be released however long ago it was; afterwards nothing of it is left but what it cost."""
    act(ledger, "inc-1", 1, "a", action="quarantine_data", rows={"a": {"uri": "w.csv"}})
    act(ledger, "inc-2", 19, "b")
    assert put_away(ledger) == 1
    assert ledger.needed() == frozenset({"inc-1", "inc-2"})
    fold(ledger)
    assert (changes_of(ledger.entries(["a"]), "a", besides=""), ledger.spend_usd("a")) == ([], Decimal(3))


@pytest.mark.parametrize("field", ["a", "#"])
def test_a_book_that_is_not_ours_is_not_believed(ledger: Ledger, client: Any, field: str) -> None:
    """Counters and track record are unknown, and nothing is moved into it."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 19, "b")
    assert put_away(ledger) == 1
    act(ledger, "inc-3", 1, "a")
    client.hset(PAST, field, "0" * 64 + " {")
    assert set(ledger.facts("inc-9", model="a", now=NOW, caps=SHORT).values()) == {None}
    assert put_away(ledger) == 0
    ledger.release("inc-3")
    if field == "a":
        assert ledger.track_record(model="a", action="retrain")["successes"] is None
        assert ledger.needed() is None


def test_a_reservation_stops_at_a_book_that_cannot_be_read(ledger: Ledger, client: Any) -> None:
    """Where the policy looks further back than when it was put away."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 19, "b")
    assert put_away(ledger) == 1
    client.hset(PAST, "a", "0" * 64 + " {")
    asked: dict[str, Any] = {"model": "c", "action": "retrain", "cost_usd": Decimal(1), "now": NOW}
    assert ledger.reserve("inc-9", **asked, caps=Caps(rate_global=(9, 40 * DAY_MS))) == "unreadable"
    assert ledger.reserve("inc-9", **asked, caps=SHORT) is None


def test_a_book_that_keeps_changing_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harm that could not be put down is tried again."""
    act(ledger, "inc-1", 1, "a")
    act(ledger, "inc-2", 19, "b")
    assert put_away(ledger) == 1
    monkeypatch.setattr(ledger.books, "_written", lambda *more: False)
    with pytest.raises(Retry, match="`a` changed"):
        ledger.fail_effect("inc-1")


@pytest.mark.parametrize("prefix", ["driftwarden:", "{driftwarden}:"])
def test_the_books_are_on_the_ledger_s_slot(client: Any, prefix: str) -> None:
    """Of a cluster: what moves between them moves in one step."""
    books = Ledger(client, prefix, Seal(b"k" * 32)).books
    assert key_slot(books.key.encode()) == key_slot(f"{prefix}ledger".encode())


class Counting:
    """A Redis that counts the bytes that it hands out."""

    def __init__(self, client: Any) -> None:
        self._client, self.fields = client, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def hgetall(self, name: str) -> Any:
        """As it is."""
        found = self._client.hgetall(name)
        self.fields += len(found)
        return found

    def hmget(self, name: str, keys: Any) -> Any:
        """As it is."""
        found = self._client.hmget(name, keys)
        self.fields += sum(one is not None for one in found)
        return found


def test_a_decision_reads_no_history(client: Any) -> None:
    """Three hundred effects of other models, long ago: it looks at what is recent, its own book, and no more."""
    counting = Counting(client)
    ledger = Ledger(counting, "driftwarden:", Seal(b"k" * 32))
    for number in range(300):
        act(ledger, f"inc-{number}", 1, f"m-{number}")
    act(ledger, "inc-x", 19, "a")
    assert ledger.books.put_away(NOW_MS, 8 * DAY_MS, everything, limit=100) == 100
    assert put_away(ledger) == 200
    counting.fields = 0
    ledger.facts_of("inc-9", models=["m-7"], now=NOW, caps=SHORT)
    ledger.entries(["m-7"])
    ledger.running_by_model(besides="inc-9")
    ledger.track_record(model="m-7", action="retrain")
    assert counting.fields <= 10
