"""`driftwarden policy`: exit codes, JSON, one line for what a user did wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from driftwarden.policies import canonical_facts, load_policy
from driftwarden.service.cli.main import run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy_text: str, facts: dict[str, Any]) -> Path:
    """A folder with a policy, facts, a test document and an audit log of one decision."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DRIFTWARDEN_HOME", "DRIFTWARDEN_AUDIT_DIR", "DRIFTWARDEN_CONF"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "production.yml").write_text(policy_text)
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    policy = load_policy(policy_text, "p")
    body = {"facts": canonical_facts(facts), "decision": policy.decide(facts).to_json(), "policy_digest": policy.digest}
    records = [
        {"body": policy.change_record(), "seq": 0, "stream": "s", "type": "policy_change"},
        {"body": body, "incident": "inc-1", "seq": 1, "stream": "s", "ts": "2026-11-20T09:00:00Z", "type": "decision"},
    ]
    audit = tmp_path / ".driftwarden" / "audit"
    audit.mkdir(parents=True)
    (audit / "s-0.jsonl").write_text("".join(json.dumps(item, separators=(",", ":")) + "\n" for item in records))
    return tmp_path


def test_check_says_clean_lints_or_does_not_load(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0, 1 and 2; every file is reported."""
    # The exception and the launch window of the contract's policy have a date: without them time changes nothing.
    text = (place / "production.yml").read_text()
    lasting = text.partition("  exceptions:")[0].replace("2026-12-18", "2198-12-18").replace("2027-01-04", "2199-01-04")
    (place / "clean.yml").write_text(lasting)
    (place / "lint.yml").write_text(lasting.replace('"0.80"', '"0"'))
    (place / "bad.yml").write_text(lasting.replace('"0.80"', "0.80"))
    assert run(["policy", "check", "clean.yml"]) == 0
    assert "clean" in capsys.readouterr().out
    assert run(["policy", "check", "clean.yml", "lint.yml"]) == 1
    assert "lint.yml:18: rule `confidence` can never fail" in capsys.readouterr().out
    assert run(["policy", "check", "lint.yml", "bad.yml", "none.yml", "--json"]) == 2
    captured = capsys.readouterr()
    files = json.loads(captured.out)["files"]
    assert [(item["ok"], bool(item["error"]), len(item["lints"])) for item in files] == [
        (False, False, 1),
        (False, True, 0),
        (False, True, 0),
    ]
    assert "bad.yml:18: " in captured.err


def test_decide_prints_the_decision(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 whatever the outcome; JSON is the contract's form; the table names what decided."""
    assert run(["policy", "decide", "--policy", "production.yml", "--facts", "facts.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "execute"
    facts = json.loads((place / "facts.json").read_text())
    facts["plan"]["confidence"] = float("nan")
    facts["model"]["name"] = "[red]x\x1b[0m"
    (place / "facts.json").write_text(json.dumps(facts))
    assert run(["policy", "decide", "--policy", "production.yml", "--facts", "facts.json"]) == 0
    shown = capsys.readouterr().out
    assert "ESCALATE" in shown
    assert "\x1b" not in shown
    assert any(
        line.strip().startswith(">") and "confidence" in line and "UNKNOWN" in line for line in shown.splitlines()
    )
    assert run(["policy", "explain", "--policy", "production.yml", "--facts", "facts.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["decisive"] is True


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{", '{"now": 1, "now": 2}', '{"a": ' * 100_000, "\ufeff{}", '{"a": ' + "9" * 5000 + "}"],
)
def test_facts_that_are_no_object_are_refused(place: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    """One line and exit code 2."""
    (place / "facts.json").write_text(content, encoding="utf-8")
    assert run(["policy", "decide", "--policy", "production.yml", "--facts", "facts.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("driftwarden: facts.json")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--policy", "none.yml", "--facts", "facts.json"], ["--policy", "production.yml"]]
)
def test_a_wrong_request_is_one_line(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A file that is not there, an option that is missing: 2."""
    assert run(["policy", "decide", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_test_runs_documents_of_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 for a case that fails or too little coverage; other files of the folder are left alone."""
    document = (
        "apiVersion: driftwarden.io/v1\nkind: PolicyTest\npolicy: production.yml\ncases:\n"
        "  - {name: runs, facts: facts.json, expect: {outcome: execute}}\n"
    )
    (place / "production.test.yml").write_text(document)
    assert run(["policy", "test", ".", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["passed"], report["coverage"]["production.yml"]["tier"]["pass"]) == (True, 1, 1)
    assert run(["policy", "test", "production.test.yml", "--coverage-at-least", "90"]) == 1
    assert "expected at least 90 %" in capsys.readouterr().err
    (place / "production.test.yml").write_text(document.replace("outcome: execute", "outcome: monitor"))
    assert run(["policy", "test", "."]) == 1
    assert "outcome: got `execute`, expected `monitor`" in capsys.readouterr().out
    (place / "production.test.yml").unlink()
    assert run(["policy", "test", "."]) == 2


def test_replay_reads_the_audit_log(place: Path, capsys: pytest.CaptureFixture[str], policy_text: str) -> None:
    """The same under the recorded policy; what would change under another; a torn tail is said, a bad line refused."""
    assert run(["policy", "replay", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] == 1
    (place / "strict.yml").write_text(policy_text.replace('"0.80"', '"0.95"'))
    assert run(["policy", "replay", "--policy", "strict.yml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matrix"] == {"execute": {"escalate": 1}}
    assert run(["policy", "replay", "--policy", "strict.yml"]) == 0
    assert (
        "changed: 2026-11-20T09:00:00Z inc-1 retrain for churn: execute -> escalate (outcome), costs 5 USD"
        in capsys.readouterr().out
    )
    log = place / ".driftwarden" / "audit" / "s-0.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"type":"decision","bo')
    assert run(["policy", "replay"]) == 0
    assert "torn tail" in capsys.readouterr().err
    log.write_text(whole.replace('"outcome":"execute"', '"outcome":"monitor"'))
    assert run(["policy", "replay", "--audit-dir", str(log.parent)]) == 1
    log.write_text('{"type":"decision"\n' + whole)
    assert run(["policy", "replay"]) == 2
    assert "s-0.jsonl:1" in capsys.readouterr().err
    assert run(["policy", "replay", "--audit-dir", "nowhere"]) == 2


def test_the_benchmark_agrees_with_its_yardstick() -> None:
    """The if-chain and the engine decide alike on every generated case."""
    from driftwarden.service.cli.bench_policy import run as bench

    report = bench(decisions=300)
    assert (report["agrees_with_if_chain"], report["rules"], sum(report["outcomes"].values())) == (True, 12, 300)
    for engine in ("zen_engine", "cedar"):
        yardstick = report["yardsticks"][engine]
        assert yardstick == "not installed" or yardstick["agrees_with_if_chain"]
