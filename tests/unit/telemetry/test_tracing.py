"""One drift event is one trace whose id is the correlation id."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge
from opentelemetry import trace

from driftwarden import telemetry, trace_export
from driftwarden.agents import AdkAdvisor
from driftwarden.trace_export import LocalTraces, read_trace
from driftwarden.tracing import Langfuse, Tracing, TracingSettings, configure_tracing

CORRELATION = "0123456789abcdef" * 2


@pytest.fixture
def tracing(tmp_path: Path) -> Iterator[Tracing]:
    """Local traces only."""
    yield configure_tracing(TracingSettings(folder=tmp_path))
    configure_tracing(TracingSettings())


def test_spans_of_one_event_share_its_trace_however_late(tracing: Tracing, tmp_path: Path) -> None:
    """The walk, and an approval days later in another thread, end up in one file under the correlation id."""
    with (
        tracing.span("drift_event", correlation_id=CORRELATION, incident="inc-1", model="m") as root,
        tracing.span("rehearse", kind="tool"),
    ):
        root.output({"outcome": "escalate"})

    def later() -> None:
        with tracing.span("approval", correlation_id=CORRELATION, incident="inc-1"):
            pass

    thread = threading.Thread(target=later)
    thread.start()
    thread.join()
    spans = read_trace(tmp_path, CORRELATION)
    assert [span["name"] for span in spans] == ["drift_event", "rehearse", "approval"]
    assert {span["trace_id"] for span in spans} == {CORRELATION}
    assert spans[0]["parent_id"] is spans[2]["parent_id"] is None
    assert spans[1]["parent_id"] == spans[0]["span_id"]
    assert {span["attributes"]["langfuse.session.id"] for span in spans} == {"inc-1"}
    assert tracing.trace_url(CORRELATION) == (tmp_path / f"{CORRELATION}.jsonl").as_uri()


def test_an_event_inside_another_has_its_own_trace(tracing: Tracing, tmp_path: Path) -> None:
    """A span of another correlation id never becomes a child of the running one."""
    other = "f" * 32
    with tracing.span("one", correlation_id=CORRELATION), tracing.span("two", correlation_id=other):
        pass
    assert [span["name"] for span in read_trace(tmp_path, CORRELATION)] == ["one"]
    assert [span["parent_id"] for span in read_trace(tmp_path, other)] == [None]


def test_spans_of_no_event_are_not_kept(tracing: Tracing, tmp_path: Path) -> None:
    """Other libraries' spans outside an event are nobody's business."""
    with trace.get_tracer("someone-else").start_as_current_span("noise"), tracing.span("no correlation"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_agents_steps_belong_to_the_events_trace(tracing: Tracing, tmp_path: Path) -> None:
    """Workflow, agents, model calls and tools of the framework, with their content."""
    advisor = AdkAdvisor(tracing=tracing)
    advisor.advise(ScriptedCase("unit_change"), ScriptedKnowledge(), correlation_id=CORRELATION, incident="inc-1")
    spans = read_trace(tmp_path, CORRELATION)
    names = [span["name"] for span in spans]
    assert names[0] == "advise"
    assert {"invoke_workflow coordinator", "invoke_agent investigator", "invoke_agent strategist"} <= set(names)
    assert "execute_tool measure_units" in names
    by_id = {span["span_id"]: span for span in spans}
    assert all(span["parent_id"] in by_id for span in spans[1:])
    assert any("window-17" in json.dumps(span["attributes"]) for span in spans)
    turns = [json.dumps(span["attributes"]) for span in spans if span["name"] == "generate_content offline"]
    assert "tool_call" in turns[0]
    assert "root_cause" in turns[-1]
    assert not [turn for turn in turns if "kolmogorov-smirnov" in turn]  # what a tool said stands once, at its own span
    assert sum("kolmogorov-smirnov" in json.dumps(span["attributes"]) for span in spans) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_without_content_the_spans_hold_none(tracing: Tracing, tmp_path: Path) -> None:
    """Where the data must not leave, the steps are kept and what they said is not."""
    advisor = AdkAdvisor(tracing=tracing, capture_content=False)
    advisor.advise(ScriptedCase("unit_change"), ScriptedKnowledge(), correlation_id=CORRELATION, incident="inc-1")
    framework = [span for span in read_trace(tmp_path, CORRELATION) if span["scope"] != "driftwarden"]
    assert len(framework) > 10
    assert "window-17" not in json.dumps(framework)


def test_secrets_stay_out_of_spans(tracing: Tracing, tmp_path: Path) -> None:
    """In names, inputs, attributes, exceptions and status."""

    def fail() -> None:
        with tracing.span("password=hunter2", correlation_id=CORRELATION, input={"api_key": "hunter2"}) as span:
            span.set(token="hunter2hunter2", url="redis://u:hunter2@host")
            span.failed("password=hunter2")
            raise ValueError("password=hunter2")

    with pytest.raises(ValueError, match="hunter2"):
        fail()
    assert tracing.flush()
    text = (tmp_path / f"{CORRELATION}.jsonl").read_text()
    assert "hunter2" not in text
    assert "ValueError" in text


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """The run goes on; the trace is lost."""
    (tmp_path / "file").write_text("")
    tracing = configure_tracing(TracingSettings(folder=tmp_path / "file" / "traces"))
    with tracing.span("x", correlation_id=CORRELATION) as span:
        span.set(reached=True)
    assert tracing.flush(1.0)
    assert read_trace(tmp_path / "file" / "traces", CORRELATION) == []
    configure_tracing()


def test_whatever_goes_wrong_with_a_trace_costs_no_run_and_no_other_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread, a span that cannot be written down, a processor that fails: the run goes on, and it is said once, without
    the fault's words, which may hold anything."""
    real, start = trace_export._span_json, threading.Thread.start

    def fails(span: Any, trace_id: str) -> Any:
        if span.name == "bad":
            raise ValueError("password=hunter2")
        return real(span, trace_id)

    def none_left(thread: threading.Thread) -> None:
        if thread.name == "driftwarden-traces":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(trace_export, "_span_json", fails)
    tracing = configure_tracing(TracingSettings(folder=tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        with tracing.span("no thread", correlation_id=CORRELATION):
            pass
    for name in ("bad", "bad", "good"):
        with tracing.span(name, correlation_id=CORRELATION):
            pass
    assert tracing.flush()
    assert [one["name"] for one in read_trace(tmp_path, CORRELATION)] == ["no thread", "good"]

    def broken(self: LocalTraces, *about: Any) -> None:
        raise ValueError("password=hunter2")

    for method in ("on_start", "on_end"):
        monkeypatch.setattr(LocalTraces, method, broken)
    with tracing.span("x", correlation_id=CORRELATION) as span:
        span.set(reached=True)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["RuntimeError" in said[0], "ValueError" in said[1], len(said)] == [True, True, 2]
    assert "hunter2" not in caplog.text
    configure_tracing()


def test_what_cannot_be_encoded_is_written_all_the_same(tracing: Tracing, tmp_path: Path) -> None:
    """A lone surrogate in an attribute costs neither the run nor the trace."""
    with tracing.span("odd", correlation_id=CORRELATION) as span:
        span.set(text="before \ud800 after")
    with tracing.span("even", correlation_id=CORRELATION):
        pass
    assert [one["name"] for one in read_trace(tmp_path, CORRELATION)] == ["odd", "even"]


def test_what_has_ended_is_written_at_the_end(tmp_path: Path) -> None:
    """A trace that is replaced writes what it still holds, in one go for each trace, and nothing that ends later."""
    traces = LocalTraces(tmp_path)
    tracing = configure_tracing(TracingSettings())
    with tracing.span("one", correlation_id=CORRELATION) as one, tracing.span("two", correlation_id=CORRELATION) as two:
        pass
    for ended in (one, two):
        traces.on_end(ended.span)  # type: ignore[arg-type] # spans of the SDK can be read
    traces.shutdown()
    assert traces.force_flush(10_000)
    traces.on_end(one.span)  # type: ignore[arg-type]
    assert traces.force_flush(10_000)
    lines = (tmp_path / f"{CORRELATION}.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["one", "two"]


def test_reading_refuses_names_that_are_no_trace(tmp_path: Path) -> None:
    """A trace id is 32 hex digits, never a path; a torn line is left out."""
    (tmp_path / f"{CORRELATION}.jsonl").write_text('{"start_ns": 1, "span_id": "a"}\n{"torn')
    assert len(read_trace(tmp_path, CORRELATION)) == 1
    assert read_trace(tmp_path, "../" + CORRELATION) == []


def test_a_secret_key_stands_in_no_repr() -> None:
    """Settings are printed when something is wrong."""
    assert "sk-lf-1" not in repr(TracingSettings(langfuse=Langfuse("http://x", "pk-lf-1", "sk-lf-1")))


def test_log_lines_inside_a_span_carry_the_correlation(tracing: Tracing) -> None:
    """Logs and traces name the same id."""
    with tracing.span("x", correlation_id=CORRELATION, incident="inc-1"):
        assert telemetry.current_correlation() == (CORRELATION, "inc-1")
    assert telemetry.current_correlation() == (None, None)
