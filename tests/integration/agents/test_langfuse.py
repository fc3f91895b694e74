"""Traces reach a Langfuse server as one trace per drift event, and its faults never reach a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge
from fakes.langfuse import FakeLangfuse
from fakes.ollama import FakeOllama

from driftwarden.agents import AdkAdvisor
from driftwarden.trace_export import read_trace
from driftwarden.tracing import Langfuse, Tracing, TracingSettings, configure_tracing

CORRELATION = "a1" * 16


@pytest.fixture(autouse=True)
def _off_afterwards() -> Iterator[None]:
    """No test leaves an exporter behind."""
    yield
    configure_tracing(TracingSettings())


def traced(
    server: FakeLangfuse, folder: Path | None = None, *, export_timeout_s: float = 60.0, **changes: Any
) -> Tracing:
    """Tracing to this server."""
    keys = {"public_key": server.public_key, "secret_key": server.secret_key, **changes}
    return configure_tracing(
        TracingSettings(folder=folder, langfuse=Langfuse(server.url, **keys), export_timeout_s=export_timeout_s)
    )


def advise(tracing: Tracing, correlation_id: str = CORRELATION) -> None:
    """The walk of one event, as the service would trace it."""
    with tracing.span("drift_event", correlation_id=correlation_id, incident="inc-1", kind="agent"):
        advisor = AdkAdvisor(tracing=tracing)
        advice = advisor.advise(
            ScriptedCase("unit_change"), ScriptedKnowledge(), correlation_id=correlation_id, incident="inc-1"
        )
    assert advice.finding.root_cause.value == "unit_change"


def test_one_event_is_one_trace_with_every_step(tmp_path: Path) -> None:
    """Agents, model calls and tools arrive under the correlation id, in one tree, beside the local file."""
    with FakeLangfuse() as server:
        tracing = traced(server, tmp_path)
        advise(tracing)
        assert tracing.flush(60.0)
        spans = server.spans
        assert tracing.trace_url(CORRELATION) == f"{server.url}/project/project-1/traces/{CORRELATION}"
    assert {span["trace_id"] for span in spans} == {CORRELATION}
    by_id = {span["span_id"]: span for span in spans}
    roots = [span for span in spans if not span["parent_id"]]
    assert [span["name"] for span in roots] == ["drift_event"]
    assert all(span["parent_id"] in by_id for span in spans if span["parent_id"])
    names = {span["name"] for span in spans}
    assert {"invoke_agent investigator", "invoke_agent strategist", "execute_tool measure_units"} <= names
    operations = {span["attributes"].get("gen_ai.operation.name") for span in spans}
    assert {"invoke_agent", "execute_tool"} <= operations
    assert {span["attributes"]["langfuse.session.id"] for span in spans} == {"inc-1"}
    assert {span["attributes"]["langfuse.trace.name"] for span in spans} == {"drift-event"}
    assert any("window-17" in span["text"] for span in spans)
    assert len(read_trace(tmp_path, CORRELATION)) == len(spans)


def test_two_events_are_two_traces() -> None:
    """Nothing crosses over."""
    with FakeLangfuse() as server:
        tracing = traced(server)
        advise(tracing, "b" * 32)
        advise(tracing, "c" * 32)
        assert tracing.flush(60.0)
        sizes = [sum(span["trace_id"] == digit * 32 for span in server.spans) for digit in "bc"]
    assert sizes[0] == sizes[1] > 10


def test_secrets_do_not_leave() -> None:
    """A password in an event's text is redacted on the wire, and so is the server's own key."""
    with FakeLangfuse() as server:
        tracing = traced(server)
        with tracing.span("drift_event", correlation_id=CORRELATION, incident="inc-1"):
            case = ScriptedCase(
                "unit_change", event={"source_dsn": "postgres://u:hunter2@db/x", "note": "sk-lf-0123456789"}
            )
            AdkAdvisor(tracing=tracing).advise(case, ScriptedKnowledge(), correlation_id=CORRELATION, incident="inc-1")
        assert tracing.flush(60.0)
        text = "".join(span["text"] for span in server.spans)
    assert "source_dsn" in text
    assert "hunter2" not in text
    assert "sk-lf-0123456789" not in text


@pytest.mark.parametrize("fault", ["down", "hang", "refused", "wrong-key"])
def test_a_server_that_fails_changes_nothing(fault: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The advice, the local trace and the terminal are as without it; flush is bounded."""
    with FakeLangfuse(mode=fault if fault in {"down", "hang"} else "ok") as server:
        changes = {"secret_key": "sk-lf-wrong-wrong"} if fault == "wrong-key" else {}
        tracing = traced(server, tmp_path, export_timeout_s=0.5, **changes)
        if fault == "refused":
            server.__exit__()
            server._server.server_close()
        advise(tracing)
        tracing.flush(1.0)
        assert not server.spans
    assert len(read_trace(tmp_path, CORRELATION)) > 10
    assert capfd.readouterr() == ("", "")


def test_a_page_is_named_even_where_the_project_is_not_known() -> None:
    """The server is asked once; where it does not answer, its short link is given."""
    with FakeLangfuse(mode="down") as server:
        tracing = traced(server)
        assert tracing.trace_url(CORRELATION) == f"{server.url}/trace/{CORRELATION}"
        assert tracing.trace_url("e" * 32) == f"{server.url}/trace/{'e' * 32}"
        assert [request.path for request in server.requests] == ["/api/public/projects"]


def test_a_remote_models_calls_and_faults_stand_in_the_trace(tmp_path: Path) -> None:
    """The model's name, its tokens, and the fault that made the net necessary."""
    from fakes.loopback import json_reply

    from driftwarden.settings import AgentSettings

    tracing = configure_tracing(TracingSettings(folder=tmp_path))
    with FakeOllama() as fake:
        advisor = AdkAdvisor("ollama/llama3.1", settings=AgentSettings(ollama_url=fake.url), tracing=tracing)
        for correlation_id in (CORRELATION, "d" * 32):
            advisor.advise(
                ScriptedCase("unit_change"), ScriptedKnowledge(), correlation_id=correlation_id, incident="inc-1"
            )
            fake.fault = json_reply({"error": "out of memory"}, 500)
    well, ill = read_trace(tmp_path, CORRELATION), read_trace(tmp_path, "d" * 32)
    calls = [span for span in well if span["name"].startswith("generate_content llama3.1")]
    assert len(calls) == 4
    assert all(span["attributes"]["gen_ai.usage.input_tokens"] == 120 for span in calls)
    assert any(span["status"] == "error" and "500" in (span["error"] or "") for span in ill)
    assert any(span["name"] == "generate_content offline" for span in ill)
