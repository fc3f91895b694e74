"""What an investigation had to do without, and what that costs it in confidence."""

from typing import Literal

from driftwarden.contracts.findings import Advice, Finding
from driftwarden.contracts.ports import KnowledgeHit, KnowledgeReader
from driftwarden.errors import BadInput, Error
from driftwarden.resilience import Breaker


class Consulted:
    """The knowledge base as one investigation reads it; `missing` says why an answer of it was not to be had."""

    def __init__(self, knowledge: KnowledgeReader) -> None:
        """Nothing is asked yet."""
        self._knowledge = knowledge
        self.missing: str | None = None

    def search(
        self,
        text: str,
        *,
        kind: Literal["runbook", "incident"] | None = None,
        root_cause: str | None = None,
        limit: int = 5,
    ) -> tuple[KnowledgeHit, ...]:
        """As `KnowledgeReader.search`, and remembered where it fails."""
        try:
            return self._knowledge.search(text, kind=kind, root_cause=root_cause, limit=limit)
        except BadInput:  # the question was wrong
            raise
        except Exception as error:
            self.missing = error.diagnostics() if isinstance(error, Error) else f"{type(error).__name__}: {error}"
            raise


def degrade(advice: Advice, consulted: Consulted, breaker: Breaker, *, knowledge_factor: float) -> Finding:
    """The finding, saying what was away when it was made; without the knowledge base it is less sure, never more.

    Its confidence is multiplied by `knowledge_factor` (0..1), which it carries (`confidence_factor`) for the plan's.
    """
    finding = advice.finding
    told = [
        f"no language model answered, the offline reasoner investigated: {step.summary}"
        for step in advice.steps
        if step.kind == "fallback"
    ]
    missing = consulted.missing
    if missing is None and (view := breaker.view()).state == "open":
        missing = f"{view.name}: it is away: {view.reason}"
    factor = 1.0
    if missing is not None:
        factor = knowledge_factor
        told.append(f"the knowledge base could not be asked, confidence times {factor:g}: {missing}")
    if not told:
        return finding
    return finding.model_copy(
        update={
            "degraded": tuple(told),
            "confidence_factor": factor,
            "confidence": min(finding.confidence, round(finding.confidence * factor, 6)),
        }
    )
