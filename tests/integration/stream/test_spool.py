"""The spool: what producers say while Redis is away is kept, in order and within bounds, and sent later."""

import json
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, Retry
from driftwarden.pipelines.hook import DriftwardenHooks
from driftwarden.service.cli.main import run
from driftwarden.stream.publisher import Delivered, Publisher, build_event, checked, deliver, send_spooled
from driftwarden.stream.spool import NotKept, Spool, SpoolBounds, SpoolFull, read_bounds
from driftwarden.testing import FakeClock

EVENTS = "driftwarden:events"
NOWHERE = "redis://127.0.0.1:1"
START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def drift(number: int, model: str = "m", note: str = "") -> DriftEvent:
    """A drift event that can be told from others by its number."""
    return checked(build_event({"model": model, "kind": "data_drift", "note": note}, source="s", id=str(number)))


def soon() -> float:
    """A moment until which anything here has long happened."""
    return time.monotonic() + 60


def collecting(into: list[str]) -> Callable[[DriftEvent], str]:
    """Publishes to a list."""

    def publish(event: DriftEvent) -> str:
        into.append(event.id)
        return f"{len(into)}-0"

    return publish


def published(client: Redis) -> list[str]:
    """Ids of the events in the intake, in order."""
    entries: Any = client.xrange(EVENTS)
    return [parse_event(fields[b"event"]).id for _, fields in entries]


@pytest.fixture
def hanging() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


def test_what_is_kept_is_private_whole_and_sent_in_order(tmp_path: Path) -> None:
    """One file an event, nobody else's business; they go in the order in which they came, and then the files are gone."""
    spool = Spool(tmp_path)
    for number in range(12):
        spool.put(drift(number, model=f"m{number % 3}"))
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    files = sorted(spool.folder.glob("*.json"))
    assert len(files) == 12
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert json.loads(files[0].read_bytes())["id"] == "0"
    assert spool.waiting().events == 12
    sent: list[str] = []
    assert spool.send(collecting(sent), until=soon()).problem is None
    assert sent == [str(number) for number in range(12)]
    assert (spool.waiting().events, spool.waiting().since) == (0, None)


def test_a_fault_on_the_way_leaves_the_rest_in_order(tmp_path: Path) -> None:
    """Sending stops at the first fault; what was sent does not come again, what was not is sent next, still in order."""
    spool, sent = Spool(tmp_path), list[str]()
    for number in range(5):
        spool.put(drift(number))

    def until_third(event: DriftEvent) -> str:
        if len(sent) == 2:
            raise Retry("redis is away")
        return collecting(sent)(event)

    stopped = spool.send(until_third, until=soon())
    assert stopped.problem is not None
    assert (len(stopped.entries), spool.waiting().events) == (2, 3)
    spool.put(drift(5))
    spool.send(collecting(sent), until=soon())
    assert sent == ["0", "1", "2", "3", "4", "5"]


def test_no_time_left_sends_nothing(tmp_path: Path) -> None:
    """A deadline that has passed leaves everything where it is, and says so."""
    spool, sent = Spool(tmp_path), list[str]()
    spool.put(drift(1))
    assert "over" in str(spool.send(collecting(sent), until=time.monotonic()).problem)
    assert (sent, spool.waiting().events) == ([], 1)


def test_the_oldest_stay_where_it_is_full_and_the_loss_is_counted(tmp_path: Path) -> None:
    """The newest is refused; how many, and when the last, stands in a file, and outlives the process."""
    spool = Spool(tmp_path, SpoolBounds(events=3))
    for number in range(3):
        spool.put(drift(number))
    for number in (3, 4):
        assert not spool.has_room(drift(number))
        with pytest.raises(SpoolFull, match="full"):
            spool.put(drift(number))
    sent: list[str] = []
    spool.send(collecting(sent), until=soon())
    assert sent == ["0", "1", "2"]
    found = Spool(tmp_path).waiting()
    assert found.dropped == {"full": 2}
    assert found.last_dropped is not None


def test_a_noisy_model_does_not_hide_the_first_sign_of_another(tmp_path: Path) -> None:
    """The first event of a model finds room: the newest of the model that has most goes for it, and is counted."""
    spool = Spool(tmp_path, SpoolBounds(events=3))
    for number in range(3):
        spool.put(drift(number, "noisy"))
    spool.put(drift(10, "quiet"))
    with pytest.raises(SpoolFull):
        spool.put(drift(11, "quiet"))
    sent: list[str] = []
    spool.send(collecting(sent), until=soon())
    assert sent == ["0", "1", "10"]
    assert spool.waiting().dropped == {"full": 2}


