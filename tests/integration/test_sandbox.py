"""The sandbox with real processes: what misbehaves is stopped and named, and nothing of it outlives the call."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftwarden.errors import BadInput, Error, GiveUp, Retry
from driftwarden.sandbox import ProcessSandbox, SandboxLimits, redact

TASKS = """
import json, os, resource, signal, subprocess, sys, threading
from pathlib import Path
from driftwarden import errors

def echo(payload):
    return payload

def look(payload):
    return {"environ": dict(os.environ), "cwd": os.getcwd(), "files": os.listdir("."), "pid": os.getpid(),
            "server": os.getppid(), "group": os.getpgid(0), "open": sorted(os.listdir("/proc/self/fd"))}

def hog(payload):
    return {"bytes": len(bytearray(2 ** 31))}

def spin(payload):
    while True:
        pass

def wide(payload):
    Path("big").write_bytes(b"x" * (1 << 20))
    return {}

def hoard(payload):
    return {"files": len([open(os.devnull) for _ in range(5000)])}

def abort(payload):
    print("terminate called after throwing an instance of std::bad_alloc")
    sys.stdout.flush()
    os.abort()

def leave(payload):
    sys.exit(3)

def die(payload):
    os.kill(os.getpid(), signal.SIGKILL)

def loud(payload):
    for line in range(30000):
        print("line", line, "x" * 100)
    if payload.get("fail"):
        raise ValueError("after much ado")
    return {"lines": 30000}

def fail(payload):
    print("connecting with api_key=hunter2hunter2", file=sys.stderr)
    raise RuntimeError(payload["text"])

def refuse(payload):
    kind = getattr(errors, payload["kind"])
    raise kind("the reason")

def answer(payload):
    return {"nan": float("nan"), "set": {1}, "list": [1]}[payload["which"]] if payload["which"] != "nan" else {"x": float("nan")}

def leave_child(payload):
    child = subprocess.Popen(["sleep", "600"])
    return {"pid": child.pid}

def wait_for_ever(payload):
    with open(payload["fifo"], "w") as fifo:
        fifo.write(f"{os.getpid()} {os.getppid()}\\n")
        fifo.flush()
        signal.pause()
"""
PATIENCE_S = 120.0  # with a slow machine, for what comes in no time on another
linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes by their descriptors")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a module with tasks that misbehave."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rogue.py").write_text(TASKS)
    return folder


def _sandbox(tasks: Path, **values: Any) -> ProcessSandbox:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tasks),
        "LANGFUSE_SECRET_KEY": "sk-lf-123456",
        "GOOGLE_API_KEY": "google-secret",
        "DRIFTWARDEN_REDIS_URL": "redis://:redis-secret@db/0",
    }
    return ProcessSandbox(environ=environ, prefixes=("rogue:",), **values)


@pytest.fixture(scope="module")
def sandbox(tasks: Path) -> Iterator[ProcessSandbox]:
    """A warm sandbox."""
    sandbox = _sandbox(tasks, limits=SandboxLimits(cpu_s=1, file_bytes=1 << 16, log_bytes=4096))
    yield sandbox
    sandbox.close()


def _wait_for_death(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], f"process {pid} is still alive"
    finally:
        os.close(descriptor)


def test_a_json_object_goes_in_and_out(sandbox: ProcessSandbox) -> None:
    """Text, numbers and nesting arrive unchanged."""
    payload = {"text": "naïve ✓", "numbers": [1, 2.5, -0.0], "nested": {"none": None, "yes": True}}

    assert sandbox.call("rogue:echo", payload, timeout_s=PATIENCE_S) == payload


def test_the_child_sees_no_secret_and_an_empty_folder(sandbox: ProcessSandbox) -> None:
    """No credential of the service, telemetry off, threads bounded, its own process group, no inherited descriptor."""
    seen = sandbox.call("rogue:look", {}, timeout_s=PATIENCE_S)

    assert not [value for value in seen["environ"].values() if "secret" in value or "sk-lf" in value]
    assert (seen["environ"]["DO_NOT_TRACK"], seen["environ"]["OMP_NUM_THREADS"]) == ("true", "2")
    assert seen["files"] == []
    assert seen["group"] == seen["pid"]
    assert seen["open"] == ["0", "1", "2", "3"]  # the fourth lists the folder of descriptors itself
    assert not Path(seen["cwd"]).exists()


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("hog", "memory limit"),
        ("wide", "file size limit"),
        ("hoard", "open files limit"),
        ("abort", "memory limit.*bad_alloc"),
        ("spin", "processor time limit"),
    ],
)
def test_a_limit_that_is_hit_is_named(sandbox: ProcessSandbox, task: str, reason: str) -> None:
    """Trying again would not help: it is given up with the limit's name."""
    with pytest.raises(GiveUp, match=reason):
        sandbox.call(f"rogue:{task}", {}, timeout_s=PATIENCE_S, memory_bytes=1 << 28)


