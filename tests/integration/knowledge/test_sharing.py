"""Several processes, one folder: one owns it, the others go through it, and one of them takes over when it dies."""

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import BadInput, GiveUp, Retry
from driftwarden.knowledge import MemoryRecordStore, RedisRecordStore, connect_knowledge, owner
from driftwarden.knowledge.connect import SharedKnowledge
from driftwarden.knowledge.owner import REQUEST_BYTES_MAX, FolderLock, OwnerServer, socket_path, told_socket


def _incident(id: str, summary: str, **changes: Any) -> PastIncident:
    fields: dict[str, Any] = {
        "id": id,
        "correlation_id": "a" * 32,
        "model": "factory-failure",
        "root_cause": "stuck_values",
        "action": "quarantine_data",
        "outcome": "execute",
        "state": "resolved",
        "summary": summary,
        "at": "2026-11-20T09:00:00.000000Z",
    }
    return PastIncident.model_validate({**fields, **changes})


@pytest.fixture
def shared(tmp_path: Path, redis_socket: str, client: Any) -> Iterator[Callable[[], SharedKnowledge]]:
    """Open the same folder again and again in this process."""
    opened: list[SharedKnowledge] = []

    def open_one() -> SharedKnowledge:
        records = RedisRecordStore(redis.Redis(unix_socket_path=redis_socket), "driftwarden:knowledge")
        knowledge = connect_knowledge(tmp_path / "state", records)
        assert isinstance(knowledge, SharedKnowledge)
        opened.append(knowledge)
        return knowledge

    yield open_one
    for knowledge in opened:
        knowledge.close()


def test_a_client_takes_over_from_an_owner_that_was_killed(start: Any, shared: Any) -> None:
    """Given an owner and a client. If the owner is killed, I expect the client to go on with all that was recorded."""
    first = start()
    here = shared()
    assert (first.is_owner, here.is_owner) == (True, False)
    here.record_incident(_incident("inc-1", "The zirconium probe froze."))
    assert [hit["id"] for hit in first.do("search", "zirconium probe", kind="incident")] == ["inc-1"]
    assert here.search("zirconium probe", kind="incident") == here.search("zirconium probe", kind="incident", limit=1)

    first.kill()

    here.record_incident(_incident("inc-2", "The hafnium probe froze."))
    assert here.is_owner
    assert [hit.id for hit in here.search("hafnium probe", kind="incident", limit=1)] == ["inc-2"]
    assert {entry.id for entry in here.entries(kind="incident")} == {"inc-1", "inc-2"}


def test_of_many_processes_one_owns_and_all_see_every_write(start: Any) -> None:
    """Three processes write; each finds what the others wrote, through the one owner."""
    processes = [start() for _ in range(3)]
    assert [process.is_owner for process in processes] == [True, False, False]
    for number, process in enumerate(processes):
        written = _incident(f"inc-{number}", f"Probe of metal {number}.").model_dump(mode="json")
        assert process.do("record_incident", written) is None
    answers = [process.do("entries", kind="incident") for process in processes]
    assert [entry["id"] for entry in answers[0]] == ["inc-0", "inc-1", "inc-2"]
    assert answers[0] == answers[1] == answers[2]


def test_two_survivors_agree_on_one_owner(start: Any) -> None:
    """If the owner of three is killed, the first to ask takes its place and serves the other."""
    first, second, third = start(), start(), start()
    first.kill()
    assert second.do("search", "frozen sensor", limit=1)[0]["id"] == "stuck-sensor"
    assert third.do("search", "frozen sensor", limit=1)[0]["id"] == "stuck-sensor"
    assert [second.do("is_owner"), third.do("is_owner")] == [True, False]


def test_an_owner_that_leaves_hands_the_folder_over(shared: Any) -> None:
    """Closing is as good as dying: the client owns the folder at its next call, and the closed one refuses."""
    first, second = shared(), shared()
    runbook = (
        "---\nid: own\ntitle: Own\nroot_causes: [unknown]\nactions: [notify]\nkinds: [data_drift]\nrevision: 1\n---\n"
    )
    assert second.add_runbook(runbook + "## Text\nLimp thermocouple.\n", where="own.md").id == "own"
    first.close()
    second.rebuild()
    assert second.is_owner
    assert second.search("limp thermocouple", limit=1)[0].id == "own"
    with pytest.raises(GiveUp, match="closed"):
        first.search("limp")


