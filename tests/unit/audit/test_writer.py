"""The writer: durable before it returns, one chain under many threads, dead after a failed write, whole after SIGKILL."""

import fcntl
import itertools
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.audit import AuditWriter, Limits, files, read_records, verify
from driftwarden.audit.batch import LEAD_S
from driftwarden.audit.files import UNWRITABLE_MARK, write_durably
from driftwarden.audit.maintain import fsck
from driftwarden.audit.record import TS_PATTERN
from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, LogUnwritable

QUIET = Limits(idle_s=None)
KILLED = """
import sys
from pathlib import Path
from driftwarden.audit import AuditWriter
from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
writer = AuditWriter(Path(sys.argv[1]), stream="killed", clock=SystemClock())
while True:
    print(writer.append("event", {"event": "x" * 500}, actor=Actor(kind="service", id="w")), flush=True)
"""


def _open(directory: Path, **more: Any) -> AuditWriter:
    return AuditWriter(directory, **{"stream": "serve", "clock": SystemClock(), "limits": QUIET, **more})


def test_a_record_is_on_disk_when_append_returns(tmp_path: Path, actor: Actor) -> None:
    """Given an append that returned, its line went to a file whose writes are on the disk when they return."""
    durable: list[bytes] = []

    def write(handle: int, data: bytes) -> None:
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & files.DURABLE == files.DURABLE
        write_durably(handle, data)
        durable.append(data)

    with _open(tmp_path / "audit", write=write) as writer:
        digest = writer.append("event", {"event": "{}"}, actor=actor)
        (path,) = (tmp_path / "audit").glob("*.jsonl")
        assert path.read_bytes() == b"".join(durable)
        assert json.loads(durable[-1])["@hash"] == digest


def test_where_a_write_is_not_durable_by_itself_a_sync_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a platform without O_DSYNC, the bytes are forced to the disk after they were written, each time."""
    synced: list[int] = []
    monkeypatch.setattr(files, "DURABLE", 0)
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with (tmp_path / "file").open("wb") as file:
        for data in (b"1", b"23"):
            write_durably(file.fileno(), data)
    assert synced == [1, 3]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_flag_counts_where_it_is_known_to_be_kept(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux each write is its own sync; elsewhere O_DSYNC is not relied on, though the system knows it."""
    assert files.__file__ is not None
    monkeypatch.setattr(sys, "platform", platform)
    assert runpy.run_path(files.__file__)["DURABLE"] == (os.O_DSYNC if platform == "linux" else 0)


