"""What the agents say: a finding (why) and a plan (what would help, at what cost and benefit)."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from driftwarden.contracts.base import ActionName, RootCause, Value

Share = Annotated[float, Field(ge=0, le=1)]


class Evidence(Value):
    """One number and where it comes from: `measure` of `subject` is `value`, read by the tool `source`."""

    claim: str
    measure: str
    value: float | int | str | None
    threshold: float | None = None
    columns: tuple[str, ...] = ()
    source: str


class Alternative(Value):
    """Another cause that was considered, and what speaks for it (0..1)."""

    root_cause: RootCause
    score: Share
    against: str = ""


class Finding(Value):
    """Why it drifted. `confidence` comes from measurements; `claimed_confidence` (a model's own word) can only lower it.

    `degraded`: what was away when it was found, in words; `confidence_factor`: by which confidence was lowered for it.

    `models`, `upstream`: where one cause moved several models, whom, and the data sets that all of them are fed from.
    """

    root_cause: RootCause
    columns: tuple[str, ...] = ()
    confidence: Share
    claimed_confidence: Share | None = None
    summary: str
    evidence: tuple[Evidence, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    citations: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    confidence_factor: Share = 1.0
    models: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()


class Candidate(Value):
    """One remedy: the action, its parameters, what it costs and brings, why, and where that is written (knowledge ids)."""

    id: Annotated[str, Field(pattern=r"^c[0-9]{1,2}$")]
    action: ActionName
    params: dict[str, Any] = Field(default_factory=dict)
    cost_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] = Decimal(0)
    benefit_usd: Annotated[Decimal, Field(allow_inf_nan=False)] | None = None
    models_affected: Annotated[int, Field(ge=0)] = 1
    reversible: bool = True
    rationale: str = ""
    citations: tuple[str, ...] = ()


class Plan(Value):
    """Remedies in order of preference. `confidence` is set by the service from rehearsal or diagnosis, never by a model;
    `claimed_confidence` can only lower it."""

    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1, max_length=6)]
    summary: str = ""
    claimed_confidence: Share | None = None


class AgentStep(Value):
    """One step an agent took, for the trace and the audit: a tool call or an answer, in brief."""

    agent: str
    kind: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    summary: str = ""


class Advice(Value):
    """What the agents bring to the policy: nothing in it has an effect of its own."""

    finding: Finding
    plan: Plan
    steps: tuple[AgentStep, ...] = ()
    model: str
    input_tokens: int = 0
    output_tokens: int = 0


class Rehearsal(Value):
    """A candidate tried in the sandbox against the champion on rows neither has seen.

    `relative_gain` is a share of the champion's loss or score (positive is better), `gain_low`/`gain_high` its 90 %
    interval, `win_probability` the share of paired block-bootstrap replicates in which the candidate is better.
    `status`: `rehearsed`, `not_rehearsable` (the action has nothing to rehearse) or `failed` (with `detail`).
    """

    candidate: str
    status: str
    metric: str | None = None
    rows: int = 0
    blocks: int = 0
    champion_score: float | None = None
    candidate_score: float | None = None
    relative_gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    win_probability: Share | None = None
    train_rows: int = 0
    champion_version: int | None = None
    seconds: float = 0.0
    detail: str = ""
