"""One run of the agents: the coordinator, a workflow that leads investigator and strategist and checks what they say.

investigator -> ground (measured confidence) -> strategist; then settle (derived parameters and costs)
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

from google.adk.agents import LlmAgent
from google.adk.agents.invocation_context import LlmCallsLimitExceededError
from google.adk.agents.run_config import RunConfig
from google.adk.apps import App
from google.adk.events import Event
from google.adk.features import FeatureName, override_feature_enabled
from google.adk.platform.uuid import set_id_provider
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.adk.telemetry.context import ContentCapturingMode, TelemetryConfig
from google.adk.workflow import START, Workflow
from google.genai import types
from pydantic import BaseModel, ValidationError

from driftwarden.agents import prompts
from driftwarden.agents.advice import CaseFacts, Notes, build_plan, ground_finding, read_facts
from driftwarden.agents.drafts import FindingDraft, PlanDraft
from driftwarden.agents.models import ModelSettings, build_models, close_models
from driftwarden.agents.ollama import ModelAnswerInvalid
from driftwarden.agents.read_tool import ReadTools
from driftwarden.agents.tools import (
    INVESTIGATORS_TOOLS,
    NOTICE,
    STRATEGISTS_TOOLS,
    VERSIONS_MAX,
    Toolbox,
    bounded,
)
from driftwarden.contracts.findings import AgentStep, Finding, Plan
from driftwarden.contracts.ports import JsonObject
from driftwarden.errors import shorten

APP = "driftwarden"
D = TypeVar("D", bound=BaseModel)
_ANSWER_TOOL = "set_model_response"
_STRATEGIST = "strategist"
_STEPS_MAX = 200

# The framework looks for its optional remote-agent module again on every agent run; None ends the search at once.
sys.modules.setdefault("google.adk.agents.remote_a2a_agent", None)  # type: ignore[arg-type]
override_feature_enabled(FeatureName.FUNCTION_TOOL_ARG_VALIDATION, True)

INVALID: tuple[type[Exception], ...] = (ModelAnswerInvalid, ValidationError)
ENDLESS = LlmCallsLimitExceededError


@dataclass
class RunResult:
    """What one run brought, as far as it came."""

    finding: Finding | None = None
    plan: Plan | None = None
    steps: list[AgentStep] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0


class Coordinator:
    """Runs the agents once over a toolbox, with one model."""

    def __init__(self, model: ModelSettings, toolbox: Toolbox, *, llm_calls_max: int, capture_content: bool) -> None:
        """Nothing runs yet."""
        self.model = model
        self.toolbox = toolbox
        self.llm_calls_max = llm_calls_max
        self.capture_content = capture_content
        self.facts: CaseFacts | None = None
        self.result = RunResult()
        self._open: dict[str, int] = {}

    async def run(self, task: str, session_id: str, *, timeout_s: float) -> RunResult:
        """Run to the end; raises TimeoutError, one of INVALID, ENDLESS, or what the model's client raised."""
        answer: Any = None
        models = build_models(self.model) if self.model.remote else ()
        runner = Runner(
            app=_app(*models, remote=True) if models else _offline_app(self.capture_content),
            session_service=InMemorySessionService(),
            auto_create_session=True,
        )
        config = RunConfig(
            max_llm_calls=self.llm_calls_max,
            http_options=types.HttpOptions(timeout=int(self.model.request_timeout_s * 1000)) if models else None,
            telemetry=_telemetry(self.capture_content, remote=self.model.remote),
        )
        message = types.UserContent(task)
        _running.set(self)  # in this task and those that it begins: a run is a task of its own
        set_id_provider(_ids())
        try:
            with self.toolbox.in_use():
                async with (
                    asyncio.timeout(timeout_s),
                    contextlib.aclosing(
                        runner.run_async(user_id=APP, session_id=session_id, new_message=message, run_config=config)
                    ) as events,
                ):
                    async for event in events:
                        self._note(event)
                        if event.author == _STRATEGIST and event.output is not None:
                            answer = event.output
        finally:
            await close_models(models)
        if self.result.finding is None:
            raise ModelAnswerInvalid("the agents ended without a finding")
        self._settle(answer)
        return self.result

    def _facts(self) -> CaseFacts:
        if self.facts is None:
            box = self.toolbox
            self.facts = box.read(lambda: read_facts(box.case, box.versions(VERSIONS_MAX)))
        return self.facts

    def ground(self, node_input: Any) -> str:
        """Hold the investigator's draft against the measurements and brief the strategist."""
        draft = _draft(FindingDraft, node_input, "investigator")
        self._step("investigator", "answer", "finding", {}, f"{draft.root_cause.value}: {draft.summary}")
        notes = Notes()
        facts = self._facts()
        finding = ground_finding(draft, facts, self.toolbox.found, notes)
        self.result.finding = finding
        self.result.steps += notes.steps
        brief = {
            "model": facts.event.get("model"),
            "root_cause": finding.root_cause.value,
            "columns": list(finding.columns),
            "confidence": finding.confidence,
            "summary": finding.summary,
            "evidence": [item.model_dump(mode="json") for item in finding.evidence[:6]],
            "alternatives": [item.model_dump(mode="json") for item in finding.alternatives],
            "citations": list(finding.citations[:3]),
            "window": facts.window,
            "performance": facts.performance.model_dump(mode="json") if facts.performance else None,
        }
        return f"The finding ({NOTICE}):\n{json.dumps(bounded(brief))}"

    def _settle(self, answer: Any) -> None:
        draft = _draft(PlanDraft, answer, _STRATEGIST)
        self._step(_STRATEGIST, "answer", "plan", {}, ", ".join(item.action for item in draft.candidates))
        notes = Notes()
        self.result.plan = build_plan(draft, self._facts(), self.toolbox.found, notes)
        self.result.steps += notes.steps

    def _note(self, event: Event) -> None:
        """Keep a brief record of an agent's step, and count tokens."""
        usage = event.usage_metadata
        if usage is not None:
            self.result.input_tokens += usage.prompt_token_count or 0
            self.result.output_tokens += usage.candidates_token_count or 0
        if len(self.result.steps) >= _STEPS_MAX:
            return
        for call in event.get_function_calls():
            if call.name != _ANSWER_TOOL:
                self._open[call.id or str(call.name)] = len(self.result.steps)
                self._step(event.author, "tool", str(call.name), bounded(dict(call.args or {})), "")
        for response in event.get_function_responses():
            answer = response.response or {}
            place = self._open.pop(response.id or str(response.name), None)
            if place is not None:
                step = self.result.steps[place]
                self.result.steps[place] = step.model_copy(update={"summary": shorten(_result_summary(answer), 300)})
            elif "error" in answer:
                self._step(event.author, "error", str(response.name), {}, _result_summary(answer))
        if event.error_code:
            self._step(event.author, "error", str(event.error_code), {}, event.error_message or "")

    def _step(self, agent: str, kind: str, name: str, arguments: JsonObject, summary: str) -> None:
        self.result.steps.append(
            AgentStep(
                agent=shorten(agent, 60),
                kind=kind,
                name=shorten(name, 80),
                arguments=arguments,
                summary=shorten(summary, 300),
            )
        )


