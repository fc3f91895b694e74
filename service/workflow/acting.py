"""The last part of the walk: the effect, its verification on later rows, its undoing, and what is remembered of it."""

from collections.abc import Sequence
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.base import ActionName, Outcome
from driftwarden.contracts.effects import ActionRequest, EffectResult, Verification
from driftwarden.errors import AskHuman, BadInput, GiveUp, Refused
from driftwarden.service.workflow.cut_short import halves, released, taken_back
from driftwarden.service.workflow.deciding import (
    approval_facts,
    carry_on,
    fail,
    hold_back,
    look_again,
    reserve,
    withdraw,
)
from driftwarden.service.workflow.holding import begin_anew, has_waited, wait_for_turn
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.intents import call_off, intend, tell_not_done, tell_replaced
from driftwarden.service.workflow.judging import decide, in_words
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.recording import book, book_part, book_released, use_up
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.service.workflow.settling import settle_measured, write_settlement
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.undoing import (
    VERSION_ACTIONS,
    leave,
    left_to_undo,
    narrow,
    propose,
    settle,
    tell_harm_stands,
)
from driftwarden.service.workflow.weighing import tell_besides

WINDOWS_MAX = 50


def execute(parts: Parts, incident: Incident, raws: list[str], *, resumed: bool) -> State:
    """executing -> verifying | resolved | failed, or back to people where a fresh decision no longer allows it.

    Two commits: the decision made again and the intent, then the effect. Entered again after a crash (`resumed`), the
    sink is asked by the idempotency key; where nothing happened yet, it is decided and intended anew.
    """
    if incident.intent is None:
        return _decide_and_intend(parts, incident, raws)
    tell_replaced(parts, incident)
    if resumed and (said := parts.floor.not_done(incident.id, incident.intent.audit_hash)) is not None:
        return _not_done(parts, incident, str(said.get("detail")), failed=said.get("failed") is True)
    request = ActionRequest.model_validate(incident.intent.request)
    action = parts.actions[request.candidate.action]
    if incident.undo_of is not None:
        return _undo(parts, incident, resumed=resumed)
    result = action.lookup(request)
    if result is None and resumed:
        return _intend_anew(parts, incident)
    if result is not None and resumed and result.data.get("missing"):
        if parts.floor.result_of(incident.id, incident.intent.audit_hash) is not None:
            # Whoever died had told already what was done of it: that is all that this intent stands for in the log.
            return give_up(parts, incident, f"came to no end: {result.detail}")
        if (why := _held_up(parts, incident)) is not None:
            tell_besides(parts, incident)
            return give_up(parts, incident, f"half done, and not gone on with: {why}")
    try:
        if result is None:
            action.precheck(request)
        # Also where it was found: an effect in several parts (trained, not yet promoted) is finished under the same key.
        result = action.execute(request)
    except AskHuman as error:
        book_part(parts, incident)
        parts.ledger.settle(incident.id, failed=True)
        return _fail(parts, incident, f"a person must look: {error.diagnostics()}")
    except (Refused, GiveUp) as error:
        # Raises Away where it is the registry that is missing: the effect is looked up under its key once it is back, and is
        # booked then, whole; a part of it that stood in the log already would be taken for all of it.
        parts.registry.champion(request.model)
        book_part(parts, incident)
        parts.ledger.settle(incident.id, failed=True)
        return _fail(parts, incident, f"{incident.intent.request['candidate']['action']}: {error.diagnostics()}")
    return _done(parts, incident, request, result)


def _intend_anew(parts: Parts, incident: Incident) -> State:
    """Whoever intended it died or gave up before it was done: it is decided afresh, and intended anew where that allows it."""
    if incident.attempts > parts.settings.service.crashes_max:
        parts.ledger.settle(incident.id, failed=True)
        return give_up(parts, incident, f"begun {incident.attempts} times, and every time its worker died or gave up")
    incident.intent = None
    return State.EXECUTING


def _held_up(parts: Parts, incident: Incident) -> str | None:
    """Why an effect on several models, of which some have had it, may not go on; None: it may. Decided afresh, for each of them."""
    parts.require_agreement()
    decision = decide(parts, incident, approval=approval_facts(parts, incident))
    return None if decision.outcome is Outcome.EXECUTE else f"the policy says {in_words(decision)}"


