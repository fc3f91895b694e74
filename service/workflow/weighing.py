"""Which of the windows that joined an incident speaks for a model: the worst that can be read, of those that still count.

Several producers may tell of one model, and nobody is silenced by another: a harmless window beside a harmful one changes
nothing, nor does one that cannot be read. How many are measured is bounded; what was not measured is not known, and makes no
incident harmless (`judging`, `refused_unknown`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.event import DriftEvent
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.service.workflow.case import LiveCase
from driftwarden.service.workflow.changes import changes_of, ended_at, lies_in
from driftwarden.service.workflow.incident import Incident, Member, SeenWindow
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.service.workflow.windows import (
    LOSS_MIN,
    Position,
    Told,
    content_of,
    is_own,
    key_of,
    loss_of,
    middle_of,
    moment_of,
    replaces,
    windows_of,
)

WINDOWS_TOLD_MAX = 20
# What is kept of a member's event; the event itself stands in the audit log.
_KEPT = ("model", "kind", "environment", "window", "reference", "performance", "drift_share", "upstream")


def by_model(events: Sequence[DriftEvent]) -> dict[str, list[DriftEvent]]:
    """The events of each model, in the order in which they came."""
    found: dict[str, list[DriftEvent]] = {}
    for event in events:
        found.setdefault(event.model, []).append(event)
    return found


def problem_of(parts: Parts, model: WatchedModel, event: DriftEvent) -> str | None:
    """Why the files that an event names may not be read, or are not there; None: they may, or it names none."""
    rows = ModelRows(parts.settings, model, {})
    try:
        for part in (getattr(event.data, "window", None), getattr(event.data, "reference", None)):
            if part is not None and part.uri:
                rows.path(part.uri)
    except BadInput as error:
        return error.diagnostics()
    return None


def let_speak(member: Member, event: DriftEvent) -> None:
    """From now on it is this event's window that the member is about."""
    data = event.data.model_dump(mode="json")
    member.told, member.event_time = key_of(event), rfc3339(moment_of(event))
    member.event = {name: data[name] for name in _KEPT if data.get(name) is not None}


def windows_by_model(parts: Parts, incident: Incident, events: Sequence[DriftEvent]) -> dict[str, list[Told]]:
    """The windows that the events tell of, by model, with what is over of them; sets `over_since` of the members."""
    entries, found = parts.ledger.entries([one.model for one in incident.concerned]), by_model(events)
    told: dict[str, list[Told]] = {}
    for member in incident.concerned:
        model = parts.settings.models.get(member.model)
        timed = model is not None and model.time_column is not None
        changes = changes_of(entries, member.model, besides=incident.id)
        told[member.model] = [
            replace(one, over=ended_at(one.window, middle_of(one.event), changes, timed=timed))
            for one in windows_of(found.get(member.model) or events[-1:])
        ]
        ends = [one.over for one in told[member.model]]
        member.over_since = "" if None in ends else max(end for end in ends if end is not None)
    return told


@dataclass
class _Scale:
    """The windows of one model that count, those of them that could be measured, and what was."""

    timed: bool
    position: Position
    rows_max: int
    counting: list[Told]
    readable: list[Told]
    problems: dict[int, str]
    seen: dict[str, SeenWindow]

    def __post_init__(self) -> None:
        self._newest: dict[str, dict[str, Told]] = {}  # source -> content -> the newest window of both
        for one in sorted(self.readable, key=lambda one: one.recency):
            self._newest.setdefault(one.event.source, {})[one.content] = one

    def is_replaced(self, one: Told) -> bool:
        # What is measured is measured of the content: of windows with the same, the newest replaces whatever any of them does.
        newer = self._newest.get(one.event.source, {})
        return any(
            replaces(newer[content], one, seen, timed=self.timed, position=self.position, rows_max=self.rows_max)
            for content, seen in self.seen.items()
            if content in newer
        )

    def next(self) -> Told | None:
        """What is measured next: the newest window of each source first, the loudest of those; None: nothing is left."""
        tops = {source: max(each.values(), key=lambda one: one.recency) for source, each in self._newest.items()}
        left = [one for one in self.readable if one.content not in self.seen and not self.is_replaced(one)]
        return max(left, key=lambda one: (tops[one.event.source] is one, one.loudness, one.recency), default=None)

    def standing(self) -> list[Told]:
        """Those whose place no later one of their source takes."""
        return [one for one in self.counting if not self.is_replaced(one)]

    def worst(self) -> Told:
        """The worst: what measurably harms, then what is said to, then what nobody can tell of, then what does not harm; the newest
        of these."""

        def badness(one: Told) -> tuple[int, float]:
            seen = self.seen.get(one.content)
            loss = loss_of(seen)
            if seen is None or loss is None:
                return (0, 0.0) if seen is None else (-1 if seen.fault else 2, 0.0)
            return (4 if is_own(seen) else 3, loss) if loss > LOSS_MIN else (1, loss)

        readable = {one.place for one in self.readable}
        return max(
            (one for one in self.standing() if one.place in readable), key=lambda one: (badness(one), one.recency)
        )

    def unknown(self, judge: Told) -> list[Told]:
        """Windows beside the one that speaks of which nobody knows what the model loses on them."""
        return [one for one in self.standing() if one.content != judge.content and self._loss(one) is None]

    def harmful(self, judge: Told) -> list[Told]:
        """Windows of other rows than those of the one that speaks on which the model measurably loses."""
        return [
            one
            for one in self.standing()
            if (self._loss(one) or 0.0) > LOSS_MIN and not lies_in(one.window, judge.window, timed=self.timed)
        ]

    def _loss(self, one: Told) -> float | None:
        return loss_of(self.seen.get(one.content))

    def why(self, one: Told) -> str:
        seen = self.seen.get(one.content)
        if one.place in self.problems:
            return self.problems[one.place]
        if seen is None:
            return "more windows came than are measured" if one.uri else "it names no file"
        return seen.fault or "what was measured does not tell"


