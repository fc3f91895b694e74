"""One incident for an auditor: a self-contained HTML page. Everything from outside is escaped; no script, nothing loaded."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from driftwarden.audit.charts import Bar, bars
from driftwarden.audit.reader import event_in, model_in
from driftwarden.audit.record import Record
from driftwarden.audit.summary import figure, summarise
from driftwarden.audit.verify import VerifyReport

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d0d7de}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;
border-bottom:1px solid #eaeef2}th{color:#57606a;font-weight:600}code{font-size:.85em;overflow-wrap:anywhere}
.ok{color:#116329}.bad{color:#a40e26;font-weight:600}.dim{color:#57606a}figure{margin:1rem 0}figcaption{font-weight:600}
svg text{font-size:12px;fill:#1b1f24}svg rect.bar{fill:#8c959f}svg rect.strong{fill:#cf222e}
svg text.strong{fill:#cf222e;font-weight:600}svg line{stroke:#0969da;stroke-width:2}
"""


def render(name: str, records: Sequence[Record], verified: VerifyReport) -> str:
    """The page about `name` from its records in order: what happened, why, who, under which policy, the cost, the effect."""
    sections = [
        _heading(name, records, verified),
        _drift(records),
        _cause(records),
        _plan(records),
        _decisions(records),
        _people(records),
        _effects(records),
        _timeline(records),
        _proof(records, verified),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Incident {_text(name)}</title><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _text(value: Any) -> str:
    if value is None:
        return '<span class="dim">-</span>'
    if isinstance(value, dict) and value.keys() == {"_c"}:
        return '<span class="dim">protected</span>'
    if isinstance(value, dict):
        return escape(", ".join(f"{key} {item}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return escape(", ".join(map(str, value)))
    return escape(str(value))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    if not lines:
        return '<p class="dim">Nothing was recorded.</p>'
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _bodies(records: Sequence[Record], *kinds: str) -> list[tuple[Record, dict[str, Any]]]:
    return [(record, record.body) for record in records if record.type in kinds]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _part(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _shown(rehearsal: dict[str, Any], key: str) -> Any:
    """A cell of the rehearsals' table: measured figures with four digits, lest the page is wider than a sheet."""
    value = rehearsal.get(key)
    return figure(value) if key in {"relative_gain", "gain_low", "gain_high", "win_probability"} and value else value


def _heading(name: str, records: Sequence[Record], verified: VerifyReport) -> str:
    model = next((m for m in (model_in(record.body) for record in records) if m), None)
    decisions = _bodies(records, "decision")
    outcome = _part(decisions[-1][1], "decision").get("outcome") if decisions else None
    policies = [_part(_part(body, "decision"), "policy") for _, body in decisions]
    policy = list(dict.fromkeys(f"{one.get('name', '')} {one.get('revision', '')}".strip() for one in policies))
    signed = [one for _, body in _bodies(records, "approval") if body.get("verdict") == "approved"
              for one in _dicts(body.get("granted"))]  # fmt: skip
    people = [who for one in signed if isinstance(who := _who(one), str)]
    ended = next((body["state"] for _, body in reversed(_bodies(records, "close")) if body.get("state")), None)
    cost = sum(n for _, body in _bodies(records, "result") if (n := _number(body.get("cost_usd"))) is not None)
    helped = next((body.get("verdict") for _, body in reversed(_bodies(records, "verification"))), None)
    state = (
        '<span class="ok">whole</span>'
        if verified.ok
        else '<span class="bad">NOT whole: see the end of this page</span>'
    )
    facts = [
        ("Model", model),
        ("From", records[0].ts),
        ("To", records[-1].ts),
        ("Decided", outcome),
        ("Policy", ", ".join(filter(None, policy)) or None),
        ("Approved by", ", ".join(dict.fromkeys(people)) or ("protected" if signed else None)),
        ("Ended as", str(ended).replace("_", " ") if ended else "not ended yet"),
        ("Cost of what was done", f"{cost:.2f} USD"),
        ("Did it help", helped),
    ]
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{_text(value)}</td></tr>" for key, value in facts)
    return f"<h1>Incident {_text(name)}</h1><p>The log it was read from is {state}.</p><table>{rows}</table>"


def _drift(records: Sequence[Record]) -> str:
    parts = []
    for record, body in _bodies(records, "event"):
        data = _part(event_in(body), "data")
        drawn = [
            Bar(str(column.get("name")), score, _number(column.get("threshold")), column.get("drifted") is True)
            for column in _dicts(data.get("columns"))
            if (score := _number(column.get("score"))) is not None
        ]
        performance = data.get("performance")
        shown = [
            Bar(f"{_part(data, 'performance').get('metric', 'metric')}, {when}", value, None, when == "current")
            for when in ("reference", "current")
            if isinstance(performance, dict) and (value := _number(performance.get(when))) is not None
        ]
        parts.append(f"<p>{_text(record.ts)} {_text(summarise(record))}</p>")
        parts.append(bars("Drift by column (line: threshold, red: drifted)", drawn))
        parts.append(bars("Performance as reported", shown))
    return "<h2>What was seen</h2>" + ("".join(parts) or '<p class="dim">No event was recorded.</p>')


def _cause(records: Sequence[Record]) -> str:
    parts = []
    for record, body in _bodies(records, "finding"):
        rows = [
            (e.get("claim"), e.get("measure"), e.get("value"), e.get("threshold"), e.get("source"))
            for e in _dicts(body.get("evidence"))
        ]
        others = [(a.get("root_cause"), a.get("score"), a.get("against")) for a in _dicts(body.get("alternatives"))]
        parts.append(f"<p>{_text(summarise(record))}</p>")
        parts.append(_table(("Claim", "Measure", "Value", "Threshold", "Read by"), rows))
        parts.append("<p>Also considered:</p>" + _table(("Cause", "Score", "Against"), others) if others else "")
    return "<h2>Why</h2>" + ("".join(parts) or '<p class="dim">No finding was recorded.</p>')


def _plan(records: Sequence[Record]) -> str:
    shown = ("id", "action", "params", "cost_usd", "benefit_usd", "rationale")
    candidates = [one for _, body in _bodies(records, "plan") for one in _dicts(body.get("candidates"))]
    rows = [[one.get(key) for key in shown] for one in candidates]
    drawn = []
    tried = [r for _, body in _bodies(records, "rehearsal") for r in _dicts(body.get("rehearsals"))]
    for one in tried:
        for who in ("champion_score", "candidate_score"):
            if (score := _number(one.get(who))) is not None:
                label = f"{one.get('candidate')} {who.removesuffix('_score')} {one.get('metric') or ''}"
                drawn.append(Bar(label, score, None, who == "candidate_score"))
    keys = ("candidate", "status", "rows", "relative_gain", "gain_low", "gain_high", "win_probability", "detail")
    return (
        "<h2>What could be done</h2>"
        + _table(("Id", "Action", "Parameters", "Cost USD", "Benefit USD", "Why"), rows)
        + "<h2>Rehearsed against the champion</h2>"
        + _table([key.replace("_", " ") for key in keys], [[_shown(one, key) for key in keys] for one in tried])
        + bars("Performance in rehearsal (red: candidate)", drawn)
    )


def _decisions(records: Sequence[Record]) -> str:
    parts = []
    for record, body in _bodies(records, "decision"):
        decision = _part(body, "decision")
        rules = [
            [r.get(k) for k in ("id", "verdict", "effect", "got", "expected")] for r in _dicts(decision.get("rules"))
        ]
        parts.append(f"<p>{_text(record.ts)} {_text(summarise(record))}</p>")
        parts.append(_table(("Rule", "Verdict", "Effect", "Got", "Expected"), rules))
        parts.append(f'<p class="dim">Policy <code>{_text(body.get("policy_digest"))}</code></p>')
    return "<h2>Decided by the policy</h2>" + ("".join(parts) or '<p class="dim">No decision was recorded.</p>')


def _people(records: Sequence[Record]) -> str:
    rows: list[tuple[Any, ...]] = []
    for record, body in _bodies(records, "approval", "mode_change"):
        who = body.get("by") or f"{record.actor.kind} {record.actor.id}"
        rows.append((record.ts, body.get("verdict"), who, body.get("reason")))
        rows += [(one.get("at"), "signed for", _who(one), one.get("reason")) for one in _dicts(body.get("granted"))]
        rows += [
            (one.get("at"), "signed against", _who(one), one.get("reason")) for one in _dicts([body.get("refused")])
        ]
    return "<h2>People</h2>" + _table(("When", "Verdict", "Who", "Reason"), rows)


def _who(answer: dict[str, Any]) -> Any:
    by, group = answer.get("by"), answer.get("group")
    return f"{by} ({group})" if isinstance(by, str) and isinstance(group, str) else by


def _effects(records: Sequence[Record]) -> str:
    rows = [
        (record.ts, record.type, summarise(record), body.get("cost_usd"))
        for record, body in _bodies(records, "intent", "result", "verification", "settlement")
    ]
    drawn = []
    for _, body in _bodies(records, "verification"):
        comparison = _part(body, "comparison")
        for who in ("champion_score", "challenger_score"):
            if (score := _number(comparison.get(who))) is not None:
                label = f"{who.removesuffix('_score')} {comparison.get('metric') or ''}"
                drawn.append(Bar(label, score, None, who == "challenger_score"))
    return (
        "<h2>What was done, and did it help</h2>"
        + _table(("When", "Step", "What", "Cost USD"), rows)
        + bars("Performance on later windows (red: challenger)", drawn)
    )


def _timeline(records: Sequence[Record]) -> str:
    rows = [
        (record.ts, f"{record.actor.kind} {record.actor.id}", record.type, summarise(record), record.hash[:16])
        for record in records
    ]
    return "<h2>Every record</h2>" + _table(("When", "Who", "Type", "What", "Hash"), rows)


def _proof(records: Sequence[Record], verified: VerifyReport) -> str:
    streams = {record.stream for record in records}
    rows = [
        (file.name, file.records, file.checkpoints, "whole" if file.ok else file.fault)
        for file in verified.files
        if file.stream in streams or not file.ok
    ]
    return (
        "<h2>Proof</h2><p>Each record is chained to the one before it by SHA-256; checkpoints are signed with Ed25519."
        " Verify again with <code>driftwarden audit verify</code>, or with any verifier written from docs/audit.md.</p>"
        + _table(("File", "Records", "Checkpoints", "State"), rows)
    )
