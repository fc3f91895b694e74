"""The document of one incident: everything it has learned and decided, as it stands in the store."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from driftwarden.clock import Clock, rfc3339
from driftwarden.contracts.effects import EffectResult, Verification
from driftwarden.contracts.findings import Candidate, Finding, Plan, Rehearsal
from driftwarden.contracts.ports import Actor
from driftwarden.service.workflow.transitions import State
from driftwarden.strict import plain

STORED_VERSION = 2  # the form of a stored document (driftwarden.service.workflow.stored)
TIMELINE_MAX = 200
HEARD_MAX = 100


class Intent(BaseModel):
    """What is about to be done, under which key, and what it may cost."""

    model_config = ConfigDict(extra="forbid")

    idempotency_key: str
    candidate: str
    request: dict[str, Any]
    audit_hash: str
    cause_hash: str


class SeenWindow(BaseModel):
    """What was measured of one window: `content` says of which rows (`windows.content_of`), `first` and `last` are the times of
    the rows read (RFC 3339; None: they have none), `fault` why nothing could be measured."""

    model_config = ConfigDict(extra="forbid")

    content: str
    performance: dict[str, Any] = Field(default_factory=dict)
    first: str | None = None
    last: str | None = None
    fault: str | None = None


class Member(BaseModel):
    """One model that an incident concerns, with the window that speaks for it, its own measured harm and its own decision.

    `key` is the identity of its newest event, `told` of the one whose window speaks (`weighing`); `event` holds what is used of
    that one's data (the lead's stands whole in `Incident.event`). `seen` are the windows that were measured to find it, `unknown`
    says of how many others it is not known what the model loses on them, `unknown_why` why, `besides` on how many of other rows
    it measurably loses as well; `over_since` (RFC 3339): a change since ended all of its drift. `problem`: the event cannot be
    handled; `fault`: its window could not be measured; `spared`: no data is kept out of it, for what it loses itself asks for
    nothing, or is not known (`judging`). `failing` and `lifted` (by people, or by an exception) are ids of rules of the last
    decision, `decided` its `@hash`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    key: str = ""
    told: str = ""
    event: dict[str, Any] = Field(default_factory=dict)
    event_time: str = ""
    seen: list[SeenWindow] = Field(default_factory=list)
    unknown: int = 0
    unknown_why: str | None = None
    besides: int = 0
    over_since: str = ""
    champion: int | None = None
    problem: str | None = None
    fault: str | None = None
    performance: dict[str, Any] = Field(default_factory=dict)
    outcome: str | None = None
    failing: list[str] = Field(default_factory=list)
    lifted: list[str] = Field(default_factory=list)
    decided: str | None = None
    spared: bool = False

    @property
    def mark(self) -> str:
        """What of it was looked at: its newest event, and the one that speaks."""
        return f"{self.key}\n{self.told}"