def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    """A mebibyte holds one event of 600 kB, not two."""
    spool = Spool(tmp_path, SpoolBounds(mib=1))
    spool.put(drift(1, note="x" * 600_000))
    with pytest.raises(SpoolFull):
        spool.put(drift(2, note="x" * 600_000))
    spool.put(drift(3))
    assert spool.waiting().events == 2


def test_what_is_too_old_is_dropped_and_counted(tmp_path: Path) -> None:
    """Whoever sends, an event keeps the age that it was given when it was kept."""
    clock = FakeClock(START)
    spool = Spool(tmp_path, SpoolBounds(max_age=timedelta(hours=1)), clock=clock)
    spool.put(drift(1))
    clock.advance(timedelta(minutes=50))
    spool.put(drift(2))
    clock.advance(timedelta(minutes=20))
    sent: list[str] = []
    Spool(tmp_path, clock=clock).send(collecting(sent), until=soon())
    assert sent == ["2"]
    assert spool.waiting().dropped == {"too old": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"x" * 1_100_000])
def test_a_file_that_cannot_be_read_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named `.bad`, said in a line, counted, and holds nobody up."""
    spool, sent = Spool(tmp_path), list[str]()
    name = spool.put(drift(1))
    spool.put(drift(2))
    (spool.folder / name).write_bytes(content)
    assert spool.send(collecting(sent), until=soon()).problem is None
    assert sent == ["2"]
    assert (spool.folder / f"{name}.bad").read_bytes() == content
    assert name in caplog.text
    found = spool.waiting()
    assert (found.events, found.bad, found.dropped) == (0, 1, {"unreadable": 1})


def test_a_link_in_the_place_of_a_file_or_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Nothing outside the spool is read, published or written."""
    spool, sent = Spool(tmp_path), list[str]()
    name = spool.put(drift(1))
    outside = tmp_path / "outside.json"
    outside.write_text(drift(2).raw)
    (spool.folder / name).unlink()
    (spool.folder / name).symlink_to(outside)
    spool.send(collecting(sent), until=soon())
    assert sent == []
    (tmp_path / "other").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other" / "spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotKept):
        Spool(tmp_path / "other").put(drift(3))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_senders_at_once_send_each_event_once(tmp_path: Path, client: Redis, redis_url: str) -> None:
    """Three processes find the same hundred files: each event is published once, in order."""
    spool = Spool(tmp_path)
    for number in range(100):
        spool.put(drift(number))
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from driftwarden.stream.publisher import Publisher, send_spooled
        from driftwarden.stream.spool import Spool
        sys.stdin.readline()
        spool = Spool(Path(sys.argv[1]))
        sent = send_spooled(spool, lambda: Publisher(sys.argv[2]), until=time.monotonic() + 60)
        print(len(sent.entries), flush=True)
    """)
    command = [sys.executable, "-c", code, str(tmp_path), redis_url]
    senders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    counts = [int(sender.communicate()[0]) for sender in senders]
    assert sum(counts) == 100
    assert published(client) == [str(number) for number in range(100)]


def test_a_sender_that_is_killed_leaves_nothing_locked_and_nothing_lost(tmp_path: Path) -> None:
    """SIGKILL right after an event was published: it is published again, none is missing."""
    spool = Spool(tmp_path)
    for number in range(3):
        spool.put(drift(number))
    code = textwrap.dedent("""
        import os, signal, sys, time
        from pathlib import Path
        from driftwarden.stream.spool import Spool
        def publish(event):
            print(event.id, flush=True)
            if event.id == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            return "0-0"
        Spool(Path(sys.argv[1])).send(publish, until=time.monotonic() + 60)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["0", "1"])
    sent: list[str] = []
    assert not spool.send(collecting(sent), until=soon()).busy
    assert sent == ["1", "2"]