class _Guard(BasePlugin):
    """A tool's fault is an answer to the model, not the end of the run."""

    async def on_tool_error_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, error: Exception) -> Any:
        """Tell the model in one line."""
        return {"status": "error", "error": shorten(f"{type(error).__name__}: {error}", 200)}


def _ids() -> Callable[[], str]:
    """What the framework names a run's events and calls by: numbered, for to ask the system for every name's chance bytes
    would let go of the interpreter some forty times."""
    run, numbers = uuid4().hex, count(1)
    return lambda: f"{run}-{next(numbers)}"


_running: ContextVar[Coordinator] = ContextVar("driftwarden_coordinator")


def _app(investigates: Any, strategises: Any, *, remote: bool) -> App:
    """The workflow of the agents; it holds nothing of a case: nodes and tools find theirs in the running context.

    A model that is not `remote` reads neither instructions nor declarations of tools, and is sent none.
    """
    investigator = LlmAgent(
        name="investigator",
        description="Finds out why a model drifted.",
        model=investigates,
        instruction=(lambda _: prompts.INVESTIGATOR) if remote else "",
        tools=[ReadTools(INVESTIGATORS_TOOLS, declared=remote)],
        output_schema=FindingDraft,
    )
    strategist = LlmAgent(
        name=_STRATEGIST,
        description="Plans what would help.",
        model=strategises,
        instruction=(lambda _: prompts.STRATEGIST) if remote else "",
        tools=[ReadTools(STRATEGISTS_TOOLS, declared=remote)],
        output_schema=PlanDraft,
    )

    async def ground(node_input: Any) -> str:
        return _running.get().ground(node_input)

    workflow = Workflow(name="coordinator", edges=[(START, investigator, ground, strategist)])
    return App(name=APP, root_agent=workflow, plugins=[_Guard(name="guard")])


@cache
def _offline_app(capture_content: bool) -> App:
    """One for all runs of a process: the offline reasoner has no connections, and so nothing that belongs to a run."""
    return _app(*build_models(ModelSettings(), capture_content=capture_content), remote=False)


@cache
def _telemetry(capture_content: bool, *, remote: bool) -> TelemetryConfig:
    """What the framework's spans hold.

    In its newer form each span of a model's turn repeats the whole conversation, instructions and tools. The offline
    reasoner writes what it said itself, and what it read stands at the spans of the tools.
    """
    return TelemetryConfig(
        genai_semconv_stability_opt_in="experimental" if remote else "stable",
        capture_message_content=ContentCapturingMode.SPAN_ONLY if capture_content else ContentCapturingMode.NO_CONTENT,
    )


def _draft(schema: type[D], node_input: Any, agent: str) -> D:
    """An agent's answer as a draft; raises ModelAnswerInvalid where there is none (an error or empty reply of the model)."""
    if isinstance(node_input, str):
        try:
            node_input = json.loads(node_input)
        except ValueError:
            raise ModelAnswerInvalid(f"the {agent} gave no structured answer") from None
    if isinstance(node_input, BaseModel):
        node_input = node_input.model_dump()
    if not isinstance(node_input, dict):
        raise ModelAnswerInvalid(f"the {agent} gave no structured answer")
    return schema.model_validate(node_input)


def _result_summary(answer: JsonObject) -> str:
    if "error" in answer:
        return f"error: {answer['error']}"
    data = answer.get("data")
    if isinstance(data, list):
        return f"{len(data)} entries"
    if isinstance(data, dict):
        if data.get("unavailable"):
            return f"unavailable: {data['unavailable']}"
        return ", ".join(f"{key}={_brief(value)}" for key, value in _telling(data)[:8])
    return ""


def _telling(data: JsonObject) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in data.items() if value not in (None, "", [], {}) and key != "rows_reference"]


def _brief(value: Any) -> str:
    return f"{len(value)} items" if isinstance(value, list | dict) else shorten(value, 40)