class Incident(BaseModel):
    """One incident; mutable while a worker holds it, committed whole.

    It is about `model`, the lead, and where one upstream cause moved several, about all its `members` (lead first).
    `event` and `event_time` are of the window that speaks for the lead, `latest` is the latest moment that the lead's events are
    about. `triaged` says why no language model was asked, `asked_model` whether one ever was, `looked_at` which events of the
    lead were investigated, `over` that triage found nothing left to do.

    `now` is the decision's moment (RFC 3339): the service's clock, or the stream's own window time in demo and bench.
    `intents` are the `@hash`es of all its intents; `asked` is the request (`<id>@<requested at>`) that people were told of;
    `held` are the rules that hold back what was approved, or needs no approval (`holding`), while it waits;
    `heard` are people's requests of the last day that were heard (digest -> signed at); `undo_of` the effect that is to be
    taken back (`undoing.propose`), `undone` what came of it; `waits_since`: it waits for something that is
    away. `audit` maps a record type to the `@hash` of this incident's last record of it.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    correlation_id: str
    model: str
    environment: str = "production"
    state: State = State.RECEIVED
    opened_at: str
    updated_at: str
    events: list[dict[str, str]] = Field(default_factory=list)
    event: dict[str, Any] = Field(default_factory=dict)
    event_time: str = ""
    latest: str = ""
    problem: str | None = None
    champion_before: int | None = None
    members: list[Member] = Field(default_factory=list)
    triaged: str | None = None
    asked_model: bool = False
    looked_at: str = ""
    over: bool = False
    measures: dict[str, dict[str, Any]] = Field(default_factory=dict)
    finding: Finding | None = None
    plan: Plan | None = None
    rehearsals: list[Rehearsal] = Field(default_factory=list)
    rehearsal_notes: dict[str, Any] = Field(default_factory=dict)
    chosen: str | None = None
    confidence: float | None = None
    facts: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    decided_at: str | None = None
    outcome: str | None = None
    approval: str | None = None
    asked: str | None = None
    held: list[str] = Field(default_factory=list)
    heard: dict[str, str] = Field(default_factory=dict, max_length=HEARD_MAX)
    intent: Intent | None = None
    intents: list[str] = Field(default_factory=list)
    result: EffectResult | None = None
    effect_rows: dict[str, Any] = Field(default_factory=dict)
    verification: Verification | None = None
    undo_of: dict[str, Any] | None = None
    undone: EffectResult | None = None
    helped: bool | None = None
    agents_model: str | None = None
    tries: int = 0
    waits_since: str | None = None
    rounds: int = 0
    attempts: int = 0
    timeline: list[dict[str, str]] = Field(default_factory=list)
    audit: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)

    def note(self, clock: Clock, type: str, summary: str, actor: Actor) -> None:
        """Add a line to the timeline (bounded; the audit log is the full story)."""
        moment = rfc3339(clock.now())
        self.updated_at = moment
        self.timeline.append({"ts": moment, "type": type, "actor": f"{actor.kind}:{actor.id}", "summary": summary})
        del self.timeline[:-TIMELINE_MAX]

    @property
    def candidate(self) -> Candidate | None:
        """The candidate that was chosen for the decision, or None."""
        if self.plan is None or self.chosen is None:
            return None
        return next((candidate for candidate in self.plan.candidates if candidate.id == self.chosen), None)

    @property
    def rehearsal(self) -> Rehearsal | None:
        """The rehearsal of the chosen candidate, or None."""
        return next((one for one in self.rehearsals if one.candidate == self.chosen), None)

    @property
    def concerned(self) -> list[Member]:
        """Every model concerned, the lead first; never empty."""
        return self.members or [
            Member(
                model=self.model, event=self.event, event_time=self.event_time, champion=self.champion_before,
                performance=self.measures.get("performance") or {},
            )
        ]  # fmt: skip

    @property
    def held_back_by(self) -> list[str]:
        """Ids of the rules that an approved plan, or one that needs no approval, waits for; empty where nothing holds it back."""
        return self.held if self.state in {State.AWAITING_APPROVAL, State.DECIDED, State.EXECUTING} else []

    @property
    def others(self) -> list[Member]:
        """The models beside the lead."""
        return self.members[1:]

    @property
    def models(self) -> list[str]:
        """Names of the models concerned, the lead first."""
        return [member.model for member in self.concerned]

    def of(self, member: Member) -> "Incident":
        """This incident as it is for one of its models, measured as that one was: for looking only."""
        if member.model == self.model:
            return self
        return self.model_copy(
            update={
                "model": member.model,
                "event": member.event,
                "event_time": member.event_time,
                "latest": "",
                "champion_before": member.champion,
                "environment": str(member.event.get("environment", self.environment)),
                "problem": member.problem,
                "measures": {"performance": member.performance} if member.performance else {},
            }
        )

    def begin_again(self) -> None:
        """Forget all that was said of it: its events are taken in anew, for files that were absent may be there now, and what is in
        force may be something else."""
        self.problem = None
        self.finding = self.plan = self.chosen = self.confidence = None
        self.facts = self.decision = self.intent = self.result = self.verification = None
        self.rehearsals, self.rehearsal_notes, self.measures, self.effect_rows = [], {}, {}, {}
        self.outcome = self.helped = self.undo_of = self.undone = self.asked = None
        self.tries = self.rounds = self.attempts = 0
        self.events = []

    def to_store(self) -> dict[str, Any]:
        """JSON-able document for the store (`stored.load_incident` reads it)."""
        return {"stored_version": STORED_VERSION} | self.model_dump(mode="json")


def list_view(incident: Incident) -> dict[str, Any]:
    """The fields of `incidents list --json` (contract §6)."""
    candidate, result, undone = incident.candidate, incident.result, incident.undone
    left = undone or result
    document: dict[str, Any] = plain(
        {
            "id": incident.id,
            "correlation_id": incident.correlation_id,
            "model": incident.model,
            "models": incident.models,
            "environment": incident.environment,
            "state": incident.state.value,
            "outcome": incident.outcome,
            "root_cause": incident.finding.root_cause.value if incident.finding else None,
            "action": candidate.action.value if candidate else None,
            "confidence": incident.confidence,
            "opened_at": incident.opened_at,
            "updated_at": incident.updated_at,
            "events": incident.events,
            "approval": incident.approval,
            "versions": {
                "before": result.before if result and result.before is not None else incident.champion_before,
                "after": left.after if left and left.changed else None,
            },
            "problem": incident.problem,
        }
    )
    return document


def show_view(incident: Incident, trace_url: str | None) -> dict[str, Any]:
    """The fields of `incidents show --json` (contract §6)."""
    rehearsed = {one.candidate: one.model_dump(mode="json") for one in incident.rehearsals}
    candidates = incident.plan.candidates if incident.plan else ()
    document: dict[str, Any] = list_view(incident) | plain(
        {
            "finding": incident.finding.model_dump(mode="json") if incident.finding else None,
            "plan": {"chosen": incident.chosen, "summary": incident.plan.summary} if incident.plan else None,
            "candidates": [one.model_dump(mode="json") | {"rehearsal": rehearsed.get(one.id)} for one in candidates],
            "facts": incident.facts,
            "decision": incident.decision,
            "result": incident.result.model_dump(mode="json") if incident.result else None,
            "verification": incident.verification.model_dump(mode="json") if incident.verification else None,
            "helped": incident.helped,
            "triaged": incident.triaged,
            "held": incident.held_back_by,
            "members": [_member_view(member) for member in incident.concerned],
            "timeline": incident.timeline,
            "agents_model": incident.agents_model,
            "trace_url": trace_url,
        }
    )
    return document


def _member_view(member: Member) -> dict[str, Any]:
    window = member.event.get("window") or {}
    return {
        "model": member.model,
        "champion": member.champion,
        "window": {name: window.get(name) for name in ("start", "end", "rows", "uri")},
        "unknown_windows": member.unknown,
        "relative_loss": member.performance.get("relative_loss"),
        "outcome": member.outcome,
        "why": member.failing,
        "spared": member.spared,
        "problem": member.problem or member.fault,
    }