def weigh(
    parts: Parts,
    incident: Incident,
    member: Member,
    told: Sequence[Told],
    *,
    budget: int,
    timeout_s: float,
    alone_too: bool = False,
) -> int | None:
    """Find the window that speaks for a member, and let it; returns how many of the `budget` measurements are left, None where
    they did not suffice and more is to be measured in a further step.

    Of one model's windows at most `service.windows_measured_max` are measured. A single one is measured only with `alone_too`:
    it speaks whatever it says. `told` are the model's own windows. Sets `problem` where none that counts can be handled.
    """
    model = parts.settings.watched(member.model)
    scale = _scale(parts, incident, member, model, told)
    if member.over_since or not scale.readable:
        # Nothing to weigh: those that name no file tell of drift all the same, before one whose file may not be read.
        handled = [one for one in scale.counting if one.place not in scale.problems]
        judge = max(handled or scale.counting, key=lambda one: one.place)
        member.problem = scale.problems.get(judge.place)
        if alone_too and member.problem is None and judge.content not in scale.seen:
            if budget == 0:
                return None
            seen = _measured(parts, incident, member, judge, timeout_s)
            scale.seen[judge.content], budget = seen, budget - 1
            remember_window(parts, _as_told(incident, member, judge), seen.performance)
    else:
        member.problem = None
        several = len({one.content for one in scale.readable}) > 1
        bound = parts.settings.service.windows_measured_max
        measured: list[tuple[float, Told]] = []
        while several or alone_too:
            one = scale.next()
            if one is None or len(scale.seen) >= bound:
                break
            if budget == 0:
                member.seen = [*scale.seen.values()]
                return None
            seen = _measured(parts, incident, member, one, timeout_s)
            scale.seen[one.content], budget = seen, budget - 1
            measured.append((loss_of(seen) or -1.0, one))
        judge = scale.worst()
        for _, one in sorted(measured, key=lambda pair: pair[0]):  # of windows with one end, the worst is remembered
            remember_window(parts, _as_told(incident, member, one), scale.seen[one.content].performance)
    _settle(member, scale, judge)
    return budget


def _scale(parts: Parts, incident: Incident, member: Member, model: WatchedModel, told: Sequence[Told]) -> _Scale:
    counting = [one for one in told if one.over is None] or [*told]
    environment, problems = incident.environment, {}
    for one in counting:
        problem = problem_of(parts, model, one.event)
        if one.event.data.environment != environment:
            problem = f"an event of {one.event.data.environment}, and the incident is of {environment}"
        if problem is not None:
            problems[one.place] = problem
    readable = [one for one in counting if one.uri and one.place not in problems]
    contents = {one.content for one in readable}
    return _Scale(
        timed=model.time_column is not None,
        position=_positions(parts, model),
        rows_max=parts.settings.data.measure_rows_max,
        counting=counting,
        readable=readable,
        problems=problems,
        seen={seen.content: seen for seen in member.seen if seen.content in contents},
    )


def _positions(parts: Parts, model: WatchedModel) -> Callable[[str], int | None]:
    rows = ModelRows(parts.settings, model, {})
    places: dict[str, int] | None = None

    def position(uri: str) -> int | None:
        nonlocal places
        try:
            if places is None:
                places = {str(file): place for place, file in enumerate(rows.history_files())}
            return places.get(str(rows.path(uri)))
        except BadInput:
            return None

    return position


def _as_told(incident: Incident, member: Member, one: Told) -> Incident:
    """The incident as it is for a member, and for this window: for looking only."""
    moment = rfc3339(moment_of(one.event))
    return incident.of(member).model_copy(update={"event": one.data, "event_time": moment})


