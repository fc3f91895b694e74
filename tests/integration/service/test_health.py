"""How processes, workers and queues are, as Redis knows it and as `stats` and `doctor` show it; and how `serve` ends."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.workflow_world import PREFIX, World

from driftwarden.errors import Away, Retry
from driftwarden.service.cli.main import run
from driftwarden.service.workflow.backpressure import backpressure
from driftwarden.service.workflow.health import TTL_MS, Health, Said, SaidBreaker, SaidWorker, processes
from driftwarden.service.workflow.process import ServiceProcess
from driftwarden.service.workflow.stats import running, told
from driftwarden.stream.embedded import EmbeddedRedis, stop
from driftwarden.stream.intake import Intake

KEY = f"{PREFIX}processes"


def said(**about: Any) -> Said:
    """What a process tells."""
    return Said(**({"host": "one", "pid": 7, "folder": "/audit"} | about))


def age(client: Any, process: str, *, ms: int) -> None:
    """Let a process's word be so much older."""
    at, rest = client.hget(KEY, process).split(b" ", 1)
    client.hset(KEY, process, b"%d %s" % (int(at) - ms, rest))


def test_processes_are_known_while_they_tell(world: World) -> None:
    """Whoever is silent for its time to live is gone, and swept away by the next word of another."""
    Health(world.client, PREFIX, "a").tell(said())
    Health(world.client, PREFIX, "b").tell(said(pid=8))
    assert [one.name for one in processes(world.client, PREFIX)] == ["a", "b"]
    age(world.client, "a", ms=TTL_MS + 1000)
    assert [one.name for one in processes(world.client, PREFIX)] == ["b"]
    assert world.client.hexists(KEY, "a"), "looking removes nothing"
    Health(world.client, PREFIX, "b").tell(said(pid=8))
    assert not world.client.hexists(KEY, "a")


def test_no_clock_of_a_host_is_asked(world: World) -> None:
    """A span that a process tells grows by the age of its word in the server's time."""
    worker = SaidWorker(name="w", doing="working", incident="inc-1", model="m", state="planned", for_s=100, beat_s=2)
    Health(world.client, PREFIX, "a").tell(said(workers=(worker,), up_s=1000, intake_s=1))
    age(world.client, "a", ms=10_000)
    (one,) = processes(world.client, PREFIX)
    (line,) = one.workers()
    assert line["seconds"] == pytest.approx(110, abs=5)
    assert line["heartbeat_seconds"] == pytest.approx(12, abs=5)
    assert one.to_json()["intake_seconds"] == pytest.approx(11, abs=5)
    seconds, _ = world.client.time()
    from driftwarden.clock import parse_rfc3339

    assert parse_rfc3339(one.started_at).timestamp() == pytest.approx(seconds - 1010, abs=10)


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"nonsense",
        b"1 2 3",
        b"99999999999999999999 15000 {}",
        b"%d 15000 not json",
        b"%d 15000 [1]",
        b'%d 15000 {"host": 5}',
        b'%d 15000 {"host": "h", "pid": 1, "workers": [{"name": "w", "doing": "flying"}]}',
        b"%d 15000 \xff\xfe",
        b"%d -15000 {}",
    ],
)
def test_what_nobody_of_ours_wrote_is_passed_over(world: World, word: bytes) -> None:
    """Whoever can write to Redis can lie about health, and cannot break it."""
    seconds, _ = world.client.time()
    Health(world.client, PREFIX, "good").tell(said())
    world.client.hset(KEY, "bad", word.replace(b"%d", str(seconds * 1000).encode()))
    assert [one.name for one in processes(world.client, PREFIX)] == ["good"]


def test_a_later_version_may_tell_more(world: World) -> None:
    """During a rolling upgrade old eyes read new words."""
    seconds, _ = world.client.time()
    word = {"host": "h", "pid": 1, "mood": "fine", "workers": [{"name": "w", "doing": "waiting", "shoe": 43}]}
    world.client.hset(KEY, "new", f"{seconds * 1000} 15000 {json.dumps(word)}")
    (one,) = processes(world.client, PREFIX)
    assert one.said.workers[0].doing == "waiting"


def test_last_words_stay_until_one_starts_in_the_same_place(world: World) -> None:
    """Why a process could not go on is known for a day; another host's start does not take it away."""
    Health(world.client, PREFIX, "a").leave(said(ended="the audit log cannot be written"))
    age(world.client, "a", ms=3_600_000)
    Health(world.client, PREFIX, "b").begin(said(host="two"))
    Health(world.client, PREFIX, "c").begin(said(folder="/elsewhere"))
    assert [one.name for one in processes(world.client, PREFIX) if not one.is_live] == ["a"]
    Health(world.client, PREFIX, "d").begin(said(pid=9))
    assert all(one.is_live for one in processes(world.client, PREFIX))
    Health(world.client, PREFIX, "d").leave(said())
    assert "d" not in {one.name for one in processes(world.client, PREFIX)}


def process_of(world: World, **about: Any) -> ServiceProcess:
    """A process of this world that nobody started."""
    return ServiceProcess(
        world.parts, world.store, Intake(world.client, "i", prefix=PREFIX), name="p", workers=0, **about
    )


