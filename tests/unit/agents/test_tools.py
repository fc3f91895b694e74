"""Tools answer in bounded, plain JSON, whatever the case holds."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge

from driftwarden.agents.tools import NOTICE, Toolbox, bounded
from driftwarden.contracts.measurements import MEASUREMENT_NAMES
from driftwarden.errors import NotFound
from driftwarden.telemetry import correlation, current_correlation


def ask(case: Any, name: str, knowledge: Any = None, **arguments: Any) -> dict[str, Any]:
    """Call one tool by name."""
    with ThreadPoolExecutor(1) as executor:
        box = Toolbox(case, knowledge or ScriptedKnowledge(), executor)
        tools = {tool.__name__: tool for tool in [*box.case_tools(), *box.measure_tools(), *box.knowledge_tools()]}
        return asyncio.run(tools[name](**arguments))  # type: ignore[arg-type]


def test_there_is_a_documented_tool_for_every_measurement() -> None:
    """Each tool's docstring is what a language model reads."""
    with ThreadPoolExecutor(1) as executor:
        tools = Toolbox(ScriptedCase(), ScriptedKnowledge(), executor).measure_tools()
    assert [tool.__name__ for tool in tools] == [f"measure_{name}" for name in MEASUREMENT_NAMES]
    assert all(len(tool.__doc__ or "") > 80 for tool in tools)


def test_an_answer_stays_small_and_is_marked_as_data() -> None:
    """A hundred thousand columns with long names, NaN, nesting and control characters."""
    columns = [{"name": "x" * 10_000 + "\x1b[2J", "score": float("nan"), "deep": [[[[[[[["d"]]]]]]]]}] * 100_000
    answer = ask(ScriptedCase(event={"columns": columns}), "get_event")
    text = json.dumps(answer, allow_nan=False)
    assert answer["notice"] == NOTICE
    assert len(text) < 60_000
    assert "\\u001b" not in text


def test_a_fault_of_the_case_is_told_and_not_raised() -> None:
    """Both our own errors and others come back as one line."""

    class Broken(ScriptedCase):
        def metric_history(self, limit: int = 20) -> list[dict[str, Any]]:
            raise NotFound("history", got="nothing", expected="a window")

        def recent_changes(self) -> list[dict[str, Any]]:
            raise RuntimeError("a\nb")

    assert ask(Broken(), "metric_history") == {"status": "error", "error": "history, got `nothing`, expected a window"}
    assert ask(Broken(), "recent_changes")["error"] == "RuntimeError: a b"


@pytest.mark.parametrize(("limit", "seen"), [(-5, 1), (3, 3), (10**9, 40)])
def test_limits_are_kept_within_bounds(limit: int, seen: int) -> None:
    """A model may ask for anything."""
    case = ScriptedCase(history=[{"value": number} for number in range(100)])
    assert len(ask(case, "metric_history", limit=limit)["data"]) == seen


def test_found_passages_are_remembered_for_citations() -> None:
    """Only what a search returned can be cited."""
    with ThreadPoolExecutor(1) as executor:
        box = Toolbox(ScriptedCase(), ScriptedKnowledge(), executor)
        asyncio.run(box.knowledge_tools()[0]("missing values", kind="runbook", root_cause="missing_values"))  # type: ignore[arg-type]
    assert box.found == {"runbook:missing_values"}


def test_reading_happens_in_the_callers_correlation() -> None:
    """Log lines of a measurement carry the incident, though another thread takes it."""
    seen = []

    class Looking(ScriptedCase):
        def model(self) -> dict[str, Any]:
            seen.append(current_correlation())
            return {}

    with correlation("ab" * 16, "inc-1"):
        ask(Looking(), "get_model_card")
    assert seen == [("ab" * 16, "inc-1")]


def test_lone_surrogates_and_odd_keys_survive_as_json() -> None:
    """Whatever Python holds leaves as UTF-8 JSON."""
    assert json.dumps(bounded({1: "\ud800", "d": {"x": {1, 2}}})).encode()