def test_faults_travel_as_what_they_are(shared: Any) -> None:
    """A malformed runbook is the caller's fault on either side of the socket."""
    shared()
    there = shared()
    with pytest.raises(BadInput, match=r"x\.md:1: no front matter"):
        there.add_runbook("hello", where="x.md")
    with pytest.raises(BadInput, match="at most"):
        there.add_runbook("x" * REQUEST_BYTES_MAX, where="x.md")
    with pytest.raises(BadInput, match="root cause"):
        there.search("x", root_cause="gremlins")


def test_a_summary_larger_than_a_request_is_recorded_whole(shared: Any) -> None:
    """The record holds all of it, the request only what is indexed."""
    shared()
    there = shared()
    text = "zirconium " + "x" * (2 * REQUEST_BYTES_MAX)
    there.record_incident(_incident("inc-1", text, columns=[f"c{number}" * 500 for number in range(2_000)]))
    assert there.search("zirconium", kind="incident")[0].id == "inc-1"
    assert dict(there._records.all())["incident:inc-1"]["summary"] == text


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"do":"search","text":1,"kind":null,"root_cause":null,"limit":1}\n',
        b'{"do":"search","text":"a","kind":"poem","root_cause":null,"limit":1}\n',
        b'{"do":"search","text":"a","kind":null,"root_cause":{"$ne":"x"},"limit":1}\n',
        b'{"do":"search","text":"a","kind":null,"root_cause":null,"limit":1e9}\n',
        b'{"do":"index_incident","incident":{"id":"x"}}\n',
        b'{"do":"close"}\n',
        b"x" * (REQUEST_BYTES_MAX + 1),
    ],
)
def test_a_bad_request_gets_one_answer_and_harms_nobody(shared: Any, tmp_path: Path, request_bytes: bytes) -> None:
    """Whatever comes, the owner says what was wrong and goes on."""
    own = shared()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(told_socket(tmp_path / "state" / "knowledge")))
        line.sendall(request_bytes)
        line.shutdown(socket.SHUT_WR)
        with line.makefile("rb") as stream:
            answer = json.loads(stream.readline())
    assert answer["ok"] is False
    assert answer["error"] == "bad_input"
    assert own.search("frozen sensor", limit=1)[0].id == "stuck-sensor"
    assert not list((tmp_path / "state" / "knowledge" / "index").glob("aside-*"))


def test_the_socket_is_private_and_short(shared: Any, tmp_path: Path) -> None:
    """Only this user may reach it, and however deep the state folder lies its path fits into a socket's address."""
    shared()
    path = told_socket(tmp_path / "state" / "knowledge")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "knowledge").stat().st_mode) == 0o700
    assert len(os.fsencode(socket_path(tmp_path / ("deep/" * 60)))) < 108


def test_a_socket_in_a_folder_of_others_is_not_trusted(tmp_path: Path) -> None:
    """A path that leads to where anybody may write is refused."""
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    (tmp_path / "socket-path").write_text(str(open_folder / "x.sock"))
    with pytest.raises(Retry, match="not in a private folder"):
        told_socket(tmp_path)


def test_a_runtime_folder_that_others_can_enter_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If somebody made our folder beforehand with other rights, another one is used."""
    squatted = tmp_path / f"driftwarden-{os.getuid()}"
    squatted.mkdir()
    squatted.chmod(0o755)
    monkeypatch.setattr(owner.tempfile, "gettempdir", lambda: str(tmp_path))
    path = socket_path(tmp_path / "state")
    assert squatted not in path.parents
    assert owner.is_private(path.parent)


def test_an_owner_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Somebody holds the lock and listens nowhere, or listens and is silent: Retry, in bounded time."""
    folder = tmp_path / "state" / "knowledge"
    lock = FolderLock(folder)
    assert lock.take()
    waiting = connect_knowledge(tmp_path / "state", MemoryRecordStore(), timeout_s=0.2)
    with pytest.raises(Retry, match="does not answer"):
        waiting.search("frozen sensor")
    silent = OwnerServer(folder)
    with pytest.raises(Retry, match="does not answer"):
        waiting.search("frozen sensor")
    silent.close()
    lock.release()
    assert waiting.search("frozen sensor", limit=1)[0].id == "stuck-sensor"
    waiting.close()
