"""What a scripted language model thinks, apart from the protocol it speaks: a brain takes a turn and gives calls or text."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """What the model sees: the system text, the names of its tools, and the tool results so far."""

    system: str
    tools: tuple[str, ...]
    results: tuple[tuple[str, Any], ...]
    text: str

    @property
    def investigates(self) -> bool:
        """Whether this is the investigator (only it holds all the measure tools)."""
        return "measure_shift" in self.tools

    def asked(self) -> set[str]:
        """Tools that have answered."""
        return {name for name, _ in self.results}


class ToolCall(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: dict[str, Any]


Answer = list[ToolCall] | str
Brain = Callable[[Turn], Answer]


def answer(**fields: Any) -> list[ToolCall]:
    """The structured answer."""
    return [ToolCall("set_model_response", fields)]


def diligent(turn: Turn) -> Answer:
    """A well-behaved model: measures, concludes from what it reads, plans, and cites."""
    results = dict(turn.results)
    if turn.investigates:
        if "get_event" not in results:
            return [ToolCall("get_event", {}), ToolCall("measure_shift", {}), ToolCall("measure_units", {})]
        changed = results["measure_units"]["data"]["columns"]
        cause = "unit_change" if changed else "concept_drift"
        columns = [column["name"] for column in changed]
        return answer(root_cause=cause, columns=columns, summary=f"It looks like {cause}.", claimed_confidence=0.99)
    if "registry_history" not in results:
        return [
            ToolCall("registry_history", {"limit": 5}),
            ToolCall("search_knowledge", {"query": "what helps", "kind": "runbook"}),
        ]
    hit = results["search_knowledge"]["data"][0]["id"]
    if '"unit_change"' in turn.text:
        remedies = [{"action": "quarantine_data", "rationale": "broken batch", "citations": [hit]}]
    else:
        remedies = [
            {"action": "retrain", "strategy": "recent", "rationale": "the relation changed", "citations": [hit]},
            {"action": "rollback", "to_version": 1, "rationale": "the one before"},
        ]
    return answer(candidates=remedies, summary="As the runbook says.")