def test_a_writer_that_is_killed_leaves_whole_files_only(tmp_path: Path) -> None:
    """Killed between the file and its name: nothing was promised, and the next writer clears it away."""
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from driftwarden.stream.publisher import build_event, checked
        from driftwarden.stream.spool import Spool
        event = checked(build_event({"model": "m", "kind": "data_drift"}, source="s", id="7"))
        Spool(Path(sys.argv[1])).put(event)
        os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        Spool(Path(sys.argv[1])).put(event)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    spool = Spool(tmp_path)
    assert len(list(spool.folder.glob(".*.tmp"))) == 1
    assert spool.waiting().events == 1
    spool.put(drift(8))
    assert list(spool.folder.glob(".*.tmp")) == []
    sent: list[str] = []
    spool.send(collecting(sent), until=soon())
    assert sent == ["7", "8"]


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four threads keep ten events each: all are there, each once, each writer's in its order."""
    spool = Spool(tmp_path)

    def write(writer: int) -> None:
        for number in range(10):
            spool.put(drift(writer * 100 + number, model=f"m{writer}"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent: list[str] = []
    spool.send(collecting(sent), until=soon())
    for writer in range(4):
        assert [int(one) for one in sent if int(one) // 100 == writer] == [writer * 100 + n for n in range(10)]


def test_a_new_event_goes_behind_what_waits(tmp_path: Path, client: Redis, redis_url: str) -> None:
    """Redis is back: what was kept first is published first."""
    spool = Spool(tmp_path)
    away = deliver(drift(1).raw, spool, lambda: Publisher(NOWHERE, retry_for_s=0), until=soon())
    assert (away.kept, away.entry) == (True, None)
    assert isinstance(away.problem, Retry)
    back = deliver(drift(2).raw, spool, lambda: Publisher(redis_url), until=soon())
    assert (back.kept, back.problem) == (False, None)
    assert published(client) == ["1", "2"]
    entries: Any = client.xrange(EVENTS)
    assert entries[1][0].decode() == back.entry


def test_while_another_sends_an_event_waits_behind(tmp_path: Path, redis_url: str) -> None:
    """The sender's lock is taken: the event is kept, nothing overtakes, and that is no fault."""
    spool = Spool(tmp_path)
    spool.put(drift(1))
    sent: list[str] = []
    meanwhile: list[Delivered] = []

    def publish(event: DriftEvent) -> str:
        if event.id == "1":
            meanwhile.append(deliver(drift(2).raw, spool, lambda: Publisher(redis_url), until=soon()))
        return collecting(sent)(event)

    spool.send(publish, until=soon())
    assert sent == ["1", "2"]
    assert meanwhile == [Delivered(kept=True)]


def test_a_full_spool_is_sent_before_a_new_event_is_refused(tmp_path: Path, client: Redis, redis_url: str) -> None:
    """Redis is back when the spool has just filled: nothing is dropped."""
    spool = Spool(tmp_path, SpoolBounds(events=2))
    for number in range(2):
        spool.put(drift(number))
    assert not deliver(drift(2).raw, spool, lambda: Publisher(redis_url), until=soon()).kept
    assert published(client) == ["0", "1", "2"]
    assert spool.waiting().dropped == {}


def test_a_disk_that_takes_nothing_does_not_stop_the_event(tmp_path: Path, client: Redis, redis_url: str) -> None:
    """A file stands where the folder should be: the event is published at once, or, with Redis away too, the fault is told."""
    (tmp_path / "spool").write_text("")
    spool = Spool(tmp_path)
    assert deliver(drift(1).raw, spool, lambda: Publisher(redis_url), until=soon()).entry is not None
    assert published(client) == ["1"]
    with pytest.raises(Retry, match="away"):
        deliver(drift(2).raw, spool, lambda: Publisher(NOWHERE, retry_for_s=0), until=soon())


def test_a_thousand_events_and_a_server_that_hangs(tmp_path: Path, hanging: str) -> None:
    """One answer is waited for, not a thousand: sending stops at the first, and everything still waits."""
    spool = Spool(tmp_path)
    template = drift(0).raw
    spool.put(drift(0))
    (first,) = spool.folder.glob("*.json")
    for number in range(1, 1000):
        (spool.folder / first.name.replace("0" * 19 + "1", f"{number + 1:020d}", 1)).write_text(template)
    asked = []

    def connect() -> Publisher:
        asked.append(1)
        return Publisher(hanging, timeout_s=0.2, retry_for_s=0)

    sent = send_spooled(spool, connect, until=soon())
    assert isinstance(sent.problem, Retry)
    assert (len(asked), sent.entries, spool.waiting().events) == (1, {}, 1000)


def test_the_hook_asks_a_server_that_hangs_once(
    tmp_path: Path, hanging: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three failures in a row, one wait: the others are kept at once; each is on disk, and the log says so."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    hooks = DriftwardenHooks()
    hooks._settings = {"model": "shop", "redis_url": hanging, "timeout_s": 20}
    monkeypatch.setattr("driftwarden.pipelines.hook.ANSWER_S", 0.2)
    for _ in range(3):
        hooks.on_pipeline_error(error=ValueError("x"), run_params={})
    assert Spool(tmp_path).waiting().events == 3
    assert caplog.text.count("kept pipeline_failure of shop in the spool, not published") == 3
    assert caplog.text.count("redis is away") == 1


def test_the_hook_gives_up_at_its_limit_and_the_event_is_on_disk(
    tmp_path: Path, hanging: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit of the project is shorter than the wait for an answer: the run goes on, nothing is lost."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    hooks = DriftwardenHooks()
    hooks._settings = {"model": "shop", "redis_url": hanging, "timeout_s": 0.3}
    hooks.on_pipeline_error(error=ValueError("x"), run_params={})
    assert "took over 0.3 s and was left" in caplog.text
    deadline = soon()
    while not Spool(tmp_path).waiting().events and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert Spool(tmp_path).waiting().events == 1


def test_the_next_run_sends_what_waits(
    tmp_path: Path, client: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any later run of the project, whether it has something to say or not."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    for number in range(3):
        Spool(tmp_path).put(drift(number))
    hooks = DriftwardenHooks()
    hooks.before_pipeline_run(None)
    assert published(client) == [], "a project without configuration is left alone"
    hooks._settings = {"model": "shop", "redis_url": redis_url}
    hooks.before_pipeline_run(None)
    assert published(client) == ["0", "1", "2"]


def test_wrong_bounds_are_one_line() -> None:
    """What was got and what was expected, with the key."""
    assert read_bounds(None, where="driftwarden.yml") == SpoolBounds()
    assert read_bounds({"max_age": "2h", "events": 5}, where="x").max_age == timedelta(hours=2)
    for options in ({"events": 0}, {"max_age": "400d"}, {"max_age": 5}, {"size": 1}, "no", {"mib": "many"}):
        with pytest.raises(BadInput, match="spool"):
            read_bounds(options, where="driftwarden.yml")


def test_emit_sends_the_spool(
    tmp_path: Path, client: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--spool` alone, and before anything newer; where Redis is away the exit code is 1 and all still wait."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    monkeypatch.setattr("driftwarden.stream.client.RETRY_FOR_S", 0.0)
    Spool(tmp_path).put(drift(1))
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", NOWHERE)
    assert run(["emit", "--spool"]) == 1
    assert "0 events published, 1 left" in capsys.readouterr().err
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", redis_url)
    assert run(["emit", "--spool", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["id"] == "1"
    Spool(tmp_path).put(drift(2))
    (tmp_path / "more.json").write_text(drift(3).raw)
    assert run(["emit", str(tmp_path / "more.json")]) == 0
    assert published(client) == ["1", "2", "3"]
    assert run(["emit"]) == 2
    assert run(["emit", "--spool", str(tmp_path / "more.json")]) == 2


def test_doctor_tells_what_waits_and_what_was_lost(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many, since when, how many were never sent, how many files were set aside."""
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.cli.doctor import _spool

    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", redis_url)
    settings = read_settings()
    assert [check.state for check in _spool(settings)] == ["ok"]
    spool = Spool(tmp_path, SpoolBounds(events=2), clock=FakeClock(START))
    for number in range(2):
        spool.put(drift(number))
    with pytest.raises(SpoolFull):
        spool.put(drift(2))
    (spool.folder / "x.bad").write_text("")
    waits, lost, bad = _spool(settings)
    assert "2 events wait" in waits.detail
    assert "since 2026-11-20T09:00:00" in waits.detail
    assert "1 events were never sent (full: 1), last at 2026-11-20T09:00:00" in lost.detail
    assert bad.name == "spool files"
    assert {check.state for check in (waits, lost, bad)} == {"warning"}


def test_names_that_no_writer_gives_are_left_alone(tmp_path: Path) -> None:
    """Other files in the folder are neither sent nor counted nor removed."""
    spool, sent = Spool(tmp_path), list[str]()
    spool.put(drift(1))
    for name in ("notes.txt", "1.2.3.m.json", f"{1:020d}.1.1.m.zzzzzzzz.json"):
        (spool.folder / name).write_text(drift(9).raw)
    spool.send(collecting(sent), until=soon())
    assert sent == ["1"]
    assert (spool.folder / "notes.txt").exists()
    assert (spool.folder / f"{1:020d}.1.1.m.zzzzzzzz.json").exists()