def _measured(parts: Parts, incident: Incident, member: Member, one: Told, timeout_s: float) -> SeenWindow:
    case = LiveCase(parts, _as_told(incident, member, one), parts.settings.watched(member.model))
    performance = case.performance(timeout_s=timeout_s)
    first, last = case.span
    return SeenWindow(content=one.content, performance=performance, first=first, last=last, fault=case.unreadable)


def _settle(member: Member, scale: _Scale, judge: Told) -> None:
    seen, before = scale.seen.get(judge.content), content_of(member.event)
    let_speak(member, judge.event)
    # What another took the place of needs no measurement any more: the bound is for those that stand.
    stand = {one.content for one in scale.standing()}
    member.seen = [one for one in scale.seen.values() if one.content in stand]
    if seen is not None:
        member.performance, member.fault = seen.performance, seen.fault
    elif before != judge.content:
        member.performance, member.fault = {}, None
    idle = bool(member.over_since or member.problem)
    unknown = [] if idle else scale.unknown(judge)
    member.unknown, member.besides = len(unknown), 0 if idle else len(scale.harmful(judge))
    member.unknown_why = scale.why(unknown[0]) if unknown else None


def keep_seen(member: Member, case: LiveCase, performance: dict[str, Any]) -> None:
    """The window that speaks was measured whole: it need not be measured again beside those that join."""
    content, (first, last) = content_of(member.event), case.span
    own = SeenWindow(content=content, performance=performance, first=first, last=last, fault=case.unreadable)
    member.seen = [*(one for one in member.seen if one.content != content), own]


def remember_window(parts: Parts, incident: Incident, performance: dict[str, Any]) -> None:
    """Add the window to its model's history; one that its producer puts into the future is none of it."""
    if parts.lies_ahead(incident.event_time):
        return
    window = incident.event.get("window") or {}
    parts.metrics.record(
        incident.model,
        {
            "start": window.get("start"),
            "end": incident.event_time,
            "rows": performance.get("rows_current") or window.get("rows"),
            "metric": performance.get("metric") or parts.settings.watched(incident.model).metric,
            "value": performance.get("current"),
            "reference": performance.get("reference"),
            "drift_share": incident.event.get("drift_share"),
            "incident": incident.id,
            "labelled": performance.get("basis") == "measured",
        },
    )


def tell_windows(member: Member, told: Sequence[Told]) -> dict[str, Any]:
    """What the record of a finding says of the windows that were weighed, where they are several: the newest of them."""
    seen = {one.content: one for one in member.seen}
    rows = [
        {
            "source": one.event.source,
            "id": one.event.id,
            **{name: one.window.get(name) for name in ("uri", "start", "end")},
            "relative_loss": loss_of(seen.get(one.content)),
            "over_since": one.over,
            "speaks": key_of(one.event) == member.told,
        }
        for one in told[-WINDOWS_TOLD_MAX:]
    ]
    return {"windows": rows, "windows_told": len(told)} if len(told) > 1 else {}


def refused_unknown(incident: Incident, candidate: Candidate) -> str | None:
    """Why nothing cannot be done: there are windows of which nobody knows what is lost on them; None where there are none."""
    found = [one for one in incident.concerned if one.unknown]
    if not found or candidate.action is not ActionName.NONE or incident.over or "undo" in candidate.params:
        return None
    return f"{told_unknown(found[0])}: somebody must know"


def told_unknown(member: Member) -> str:
    """In words, of how many windows it is not known what the model loses on them, and why."""
    windows = "1 other window" if member.unknown == 1 else f"{member.unknown} other windows"
    return f"what {member.model} loses on {windows} is not known ({member.unknown_why})"


def tell_besides(parts: Parts, incident: Incident) -> None:
    """Data were kept out, and other rows harm as well, or nobody knows whether they do: they stay, and somebody must know."""
    harm = [f"{one.besides} of {one.model}" for one in incident.concerned if one.besides]
    unknown = [told_unknown(one) for one in incident.concerned if one.unknown]
    if not harm and not unknown:
        return
    told = [f"other windows harm as well, and were not kept out: {', '.join(harm[:WINDOWS_TOLD_MAX])}"] if harm else []
    reason = "; ".join([*told, *unknown[:WINDOWS_TOLD_MAX]])
    incident.note(parts.clock, "result", reason, SERVICE)
    parts.notifier.notify(
        f"drift of other rows {'stands' if harm else 'may stand'} on {incident.model}",
        f"{reason}\ndriftwarden incidents show {incident.id}",
        key=f"{incident.id}:besides",
        fields={"incident": incident.id, "correlation_id": incident.correlation_id},
    )
