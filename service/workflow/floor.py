"""What this host's audit log says happened: a floor below the state in Redis, which others can rewind.

Counters never fall below what the log accounts for, and an incident whose stored state knows less than the log (it ended;
it had an effect) is not walked again. The log is read as it grows, every stream of it: those of earlier processes too.

A closed incident is removed from Redis after a while (`forgetting.py`), and an event that is sent again after that opens one of
the same name, which is no earlier state of the first: what the log says of an incident counts where it was written no longer
before this one opened than a closed one is kept. A state that was put back has the opening of old, so there all of it counts.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from driftwarden.clock import Clock, parse_rfc3339
from driftwarden.errors import LogUnreadable, unreadable
from driftwarden.service.workflow.caps import Caps
from driftwarden.service.workflow.ends import Ends, LookBack, ms_of
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.ledger import count_actions

JsonObject = dict[str, Any]
_TYPES = ("intent", "result", "verification", "settlement", "close")
_CLOSE = b'"type":"close"'
_MARKS = tuple(f'"type":"{name}"'.encode() for name in _TYPES)
_END_BYTES = 64  # a record's type stands at its end, before `"v":1`
_MICRO = Decimal(1_000_000)


class LogTail:
    """The records of a folder of the audit log that were added since the last look; a torn tail waits."""

    def __init__(self, folder: Path) -> None:
        """Begin at the beginning."""
        self._folder = folder
        self._read: dict[str, int] = {}

    def __call__(self) -> list[JsonObject]:
        """New records of the types that count here.

        Raises LogUnreadable where a file may not be read: without it the floor would be too low, and nothing would say so.
        """
        found: list[JsonObject] = []
        read = dict(self._read)
        for path in sorted(self._folder.glob("*.jsonl")):
            begin = read.get(path.name, 0)
            try:
                if path.stat().st_size <= begin:
                    continue
                with path.open("rb") as file:
                    file.seek(begin)
                    for line in file:
                        if line[-1:] != b"\n":
                            break
                        begin += len(line)
                        end = line[-_END_BYTES:]
                        if any(mark in end for mark in _MARKS):
                            found.append(_parsed(line))
            except FileNotFoundError:  # taken away by retention between two looks
                continue
            except OSError as error:
                raise _unread(path, error) from None
            read[path.name] = begin
        self._read = read  # not before: where one file cannot be read, what the others said is told the next time
        # Files are read one after the other: what several processes wrote of one incident is put back in order.
        return sorted((one for one in found if one), key=lambda one: (str(one.get("ts")), int(one.get("seq") or 0)))

    def closings(self, incident: str) -> list[JsonObject]:
        """Every `close` record of one incident, however old; raises LogUnreadable where a file may not be read."""
        found: list[JsonObject] = []
        name = incident.encode()
        for path in sorted(self._folder.glob("*.jsonl")):
            try:
                with path.open("rb") as file:
                    found += [_parsed(line) for line in file if name in line and _CLOSE in line and line[-1:] == b"\n"]
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unread(path, error) from None
        return [one for one in found if one.get("incident") == incident]


def _unread(path: Path, error: OSError) -> LogUnreadable:
    return LogUnreadable(f"{path} cannot be read ({unreadable(error)}): what it accounts for is unknown")


def _parsed(line: bytes) -> JsonObject:
    try:
        record = json.loads(line)
    except ValueError:  # a damaged line is for `audit verify` to tell of
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("body"), dict) else {}


@dataclass(frozen=True)
class Effect:
    """What an incident intended last, as the log tells of it; `cost_usd` None: no result says what was done."""

    action: str | None
    undo: bool
    at_ms: int
    correlation_id: str | None
    cost_usd: Decimal | None = None
    failed: bool = False
    changed: bool = False


@dataclass
class _Known:
    """What the log tells of one incident that was to have an effect; `effects` by idempotency key: entries as the ledger's."""

    correlation_id: str | None = None
    effects: dict[str, JsonObject] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # intent's hash -> its idempotency key
    done: dict[str, str] = field(default_factory=dict)  # intent's hash -> hash of the result that followed it
    done_ms: dict[str, int] = field(default_factory=dict)  # intent's hash -> when that was written
    batches: dict[str, set[str]] = field(default_factory=dict)  # model -> batches that were put into quarantine
    releasing: set[str] = field(default_factory=set)  # intents to release them, of which no more was heard yet
    released: set[tuple[str, str]] = field(default_factory=set)  # (model, batch) that was released again
    helped: dict[tuple[str, str], bool] = field(default_factory=dict)  # (model, action) -> what later rows said
    not_done: dict[str, JsonObject] = field(
        default_factory=dict
    )  # intent's hash -> the result that says it was not done
    settled: set[tuple[str, str, bool | None]] = field(default_factory=set)  # (result's hash, basis, whether it helped)

    @property
    def called_off(self) -> set[str]:
        """Hashes of the intents that came to nothing."""
        return {intent for intent, body in self.not_done.items() if body.get("cancelled") is True}


