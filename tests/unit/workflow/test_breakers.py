"""Breakers, pauses and the rule of lowered confidence, each on a clock that the test moves."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Advice, AgentStep, Candidate, Finding, Plan
from driftwarden.errors import (
    AskHuman,
    Away,
    BadInput,
    Error,
    Fenced,
    GiveUp,
    LogUnwritable,
    NotFound,
    NotYet,
    Refused,
    Retry,
)
from driftwarden.resilience import Breaker, Breakers, BreakerSettings
from driftwarden.service.workflow.breakers import Consulted, degrade
from driftwarden.service.workflow.retries import LoopPauses, away_s, is_last, pause_s, verdict


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 20, tzinfo=UTC)

    def now(self) -> datetime:
        """The moment that was set."""
        return self.moment

    def advance(self, seconds: float) -> None:
        """Let time pass, or set it back."""
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    """At its beginning."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Opens after three failures, for a minute."""
    return Breaker("the thing", BreakerSettings(failures=3, open_for=timedelta(minutes=1)), clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    """So many calls that are not answered."""
    for _ in range(times):
        with pytest.raises(Away), breaker.call():
            raise Retry("no route")


def is_let_through(breaker: Breaker) -> bool:
    """Whether a call may be made."""
    try:
        breaker.admit()
    except Away:
        return False
    return True


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    """A success in between starts the count anew."""
    fail(breaker, 2)
    with breaker.call():
        pass
    fail(breaker, 2)
    assert breaker.view().state == "closed"
    fail(breaker)
    assert (breaker.view().state, breaker.view().failures) == ("open", 3)
    assert breaker.view().reason == "no route"


def test_open_means_no_call(breaker: Breaker, clock: Clock) -> None:
    """What is away is not asked, and the refusal says why and until when."""
    fail(breaker, 3)
    clock.advance(20)
    with pytest.raises(Away, match="the thing: it is away: no route") as refused, breaker.call():
        pytest.fail("it was called")
    assert refused.value.again_s == 40.0


def test_half_open_lets_one_call_through(breaker: Breaker, clock: Clock) -> None:
    """The others wait for what becomes of it."""
    fail(breaker, 3)
    clock.advance(60)
    assert [is_let_through(breaker) for _ in range(3)] == [True, False, False]
    assert breaker.view().state == "half-open"
    breaker.succeeded()
    assert [is_let_through(breaker) for _ in range(3)] == [True, True, True]


def test_a_probe_that_fails_opens_it_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    """One failure is enough then."""
    fail(breaker, 3)
    clock.advance(60)
    fail(breaker)
    assert breaker.view().state == "open"
    clock.advance(59)
    assert not is_let_through(breaker)
    clock.advance(1)
    assert is_let_through(breaker)


def test_a_probe_that_is_never_heard_of_again_shuts_nobody_out(breaker: Breaker, clock: Clock) -> None:
    """Its thread may hang: after as long as it was open, another may look."""
    fail(breaker, 3)
    clock.advance(60)
    assert is_let_through(breaker)
    clock.advance(59)
    assert not is_let_through(breaker)
    clock.advance(1)
    assert is_let_through(breaker)


def test_a_clock_that_is_set_back_shuts_nobody_out(breaker: Breaker, clock: Clock) -> None:
    """It waits its minute from the new time on, not the hours between."""
    fail(breaker, 3)
    clock.advance(-36_000)
    assert not is_let_through(breaker)
    clock.advance(60)
    assert is_let_through(breaker)


@pytest.mark.parametrize("answer", [NotFound("no such model"), GiveUp("it refuses"), ValueError("ours")])
def test_an_answer_that_nobody_likes_is_an_answer(breaker: Breaker, answer: Exception) -> None:
    """Whoever refuses is there."""
    fail(breaker, 2)
    with pytest.raises(type(answer)), breaker.call():
        raise answer
    assert breaker.view().failures == 0


@pytest.mark.parametrize("fault", [Retry("away"), OSError(111, "refused"), TimeoutError("late")])
def test_no_answer_is_told_as_away(breaker: Breaker, fault: Exception) -> None:
    """Also while it is closed, so that it is waited for from the first failure on."""
    with pytest.raises(Away) as raised, breaker.call():
        raise fault
    assert raised.value.dependency == "the thing"
    assert raised.value.again_s == 0.0
    assert breaker.view().failures == 1


def test_each_change_is_logged_once(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """However many calls are refused meanwhile."""
    caplog.set_level(logging.INFO, "driftwarden.resilience")
    fail(breaker, 3)
    for _ in range(50):
        assert not is_let_through(breaker)
    clock.advance(60)
    with breaker.call():
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert "no route" in caplog.messages[0]
    assert caplog.messages[1:] == ["the thing is tried again", "the thing answers again"]


@given(st.lists(st.sampled_from(["ok", "fail", "second", "minute"]), max_size=60))
def test_never_more_than_one_call_a_minute_gets_through_while_it_is_away(steps: list[str]) -> None:
    """Against a plain model: count failures, remember when the last call was let through."""
    clock = Clock()
    breaker = Breaker("x", BreakerSettings(failures=2, open_for=timedelta(minutes=1)), clock)
    failures, closed, tried_at = 0, True, clock.now()
    for step in steps:
        if step in {"second", "minute"}:
            clock.advance(1 if step == "second" else 60)
            continue
        may = closed or clock.now() - tried_at >= timedelta(minutes=1)
        assert is_let_through(breaker) is may
        if not may:
            continue
        tried_at = clock.now()
        if step == "ok":
            breaker.succeeded()
            failures, closed = 0, True
        else:
            breaker.failed("f")
            failures += 1
            closed = closed and failures < 2


def test_one_for_each_thing(clock: Clock) -> None:
    """What one is away says nothing of the others."""
    breakers = Breakers(clock=clock)
    fail(breakers.mlflow, 3)
    assert {name: one.state for name, one in breakers.views().items()} == {
        "model": "closed",
        "mlflow": "open",
        "chroma": "closed",
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Fenced("x"), "stop"),
        (LogUnwritable("x"), "stop"),
        (Away("x", "y"), "away"),
        (NotYet("x"), "wait"),
        (AskHuman("x"), "ask"),
        (GiveUp("x"), "give_up"),
        (Refused("x"), "give_up"),
        (BadInput("x"), "give_up"),
        (Retry("x"), "retry"),
        (Error("x"), "retry"),
        (OSError("x"), "retry"),
        (TimeoutError("x"), "retry"),
        (KeyError("x"), "retry"),
    ],
)
def test_what_follows_from_each_class_of_error(error: Exception, expected: str) -> None:
    """Retry, wait, give up or ask: nothing is left out, and a fault of ours is tried again."""
    assert verdict(error) == expected


