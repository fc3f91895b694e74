"""What a consumer is given, and what of it may be left in its hands."""

from typing import Any

import pytest
from fakes.store_steps import admit, claim, drift, expire, nothing, step
from redis import Redis
from redis import exceptions as redis_exceptions

from driftwarden.service.workflow.store import WorkflowStore


class Watched:
    """A client that remembers the reads of a stream, and may lose replies of them: served, and never heard."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client
        self.reads: list[str] = []
        self.lose = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """As the client."""
        reply = self._client.execute_command(*words, **options)
        if str(words[0]).startswith("XREADGROUP"):
            self.reads.append(str(words[-1]))
            if self.lose and words[-1] == ">":
                self.lose -= 1
                raise redis_exceptions.ConnectionError("reply lost")
        return reply


@pytest.fixture
def watched(client: Redis) -> Watched:
    """A client whose reads are seen."""
    return Watched(client)


def test_what_was_settled_is_not_asked_for_again(watched: Watched) -> None:
    """At first, and after each sweep, a consumer asks for what is its own; then for fresh work alone, as long as it settles."""
    store: Any = WorkflowStore(watched)  # type: ignore[arg-type]
    for number in range(5):
        admit(store, drift(number, f"m{number}"))
    step(store, claim(store), "triaged", "finish")
    assert watched.reads == ["0", ">"]
    step(store, claim(store), "triaged", "finish")
    watched.reads.clear()
    for disposition in ("finish", "release", "park"):
        step(store, claim(store), "triaged", disposition)
    store.hand_back(claim_of_next(store))
    claim(store)
    assert set(watched.reads) == {">"}


def claim_of_next(store: Any) -> Any:
    """Admit and claim one more."""
    admit(store, drift("next", "m-next"))
    return claim(store)


def test_what_was_not_settled_is_asked_for(client: Redis, watched: Watched) -> None:
    """A claim that nobody ended is found again by the consumer that had it, once its lease is over."""
    store: Any = WorkflowStore(watched)  # type: ignore[arg-type]
    admit(store, drift(1))
    held = claim(store)
    assert nothing(store)
    expire(client, held)
    assert claim(store).incident == held.incident


def test_an_answer_that_was_lost_leaves_nothing_behind(watched: Watched) -> None:
    """The server handed an entry out and its answer got lost: the consumer asks again, and finds that entry too."""
    store: Any = WorkflowStore(watched)  # type: ignore[arg-type]
    step(store, claim_of_next(store), "triaged", "finish")
    opened = {admit(store, drift(number, f"m{number}")).incident for number in range(2)}
    watched.lose = 1
    taken = set()
    for _ in opened:
        held = claim(store)
        taken.add(held.incident)
        step(store, held, "triaged", "finish")
    assert taken == opened
    assert nothing(store)
