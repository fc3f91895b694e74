"""The embedded server: started by the first, stopped by the last, one a folder, whoever dies."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from driftwarden.errors import BadInput
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis, _socket_path, running_url, stop

USER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from driftwarden.stream.client import connect
    from driftwarden.stream.embedded import EmbeddedRedis
    with EmbeddedRedis.acquire(Path(sys.argv[1])) as embedded:
        print(connect(embedded.url).info("server")["process_id"], flush=True)
        sys.stdin.read()
""")


def user(folder: Path) -> subprocess.Popen[str]:
    """A process that uses the folder's server until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def server_of(process: subprocess.Popen[str]) -> int:
    """Process id of the server that a user reached."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def leave(process: subprocess.Popen[str]) -> None:
    """Let a user end in order."""
    process.communicate("")
    assert process.returncode == 0


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """The data survives the server; its address is in a file while it runs, and every write is synced."""
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        assert (tmp_path / "redis.url").read_text() == embedded.url == running_url(tmp_path)
        client = connect(embedded.url)
        promised = {"appendonly": "yes", "appendfsync": "always"}
        assert client.config_get("append*").items() >= promised.items()
        client.set("a", "1")
    assert not (tmp_path / "redis.url").exists()
    assert running_url(tmp_path) is None
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        assert connect(embedded.url).get("a") == b"1"


def test_processes_that_race_get_the_one_server(tmp_path: Path) -> None:
    """Four processes start at once: one server; it stays while one of them lives, and ends with the last."""
    users = [user(tmp_path) for _ in range(4)]
    assert len({server_of(process) for process in users}) == 1
    for process in users[:3]:
        leave(process)
    assert running_url(tmp_path) is not None
    leave(users[3])
    assert running_url(tmp_path) is None


def test_a_killed_user_counts_no_more(tmp_path: Path) -> None:
    """SIGKILL leaves the server running for the others; the next to leave is the last one, and stops it."""
    killed, other = user(tmp_path), user(tmp_path)
    assert server_of(killed) == server_of(other)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert running_url(tmp_path) is not None
    leave(other)
    assert running_url(tmp_path) is None


def test_a_server_without_users_is_taken_over(tmp_path: Path) -> None:
    """The only user is killed: its server goes on, the next user joins it and stops it."""
    killed = user(tmp_path)
    server = server_of(killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        assert connect(embedded.url).info("server")["process_id"] == server
    assert running_url(tmp_path) is None


def test_down_stops_it_at_any_time(tmp_path: Path) -> None:
    """`stop` ends the server under its users; who still holds on can have it started again."""
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        connect(embedded.url).set("a", "1")
        assert stop(tmp_path) is True
        assert stop(tmp_path) is False
        assert connect(embedded.ensure()).get("a") == b"1"
    assert running_url(tmp_path) is None


def test_two_parts_of_a_process_share_it(tmp_path: Path) -> None:
    """Within one process too, only the last part that leaves stops the server; leaving twice is harmless."""
    first, second = EmbeddedRedis.acquire(tmp_path), EmbeddedRedis.acquire(tmp_path)
    first.release()
    first.release()
    assert connect(second.url).ping()
    second.release()
    assert running_url(tmp_path) is None


def test_a_deep_folder_with_odd_names_works(tmp_path: Path) -> None:
    """Where the path is too long for a socket, it goes to a private folder; blanks and signs do no harm."""
    folder = tmp_path / "a b#c?%20" / ("d" * 120)
    with EmbeddedRedis.acquire(folder) as embedded:
        socket = _socket_path(folder.resolve())
        assert len(str(socket)) < 104
        assert socket.parent.stat().st_mode & 0o077 == 0
        assert connect(embedded.url).ping()
        with EmbeddedRedis.acquire(folder) as again:
            assert again.url == embedded.url
    assert not socket.parent.exists()


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """A file in the place of the state folder is the request's fault."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="embedded redis needs its folder"):
        EmbeddedRedis.acquire(tmp_path / "file")


def test_a_data_file_that_is_broken_is_said(tmp_path: Path) -> None:
    """A server that cannot load its data says why, with the place of its log, and no lock stays behind."""
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        connect(embedded.url).set("a", "1")
    file = tmp_path / "redis" / "appendonly.aof"
    if not file.exists():  # Redis 7 keeps several files in a folder
        file = next((tmp_path / "redis" / "appendonlydir").glob("*.incr.aof"))
    file.write_bytes(b"this is no append-only file\r\n" * 3)
    with pytest.raises(BadInput, match="stopped at once"):
        EmbeddedRedis.acquire(tmp_path)
    assert running_url(tmp_path) is None
