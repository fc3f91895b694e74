"""What follows from a failed step, by the class of its error, and how long until the next try (tenacity's strategies).

Nothing sleeps here: an incident is parked under a timer, and a thread that must pause waits for its own stop. What
spreads the tries of many incidents apart comes from their names, so that a run can be repeated.
"""

import hashlib
from typing import Any, Literal

from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from driftwarden.errors import AskHuman, Away, BadInput, Fenced, GiveUp, LogUnwritable, NotYet, Refused, Retry

Verdict = Literal["stop", "wait", "away", "give_up", "ask", "retry"]

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 120.0
PAUSE_BASE = 5
PAUSE_SPREAD = 0.25
LOOP_FIRST_S = 0.5
LOOP_MAX_S = 30.0
AGREE_AGAIN_S = 5.0


def verdict(error: Exception) -> Verdict:
    """What the worker does about an error of a step.

    `stop`: nothing may follow at all. `wait`, `away`: no failed try, it waits for people or for a thing that is away.
    `give_up`: trying again changes nothing; `ask`: nor does it here, for nobody but a person can tell what happened.
    `retry`: it may pass, also a fault of ours, which must neither end the worker nor be lost.
    """
    match error:
        case Fenced() | LogUnwritable():
            return "stop"
        case Away():
            return "away"
        case NotYet():
            return "wait"
        case AskHuman():
            return "ask"
        case GiveUp() | Refused() | BadInput():
            return "give_up"
    return "retry"


def is_last(tries: int, tries_max: int) -> bool:
    """Whether after so many failed tries no other follows."""
    return tries > 0 and bool(stop_after_attempt(tries_max)(_state(tries)))


def pause_s(tries: int, name: str) -> float:
    """Seconds until the next try after `tries` failed ones: 1, 5, 25, 120, each up to a quarter more, by the incident's `name`."""
    grows = wait_exponential(multiplier=PAUSE_FIRST_S, exp_base=PAUSE_BASE, max=PAUSE_MAX_S)
    return _Spread(grows, PAUSE_SPREAD, name)(_state(tries))


def away_s(error: Away, name: str) -> float:
    """Seconds until something that is away is asked again on behalf of this incident; at most half as much more."""
    return max(AGREE_AGAIN_S, error.again_s) * (1.0 + 0.5 * _share(f"{name}:{error.dependency}"))


def look_again_s(error: Retry, name: str) -> float:
    """Seconds until what is waited for without a counted try is looked at again."""
    if isinstance(error, Away):
        return away_s(error, name)
    return max(AGREE_AGAIN_S, error.again_s) if isinstance(error, NotYet) else AGREE_AGAIN_S


class LoopPauses:
    """The pauses of one thread's loop: longer with each failure in a row, short again after a success."""

    def __init__(self, name: str) -> None:
        """`name` sets this loop's pauses apart from others'."""
        self._wait = _Spread(wait_exponential(multiplier=LOOP_FIRST_S, exp_base=2, max=LOOP_MAX_S), PAUSE_SPREAD, name)
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        self._failures = min(self._failures + 1, 1000)
        return self._wait(_state(self._failures))

    def reset(self) -> None:
        """It went well."""
        self._failures = 0


class _Spread(wait_base):
    """Another wait, lengthened by up to `share` of itself: which part of that follows from a name."""

    def __init__(self, wait: wait_base, share: float, name: str) -> None:
        self._wait, self._share, self._name = wait, share, name

    def __call__(self, retry_state: RetryCallState) -> float:
        part = _share(f"{self._name}:{retry_state.attempt_number}")
        return float(self._wait(retry_state)) * (1.0 + self._share * part)


def _share(name: str) -> float:
    """A number in 0..1 that looks random."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 0xFFFFFFFF


def _state(tries: int) -> RetryCallState:
    nothing: Any = None
    state = RetryCallState(retry_object=Retrying(), fn=nothing, args=(), kwargs={})
    state.attempt_number = max(1, tries)
    return state