def test_pauses_grow_and_are_spread() -> None:
    """1, 5, 25 and 120 seconds, each up to a quarter more; the same for the same incident, different for others."""
    for tries, least in [(1, 1), (2, 5), (3, 25), (4, 120), (9, 120)]:
        pauses = {pause_s(tries, f"inc-{number}") for number in range(100)}
        assert least <= min(pauses) <= max(pauses) <= least * 1.25
        assert len(pauses) == 100
        assert pause_s(tries, "inc-7") in pauses
    assert [is_last(tries, 4) for tries in (0, 1, 3, 4, 5)] == [False, False, False, True, True]
    assert [is_last(tries, 1) for tries in (0, 1)] == [False, True], "one try is one, not none"


def test_what_is_away_is_not_asked_before_it_may_be() -> None:
    """An incident that waits comes back after the breaker lets somebody through, not all at once."""
    pauses = {away_s(Away("x", "y", again_s=60.0), f"inc-{number}") for number in range(100)}
    assert 60 <= min(pauses) <= max(pauses) <= 90
    assert len(pauses) == 100
    assert away_s(Away("x", "y"), "inc-1") >= 5


def test_a_loop_that_fails_pauses_longer_each_time() -> None:
    """And is quick again after a success."""
    pauses = LoopPauses("intake")
    told = [pauses.next_s() for _ in range(12)]
    assert told[0] <= 0.625
    assert all(before < after for before, after in pairwise(told[:7]))
    assert max(told) <= 37.5
    pauses.reset()
    assert pauses.next_s() == told[0]


def advice(confidence: float, *steps: AgentStep) -> Advice:
    """What agents said."""
    return Advice(
        finding=Finding(root_cause=RootCause.CONCEPT_DRIFT, confidence=confidence, summary="s"),
        plan=Plan(candidates=(Candidate(id="c1", action=ActionName.RETRAIN),)),
        steps=steps,
        model="m",
    )


class Missing:
    """A knowledge base that fails with this."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def search(self, text: str, **about: Any) -> tuple[Any, ...]:
        """As it was told."""
        if self.error:
            raise self.error
        return ()


def consulted(error: Exception | None) -> Consulted:
    """One question was asked."""
    asked = Consulted(Missing(error))
    with suppress(*([type(error)] if error else [])):
        asked.search("why")
    return asked


@given(st.floats(0, 1), st.floats(0, 1))
def test_without_the_knowledge_base_confidence_is_lowered_and_never_raised(confidence: float, factor: float) -> None:
    """Times the factor, which the finding carries; and it says why."""
    breaker = Breaker("the knowledge base")
    found = degrade(advice(confidence), consulted(Retry("down")), breaker, knowledge_factor=factor)
    assert found.confidence <= confidence
    assert found.confidence == pytest.approx(confidence * factor, abs=1e-6)
    assert found.confidence_factor == factor
    assert "down" in found.degraded[0]


def test_with_everything_there_nothing_changes(breaker: Breaker) -> None:
    """The finding as it came, also where a question was wrong."""
    came = advice(0.7)
    assert degrade(came, consulted(None), breaker, knowledge_factor=0.5) is came.finding
    assert degrade(came, consulted(BadInput("limit")), breaker, knowledge_factor=0.5) is came.finding


def test_a_knowledge_base_that_nobody_dared_to_ask_is_missing_too(breaker: Breaker) -> None:
    """An open breaker counts, whether or not the agents tried."""
    fail(breaker, 3)
    found = degrade(advice(0.8), consulted(None), breaker, knowledge_factor=0.5)
    assert (found.confidence, found.confidence_factor) == (0.4, 0.5)


def test_the_offline_reasoner_says_that_it_stood_in(breaker: Breaker) -> None:
    """Its confidence is measured as any other's: it is not lowered."""
    step = AgentStep(agent="coordinator", kind="fallback", name="offline", summary="no answer within 60 s")
    found = degrade(advice(0.8, step), consulted(None), breaker, knowledge_factor=0.5)
    assert found.confidence == 0.8
    assert "the offline reasoner investigated: no answer within 60 s" in found.degraded[0]
