"""A file of the log that the service may not read: it stops, says which, and its exit code is no success."""

import json
import subprocess
import sys
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent))

from stack import Stack

from driftwarden.stream.embedded import EmbeddedRedis


def test_the_service_stops_and_names_the_file(tmp_path: Path) -> None:
    """Given a log of which a part cannot be read, nothing is decided, and `serve` ends by itself with 1."""
    stack = Stack(tmp_path)
    folder = stack.home / "audit"
    folder.mkdir(parents=True)
    (folder / "other.jsonl").symlink_to(folder / "other.jsonl")  # as unreadable to root as to anybody
    with EmbeddedRedis.acquire(stack.home) as server:
        client = redis.Redis.from_url(server.url)
        client.xadd("driftwarden:events", {"event": json.dumps(stack.event("e", None, model="unknown"))})
        ended = subprocess.run(
            [sys.executable, "-m", "driftwarden.service.cli.main", "serve", "--log-file", str(tmp_path / "log.jsonl")],
            env=stack.environ, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        client.close()
    said = ended.stderr
    assert ended.returncode == 1, said
    assert "other.jsonl cannot be read" in said
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    critical = [one["message"] for one in told if one["level"] == "critical"]
    assert critical
    assert all("the audit log cannot be read" in one and "cannot be written" not in one for one in critical)
    assert "Traceback" not in said
    assert all(one["type"] != "decision" for one in stack_records(folder))


def stack_records(folder: Path) -> list[dict[str, str]]:
    """What the service itself wrote."""
    return [json.loads(line) for file in folder.glob("serve-*.jsonl") for line in file.read_text().splitlines()]