def test_a_process_tells_of_its_breakers_and_its_policy(world: World) -> None:
    """What is away, why, and under which policy it decides."""
    for _ in range(3):
        with pytest.raises(Away), world.parts.breakers.chroma.call():
            raise Retry("no route to chroma")
    told_now = process_of(world).said()
    assert told_now.breakers["chroma"].state == "open"
    assert "no route to chroma" in (told_now.breakers["chroma"].reason or "")
    assert told_now.breakers["mlflow"].state == "closed"
    assert told_now.policy == world.policy().digest
    assert (told_now.pid, told_now.audit_fault, told_now.ended) == (os.getpid(), None, None)


def test_a_redis_that_is_away_does_not_end_the_telling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again at the next beat."""

    class Gone(Health):
        """Its Redis is away."""

        def tell(self, said: Said) -> None:
            raise Retry("redis is away")

        begin = leave = tell

    process = process_of(world, health=Gone(world.client, PREFIX, "p"))
    process.start()
    assert process.stop().threads == ()


# What waits


def test_back_pressure_counts_what_waits_and_for_how_long(new_world: Any) -> None:
    """Events, incidents, those behind others of their model, timers, dead letters; ages by the server's clock."""
    world = new_world(models=("a", "b"))
    nothing = backpressure(world.client, PREFIX)
    assert nothing["intake"] == {"length": 0, "pending": 0, "oldest_seconds": None}
    assert nothing["activations"] == {"waiting": 0, "in_hand": 0, "oldest_seconds": None}
    assert (nothing["queued"], nothing["timers"], nothing["dead_letters"]) == (0, {"waiting": 0, "due": 0}, 0)

    seconds, _ = world.client.time()
    old = {"event": json.dumps(world.event("a"))}
    world.client.xadd(f"{PREFIX}events", old, id=f"{(seconds - 500) * 1000}-0")
    world.send(world.event("b"))
    Intake(world.client, "somebody", prefix=PREFIX).read(1)
    waits = backpressure(world.client, PREFIX)["intake"]
    assert (waits["length"], waits["pending"]) == (2, 1)
    assert waits["oldest_seconds"] == pytest.approx(500, abs=30)

    world.take_in()
    assert backpressure(world.client, PREFIX)["intake"]["length"] == 0
    assert backpressure(world.client, PREFIX)["activations"]["waiting"] == 2
    claim = world.store.claim("w", block_ms=0, lease_ms=60_000)
    waits = backpressure(world.client, PREFIX)["activations"]
    assert (waits["waiting"], waits["in_hand"]) == (1, 1)
    assert waits["oldest_seconds"] == pytest.approx(0, abs=30)
    world.store.hand_back(claim)
    world.script.win = 0.5
    world.run()
    waits = backpressure(world.client, PREFIX)
    assert waits["activations"] == {"waiting": 0, "in_hand": 0, "oldest_seconds": None}
    assert waits["timers"] == {"waiting": 2, "due": 0}, "two approvals are waited for"


def test_stats_tell_a_person_who_is_late_and_what_is_away(world: World) -> None:
    """One line each, from what the processes said."""
    late = SaidWorker(name="w1", doing="late", incident="inc-1", model="m", state="triaged", for_s=1300)
    breaker = SaidBreaker(name="the model registry", state="open", failures=3, reason="connection refused")
    Health(world.client, PREFIX, "a").tell(said(workers=(late, late.model_copy(update={"doing": "waiting"})),
                                                breakers={"mlflow": breaker}))  # fmt: skip
    Health(world.client, PREFIX, "b").leave(said(ended="the audit log cannot be written (ENOSPC)"))
    found = running(backpressure(world.client, PREFIX), processes(world.client, PREFIX))
    assert found["backpressure"]["workers"] == {"waiting": 1, "working": 0, "late": 1}
    assert next(one["breakers"] for one in found["processes"])["mlflow"]["state"] == "open"
    lines = "\n".join(told(found))
    assert "0 working, 1 waiting, 1 late, in 1 processes" in lines
    assert "w1: inc-1 in `triaged` for 13" in lines
    assert "mlflow (a): connection refused" in lines
    assert "ended          b: the audit log cannot be written" in lines


# The command line


