"""Each guard of the scripts is taken out (mutants.toml), and the test that is named there must fail: a guard that nobody misses
is either of no use or not tested. What a script cannot show, because it is atomic, is taken apart in the store itself.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from simulation.cases import Case
from simulation.lab import PACKAGES, Lab, scripts_of
from simulation.mutants import EXEMPT, Mutant, mutants
from simulation.named import call
from simulation.virtual import CLOCK_KEY, no_pauses, virtual_scripts
from simulation.watching import Broken
from simulation.workers import Worker

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

CASES_MAX = 400
WRITES = (
    "XADD", "XACK", "XDEL", "XCLAIM", "XTRIM", "DELCONSUMER", "ZADD", "ZREM", "ZPOPMIN", "HSET", "HDEL", "HINCRBY",
    "RPUSH", "LTRIM", "SADD", "SREM", "'SET'", "'DEL'",
)  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all of them."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        connect(server.url).config_set("appendonly", "no")  # the server itself is not killed here
        yield server.url


def parts(version: str) -> tuple[int, ...]:
    """To compare."""
    return tuple(int(one) for one in version.split("."))


@cache
def version_of(url: str) -> tuple[int, ...]:
    """The server's own."""
    return parts(connect(url).info("server")["redis_version"])


@cache
def passes(url: str, test: str) -> bool:
    """Whether a named test holds on the scripts as they are."""
    with no_pauses():
        call(url, test)
    return True


def fails(url: str, test: str) -> bool:
    """Whether a named test fails now, whatever with."""
    try:
        call(url, test)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - pytest's own failures are no Exception
        return True
    return False


def broken(lab: Lab, invariant: str) -> list[str]:
    """What the first case that breaks the invariant says; other failures on the way are no proof."""
    for seed in range(CASES_MAX):
        try:
            Case(lab, seed).run()
        except Broken as error:
            if str(error).startswith(f"{invariant}:"):
                return [f"seed {seed}: {error}"]
        except Exception:  # noqa: BLE001 - what a mutant does else
            continue
    return []


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_each_guard_is_missed(url: str, mutant: Mutant) -> None:
    """The test that is named for it holds with it, and fails without it."""
    if mutant.redis_before and version_of(url) >= parts(mutant.redis_before):
        pytest.skip(f"Redis does it itself from {mutant.redis_before} on")
    if "::" in mutant.by:
        assert passes(url, mutant.by)
        with virtual_scripts(mutant.change, clock=False), no_pauses():
            Lab(url).close()  # it is still a script
            assert fails(url, mutant.by), f"`{mutant.by}` holds without the guard `{mutant.name}`"
        return
    with virtual_scripts(mutant.change), no_pauses():
        lab = Lab(url)
        found = broken(lab, mutant.by)
        lab.close()
    assert found, f"{CASES_MAX} cases hold {mutant.by} without the guard `{mutant.name}`"


def lines_of(package: str, script: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and text of each line that decides or writes."""
    text, at = (files(package) / f"{script}.lua").read_text(encoding="utf-8"), 0
    for line in text.splitlines(keepends=True):
        code = line.partition("--")[0]
        if not line.startswith("--") and (" if " in f" {code}" or any(word in code for word in WRITES)):
            yield at, at + len(line), line.strip()
        at += len(line)


@pytest.mark.parametrize(("package", "script"), [(one, name) for one in PACKAGES for name in scripts_of(one)])
def test_every_line_that_decides_or_writes_has_its_mutant(package: str, script: str) -> None:
    """A guard that is added must be missed by a test too; a line that needs none says why."""
    text = (files(package) / f"{script}.lua").read_text(encoding="utf-8")
    places = [(text.find(one.old), len(one.old)) for one in mutants() if one.script == script]
    bare = [
        line
        for begin, end, line in lines_of(package, script)
        if not any(at < end and begin < at + length for at, length in places)
    ]
    assert bare == [line for line in EXEMPT.get(script, {}) if line in bare], f"{script}.lua has lines without a mutant"
    assert set(EXEMPT.get(script, {})) <= set(bare), f"mutants.toml excuses what {script}.lua does not have"


# What is one script is one step; these take it apart, as if it were two


def pump_in_two_steps(store: WorkflowStore, *, ahead_s: float = 0.0, limit: int = 100) -> int:
    """Due timers are removed, and then activated."""
    client: Any = store._client
    now_ms = int(client.hget(CLOCK_KEY, "s")) * 1000
    for keys in store.shards.all:
        for member in client.zrangebyscore(keys.timers, "-inf", now_ms):
            client.zrem(keys.timers, member)
            incident, _, model = member.decode().partition("|")
            client.xadd(keys.activations, {"incident": incident, "model": model, "why": "timer"})
    return 0


def acknowledge_first(store: WorkflowStore, deliveries: Any, **more: Any) -> Any:
    """Entries are settled, and then admitted."""
    store.acknowledge([one.entry_id for one in deliveries])
    return store._admitting.admit(deliveries, more.get("groups", lambda event: ()), more["now"])


def call_without_looking(worker: Worker, claim: Any) -> None:
    """The sink is not asked by the key."""
    worker.store.heartbeat(claim)
    worker.case.sink.append(claim.incident)


@pytest.mark.parametrize(
    ("where", "name", "instead", "invariant"),
    [
        (WorkflowStore, "pump_timers", pump_in_two_steps, "I5"),
        (WorkflowStore, "admit_many", acknowledge_first, "I1"),
        (Worker, "effect", call_without_looking, "I2"),
    ],
    ids=["timer", "admission", "effect"],
)
def test_what_is_taken_apart_is_missed(
    url: str, monkeypatch: pytest.MonkeyPatch, where: type, name: str, instead: Callable[..., Any], invariant: str
) -> None:
    """A timer in two steps survived 2,000 examples of another search: here deaths and audits fall between the two."""
    monkeypatch.setattr(where, name, instead)
    with virtual_scripts(), no_pauses():
        lab = Lab(url)
        found = broken(lab, invariant)
        lab.close()
    assert found
