"""The advisor: the agents behind the port that the workflow calls, with the offline reasoner as the net below a remote
model."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from driftwarden import telemetry
from driftwarden.agents import prompts
from driftwarden.agents.models import OFFLINE, OLLAMA_URL, ModelAway, ModelSettings, ModelUseless
from driftwarden.contracts.findings import Advice, AgentStep
from driftwarden.contracts.ports import CaseFile, KnowledgeReader
from driftwarden.errors import Away, Error, shorten
from driftwarden.resilience import Breaker
from driftwarden.settings import AgentSettings

if TYPE_CHECKING:
    from driftwarden.agents.coordinator import Coordinator, RunResult
    from driftwarden.tracing import Observation, Tracing

_log = logging.getLogger(__name__)
_TRIES_INVALID = 2
_ENDS_WITHIN_S = 0.25
T = TypeVar("T")


class AdkAdvisor:
    """Investigator and strategist under a coordinator, over any model; the port `Advisor`.

    `model`: `offline`, `gemini-<name>` (needs `google_api_key`) or `ollama/<name>`; a wrong one raises BadInput here.
    An answer that cannot be used is asked for once more; a remote model that still fails, or is away, is replaced by
    the offline reasoner for this incident (`settings.fallback_offline`), and `Advice.model` says so. One that failed
    several times in a row is not asked for a while (`breaker`). Safe to call from
    several threads at once, each with a case of its own.
    """

    def __init__(
        self,
        model: str = OFFLINE,
        *,
        settings: AgentSettings | None = None,
        google_api_key: str | None = None,
        tracing: "Tracing | None" = None,
        gemini_url: str | None = None,
        request_timeout_s: float = 60.0,
        capture_content: bool = True,
        breaker: Breaker | None = None,
    ) -> None:
        """Check the model's name and key; nothing is connected yet. `request_timeout_s` bounds one request to a model.

        `breaker` None: one of its own.
        """
        self.settings = settings or AgentSettings()
        self.model = ModelSettings(
            name=model,
            google_api_key=google_api_key,
            ollama_url=self.settings.ollama_url or OLLAMA_URL,
            gemini_url=gemini_url,
            request_timeout_s=min(request_timeout_s, self.settings.timeout_s),
        )
        self._breaker = breaker or Breaker("the agents' model")
        self._tracing = tracing
        self._capture_content = capture_content
        telemetry.quiet_libraries()

    def advise(
        self, case: CaseFile, knowledge: KnowledgeReader, *, correlation_id: str, incident: str, offline: bool = False
    ) -> Advice:
        """Find the cause and plan remedies; `offline`: by the offline reasoner, whichever model is configured.

        Raises Retry (the model is away, or everything took longer than `settings.timeout_s`; Away where it is not even
        asked) or GiveUp (no valid answer); what the case itself raises passes through.
        """
        with telemetry.correlation(correlation_id, incident), self._span(correlation_id, incident) as observation:
            # One thread for all that is run for this incident: a run that is given up while it reads the case holds it
            # still, and the case is read by one thread at a time.
            executor = ThreadPoolExecutor(1, thread_name_prefix="driftwarden-agents")
            asked = _Asked(case, knowledge, executor, _task_of(case, incident), incident)
            try:
                advice = self._advise(asked, offline=offline)
            except Error as error:
                if observation is not None:
                    observation.failed(error.diagnostics())
                raise
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
            if observation is not None:
                observation.output({"finding": advice.finding.model_dump(mode="json"), "model": advice.model})
            return advice

    @contextlib.contextmanager
    def _span(self, correlation_id: str, incident: str) -> "Iterator[Observation | None]":
        if self._tracing is None:
            yield None
            return
        with self._tracing.span(
            "advise", correlation_id=correlation_id, incident=incident, kind="agent", model=self.model.name
        ) as observation:
            yield observation

    def _advise(self, asked: "_Asked", *, offline: bool) -> Advice:
        if offline or not self.model.remote:
            return _advice(self._run(ModelSettings(), asked), OFFLINE, ())
        try:
            return self._ask(asked)
        except (ModelAway, ModelUseless, _NotAsked) as error:
            reason = error.diagnostics()
            if not self.settings.fallback_offline:
                raise
        _log.warning("the offline reasoner stands in", extra={"model": self.model.name, "reason": reason})
        fallback = AgentStep(agent="coordinator", kind="fallback", name=OFFLINE, summary=shorten(reason, 300))
        result = self._run(ModelSettings(), asked)
        return _advice(result, f"{OFFLINE} (instead of {self.model.name})", (fallback,))

    def _ask(self, asked: "_Asked") -> Advice:
        """What the remote model says. A fault of the case is not the model's: its breaker hears nothing of it."""
        try:
            self._breaker.admit()
        except Away as away:
            raise _NotAsked(away.dependency, away.reason, again_s=away.again_s) from None
        try:
            result = self._run(self.model, asked)
        except (ModelAway, ModelUseless) as error:
            self._breaker.failed(error.diagnostics())
            raise
        self._breaker.succeeded()
        return _advice(result, self.model.name, ())

    def _run(self, model: ModelSettings, asked: "_Asked") -> "RunResult":
        """Run the agents; an answer that cannot be used is asked for once more within the same time."""
        from driftwarden.agents.coordinator import ENDLESS, INVALID, Coordinator
        from driftwarden.agents.tools import Toolbox

        toolbox = Toolbox(asked.case, asked.knowledge)
        coordinator: Coordinator | None = None
        deadline = _Deadline(self.settings.timeout_s)
        for attempt in range(1, _TRIES_INVALID + 1):
            facts = coordinator.facts if coordinator else None
            coordinator = Coordinator(
                model, toolbox, llm_calls_max=self.settings.llm_calls_max, capture_content=self._capture_content
            )
            coordinator.facts = facts
            try:
                return self._wait(coordinator, asked, deadline.left_s())
            except INVALID as error:
                reason = shorten(f"{type(error).__name__}: {error}", 200)
                _log.info("an answer of the agents' model cannot be used", extra={"attempt": attempt, "reason": reason})
            except ENDLESS:
                calls = self.settings.llm_calls_max
                raise ModelUseless(f"the agents' model `{model.name}` came to no answer within {calls} calls") from None
            except Error:
                raise
            except TimeoutError:
                toolbox.close()
                late = model.request_timeout_s if deadline.left_s() > 0 else self.settings.timeout_s
                raise ModelAway(f"the agents' model `{model.name}` did not answer within {late:g} s") from None
            except Exception as error:
                raise _model_failure(model, error) from error
        raise ModelUseless(f"the agents' model `{model.name}` gave no valid answer in {_TRIES_INVALID} tries: {reason}")

    def _wait(self, coordinator: "Coordinator", asked: "_Asked", timeout_s: float) -> "RunResult":
        """Run on the incident's thread, in a copy of the running context.

        The run ends itself at its time limit, but not while it reads the case: then it is not waited for.
        """
        run = partial(_loop, partial(coordinator.run, asked.task, asked.incident, timeout_s=timeout_s))
        return asked.executor.submit(copy_context().run, run).result(timeout_s + _ENDS_WITHIN_S)


