"""A real `driftwarden serve` whose policy file is replaced, broken and mended, while events come in."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parent))

from fakes.redis_server import until
from stack import POLICY, Stack

from driftwarden.audit import verify
from driftwarden.policies import load_policy, replay
from driftwarden.service.workflow.policy_agreement import Holding, live_holdings
from driftwarden.stream.embedded import EmbeddedRedis

COMMAND = [sys.executable, "-m", "driftwarden.service.cli.main"]
STRICTER = POLICY.replace('revision: "1"', 'revision: "2"').replace('"0.80"', '"0.95"')
HALTED = STRICTER.replace('revision: "2"', 'revision: "3"').replace("enforcement: enforce", "enforcement: halt")


def digest(text: str) -> str:
    """Of the policy."""
    return load_policy(text, "policy.yml").digest


@dataclass
class Run:
    """What one run left behind."""

    records: list[dict[str, Any]]
    beside: Holding  # what the process said it held while the file was broken
    last: Holding
    doctor: dict[str, dict[str, Any]]
    exit_code: int
    log: list[str]

    def of(self, type: str) -> list[dict[str, Any]]:
        """Records of the service's own stream, in order."""
        return [one for one in self.records if one["type"] == type]


class Serving:
    """One `driftwarden serve`, read line by line: each step waits for what the service says, and for nothing else."""

    def __init__(self, stack: Stack, client: Any) -> None:
        self.stack, self.client, self.lines, self.sent = stack, client, [""], 0
        self.file = stack.conf / "local" / "driftwarden" / "policy.yml"
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--workers", "1"],
            env=stack.environ, cwd=stack.folder, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.says("driftwarden serves")

    def says(self, words: str) -> None:
        """Read on until a line holds these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if words in line:
                return
        raise AssertionError(f"it ended and never said `{words}`:\n{''.join(self.lines)}")

    def rule(self, text: str, until: str) -> None:
        """Write the policy file, and wait for what is said of it."""
        self.file.write_text(text)
        self.says(until)

    def decide(self) -> None:
        """An event of a model that nobody knows: it is decided like any other, and fails."""
        self.sent += 1
        event = self.stack.event(f"e{self.sent}", None, model=f"unknown{self.sent}")
        self.client.xadd("driftwarden:events", {"event": json.dumps(event)})
        self.says("incident failed")

    def holds(self, expected: Callable[[Holding], bool]) -> Holding:
        """What it tells the others that it holds, once that is what is expected: it says so here first, and then there."""
        told: list[Holding] = []

        def look() -> bool:
            told[:] = [one for one in live_holdings(self.client, "driftwarden:").values() if one and expected(one)]
            return bool(told)

        until(look, what="its word")
        (held,) = told
        return held

    def stop(self) -> int:
        """End it as an operator does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=400)
        self.lines += rest.splitlines(keepends=True)
        return self.process.returncode

    def doctor(self) -> dict[str, dict[str, Any]]:
        """What the doctor says, by name of the check."""
        done = subprocess.run(
            [*COMMAND, "doctor", "--json"], env=self.stack.environ, cwd=self.stack.folder, capture_output=True, check=False
        )  # fmt: skip
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Decided under the first policy, under a stricter one, beside a broken file, and under one that halts."""
    stack = Stack(tmp_path_factory.mktemp("policy"))
    with EmbeddedRedis.acquire(stack.home) as server, redis.Redis.from_url(server.url) as client:
        service = Serving(stack, client)
        try:
            service.decide()
            service.rule(STRICTER, "the policy in force is now stack 2")
            service.decide()
            service.rule(HALTED[:200], "does not load, stack 2 stays in force")
            service.decide()
            beside = service.holds(lambda held: held.fault is not None)
            doctor = service.doctor()
            service.rule(HALTED, "the policy in force is now stack 3")
            service.decide()
            last = service.holds(lambda held: held.digest == digest(HALTED))
            exit_code = service.stop()
        finally:
            service.process.kill()
        assert live_holdings(client, "driftwarden:") == {}, "who has stopped holds nothing"
    assert verify(stack.home / "audit").ok
    return Run(stack.records(), beside, last, doctor, exit_code, service.lines)


def test_every_decision_is_of_the_policy_in_force_then(run: Run) -> None:
    """The first, the second, still the second while the file is broken, the third."""
    decided = [one["body"]["policy_digest"] for one in run.of("decision")]
    assert decided == [digest(POLICY), digest(STRICTER), digest(STRICTER), digest(HALTED)]
    assert [one["body"]["decision"]["policy"]["revision"] for one in run.of("decision")] == ["1", "2", "2", "3"]
    assert run.last.digest == digest(HALTED)


def test_each_policy_stands_in_the_log_before_it_decides(run: Run) -> None:
    """One record for each, whole; every decision can be made again from the log alone."""
    changes = run.of("policy_change")
    assert [one["body"]["digest"] for one in changes] == [digest(POLICY), digest(STRICTER), digest(HALTED)]
    for decision in run.of("decision"):
        (change,) = (one for one in changes if one["body"]["digest"] == decision["body"]["policy_digest"])
        assert change["seq"] < decision["seq"]
    report = replay(run.records)
    assert (report.ok, report.same) == (True, 4)


def test_a_change_of_enforcement_is_a_change_of_mode(run: Run) -> None:
    """The policy that halts is recorded as a halt."""
    (mode,) = run.of("mode_change")
    assert (mode["body"]["halted"], mode["body"]["enforcement"]) == (True, {"before": "enforce", "after": "halt"})


def test_a_broken_file_is_said_loudly(run: Run) -> None:
    """In the log at error level once, to people once, by the doctor twice: the file, and what is in force instead."""
    errors = [
        json.loads(line) for line in run.log if line.startswith("{") and '"level":"error"' in line.replace(" ", "")
    ]
    assert ["does not load, stack 2 stays in force" in one["message"] for one in errors] == [True]
    assert run.doctor["policy"]["state"] == "fault"
    in_force = run.doctor["policy in force"]
    assert in_force["state"] == "fault"
    assert "stack 2" in in_force["detail"]
    assert "enforcement enforce, in 1 process" in in_force["detail"]
    assert run.beside.fault is not None
    assert run.beside.fault in in_force["detail"]


def test_it_stops_in_order(run: Run) -> None:
    """Exit code 0, no traceback."""
    assert run.exit_code == 0
    assert not any("Traceback" in line for line in run.log)