def _is_taken_back(parts: Parts, incident: Incident) -> bool:
    """True where the undo has happened already, and only its record may be missing."""
    assert incident.undo_of is not None
    assert incident.intent is not None
    before = left_to_undo(incident)
    is_told = parts.floor.result_of(incident.id, incident.intent.audit_hash) is not None
    if is_told and before.action is not ActionName.QUARANTINE_DATA:
        return True
    found = taken_back(parts, incident)
    if found is None:  # decided again, a second try of such an undo finds for itself that it is done
        return is_told
    return found.changed and not found.data.get("missing")


def _undo(parts: Parts, incident: Incident, *, resumed: bool) -> State:
    """What was decided to be taken back; `undo` itself refuses where the state has moved on, and does it once."""
    assert incident.undo_of is not None
    assert incident.intent is not None
    if resumed and not _is_taken_back(parts, incident):
        if parts.floor.result_of(incident.id, incident.intent.audit_hash) is not None:
            return give_up(parts, incident, "undo: came to no end, and what was done of it was told")
        return _intend_anew(parts, incident)
    request, before = ActionRequest.model_validate(incident.undo_of["request"]), left_to_undo(incident)
    try:
        undone = parts.actions[before.action].undo(request, before)
    except Refused as error:
        part = released(parts, incident) if resumed or incident.attempts > 1 else None
        if part is None or not part.changed or part.data["missing"]:
            return _not_done(parts, incident, error.diagnostics(), failed=False, part=part)
        undone = part  # all of it had happened before somebody kept the same rows out again
    except (GiveUp, AskHuman) as error:
        parts.ledger.settle(incident.id, failed=True)
        return give_up(parts, incident, f"undo: a person must look: {error.diagnostics()}")
    book(parts, incident, undone)
    use_up(parts, incident)
    return settle(incident, undone)


def _not_done(parts: Parts, incident: Incident, why: str, *, failed: bool, part: EffectResult | None = None) -> State:
    """What was intended has a result that says so, whoever dies afterwards: a refused undo leaves the incident as it was, but
    for the `part` of it that an earlier try released."""
    if failed or incident.undo_of is None:
        parts.ledger.settle(incident.id, failed=True)
        return fail(parts, incident, why)
    book_released(parts, incident, part)
    tell_not_done(parts, incident, why, failed=False)
    withdraw(parts, incident, also_approved=True)
    return leave(parts, incident, why)


def _decide_and_intend(parts: Parts, incident: Incident, raws: list[str]) -> State:
    parts.require_agreement()
    # From here on no event joins any more: this is the last moment to look at one that did.
    if (waited := has_waited(parts, incident)) or look_again(parts, incident, raws):
        _call_off(parts, incident)
        withdraw(parts, incident, also_approved=True)
        return begin_anew(parts, incident) if waited else State.TRIAGED
    approval = approval_facts(parts, incident)
    if approval is None and reserve(parts, incident) is not None:
        wait_for_turn(parts, incident)
    decision = decide(parts, incident, approval=approval)
    # Reserved before, but whoever called it off and died before the commit has given that up.
    broken = reserve(parts, incident) if decision.outcome is Outcome.EXECUTE else None
    if decision.outcome is Outcome.EXECUTE and broken is None:
        # The last word before the intent: all hold the very policy that has just decided.
        parts.require_agreement(decision.policy_digest)
        _leave_out_told(parts, incident)
        intend(parts, incident, "approval" if approval else "decision")
        incident.attempts += 1
        return State.EXECUTING
    _call_off(parts, incident)
    if broken is not None:
        return carry_on(parts, incident, approval=approval)
    if approval is None:
        withdraw(parts, incident, also_approved=True)
    return hold_back(parts, incident, decision.outcome, approval=approval)