def ask(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, Any]:
    """Run a command; its exit code and document."""
    capsys.readouterr()
    code = run([*command, "--json"])
    return code, json.loads(capsys.readouterr().out)


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the doctor says, by name."""
    return {one["name"]: one for one in ask(capsys, "doctor")[1]["checks"]}


def test_stats_and_doctor_show_it(
    terminal: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract's fields stay; who is late, what is away, who ended and a disk that refuses stand beside them."""
    worker = SaidWorker(name="w1", doing="late", incident="inc-1", model="m", state="triaged", for_s=1300)
    breaker = SaidBreaker(name="the knowledge base", state="half-open", failures=5, reason="no route")
    Health(terminal.client, PREFIX, "a").tell(said(workers=(worker,), breakers={"chroma": breaker}, intake_s=601))
    Health(terminal.client, PREFIX, "b").leave(said(ended="the audit log cannot be written (no space left)"))
    code, document = ask(capsys, "stats")
    assert code == 0
    contract = {"events", "incidents", "outcomes", "autonomy_rate", "autonomy_rate_harmful", "response_seconds", "actions",
                "success_rate", "undone", "spend_usd", "calibration", "approvals"}  # fmt: skip
    assert contract | {"backpressure", "workers", "processes", "removed"} == set(document)
    assert document["workers"][0]["doing"] == "late"

    def full(*args: Any, **about: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        tempfile, "NamedTemporaryFile", full
    )  # a full disk has the best of rights: it is asked by writing
    found = checks(capsys)
    states = {name: found[name]["state"] for name in ("workers", "back-pressure", "audit log", "process b")}
    assert states == {"workers": "fault", "back-pressure": "ok", "audit log": "fault", "process b": "fault"}
    assert "inc-1 in `triaged` for 13" in found["workers"]["detail"]
    assert "the intake of a" in found["workers"]["detail"]
    assert found["the knowledge base (a)"]["state"] == "warning"
    assert "no route" in found["the knowledge base (a)"]["detail"]
    assert "no space left on device" in found["audit log"]["detail"]
    assert "events wait" in found["audit log"]["detail"]


def test_doctor_says_that_events_wait_and_nobody_works(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """No process lives."""
    terminal.send(terminal.event("m"))
    found = checks(capsys)
    assert found["back-pressure"]["state"] == "warning"
    assert "1 events" in found["back-pressure"]["detail"]
    assert "no service runs" in found["back-pressure"]["detail"]
    assert (found["audit log"]["state"], found["workers"]["state"]) == ("ok", "ok")
    terminal.take_in()
    terminal.store.claim("w", block_ms=0, lease_ms=60_000)
    found = checks(capsys)["back-pressure"]
    assert found["state"] == "warning", "nobody goes on with what a worker held when it died"
    assert "0 turns of incidents wait" in found["detail"]
    assert "1 are left by a worker that is gone, and no service runs" in found["detail"]


def test_doctor_names_what_is_away_as_it_names_what_works(
    terminal: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitoring that watches a check by its name finds it also where Redis is away, with a mend."""
    there = {name for name, one in checks(capsys).items() if one["state"] == "ok"}
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", "redis://127.0.0.1:1/0")
    away = {name: one for name, one in checks(capsys).items() if "redis is away" in one["detail"]}
    assert {"redis", "state key", "policy in force", "workers", "back-pressure"} <= set(away) & there
    assert all("goes on by itself" in one["mend"] for one in away.values())


# How `serve` ends

HANGING = """
import sys, threading
from driftwarden.service.workflow.runner import Worker

def hang(self, *, block_ms=0):
    print("begun", flush=True)
    threading.Event().wait()

Worker.work_once = hang
from driftwarden.service.cli.main import run
sys.exit(run(["serve", "--workers", "1", *sys.argv[1:]]))
"""


def serve_that_hangs(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """A real `serve` whose worker never comes to an end."""
    environ = {**os.environ, "DRIFTWARDEN_HOME": str(folder), "DRIFTWARDEN_CONF": str(folder / "conf")}
    environ.pop("DRIFTWARDEN_REDIS_URL", None)
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, *options, "--log-file", str(folder / "log.jsonl")], env=environ, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n", process.stderr and process.stderr.read()
    return process


def test_serve_ends_in_time_whatever_hangs(tmp_path: Path) -> None:
    """One signal: exit code 0 after the deadline, in a line that says how; nothing of health is left behind."""
    process = serve_that_hangs(tmp_path, "--stop-within", "0.5")
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "stopping: finishing what is in hand, at most 0.5 s" in words
    assert "stopped: everything in hand was finished or handed back" in words
    assert "Traceback" not in words
    with EmbeddedRedis.acquire(tmp_path) as server:
        from driftwarden.stream.client import connect

        client = connect(server.url)
        assert processes(client, PREFIX) == ()
        client.close()


def test_a_second_signal_ends_serve_at_once(tmp_path: Path) -> None:
    """Long before its deadline."""
    with serve_that_hangs(tmp_path, "--stop-within", "3600") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        for line in process.stderr:
            if line.startswith("stopping"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 128 + signal.SIGINT
    assert stop(tmp_path), "what ends at once leaves its redis to whoever comes next"


def test_deadlines_are_settings(world: World) -> None:
    """Every state in which a step begins has one, and the defaults leave room for what is waited for within."""
    settings = world.settings
    deadlines = settings.service.step_deadlines
    assert deadlines.executing > timedelta(seconds=settings.actions.train_timeout_s)
    assert deadlines.triaged > timedelta(seconds=2 * settings.agents.timeout_s + settings.rehearsal.timeout_s)
    assert deadlines.planned > timedelta(seconds=settings.rehearsal.timeout_s)
    from driftwarden.service.workflow.steps import STEPS
    from driftwarden.service.workflow.transitions import State

    assert {state.value for state in (*STEPS, State.EXECUTING)} == set(type(deadlines).model_fields)