class AuditFloor:
    """The floor of one process; thread-safe."""

    def __init__(
        self,
        tail: Callable[[], Iterable[JsonObject]],
        *,
        kept: timedelta | None = None,
        look_back: LookBack | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`tail` gives the records that are new since it was last asked, `look_back` all `close` records of one incident.

        `kept`: how long a closed incident stays in Redis at least (None: for good).
        """
        self._tail = tail
        self._known: dict[str, _Known] = {}  # by no means every incident: a decision counts over all of these
        self._ends = Ends(kept, look_back, clock)  # all that most leave here
        self._lock = threading.Lock()

    @classmethod
    def over(cls, folder: Path, kept: timedelta | None) -> "AuditFloor":
        """The floor of a folder of the audit log."""
        tail = LogTail(folder)
        return cls(tail, kept=kept, look_back=tail.closings)

    def facts(self, incident: str, *, model: str, now: str, caps: Caps) -> JsonObject:
        """The counting facts of contract §4 from the log alone, without the incident that is being decided."""
        return self.facts_of(incident, models=[model], now=now, caps=caps)[model]

    def facts_of(self, incident: str, *, models: Sequence[str], now: str, caps: Caps) -> dict[str, JsonObject]:
        """`facts` of several models from one look."""
        with self._lock:
            self._refresh()
            entries = [entry for id, known in self._known.items() if id != incident for entry in known.effects.values()]
        return {model: count_actions(entries, model=model, now=now, caps=caps) for model in models}

    def has_unknown_effect(self, incident: Incident) -> bool:
        """True where the log tells of an effect that the stored state does not know: the state was put back."""
        with self._lock:
            self._refresh()
            known, since_ms = self._known.get(incident.id), self._ends.since_ms(incident.opened_at)
            done = known.done_ms.items() if known is not None else ()
            known_of = known.called_off.union(incident.intents) if known is not None else set()
            return any(intent not in known_of for intent, at_ms in done if at_ms >= since_ms)

    def result_of(self, incident: str, intent: str) -> str | None:
        """Hash of the result that stands in the log for an intent's hash, or None."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            return known.done.get(intent) if known is not None else None

    def ended_as(self, incident: Incident, version: int) -> str | None:
        """The state in which it ended, where the log says that a later version of the stored state was closed.

        That very version: its worker died between the record and the last commit, and the step is done again.
        """
        with self._lock:
            self._refresh()
            ends = self._ends.of(incident.id, incident.opened_at)
            later = [closed for closed in ends if closed > version]
            return ends[max(later)] if later else None

    def not_done(self, incident: str, intent: str) -> JsonObject | None:
        """The result that says of an intent's hash that it was refused, called off or failed, or None."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            return known.not_done.get(intent) if known is not None else None

    def open_intents(self, incident: str) -> list[str]:
        """Hashes of an incident's intents of which the log tells no result."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            return [intent for intent in known.keys if intent not in known.done] if known is not None else []

    def last_effect(self, incident: str) -> Effect | None:
        """What an incident intended last and what came of it; None where it intended nothing, or called it off."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            intent = next(reversed(known.keys), None) if known is not None else None
            entry = known.effects.get(known.keys[intent]) if known is not None and intent is not None else None
            if known is None or intent is None or entry is None:
                return None
            effect = Effect(entry["action"], entry["undo"], entry["at"], known.correlation_id)
            if intent not in known.done or intent in known.not_done:
                return effect
            cost_usd = Decimal(entry["cost"]) / _MICRO
            return replace(effect, cost_usd=cost_usd, failed=entry["failed"], changed=entry["changed"])

    def is_settled(self, incident: str, result: str, basis: str, helped: bool | None) -> bool:
        """Whether this very settlement of a result's hash stands in the log."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            return known is not None and (result, basis, helped) in known.settled

    def quarantined(self, model: str) -> frozenset[str]:
        """Batches of a model that were put into quarantine, and that nothing here says were, or are about to be, released."""
        with self._lock:
            self._refresh()
            held = (known for known in self._known.values() if not known.releasing)
            return frozenset(batch for known in held for batch in known.batches.get(model, ()))

    def released(self, incident: str) -> frozenset[tuple[str, str]]:
        """(model, batch) of which the log tells that an incident kept them out and released them again."""
        with self._lock:
            self._refresh()
            known = self._known.get(incident)
            return frozenset(known.released) if known is not None else frozenset()

    def failures(self, model: str, action: str) -> int:
        """How many incidents' effects of this kind were found not to have helped."""
        with self._lock:
            self._refresh()
            return sum(known.helped.get((model, action)) is False for known in self._known.values())

    def _refresh(self) -> None:
        for record in self._tail():
            incident, kind, body = record.get("incident"), record.get("type"), record["body"]
            if not isinstance(incident, str):
                continue
            if kind == "close":
                self._closed(incident, record, body)
                continue
            known = self._known.setdefault(incident, _Known())
            known.correlation_id = record.get("correlation_id") or known.correlation_id
            if kind == "intent":
                self._intended(known, record, body)
            elif kind == "result" and (key := known.keys.get(str(record.get("causation")))):
                self._resulted(known, key, record, body)
            elif kind == "verification" and body.get("verdict") == "harmed":
                for entry in known.effects.values():
                    entry["failed"] = entry["failed"] or not entry["undo"]
            elif kind == "settlement":
                self._settled(known, body)

    def _closed(self, incident: str, record: JsonObject, body: JsonObject) -> None:
        state, version = str(body.get("state")), body.get("version")
        if (known := self._known.get(incident)) is not None:
            known.releasing.clear()
            self._ended(known, state)
        if isinstance(version, int):
            self._ends.add(incident, version, state, record.get("ts"))

    @staticmethod
    def _intended(known: _Known, record: JsonObject, body: JsonObject) -> None:
        key, at = str(body.get("idempotency_key")), body.get("at")
        try:
            moment = parse_rfc3339(str(at))
        except ValueError:
            return
        known.keys[str(record.get("@hash"))] = key
        if body.get("action") == "quarantine_data" and body.get("undo") is True:
            known.releasing.add(str(record.get("@hash")))
        known.effects[key] = {
            "model": body.get("model"),
            "models": body.get("members") if isinstance(body.get("members"), list) else [],
            "at": int(moment.timestamp() * 1000),
            "cost": _micro((body.get("estimate") or {}).get("cost_usd")),
            "action": body.get("action"),
            "state": "begun",
            "failed": False,
            "changed": False,
            "undo": body.get("undo") is True,
        }

    @staticmethod
    def _resulted(known: _Known, key: str, record: JsonObject, body: JsonObject) -> None:
        intent, at_ms = str(record["causation"]), ms_of(record.get("ts"))
        known.done[intent] = str(record.get("@hash"))
        known.done_ms[intent] = sys.maxsize if at_ms is None else at_ms
        known.releasing.discard(intent)
        if body.get("cancelled") is True or body.get("failed") is True:
            known.not_done[intent] = body
        if body.get("cancelled") is True:
            if not any(intended == key and one not in known.done for one, intended in known.keys.items()):
                known.effects.pop(key, None)  # else it was intended anew
            return
        entry = known.effects.get(key)
        if entry is None:
            return
        if body.get("failed") is True:  # what it cost is not known: as much as it was to cost
            entry |= {"state": "done", "failed": True}
            return
        entry |= {"state": "done", "cost": _micro(body.get("cost_usd")), "changed": body.get("changed") is True}
        data = body.get("data") or {}
        kept_out = data.get("batches")
        if not isinstance(kept_out, dict):
            kept_out = {str(entry["model"]): data.get("batch")}
        for model, batch in kept_out.items() if body.get("action") == "quarantine_data" else ():
            batches = known.batches.setdefault(model, set())
            if body.get("undo") is True:
                batches.discard(batch)
                known.released.add((model, batch))
            elif body.get("changed") is True and isinstance(batch, str):
                batches.add(batch)
                known.released.discard((model, batch))

    @staticmethod
    def _settled(known: _Known, body: JsonObject) -> None:
        helped = body.get("helped") if isinstance(body.get("helped"), bool) else None
        known.settled.add((str(body.get("result")), str(body.get("basis")), helped))
        if body.get("basis") == "measured":
            known.helped[str(body.get("model")), str(body.get("action"))] = helped is True

    @staticmethod
    def _ended(known: _Known, state: str) -> None:
        """What was intended and has no result: a failure where the incident failed with it, else it did not happen."""
        for key, entry in list(known.effects.items()):
            if entry["state"] != "begun":
                continue
            if state == "failed":
                entry |= {"state": "done", "failed": True}
            else:
                del known.effects[key]


def _micro(amount: Any) -> int:
    try:
        return int((Decimal(str(amount)) * _MICRO).to_integral_value(ROUND_CEILING))
    except (ArithmeticError, ValueError):
        return 0


def raised(counted: JsonObject, floor: JsonObject) -> JsonObject:
    """The counters of Redis, none of them below the log's; what is unknown stays unknown."""
    if counted.get("spent_usd_today") is None:
        return counted
    result = dict(counted)
    for name in ("spent_usd_today", "spent_usd_today_model"):
        result[name] = str(max(Decimal(counted[name]), Decimal(floor[name])))
    for name in ("actions_in_window_model", "actions_in_window_global"):
        result[name] = max(counted[name], floor[name])
    here, there = counted["seconds_since_last_action_model"], floor["seconds_since_last_action_model"]
    if there is not None and (here is None or there <= here):
        # The log's last action is as late or later: that one's outcome counts, and of the same one the worse.
        same = there == here and counted["last_action_failed"]
        result |= {"seconds_since_last_action_model": there, "last_action_failed": floor["last_action_failed"] or same}
    if counted["recent_failures"] is not None and floor["recent_failures"] > counted["recent_failures"]:
        result |= {name: floor[name] for name in ("recent_runs", "recent_failures")}
    return result