def test_an_endless_task_is_killed_in_time(sandbox: ProcessSandbox) -> None:
    """The wall clock ends what takes no end."""
    with pytest.raises(GiveUp, match=r"killed after 0\.2 s"):
        sandbox.call("rogue:spin", {}, timeout_s=0.2)


@pytest.mark.parametrize(("task", "reason"), [("leave", "SystemExit: 3"), ("die", "signal 9")])
def test_a_process_that_ends_itself_may_be_tried_again(sandbox: ProcessSandbox, task: str, reason: str) -> None:
    """No answer came: the next try may bring one."""
    with pytest.raises(Retry, match=reason):
        sandbox.call(f"rogue:{task}", {}, timeout_s=PATIENCE_S)


def test_much_output_neither_blocks_nor_fills_memory(sandbox: ProcessSandbox) -> None:
    """Three megabytes are drained; of a failure the last lines are told."""
    assert sandbox.call("rogue:loud", {}, timeout_s=PATIENCE_S) == {"lines": 30000}
    with pytest.raises(GiveUp, match=r"ValueError: after much ado.*line 29999") as caught:
        sandbox.call("rogue:loud", {"fail": True}, timeout_s=PATIENCE_S)
    assert len(caught.value.diagnostics()) < 600


def test_an_exception_is_told_without_secrets(sandbox: ProcessSandbox) -> None:
    """Type and message, known secrets struck out of it and out of the last output."""
    with pytest.raises(GiveUp) as caught:
        sandbox.call("rogue:fail", {"text": "cannot reach redis://u:pw@db with google-secret"}, timeout_s=PATIENCE_S)

    told = caught.value.diagnostics()
    assert "RuntimeError: cannot reach redis://u:***@db with ***" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("BadInput", "BadInput"),
        ("NotFound", "BadInput"),
        ("Retry", "Retry"),
        ("Refused", "Refused"),
        ("GiveUp", "GiveUp"),
    ],
)
def test_our_own_errors_cross_as_what_they_are(sandbox: ProcessSandbox, raised: str, expected: str) -> None:
    """What the caller does next survives the way between the processes."""
    with pytest.raises(Error, match=r"^the reason$") as caught:
        sandbox.call("rogue:refuse", {"kind": raised}, timeout_s=PATIENCE_S)
    assert type(caught.value).__name__ == expected


@pytest.mark.parametrize("which", ["nan", "set", "list"])
def test_an_answer_that_is_no_json_object_is_given_up(sandbox: ProcessSandbox, which: str) -> None:
    """Nothing but JSON objects crosses."""
    with pytest.raises(GiveUp, match=r"^rogue:answer "):
        sandbox.call("rogue:answer", {"which": which}, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("task", "payload"),
    [
        ("os:system", {}),
        ("rogue:__import__", {}),
        ("rogue:echo.x", {}),
        ("rogue:echo", {"x": float("inf")}),
        ("rogue:echo", {"x": object()}),
        ("rogue:echo", ["x"]),
    ],
)
def test_what_may_not_be_called_is_refused_before_any_process(sandbox: ProcessSandbox, task: str, payload: Any) -> None:
    """Only functions below the allowed modules, only JSON objects."""
    with pytest.raises(BadInput):
        sandbox.call(task, payload, timeout_s=PATIENCE_S)


def test_only_our_own_rooms_are_allowed_by_default() -> None:
    """Pipelines, actions and service; nothing else, however it is spelled."""
    sandbox = ProcessSandbox(environ={})
    for task in (
        "os:system",
        "driftwarden.audit.log:append",
        "driftwarden.actionsX:f",
        "subprocess.driftwarden.service.x:y",
    ):
        with pytest.raises(BadInput, match="sandbox task"):
            sandbox.call(task, {}, timeout_s=1)


@linux
def test_what_a_task_started_does_not_outlive_it(sandbox: ProcessSandbox) -> None:
    """The whole process group ends with the call."""
    _wait_for_death(sandbox.call("rogue:leave_child", {}, timeout_s=PATIENCE_S)["pid"])


