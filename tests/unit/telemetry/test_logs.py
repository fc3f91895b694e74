"""Log lines are JSON, carry the correlation id, and hold no secret."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from driftwarden import telemetry
from driftwarden.errors import BadInput


@pytest.fixture
def lines() -> Iterator[Any]:
    """What is logged, as parsed lines."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    stream = io.StringIO()
    handler = telemetry.configure_logging("debug", stream=stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    root.removeHandler(handler)
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)


log = logging.getLogger("driftwarden.test")


def test_a_line_is_one_json_object(lines: Any) -> None:
    """With the fields that the documentation names, and newlines kept inside."""
    with telemetry.correlation("ab" * 16, "inc-1"):
        log.info("two\nlines %d", 7, extra={"model": "m", "seconds": 0.5, "worst": float("inf")})
    (line,) = lines()
    assert line["message"] == "two\nlines 7"
    assert (line["level"], line["logger"]) == ("info", "driftwarden.test")
    assert (line["correlation_id"], line["incident"]) == ("ab" * 16, "inc-1")
    assert (line["model"], line["seconds"], line["worst"]) == ("m", 0.5, "inf")
    assert line["ts"].endswith("Z")


def test_correlation_ends_with_its_block_and_stays_in_its_thread(lines: Any) -> None:
    """Another thread logs under its own correlation, or none."""
    with telemetry.correlation("cd" * 16):
        thread = threading.Thread(target=lambda: log.info("elsewhere"))
        thread.start()
        thread.join()
    log.info("after")
    assert [line["correlation_id"] for line in lines()] == [None, None]


SECRETS = [
    "redis://user:hunter2secret@host:6379/0",
    "Authorization: Bearer hunter2secrethunter2secret",
    "authorization='Basic aHVudGVyMnNlY3JldDpodW50ZXIyc2VjcmV0'",
    "api_key=hunter2secret",
    '{"password": "hunter2secret"}',
    '"{\\"client_secret\\": \\"hunter2secret\\"}"',
    "AWS_SECRET_ACCESS_KEY=hunter2secret",
    "x-goog-api-key: hunter2secret",
    "access_token: hunter2secrettoken",
    "sk-lf-hunter2secret",
    "AIzahunter2secrethunter2secret",
    "ghp_hunter2secrethunter2secrethunter2secret",
    "eyJhunter2secret.eyJhunter2secret.hunter2secret",
    "-----BEGIN PRIVATE KEY-----\nhunter2secret\n-----END PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2secret",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_redacted_by_pattern(lines: Any, secret: str) -> None:
    """In messages, arguments, extra fields and exceptions alike."""
    log.info(secret)
    log.info("with %s", secret, extra={"detail": {"deep": [secret]}})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("failed")
    text = json.dumps(lines())
    assert "hunter2" not in text
    assert "aHVudGVyMn" not in text
    assert text.count(telemetry.REDACTED) >= 4
    assert "ValueError" in text


def test_secrets_are_redacted_by_key_name(lines: Any) -> None:
    """Whatever the value looks like; counts of tokens are no secrets."""
    fields = {"apiKey": "x", "redis_password": ["x"], "nested": {"Authorization": "x"}, "input_tokens": 12}
    log.info("x", extra={**fields, "token_count": 3, "idempotency_key": "abc"})
    (line,) = lines()
    assert line["apiKey"] == line["nested"]["Authorization"] == telemetry.REDACTED
    assert line["redis_password"] == [telemetry.REDACTED]
    assert (line["input_tokens"], line["token_count"], line["idempotency_key"]) == (12, 3, "abc")


def test_a_registered_secret_is_redacted_anywhere(lines: Any) -> None:
    """A configured password that looks like a word."""
    telemetry.register_secret("correct horse")
    log.info("the password was correct horse")
    assert "correct horse" not in json.dumps(lines())


def test_harmless_text_is_left_alone() -> None:
    """Words that only resemble secrets stay readable."""
    text = "took 12 tokens: 5 of basic information, key=value, sha256:abcdef, https://host/path?x=1"
    assert telemetry.redact_text(text) == text


def test_hostile_text_costs_no_more_than_a_pass() -> None:
    """Texts made to make patterns backtrack are handled; long ones are cut."""
    for piece in ("a.", "a-", "authorization ", "://", "-----BEGIN ", "eyJaaaaaaaa.", "password"):
        assert len(telemetry.redact_text(piece * 200_000)) < 2 * telemetry.TEXT_CHARS_MAX


def test_a_line_that_cannot_be_formatted_is_still_a_line() -> None:
    """Wrong arguments, broken objects, lone surrogates, deep nesting."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    wrong = logging.makeLogRecord({"msg": "%d %d", "args": ("x",)})
    odd = logging.makeLogRecord({"msg": "\ud800", "broken": Broken(), "deep": deep})
    formatter = telemetry.JsonFormatter()
    assert json.loads(formatter.format(wrong))["message"].startswith("%d %d")
    assert json.loads(formatter.format(odd))["broken"] == "<Broken: RuntimeError>"


def test_a_text_that_passed_is_looked_at_anew_once_it_holds_a_secret() -> None:
    """What was found harmless is remembered until another secret is registered; keys of GitHub are known by their words."""
    said = "the horse is called incorrigible-staple"
    assert [telemetry.redact_text(said), telemetry.redact_text(said)] == [said, said]
    telemetry.register_secret("incorrigible-staple")
    assert telemetry.redact_text(said) == "the horse is called ***"
    for key in (f"gh{kind}_{'a1' * 12}" for kind in "pousr"):
        assert telemetry.redact_text(f"with {key} here") == "with *** here"
    assert telemetry.redact_text(f"github_pat_{'a1' * 12}") == "***"


def test_libraries_are_quiet(lines: Any) -> None:
    """Their tracebacks reach us as exceptions; our own lines pass."""
    logging.getLogger("google_adk.workflow").error("a traceback")
    logging.getLogger("opentelemetry.sdk").error("export failed")
    logging.getLogger("httpx").info("HTTP Request")
    log.info("ours")
    assert [line["message"] for line in lines()] == ["ours"]


def test_configuring_again_replaces_and_a_wrong_level_or_file_is_told(lines: Any, tmp_path: Any) -> None:
    """One line each; the file is written as JSON lines."""
    root = logging.getLogger()
    before = len(root.handlers)
    telemetry.configure_logging("info", file=tmp_path / "logs" / "driftwarden.jsonl")
    assert len(root.handlers) == before
    log.info("to the file")
    assert json.loads((tmp_path / "logs" / "driftwarden.jsonl").read_text())["message"] == "to the file"
    with pytest.raises(BadInput, match="loud"):
        telemetry.configure_logging("loud")
    with pytest.raises(BadInput, match="log file"):
        telemetry.configure_logging("info", file=tmp_path)
    telemetry.configure_logging("info", stream=io.StringIO())
