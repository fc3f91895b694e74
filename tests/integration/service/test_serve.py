"""The whole service as a process with its real parts: an event by bare XADD goes in, the outcome is read from the audit log."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parent))

from stack import Stack, bad_files

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.embedded import EmbeddedRedis

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
AT_REST = {"resolved", "undone", "failed", "rejected", "expired", "closed", "awaiting_approval", "verifying"}
WRONG = ("no-target", "empty", "one-class", "not-finite", "vanished", "torn", "absent", "outside", "climbing", "linked",
         "system", "remote")  # fmt: skip
UNREADABLE = {
    "event": b"\xff\xfe",
    "not json": b"nope",
    "data.model": json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "io.driftwarden.drift.v1",
                              "time": "2026-11-20T09:00:00Z", "data": {"kind": "data_drift"}}).encode(),
    "too large": b'{"specversion":"1.0","pad":"' + b"x" * (1024 * 1024 + 1 - 30) + b'"}',
}  # fmt: skip


@dataclass
class Run:
    """What one run of `driftwarden serve` left behind."""

    stack: Stack
    store: WorkflowStore
    incidents: dict[str, dict[str, Any]]
    letters: list[dict[bytes, bytes]]
    log: list[dict[str, Any]]
    exit_code: int
    said: str

    def of(self, model: str) -> dict[str, Any]:
        """The document of a model's incident."""
        return self.incidents[model]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One process takes every kind of bad input and good events among it, and is stopped by SIGTERM."""
    stack = Stack(tmp_path_factory.mktemp("serve"), models=tuple(f"bad-{name}" for name in WRONG))
    stack.register()
    files = bad_files(stack.data)
    log = stack.folder / "log.jsonl"
    with EmbeddedRedis.acquire(stack.home) as server:
        client = redis.Redis.from_url(server.url)
        for raw in UNREADABLE.values():
            client.xadd("driftwarden:events", {"event": raw})
        for name in WRONG:
            event = stack.event(f"bad-{name}", files[name], model=f"bad-{name}")
            client.xadd("driftwarden:events", {"event": json.dumps(event)})
        client.xadd("driftwarden:events", {"event": json.dumps(stack.event("who", None, model="unknown"))})
        good = stack.event("good", stack.window(1, flipped=True), day=10, action="rollback", confidence=1.0)
        good["traceparent"] = f"00-{TRACE}-00f067aa0ba902b7-01"
        client.xadd("driftwarden:events", {"event": json.dumps(good)})
        # Somebody else says that all is well since, and the newest window of all cannot be read.
        well = stack.event("well", stack.window(2, flipped=False), day=11)
        torn = stack.event("torn", files["torn"], day=12)
        for event in (well | {"source": "else"}, torn):
            client.xadd("driftwarden:events", {"event": json.dumps(event)})
        with (stack.folder / "said.txt").open("w+") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "driftwarden.service.cli.main", "serve", "--log-file", str(log)],
                env=stack.environ, cwd=stack.folder, stderr=said,
            )  # fmt: skip
            store = WorkflowStore(client)
            for _ in store.watch("0", block_ms=500):
                assert process.poll() is None, (stack.folder / "said.txt").read_text()
                found = store.list(limit=100)
                if len(found) == len(WRONG) + 2 and {one.state for one in found} <= AT_REST:
                    break
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(timeout=400)
            said.seek(0)
            words = said.read()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        incidents = {one.model: one.doc for one in store.list(limit=100)}
        letters = [fields for _, fields in client.xrange("driftwarden:dead-letters")]
        yield Run(stack, store, incidents, letters, lines, exit_code, words)
        client.close()


def test_the_good_event_is_done_and_the_log_says_so(run: Run) -> None:
    """From XADD to a new champion, read from lines of JSON: event, finding, plan, rehearsal, decision, intent, result."""
    story = [one for one in run.stack.records() if one["correlation_id"] == TRACE]
    assert [one["type"] for one in story][-2:] == ["intent", "result"]
    result = story[-1]["body"]
    assert (result["action"], result["changed"], result["before"]) == ("retrain", True, 1)
    assert run.of("tiny")["state"] == "verifying"
    assert json.loads(story[0]["body"]["event"])["id"] == "good"


def test_the_harmful_window_speaks_beside_a_harmless_and_a_torn_one(run: Run) -> None:
    """Each was read by the real diagnostics: what was measured, and the times of the rows, stand in the incident."""
    told = run.of("tiny")
    assert [one["id"] for one in told["events"]] == ["good", "well", "torn"]
    assert Path(told["event"]["window"]["uri"]).name == "w1.parquet"
    (lead,) = told["members"]
    losses = {str(one["first"])[:10]: one["performance"].get("relative_loss") for one in lead["seen"]}
    assert losses["2026-11-10"] > 0.3
    assert losses["2026-11-11"] < 0.1
    assert sorted(one["last"] for one in lead["seen"] if one["fault"] is None) == [
        "2026-11-10T04:59:00.000000Z",
        "2026-11-11T04:59:00.000000Z",
    ]
    assert lead["unknown"] == 1
    assert "torn.parquet" in lead["unknown_why"]


def test_one_correlation_id_everywhere(run: Run) -> None:
    """Log lines, audit records, trace, registry tag and the command line show the same id."""
    assert TRACE in {line["correlation_id"] for line in run.log}
    assert (run.stack.home / "traces" / f"{TRACE}.jsonl").exists()
    version = run.of("tiny")["result"]["after"]
    from mlflow import MlflowClient

    from driftwarden.settings import load_settings

    tags = MlflowClient(load_settings(run.stack.environ).tracking_uri).get_model_version("tiny", str(version)).tags
    assert TRACE in tags.values()
    shown = subprocess.run(
        [sys.executable, "-m", "driftwarden.service.cli.main", "incidents", "show", run.of("tiny")["id"], "--json"],
        env=run.stack.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(shown.stdout)
    assert document["correlation_id"] == TRACE
    assert document["trace_url"].endswith(f"{TRACE}.jsonl")
    assert document["versions"] == {"before": 1, "after": version}
    assert document["candidates"][0]["rehearsal"]["win_probability"] is not None


def test_the_champion_in_force_is_accounted_for(run: Run) -> None:
    """Every version behind the alias has an intent and a result in the log, by idempotency key."""
    results = [one["body"] for one in run.stack.records() if one["type"] == "result" and one["body"]["changed"]]
    intents = {one["body"]["idempotency_key"] for one in run.stack.records() if one["type"] == "intent"}
    assert [(one["before"], one["after"] is not None) for one in results] == [(None, True), (1, True)]
    assert {one["idempotency_key"] for one in results} <= intents


def test_what_cannot_be_read_is_a_dead_letter_with_a_reason(run: Run) -> None:
    """Not UTF-8, not JSON, a missing field, one byte over 1 MiB: each is buried with its field, and stands in the log."""
    assert len(run.letters) == len(UNREADABLE)
    assert all(letter[b"reason"] and letter[b"expected"] for letter in run.letters)
    assert b"data.model" in {letter[b"field"] for letter in run.letters}
    assert sum(one["type"] == "dead_letter" for one in run.stack.records()) == len(UNREADABLE)


@pytest.mark.parametrize("name", ["absent", "outside", "climbing", "linked", "system", "remote"])
def test_files_that_may_not_be_read_make_an_incident_that_says_so(run: Run, name: str) -> None:
    """Absent, outside the roots, through `..`, through a link, another scheme: one line, and nothing is done."""
    incident = run.of(f"bad-{name}")
    assert incident["state"] == "failed"
    assert "\n" not in incident["problem"]
    assert "root:" not in json.dumps(incident), "no content of a forbidden file is told"


SEEN = {
    "empty": "no rows",
    "one-class": "lost",
    "not-finite": "infinite",
    "vanished": "z vanished",
    "torn": "not a parquet file",
    "no-target": "",
}


@pytest.mark.parametrize("name", SEEN)
def test_tables_that_are_wrong_make_an_incident_that_goes_to_people(run: Run, name: str) -> None:
    """A bad table never stops the service, never executes anything, and the incident says what was seen."""
    incident = run.of(f"bad-{name}")
    assert incident["state"] in AT_REST - {"verifying", "resolved"}
    assert incident["result"] is None
    assert SEEN[name] in f"{incident['problem']} {incident['finding']['summary']}"
    assert incident["tries"] == 0, "a wrong table is no passing fault"


def test_an_unknown_model_is_an_incident_that_names_those_that_are_known(run: Run) -> None:
    """The event can be read; what it is about is not watched here."""
    assert run.of("unknown")["state"] == "failed"
    assert "unknown model, got `unknown`" in run.of("unknown")["problem"]


def test_what_it_writes_is_not_for_every_account(run: Run) -> None:
    """Messages, traces, knowledge, log and keys: under whatever umask it was started, accounts beside its group see nothing."""
    home = run.stack.home
    patterns = ("notifications.jsonl", "traces/*", "knowledge/**/*", "audit/serve-*", "keys/*.key")
    for pattern in patterns:
        modes = {oct(path.stat().st_mode & 0o007) for path in home.glob(pattern) if path.is_file()}
        assert modes == {"0o0"}, pattern


def test_it_stops_on_sigterm_without_a_traceback(run: Run) -> None:
    """Exit code 0, no traceback in what it said or logged."""
    assert run.exit_code == 0
    assert "Traceback" not in run.said
    assert [line for line in run.log if line["level"] == "error"] == []