def test_calls_run_at_the_same_time_and_do_not_mix(sandbox: ProcessSandbox, tasks: Path) -> None:
    """Twenty threads over four slots: each gets its own answer."""
    answers: dict[int, Any] = {}
    with contextlib.closing(_sandbox(tasks, slots=4)) as busy:
        threads = [
            threading.Thread(
                target=lambda n=n: answers.update({n: busy.call("rogue:echo", {"n": n}, timeout_s=PATIENCE_S)})
            )
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == {n: {"n": n} for n in range(20)}


@linux
def test_a_killed_server_is_replaced_and_its_children_die(tasks: Path, tmp_path: Path) -> None:
    """The call under way is a retry; the next one finds a new server; the old child is gone."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    raised: list[Error] = []

    def call() -> None:
        try:
            sandbox.call("rogue:wait_for_ever", {"fifo": str(fifo)}, timeout_s=PATIENCE_S)
        except Error as error:
            raised.append(error)

    with contextlib.closing(_sandbox(tasks)) as sandbox:
        thread = threading.Thread(target=call)
        thread.start()
        with fifo.open() as told:
            child, server = map(int, told.readline().split())
        os.kill(server, signal.SIGKILL)
        thread.join()
        _wait_for_death(child)

        assert [type(error) for error in raised] == [Retry]
        assert sandbox.call("rogue:echo", {"again": 1}, timeout_s=PATIENCE_S) == {"again": 1}


class _Dying:
    """A server's process that is dead, and is not seen to be before it is waited for."""

    def __init__(self, process: Any) -> None:
        self._process, self._seen = process, False

    def poll(self) -> int | None:
        return self._process.poll() if self._seen else None

    def wait(self, timeout: float) -> int:
        self._seen = True
        return int(self._process.wait(timeout))


def test_a_call_that_was_given_to_a_dying_server_is_given_to_the_next(tasks: Path) -> None:
    """A process lets go of its sockets before it can be seen to be dead: what it took meanwhile was never begun."""
    with contextlib.closing(_sandbox(tasks)) as sandbox:
        assert sandbox.call("rogue:echo", {"first": 1}, timeout_s=PATIENCE_S) == {"first": 1}
        server = sandbox._server
        assert server is not None
        server.process.kill()
        server.process.wait()
        ours, theirs = socket.socketpair()
        sandbox._server = type(server)(_Dying(server.process), ours, server.folder)  # type: ignore[arg-type]
        server.folder.mkdir(exist_ok=True)

        def let_go() -> None:
            for descriptor in socket.recv_fds(theirs, 1, 2)[1]:
                os.close(descriptor)

        thread = threading.Thread(target=let_go)
        thread.start()
        assert sandbox.call("rogue:echo", {"again": 1}, timeout_s=PATIENCE_S) == {"again": 1}
        thread.join()
        server.control.close()
        theirs.close()


@linux
def test_nothing_outlives_a_service_that_is_killed(tasks: Path, tmp_path: Path) -> None:
    """SIGKILL to the service: its fork server, the running child and the folder go."""
    fifo, base = tmp_path / "fifo", tmp_path / "base"
    os.mkfifo(fifo)
    program = (
        "import sys; from pathlib import Path; from driftwarden.sandbox import ProcessSandbox\n"
        "sandbox = ProcessSandbox(environ={'PYTHONPATH': sys.argv[1]}, prefixes=('rogue:',), folder=Path(sys.argv[3]))\n"
        "sandbox.call('rogue:wait_for_ever', {'fifo': sys.argv[2]}, timeout_s=600)\n"
    )
    service = subprocess.Popen([sys.executable, "-c", program, str(tasks), str(fifo), str(base)])
    with fifo.open() as told:
        child, server = map(int, told.readline().split())

    service.kill()
    service.wait()

    _wait_for_death(child)
    _wait_for_death(server)
    assert list(base.iterdir()) == []


def test_a_closed_sandbox_answers_nothing(tasks: Path, tmp_path: Path) -> None:
    """Closing removes the folder; a later call is a retry, not a hang."""
    sandbox = _sandbox(tasks, folder=tmp_path / "base")
    sandbox.call("rogue:echo", {}, timeout_s=PATIENCE_S)

    sandbox.close()
    sandbox.close()

    assert list((tmp_path / "base").iterdir()) == []
    with pytest.raises(Retry, match="closed"):
        sandbox.call("rogue:echo", {}, timeout_s=PATIENCE_S)


def test_a_library_that_is_not_installed_stops_nobody_else(tasks: Path) -> None:
    """A preload that fails is left to the task that needs it."""
    with contextlib.closing(_sandbox(tasks, preload=("no_such_library", "decimal"))) as sandbox:
        assert sandbox.call("rogue:echo", {"a": 1}, timeout_s=PATIENCE_S) == {"a": 1}


def test_a_library_that_takes_signals_back_in_a_fork_stops_no_call(tasks: Path) -> None:
    """As asyncio does from Python 3.12 on, as soon as anything has imported it."""
    (tasks / "forking.py").write_text(
        "import os, signal\nos.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))\n"
    )
    with contextlib.closing(_sandbox(tasks, preload=("forking", "asyncio"))) as sandbox:
        assert sandbox.call("rogue:echo", {"a": 1}, timeout_s=PATIENCE_S) == {"a": 1}


def test_redaction_keeps_what_is_not_secret() -> None:
    """Credentials go, the rest of the line stays."""
    assert redact("token=abc rows=3 https://u:p@h/x") == "token=*** rows=3 https://u:***@h/x"
    assert redact("the value hunter22 is out", ("hunter22",)) == "the value *** is out"
