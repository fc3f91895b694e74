"""A Chroma server in place of a folder: any number of processes use it at once."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes.ports import free_port

from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import BadInput, Retry
from driftwarden.knowledge import MemoryRecordStore, connect_knowledge


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Chroma server on loopback, up once it says that it listens."""
    port = free_port()
    chroma = Path(sys.executable).with_name("chroma")
    folder = tmp_path_factory.mktemp("chroma")
    process = subprocess.Popen(
        [str(chroma), "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stdout, listening = process.stdout, threading.Event()
    assert stdout is not None

    def drain() -> None:
        for line in stdout:  # to the end: a full pipe would stop the server
            if "server listening" in line:
                listening.set()

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    assert listening.wait(240), "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=120)
    reader.join()
    stdout.close()


def test_two_writers_of_one_server_see_each_other(server: str, tmp_path: Path) -> None:
    """Both write, both find both, nothing is kept in the state folder, and a rebuild keeps what the records hold."""
    records = MemoryRecordStore()
    first = connect_knowledge(tmp_path / "state", records, chroma_url=server)
    second = connect_knowledge(tmp_path / "state", records, chroma_url=server)
    for knowledge, id, metal in ((first, "inc-1", "zirconium"), (second, "inc-2", "hafnium")):
        knowledge.record_incident(
            PastIncident(
                id=id,
                correlation_id="a" * 32,
                model="factory-failure",
                root_cause="stuck_values",
                action="notify",
                outcome="execute",
                state="resolved",
                summary=f"The {metal} probe froze.",
                at="2026-11-20T09:00:00.000000Z",
            )
        )
    assert first.search("hafnium", kind="incident")[0].id == "inc-2"
    assert second.search("zirconium", kind="incident")[0].id == "inc-1"
    first.rebuild()
    assert [entry.id for entry in second.entries(kind="incident")] == ["inc-1", "inc-2"]
    assert second.search("a frozen sensor", kind="runbook", limit=1)[0].id == "stuck-sensor"
    assert not (tmp_path / "state").exists()
    first.close()
    assert second.search("zirconium", kind="incident")[0].id == "inc-1"
    second.close()


def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    """Retry, with its URL."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Retry, match=url):
        connect_knowledge(tmp_path, MemoryRecordStore(), chroma_url=url)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://user:secret@127.0.0.1:1"])
def test_a_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    """Only plain http and https URLs are servers."""
    with pytest.raises(BadInput, match="Chroma server"):
        connect_knowledge(tmp_path, MemoryRecordStore(), chroma_url=url)