def _leave_out_told(parts: Parts, incident: Incident) -> None:
    """Whoever told a part of the undo and died before the commit told it for good: the next result is of the rest."""
    if incident.undo_of is not None:
        batches, told = left_to_undo(incident).undo.get("batches") or {}, parts.floor.released(incident.id)
        narrow(incident, [model for model, batch in batches.items() if (model, batch) not in told])


def _call_off(parts: Parts, incident: Incident) -> None:
    """Before the rest is called off, what an undo released before its worker died is told: the log would go on saying that it is
    kept out."""
    book_released(parts, incident, released(parts, incident) if incident.undo_of is not None else None)
    call_off(parts, incident)


def _done(parts: Parts, incident: Incident, request: ActionRequest, result: EffectResult) -> State:
    incident.result, incident.attempts = result, 0
    book(parts, incident, result)
    use_up(parts, incident)
    # A version is judged on later rows; of anything else it is read back that it stands as intended.
    if result.action in VERSION_ACTIONS and result.changed:
        incident.effect_rows = _rows_then(parts, incident, request)
        return State.VERIFYING
    if result.action in VERSION_ACTIONS:
        incident.helped = False
        settle_measured(parts, incident)
        return State.RESOLVED
    if result.action is ActionName.QUARANTINE_DATA and result.changed:
        tell_besides(parts, incident)
    verdict = Verification(verdict="confirmed", detail="read back: it stands as intended")
    _record_verification(parts, incident, verdict)
    return State.RESOLVED


def give_up(parts: Parts, incident: Incident, reason: str, *, at_last: bool = False) -> State:
    """As `fail`, from any step: what was done of an effect that comes to no end is booked first.

    Raises Retry where whoever could tell that does not answer; `at_last`: then it ends without.
    """
    tell_replaced(parts, incident)
    untold = book_part(parts, incident, at_last=at_last)
    incident.tries = 0  # of what people ask for after it
    if untold is not None:
        return fail(parts, incident, f"{reason}; what was done of it cannot be told: {untold}")
    return _fail(parts, incident, reason)


def _fail(parts: Parts, incident: Incident, reason: str) -> State:
    """As `fail`; of an effect over several models it says which had it and which had not."""
    done = halves(incident)
    return fail(parts, incident, reason if done is None else f"{reason}; {done}")


def _rows_then(parts: Parts, incident: Incident, request: ActionRequest) -> dict[str, object]:
    """What was known when the effect happened, to tell later rows from earlier ones."""
    paths = request.training_rows.paths if request.training_rows else ()
    if not paths:
        model = parts.settings.watched(incident.model)
        window = incident.event.get("window") or {}
        try:
            paths = ModelRows(parts.settings, model, {}).known(request.now, window.get("uri")).paths
        except BadInput:
            paths = ()
    return {"until": request.now, "paths": list(paths)}


def verify(parts: Parts, incident: Incident) -> State:
    """verifying -> resolved, or on to taking it back: both versions on labelled rows that neither was chosen on."""
    if is_harmed(incident):
        return _take_back(parts, incident)
    windows = _windows_since(parts, incident)
    verification = _compare(parts, incident, ())
    if verification.verdict == "pending" and any(window.get("uri") for window in windows):
        elsewhere = _compare(parts, incident, windows)
        verification = verification if elsewhere.verdict == "pending" else elsewhere
    if verification.verdict == "pending":
        return _wait(parts, incident, _as_reported(windows) or verification)
    _record_verification(parts, incident, verification)
    if verification.verdict == "harmed":
        # Committed before anything follows from it: a process that dies here must not come to judge afresh.
        return State.VERIFYING
    incident.helped = {"helped": True, "no_difference": False}.get(verification.verdict)
    settle_measured(parts, incident)
    return State.RESOLVED


def _wait(parts: Parts, incident: Incident, verification: Verification) -> State:
    """No rows to judge by yet. What others report settles meanwhile, and is no end: rows that are read later still count."""
    over = _patience_is_over(parts, incident)
    if verification != incident.verification and (over or verification.verdict == "reported"):
        _record_verification(parts, incident, verification)
        if verification.verdict == "reported":
            write_settlement(parts, incident, "reported")
    incident.verification = verification
    return State.RESOLVED if over else State.VERIFYING


