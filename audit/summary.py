"""One line of plain words for each record, for timelines; every shape of body is survived."""

from collections.abc import Callable, Iterable
from typing import Any

from driftwarden.audit.reader import event_in
from driftwarden.audit.record import Record
from driftwarden.errors import shorten

_Body = dict[str, Any]
_LINE_MAX = 240


def summarise(record: Record) -> str:
    """What happened, in one line of at most 240 characters without control characters."""
    describe = _DESCRIBE.get(record.type)
    try:
        text = describe(record.body) if describe else ""
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        text = ""
    printable = "".join(ch if ch.isprintable() else " " for ch in text or _generic(record.type, record.body))
    return shorten(printable, _LINE_MAX)


def _generic(kind: str, body: _Body) -> str:
    pairs = [f"{key} {value}" for key, value in body.items() if isinstance(value, str | int) and value != ""]
    return f"{kind.replace('_', ' ')}: {', '.join(pairs[:4])}" if pairs else kind.replace("_", " ")


def _list(items: Iterable[Any], limit: int = 4) -> str:
    words = [str(item) for item in items]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def _percent(value: Any) -> str:
    return f"{float(value) * 100:.3g} %"


def figure(value: Any) -> str:
    """A number with four significant digits, for a sentence or a table; anything else as it is. The record has it whole."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def _named(value: Any) -> str:
    return "erased or protected" if isinstance(value, dict) and "_c" in value else str(value)


def _event(body: _Body) -> str:
    event = event_in(body)
    if event is None:
        return "an event came that cannot be read"
    data = event["data"]
    drifted = [c["name"] for c in data.get("columns") or () if isinstance(c, dict) and c.get("drifted")]
    kind = str(data.get("kind") or "performance").replace("_", " ")
    parts = [f"{kind} reported for {data.get('model')}"]
    if drifted:
        parts.append(f"columns {_list(drifted)}")
    performance = data.get("performance")
    if isinstance(performance, dict) and performance.get("current") is not None:
        was = f" (was {figure(performance['reference'])})" if performance.get("reference") is not None else ""
        parts.append(f"{performance.get('metric')} {figure(performance['current'])}{was}")
    return "; ".join(parts)


def _finding(body: _Body) -> str:
    columns = f" in {_list(body['columns'])}" if body.get("columns") else ""
    sure = f", confidence {body['confidence']}" if body.get("confidence") is not None else ""
    said = f": {body['summary']}" if body.get("summary") else ""
    return f"cause: {str(body['root_cause']).replace('_', ' ')}{columns}{sure}{said}"


def _action(candidate: _Body) -> str:
    params = candidate.get("params") or {}
    shown = _list(f"{key}={value}" for key, value in params.items() if isinstance(value, str | int))
    return f"{candidate['action']}{f' ({shown})' if shown else ''}"


def _plan(body: _Body) -> str:
    candidates = body["candidates"]
    said = f": {body['summary']}" if body.get("summary") else ""
    return f"{len(candidates)} candidate{'s' * (len(candidates) != 1)}: {_list(map(_action, candidates))}{said}"


def _rehearsal(body: _Body) -> str:
    shown = []
    for one in body["rehearsals"]:
        if one["status"] == "rehearsed":
            gain = f", gain {_percent(one['relative_gain'])}" if one.get("relative_gain") is not None else ""
            shown.append(f"{one['candidate']} wins with probability {figure(one['win_probability'])}{gain}")
        else:
            shown.append(f"{one['candidate']} {str(one['status']).replace('_', ' ')}")
    return f"rehearsed: {_list(shown)}" if shown else "nothing could be rehearsed"


def _decision(body: _Body) -> str:
    decision = body["decision"]
    rules = {rule["id"]: rule for rule in decision.get("rules") or ()}
    why = [_why(rules.get(name), name) for name in decision.get("decisive") or ()]
    would = decision.get("would_be")
    aside = f" (dry run: would {would})" if would and would != decision["outcome"] else ""
    return f"decided: {decision['outcome']}{aside}" + (f" because of {_list(why)}" if why else "")


def _why(rule: _Body | None, name: str) -> str:
    if rule is None or rule.get("got") is None:
        return name
    return f"{name} ({rule['got']}, needs {rule['expected']})" if rule.get("expected") else f"{name} ({rule['got']})"


def _approval(body: _Body) -> str:
    verdict = str(body["verdict"])
    words = {
        "requested": "approval requested",
        "superseded": "approval request superseded",
        "expired": "approval expired",
    }
    text = words.get(verdict, verdict.replace("_", " "))
    grants = body.get("granted") or ()
    said = [body.get("refused") or {}] if verdict == "rejected" else grants if verdict == "approved" else ()
    if len(said) > 1:
        people = "; ".join(f"{_named(one.get('by'))} ({_named(one.get('reason'))})" for one in said)
        return f"{text} for {_action(body)} by {people}"
    last = said[0] if said else {}
    who = body.get("by") or last.get("by")
    reason = body.get("reason") or last.get("reason")
    what = f" for {_action(body)}" if body.get("action") else ""
    by = f" by {_named(who)}" if who and verdict not in words else ""
    return f"{text}{what}{by}" + (f": {_named(reason)}" if reason else "")


def _intent(body: _Body) -> str:
    before = f", champion now {body['before']}" if isinstance(body.get("before"), int | str) else ""
    model = f" {body['model']}" if body["action"] == "register" and body.get("model") else ""
    return f"about to {'undo ' if body.get('undo') else ''}{_action(body)}{model}{before}"


def _result(body: _Body) -> str:
    if body.get("error"):
        return f"{body.get('action', 'the action')} failed: {body['error']}"
    if body.get("failed") or body.get("cancelled"):
        what = f"{'undoing: ' if body.get('undo') is True else ''}{body.get('action') or 'the action'}"
        return f"{what} {'failed' if body.get('failed') else 'was not done'}: {body.get('detail')}"
    done = (
        ("undone" if body.get("undo") is True else "done")
        if body.get("changed")
        else "ran and changed nothing in force"
    )
    moved = f": {body['before']} -> {body['after']}" if body.get("changed") and body.get("after") is not None else ""
    again = ", found already done" if body.get("replayed") else ""
    return f"{body['action']} {done}{moved}{again}" + (f"; {body['detail']}" if body.get("detail") else "")


def _verification(body: _Body) -> str:
    words = {
        "helped": "it helped",
        "no_difference": "it made no difference",
        "harmed": "it did harm",
        "pending": "too few labels yet to judge",
        "reported": "judged by a reported metric",
    }
    rows = f" on {body['rows']} rows" if body.get("rows") else ""
    comparison = body.get("comparison") or {}
    gain = f", gain {_percent(comparison['relative_gain'])}" if comparison.get("relative_gain") is not None else ""
    return f"verified: {words.get(body['verdict'], body['verdict'])}{rows}{gain}"


def _settlement(body: _Body) -> str:
    helped = {True: "it helped", False: "it did not help", None: "it is not known whether it helped"}[body["helped"]]
    return f"settled: {helped}" + (f" ({body['basis']})" if body.get("basis") else "")


def _close(body: _Body) -> str:
    if "state" not in body:
        return "log closed"
    problem = f": {body['problem']}" if body.get("problem") else ""
    return f"incident closed as {str(body['state']).replace('_', ' ')}{problem}"


def _policy_change(body: _Body) -> str:
    policy = body.get("policy") or {}
    named = policy.get("metadata", policy) if isinstance(policy, dict) else {}
    name, revision = named.get("name", ""), named.get("revision", "")
    return f"policy in force: {name} {revision}".rstrip()


def _mode_change(body: _Body) -> str:
    whom = f" for {body['model']}" if body.get("model") else ""
    return f"{'halted' if body['halted'] else 'resumed'}{whom}" + (
        f": {_named(body['reason'])}" if body.get("reason") else ""
    )


def _dead_letter(body: _Body) -> str:
    return f"could not be read: {body.get('reason')}" + (f" (field {body['field']})" if body.get("field") else "")


def _erasure(body: _Body) -> str:
    if body.get("files"):
        return f"retention removed {_list(file['name'] for file in body['files'])}"
    return f"personal data erased: {len(body.get('commitments') or ())} values; {body.get('reason', '')}"


def _open(body: _Body) -> str:
    others = len(body.get("streams") or {})
    return f"log opened by {body.get('software', 'a writer')}, which saw {others} other stream{'s' * (others != 1)}"


_DESCRIBE: dict[str, Callable[[_Body], str]] = {
    "open": _open,
    "event": _event,
    "finding": _finding,
    "plan": _plan,
    "rehearsal": _rehearsal,
    "decision": _decision,
    "approval": _approval,
    "intent": _intent,
    "result": _result,
    "verification": _verification,
    "policy_change": _policy_change,
    "mode_change": _mode_change,
    "dead_letter": _dead_letter,
    "checkpoint": lambda body: "checkpoint signed over " + body["note"].split("\n")[1] + " records",
    "erasure": _erasure,
    "close": _close,
    "settlement": _settlement,
}
