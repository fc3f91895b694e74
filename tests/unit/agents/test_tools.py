"""Tools answer in bounded, plain JSON, whatever the case holds."""

import asyncio
import json
from typing import Any

import pytest
from fakes.cases import ScriptedCase, ScriptedKnowledge

from driftwarden.agents.tools import (
    INVESTIGATORS_TOOLS,
    MEASURE_TOOLS,
    NOTICE,
    STRATEGISTS_TOOLS,
    Toolbox,
    bounded,
    search_knowledge,
)
from driftwarden.contracts.measurements import MEASUREMENT_NAMES
from driftwarden.errors import NotFound
from driftwarden.telemetry import correlation, current_correlation


def ask(case: Any, name: str, knowledge: Any = None, **arguments: Any) -> dict[str, Any]:
    """Call one tool by name."""
    tools = {tool.__name__: tool for tool in INVESTIGATORS_TOOLS}
    with Toolbox(case, knowledge or ScriptedKnowledge()).in_use():
        return asyncio.run(tools[name](**arguments))  # type: ignore[arg-type]


def test_there_is_a_documented_tool_for_every_measurement() -> None:
    """Each tool's docstring is what a language model reads."""
    assert [tool.__name__ for tool in MEASURE_TOOLS] == [f"measure_{name}" for name in MEASUREMENT_NAMES]
    assert all(len(tool.__doc__ or "") > 80 for tool in INVESTIGATORS_TOOLS)
    assert {*STRATEGISTS_TOOLS} < {*INVESTIGATORS_TOOLS}


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
    box = Toolbox(ScriptedCase(), ScriptedKnowledge())
    with box.in_use():
        asyncio.run(search_knowledge("missing values", kind="runbook", root_cause="missing_values"))
    assert box.found == {"runbook:missing_values"}


def test_reading_happens_in_the_callers_correlation() -> None:
    """Log lines of a measurement carry the incident."""
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