def test_many_threads_share_syncs_and_keep_one_chain(
    tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given 16 threads that append at once while the disk is slow, they share syncs, and the chain is whole."""
    syncs: list[int] = []
    holding, release = threading.Event(), threading.Event()

    def write(handle: int, data: bytes) -> None:
        syncs.append(handle)
        if len(syncs) == 2:
            holding.set()
            release.wait(timeout=60)
        write_durably(handle, data)

    writer = _open(tmp_path / "audit", write=write)
    stage, places = writer._stage, threading.Semaphore(0)

    def counted(*args: Any) -> str:
        places.release()
        return stage(*args)

    monkeypatch.setattr(writer, "_stage", counted)

    def work(index: int) -> None:
        writer.append("event", {"event": str(index)}, actor=actor, incident=f"inc-{index}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    threads[0].start()
    assert holding.wait(timeout=60)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:  # the first one holds the disk until every other has taken its place
        assert places.acquire(timeout=60)
    with writer._mutex:
        release.set()
    for thread in threads:
        thread.join(timeout=60)
    assert len(syncs) == 3, "the open record, the first to come, and all the others together"
    writer.close()
    report = verify(tmp_path / "audit")
    assert report.ok
    assert report.records == 19


@pytest.mark.parametrize("fault", ["write", "sync"])
def test_after_a_failed_write_or_sync_nothing_is_written_any_more(
    tmp_path: Path, actor: Actor, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a disk that failed once, every later append is refused, and a new writer too until fsck found the log whole."""
    broken = threading.Event()

    def fail(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    def write(handle: int, data: bytes) -> None:
        write_durably(handle, data)
        if broken.is_set():
            fail()

    writer = _open(tmp_path / "audit", write=write)
    writer.append("event", {"event": "1"}, actor=actor)
    with monkeypatch.context() as patch:
        if fault == "write":
            patch.setattr("driftwarden.audit.files.write_all", fail)
        else:
            broken.set()
        with pytest.raises(LogUnwritable, match="No space left"):
            writer.append("intent", {"action": "retrain"}, actor=actor)
    broken.clear()
    assert not writer.healthy
    with pytest.raises(LogUnwritable):
        writer.append("intent", {"action": "retrain"}, actor=actor)
    writer.close()
    (tmp_path / "audit" / UNWRITABLE_MARK).touch()
    with pytest.raises(LogUnwritable, match="fsck"):
        _open(tmp_path / "audit")
    mended = fsck(tmp_path / "audit")
    assert mended.ok
    assert mended.cleared
    with _open(tmp_path / "audit") as again:
        again.append("event", {"event": "2"}, actor=actor)
    assert verify(tmp_path / "audit").ok


def test_threads_that_wait_for_a_failed_sync_all_hear_of_it(tmp_path: Path, actor: Actor) -> None:
    """Given eight threads behind one failing sync, none of them is told that its record is durable."""
    failing = threading.Event()

    def write(handle: int, data: bytes) -> None:
        if failing.is_set():
            raise OSError(5, "Input/output error")
        write_durably(handle, data)

    writer = _open(tmp_path / "audit", write=write)
    failing.set()
    outcomes: list[str] = []

    def work() -> None:
        try:
            outcomes.append(writer.append("intent", {}, actor=actor))
        except LogUnwritable:
            outcomes.append("refused")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == ["refused"] * 8


def test_who_writes_for_others_hands_over_after_some_batches(
    tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a record more at every sync, the thread that writes returns after its share, another goes on, nothing is lost."""
    share, ticks = 8, itertools.count()  # a clock on which one thread's time is over after so many batches
    monkeypatch.setattr("driftwarden.audit.batch.monotonic", lambda: next(ticks) * LEAD_S / share)
    writers: list[int] = []
    threads: list[threading.Thread] = []
    writing, handed = threading.Event(), threading.Semaphore(0)
    writing.set()

    def write(handle: int, data: bytes) -> None:
        if not writing.is_set():
            writers.append(threading.get_ident())
            if len(writers) <= 2 * share:
                threads.append(threading.Thread(target=writer.append, args=("event", {}), kwargs={"actor": actor}))
                threads[-1].start()
                assert handed.acquire(timeout=60)
        write_durably(handle, data)

    writer = _open(tmp_path / "audit", write=write)
    hand_in = writer._commit.hand_in

    def counted(ops: list[Any]) -> Any:
        placed = hand_in(ops)
        if threads:
            handed.release()
        return placed

    monkeypatch.setattr(writer._commit, "hand_in", counted)
    writing.clear()
    writer.append("event", {}, actor=actor)
    assert writers[:share] == [threading.get_ident()] * share
    for thread in threads:
        thread.join(timeout=60)
    assert writers.count(threading.get_ident()) == share
    assert len(writers) == len(threads) + 1 == 2 * share + 1
    writer.close()
    report = verify(tmp_path / "audit")
    assert report.ok
    assert report.records == len(threads) + 4


def test_an_interrupt_while_writing_refuses_everyone_who_waits(
    tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a thread that is interrupted in its sync, it hears of that, and who waits behind it is refused and never hangs."""
    waiting: list[threading.Thread] = []
    outcomes: list[str] = []
    broken, handed = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        try:
            outcomes.append(writer.append("intent", {}, actor=actor))
        except LogUnwritable:
            outcomes.append("refused")

    def write(handle: int, data: bytes) -> None:
        if broken.is_set():
            waiting.extend(threading.Thread(target=work) for _ in range(4))
            for thread in waiting:
                thread.start()
            for _ in range(5):
                assert handed.acquire(timeout=60)
            raise KeyboardInterrupt
        write_durably(handle, data)

    writer = _open(tmp_path / "audit", write=write)
    hand_in = writer._commit.hand_in

    def counted(ops: list[Any]) -> Any:
        placed = hand_in(ops)
        handed.release()
        return placed

    monkeypatch.setattr(writer._commit, "hand_in", counted)
    broken.set()
    with pytest.raises(KeyboardInterrupt):
        writer.append("intent", {}, actor=actor)
    for thread in waiting:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert outcomes == ["refused"] * 4
    assert not writer.healthy
    writer.close()


def test_a_failure_while_rotating_refuses_and_never_hangs(
    tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a folder that cannot be read when a new file begins, the append is refused, and so is the next."""
    writer = _open(tmp_path / "audit", limits=Limits(idle_s=None, file_bytes_max=10))
    writer.append("event", {}, actor=actor)

    def gone(directory: Path) -> None:
        raise BadInput("audit folder", got=directory)

    monkeypatch.setattr(files, "heads", gone)
    for _ in range(2):
        with pytest.raises(LogUnwritable, match="audit folder"):
            writer.append("event", {}, actor=actor)
    writer.close()
    assert verify(tmp_path / "audit").ok


def test_a_killed_writer_leaves_every_record_that_it_announced(tmp_path: Path) -> None:
    """Given SIGKILL in the middle of writing, the log verifies and holds every hash that append returned."""
    directory = tmp_path / "audit"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    announced = [process.stdout.readline().strip() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    with process:
        announced += [line for line in process.stdout.read().splitlines() if len(line) == 64]
    assert verify(directory).ok
    held = {record.hash for record in read_records(directory)}
    assert set(announced) <= held


def test_a_new_process_never_adds_to_the_file_of_another(tmp_path: Path, actor: Actor) -> None:
    """Given a file with a torn tail, a new writer leaves it as it is, starts its own stream and names what it saw."""
    directory = tmp_path / "audit"
    first = _open(directory)
    digest = first.append("event", {"event": "1"}, actor=actor)
    (old,) = directory.glob("*.jsonl")
    with old.open("ab") as handle:
        handle.write(b'{"@hash":"12')
    before = old.read_bytes()
    with _open(directory) as second:
        assert second.stream != first.stream
    assert old.read_bytes() == before
    opened = next(record for record in read_records(directory) if record.stream == second.stream)
    assert opened.type == "open"
    assert opened.body["streams"] == {first.stream: {"hash": digest, "seq": 1}}
    report = verify(directory)
    assert report.ok
    assert [file.torn_bytes for file in report.files if file.stream == first.stream] == [12]


def test_a_forked_child_cannot_write(tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given another process id than the writer's, append is refused, so that no two processes share a stream."""
    writer = _open(tmp_path / "audit")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(LogUnwritable, match="forked"):
        writer.append("event", {}, actor=actor)


def test_rotation_by_size_and_by_age_continues_the_chain(tmp_path: Path, actor: Actor) -> None:
    """Given files that are full or old, the next begins with the next seq and the last hash; each ends in a checkpoint."""

    class Hours:
        at = datetime(2026, 11, 20, tzinfo=UTC)

        def now(self) -> datetime:
            self.at += timedelta(hours=5)
            return self.at

    by_age = Limits(idle_s=None, checkpoint_age=timedelta(days=99))
    with _open(tmp_path / "age", clock=Hours(), limits=by_age) as writer:
        for index in range(10):
            writer.append("event", {"event": str(index)}, actor=actor)
    with _open(tmp_path / "size", limits=Limits(idle_s=None, file_bytes_max=3000)) as writer:
        for index in range(30):
            writer.append("event", {"event": str(index)}, actor=actor)
    for folder in ("age", "size"):
        report = verify(tmp_path / folder)
        assert report.ok
        ordered = sorted(report.files, key=lambda file: file.first_seq or 0)
        assert len(ordered) > 2
        for before, after in itertools.pairwise(ordered):
            assert after.first_seq == (before.last_seq or 0) + 1
            assert (tmp_path / folder / before.name).read_text().splitlines()[-1].endswith('"type":"checkpoint","v":1}')


def test_time_never_decreases_within_a_stream(tmp_path: Path, actor: Actor) -> None:
    """Given a clock that is set back, records keep the later moment."""

    class Back:
        at = datetime(2026, 11, 20, tzinfo=UTC)

        def now(self) -> datetime:
            self.at -= timedelta(minutes=1)
            return self.at

    with _open(tmp_path / "audit", clock=Back()) as writer:
        writer.append("event", {}, actor=actor)
    stamps = [record.ts for record in read_records(tmp_path / "audit")]
    assert stamps == sorted(stamps)
    assert verify(tmp_path / "audit").ok


@given(st.integers(min_value=-(10**16), max_value=10**17))
def test_a_moment_in_utc_is_written_like_that_of_another_zone(microseconds: int) -> None:
    """Given any moment, its text is the same whichever zone it came in, with six digits."""
    moment = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(microseconds=microseconds)
    text = rfc3339(moment)
    assert text == rfc3339(moment.astimezone(timezone(timedelta(hours=5, minutes=45))))
    assert re.fullmatch(TS_PATTERN, text)


@pytest.mark.parametrize(
    ("field", "value"), [("correlation_id", "XYZ"), ("causation", "abc"), ("incident", 7), ("type", "whatever")]
)
def test_a_malformed_record_is_refused_and_does_no_harm(tmp_path: Path, actor: Actor, field: str, value: Any) -> None:
    """Given a field that the format does not allow, append refuses it, and the writer goes on."""
    with _open(tmp_path / "audit") as writer:
        arguments: dict[str, Any] = {"type": "event", "body": {}, "actor": actor, field: value}
        with pytest.raises(BadInput, match=field):
            writer.append(**arguments)
        assert writer.healthy
    assert verify(tmp_path / "audit").records == 3


def test_a_body_that_no_verifier_would_read_is_refused_and_does_no_harm(tmp_path: Path, actor: Actor) -> None:
    """Given bodies around the depth that the strict decoder takes, what is written verifies, the rest is refused."""
    written = 0
    with _open(tmp_path / "audit") as writer:
        for depth in (*range(245, 262), 100_000):
            body: dict[str, Any] = {}
            for _ in range(depth):
                body = {"x": body}
            with suppress(BadInput):
                writer.append("event", body, actor=actor)
                written += 1
        assert writer.healthy
    report = verify(tmp_path / "audit")
    assert report.ok
    assert report.records == written + 3
    assert 0 < written < 17


def test_checkpoints_by_count_and_on_demand_have_their_notes_beside_the_log(tmp_path: Path, actor: Actor) -> None:
    """Given a limit of four records, notes beside the log are those in the records, and an idle log is not signed twice."""
    with _open(tmp_path / "audit", limits=Limits(idle_s=None, checkpoint_records=4)) as writer:
        for index in range(9):
            writer.append("event", {"event": str(index)}, actor=actor)
        writer.checkpoint()
        held = len(list((tmp_path / "audit" / "checkpoints").iterdir()))
        writer.checkpoint()
        assert len(list((tmp_path / "audit" / "checkpoints").iterdir())) == held
    inside = {record.body["note"] for record in read_records(tmp_path / "audit") if record.type == "checkpoint"}
    beside = {path.read_text() for path in (tmp_path / "audit" / "checkpoints").iterdir()}
    assert inside == beside
    assert len(inside) == 4


def test_the_key_is_created_once_and_private(tmp_path: Path) -> None:
    """Given a first use, the key has mode 0600 and stays; one that others can read is refused."""
    key = tmp_path / "keys" / "audit.key"
    with _open(tmp_path / "audit"):
        held = key.read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
    with _open(tmp_path / "audit"):
        assert key.read_bytes() == held
    key.chmod(0o644)
    with pytest.raises(BadInput, match="0o600"):
        _open(tmp_path / "audit")


def test_an_idle_log_is_signed_by_its_own_thread(tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given records and then silence, a note appears without another append."""
    signed, create = threading.Event(), files.create_durably

    def seen(path: Path, data: bytes, **more: Any) -> None:
        create(path, data, **more)
        if path.suffix == ".note":
            signed.set()

    monkeypatch.setattr(files, "create_durably", seen)
    writer = _open(tmp_path / "audit", limits=Limits(idle_s=0.01))
    writer.append("event", {}, actor=actor)
    assert signed.wait(timeout=60)
    writer.close()
    assert verify(tmp_path / "audit").ok


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_beside_a_service_is_the_service_s(tmp_path: Path, actor: Actor) -> None:
    """Given a state folder of another account, a command of root leaves nothing there that the account cannot read."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65_533, 65_532)
    with _open(home / "audit", personal=("reason",)) as writer:
        writer.append("mode_change", {"verdict": "approver_enrolled", "reason": "enrolled by hand"}, actor=actor)
    made = sorted(path for path in home.rglob("*"))
    assert {"audit", "checkpoints", "keys", "audit.key", "audit.pub", "vault.sqlite"} <= {path.name for path in made}
    assert any(path.suffix == ".note" for path in made)
    assert any(path.suffix == ".jsonl" for path in made)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65_533, 65_532)}
    assert (home / "keys" / "audit.key").stat().st_mode & 0o777 == 0o600