def is_harmed(incident: Incident) -> bool:
    """True once later rows have shown that the effect did harm."""
    return incident.verification is not None and incident.verification.verdict == "harmed"


def _windows_since(parts: Parts, incident: Incident) -> list[dict[str, Any]]:
    """Windows that performance reports told of and that ended after the effect."""
    then = parse_rfc3339(str(incident.effect_rows.get("until") or incident.updated_at))
    now = parse_rfc3339(_latest_now(parts, incident))
    known = parts.metrics.last(incident.model, WINDOWS_MAX)
    return [one for one in known if one.get("basis") and then < parse_rfc3339(one["end"]) <= now]


def _compare(parts: Parts, incident: Incident, reported: Sequence[dict[str, Any]]) -> Verification:
    """Both versions on the labelled rows of the history that came since, or on those of the reported windows."""
    from driftwarden.actions.verify import judge

    result, bounds = incident.result, parts.settings.verification
    assert result is not None
    model = parts.settings.watched(incident.model)
    waiting = "no labelled rows after the action yet"
    try:
        own = ModelRows(parts.settings, model, parts.quarantined(model.name))
        rows = own.after(incident.effect_rows, _latest_now(parts, incident), reported)
        if rows is None or result.before is None or result.after is None:
            return Verification(verdict="pending", detail=waiting)
        comparison = parts.comparer.compare(model, champion=result.before, challenger=result.after, rows=rows)
    except (BadInput, GiveUp) as error:
        return Verification(verdict="pending", detail=error.diagnostics())
    return judge(comparison, rows_min=bounds.rows_min, tolerance=bounds.tolerance, p_harm=bounds.p_harm)


def _as_reported(windows: Sequence[dict[str, Any]]) -> Verification | None:
    """Someone else's figures, where the newest report is of a window that could not be read here: no track record."""
    newest = windows[-1] if windows else None
    if newest is None or newest["basis"] != "reported" or newest.get("value") is None or newest.get("unmeasured"):
        return None
    against = f", reference {newest['reference']}" if newest.get("reference") is not None else ""
    detail = f"{newest['metric']} {newest['value']}{against} in the window to {newest['end']}, as reported"
    return Verification(verdict="reported", rows=int(newest.get("rows") or 0), detail=detail)


def _latest_now(parts: Parts, incident: Incident) -> str:
    """The decision's clock, or the moment that this model's windows have reached where the stream is the clock."""
    now = parts.decision_clock.now_for(incident)
    last = parts.metrics.last(incident.model, 1)
    return max([now, *(parts.decision_clock.reached(window["end"]) for window in last)])


def _patience_is_over(parts: Parts, incident: Incident) -> bool:
    then = parse_rfc3339(str(incident.effect_rows.get("until") or incident.updated_at))
    return parse_rfc3339(_latest_now(parts, incident)) - then >= parts.settings.verification.patience


def _record_verification(parts: Parts, incident: Incident, verification: Verification) -> None:
    incident.verification = verification
    incident.audit["verification"] = parts.audit.append(
        "verification",
        verification.model_dump(mode="json"),
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("result"),
    )
    incident.note(parts.clock, "verification", f"{verification.verdict}: {verification.detail}", SERVICE)


def _take_back(parts: Parts, incident: Incident) -> State:
    """The effect harmed: decide afresh whether it is taken back now; tried again while the policy says wait."""
    parts.ledger.fail_effect(incident.id)
    if incident.helped is None:
        incident.helped = False
        settle_measured(parts, incident)
    elif _patience_is_over(parts, incident):
        tell_harm_stands(parts, incident, "the policy held it back until the end of the verification")
        return State.RESOLVED
    parts.require_agreement()
    try:
        propose(parts, incident, by=None, rationale="it harmed on later rows", harm=incident.verification)
    except Refused as error:
        # Someone, or a later incident, moved on from here: there is nothing of ours left to take back.
        incident.note(parts.clock, "result", f"not undone: {error.diagnostics()}", SERVICE)
        return State.RESOLVED
    wait_for_turn(parts, incident)
    incident.held = []
    decide(parts, incident)
    return carry_on(parts, incident, approval=None)