class _Asked(NamedTuple):
    """What one call of `advise` is about, and the thread that works on it."""

    case: CaseFile
    knowledge: KnowledgeReader
    executor: ThreadPoolExecutor
    task: str
    incident: str


class _NotAsked(Away):
    """The remote model failed too often of late: it is left alone for a while."""


class _Deadline:
    """One span of time that several attempts share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left, not below zero."""
        return max(0.0, self._end - time.monotonic())


def _task_of(case: CaseFile, incident: str) -> str:
    event = case.event()
    return prompts.task(str(event.get("model", "?")), str(event.get("kind", "?")), incident)


def _advice(result: "RunResult", model: str, before: tuple[AgentStep, ...]) -> Advice:
    assert result.finding is not None
    assert result.plan is not None
    return Advice(
        finding=result.finding,
        plan=result.plan,
        steps=(*before, *result.steps),
        model=model,
        input_tokens=result.input_tokens,
        output_tokens=result.output_tokens,
    )


def _model_failure(model: ModelSettings, error: Exception) -> Error:
    """What a client's error means to the caller: a refusal of the request is final, anything else may pass."""
    status = getattr(error, "code", None)
    words = telemetry.redact_text(shorten(f"{type(error).__name__}: {error}", 200))
    message = f"the agents' model `{model.name}` failed: {words}"
    if isinstance(status, int) and 400 <= status < 500 and status not in {408, 429}:
        return ModelUseless(message)
    return ModelAway(message) if model.remote else ModelUseless(message)


def _loop(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `run` begins on a loop of its own, which does not wait for helper threads (a name look-up that hangs) at its end."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(run())
    finally:
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(asyncio.sleep(0))  # transports close on the next turn of the loop
        finally:
            loop.close()
