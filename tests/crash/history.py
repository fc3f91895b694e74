"""The history checker: what the audit log, Redis and the registry say of a run, held against the invariants I1 to I7.

It knows nothing of the run but the events that XADD acknowledged, and reads everything as a stranger would: lines of JSON,
keys of Redis by their names, tables of the registry. `docs/durability.md` says what each invariant means.

    history = read_history(client, acknowledged, audit=folder, sink=read_sink(database))
    faults = judge(history)                     # at rest: I1 to I7, one line each, [] where all hold
    faults = conserved(take_dump(client, light=True), acknowledged)    # I5 at any instant, while workers run
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from crash.dump import Dump, Stored, last_part, take_dump
from crash.effects import chains, effects, unsealed
from crash.records import Acknowledged, History, Record, identity_of, read_history
from crash.sink import read_sink

__all__ = ["Acknowledged", "History", "conserved", "judge", "read_history", "read_sink", "take_dump"]

# Where an incident can end (architecture, "States of an incident").
ENDS = frozenset({"resolved", "undone", "failed", "rejected", "expired", "closed"})
TRANSITIONS_KEPT = 90_000  # the stream is trimmed at about 100,000: below this, all of them must be there


# At any instant


def conserved(dump: Dump, acknowledged: Iterable[Acknowledged] = ()) -> list[str]:
    """I5 at this instant: every unfinished incident can be taken up again, and every event lies somewhere."""
    waiting = _held(dump)
    faults = [
        f"I5 {one.id} ({one.state}, version {one.version}) is in no activation, no timer and no queue"
        for one in dump.incidents.values()
        if not one.ended and one.id not in waiting
    ]
    faults += [
        f"I5 {one.id} has ended, and {len(one.signals)} words left for it wake nobody"
        for one in dump.incidents.values()
        if one.ended and one.signals and one.id not in waiting
    ]
    in_intake = {entry.id for entry in dump.entries("events")}
    buried = {entry.fields.get("entry") for entry in dump.entries("dead-letters")}
    known = {identity for one in dump.incidents.values() for identity in one.identities}
    for one in acknowledged:
        kept = one.entry in in_intake or one.entry in buried or one.identity in known
        if not kept and not dump.seen.get(one.identity or "", "").startswith("performance|"):
            faults.append(f"I5 event {_named(one)} lies nowhere")
    return faults


def _held(dump: Dump) -> set[str]:
    """Incidents that something will take up again."""
    active = {entry.fields.get("incident", "") for entry in dump.entries("activations")}
    timed = {member.partition("|")[0] for member in dump.timers}
    return active | timed | {incident for queue in dump.queued.values() for incident in queue}


def _named(one: Acknowledged) -> str:
    return f"{one.entry} ({one.raw[:60]!r})" if one.identity is None else f"{one.entry} ({_id_of(one.raw)})"


def _id_of(raw: bytes) -> str:
    return str(json.loads(raw)["id"])


# At rest


def judge(history: History, *, waiting: frozenset[str] = frozenset()) -> list[str]:
    """Every invariant that does not hold, a line each. `waiting`: states in which an incident may rest without an end."""
    checks = (_events, effects, _one_at_a_time, _versions, _signals)
    faults = [fault for check in checks for fault in check(history)]
    faults += conserved(history.dump, history.acknowledged)
    return faults + _ended(history, waiting) + _at_rest(history, waiting)


# I1


def _events(history: History) -> Iterator[str]:
    """Each acknowledged event is in exactly one incident, once, or a dead letter, once; and somebody weighed it."""
    dump = history.dump
    holders: dict[str, list[str]] = defaultdict(list)
    for one in dump.incidents.values():
        for identity in one.identities:
            holders[identity].append(one.id)
        yield from _own_events(one)
    letters = Counter(entry.fields.get("entry") for entry in dump.entries("dead-letters") if "entry" in entry.fields)
    reported = Counter(identity_of(raw) for reports in dump.reports.values() for raw in reports)
    buried = {one["body"].get("entry") for one in history.of_type("dead_letter")}
    redriven = dump.hashes("redriven")
    entries = [*history.acknowledged, *_redriven(dump, redriven)]
    ours = {event.identity for event in entries if not letters[event.entry]}
    for event in entries:
        found = holders.get(event.identity or "", [])
        if letters[event.entry] > 1:
            yield f"I1 event {_named(event)} has {letters[event.entry]} dead letters"
        elif letters[event.entry] and found and event.identity not in ours:
            yield f"I1 event {_named(event)} is a dead letter and in {found[0]}"
        elif letters[event.entry] and event.entry not in buried:
            yield f"I1 dead letter of {_named(event)} is not in the audit log"
        elif not letters[event.entry] and len(found) + min(1, reported[event.identity]) != 1:
            reports = reported[event.identity]
            yield f"I1 event {_named(event)} is in {len(found)} incidents ({', '.join(found)}) and {reports} reports"
    for identity, found in holders.items():
        if len(found) > 1 and identity not in ours:
            yield f"I1 event {identity[:12]} is in {', '.join(found)}"
    for report, count in reported.items():
        if count > 1:
            yield f"I1 performance report {str(report)[:12]} was taken {count} times"


def _redriven(dump: Dump, redriven: Mapping[str, str]) -> Iterator[Acknowledged]:
    """What a dead letter became when it was put back is an event like any other."""
    for entry in dump.entries("dead-letters"):
        if entry.id in redriven:
            raw = next((value for name, value in entry.raw if name == b"raw"), b"")
            yield Acknowledged(redriven[entry.id], raw)


def _own_events(one: Stored) -> Iterator[str]:
    if [identity_of(raw) for raw in one.events] != list(one.identities):
        yield f"I1 {one.id} holds {len(one.events)} events that are not those it is known to hold ({len(one.identities)})"
    if not one.ended or one.state == "failed":  # what kills its workers has been weighed by nobody
        return
    told = one.doc.get("events") or []
    weighed = {identity_of(json.dumps(event)) for event in told if isinstance(event, dict)}
    for identity in one.identities:
        if identity not in weighed:
            yield f"I1 {one.id} ended as {one.state} without having weighed event {identity[:12]}"


def _ended(history: History, waiting: frozenset[str]) -> list[str]:
    closes: dict[str, Record] = {str(one["incident"]): one for one in history.of_type("close") if one["incident"]}
    recorded = {
        (str(one["incident"]), identity_of(one["body"]["event"]))
        for one in history.of_type("event")
        if isinstance(one["body"].get("event"), str)
    }
    faults = []
    for one in history.dump.incidents.values():
        if not one.ended:
            if one.state not in waiting:
                faults.append(f"I1 {one.id} has not ended: {one.state}, version {one.version}")
            continue
        close = closes.get(one.id)
        if one.state not in ENDS:
            faults.append(f"I1 {one.id} ended as {one.state}, which is no end")
        elif close is None:
            faults.append(f"I1 {one.id} ended as {one.state}, and no record says so")
        elif close["body"].get("state") != one.state:
            faults.append(f"I1 {one.id} ended as {one.state}, the log says {close['body'].get('state')}")
        if one.doc.get("events"):
            faults += [
                f"I1 event {identity[:12]} of {one.id} is not in the audit log"
                for identity in one.identities
                if (one.id, identity) not in recorded
            ]
    return faults


# I3


def _one_at_a_time(history: History) -> Iterator[str]:
    """Remediations of one model do not overlap, and the moves of its champion form one chain."""
    open_: dict[str, dict[str, Record]] = defaultdict(dict)  # model -> incident -> its intent without an end
    models: dict[str, str] = {}
    for one in history.of_type("intent", "result", "close"):
        incident = str(one["incident"])
        if one["type"] == "intent":
            model = models[incident] = str(one["body"].get("model"))
            for other in open_[model].keys() - {incident}:
                yield f"I3 {incident} intended an effect on {model} while {other} was at one"
            open_[model][incident] = one
        elif incident in models:
            open_[models[incident]].pop(incident, None)
    for model, left in open_.items():
        yield from (f"I3 the effect that {incident} intended on {model} has no end" for incident in left)
    yield from chains(history)


# I4


def _versions(history: History) -> Iterator[str]:
    """Versions are contiguous and fences never fall, in the stream of transitions and in the log."""
    entries = sorted(history.dump.entries("transitions"), key=lambda one: [int(part) for part in one.id.split("-")])
    whole = len(entries) < TRANSITIONS_KEPT
    by_incident: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for entry in entries:
        by_incident[entry.fields.get("incident", "")].append(entry.fields)
    for incident, arrows in by_incident.items():
        versions = [int(one["version"]) for one in arrows]
        first = 0 if whole else versions[0]
        if versions != list(range(first, first + len(versions))):
            yield f"I4 versions of {incident}: {versions}"
        fences = [int(one["fence"]) for one in arrows]
        if fences != sorted(fences):
            yield f"I4 fences of {incident} fall: {fences}"
        for one, two in itertools.pairwise(arrows):
            if two["from"] != one["state"]:
                yield f"I4 {incident} left {two['from']} as version {two['version']}, it stood in {one['state']}"
    for stored in history.dump.incidents.values():
        arrows = by_incident.get(stored.id, [])
        last = (int(arrows[-1]["version"]), arrows[-1]["state"]) if arrows else None
        if last != (stored.version, stored.state) and (whole or last is not None):
            yield f"I4 {stored.id} is {stored.state} at version {stored.version}, its last transition says {last}"
        if arrows and int(stored.fields.get("fence", "0")) < int(arrows[-1]["fence"]):
            yield f"I4 the fence of {stored.id} fell below that of its last transition"
    yield from _closed_versions(history)


def _closed_versions(history: History) -> Iterator[str]:
    closed: dict[str, int] = {}
    for one in history.of_type("close"):
        version, incident = one["body"].get("version"), str(one["incident"])
        if not isinstance(version, int):
            continue
        if version < closed.get(incident, -1):
            yield f"I4 {incident} was closed at version {version} after version {closed[incident]}"
        closed[incident] = version
        stored = history.dump.incidents.get(incident)
        if stored is not None and version >= stored.version:
            yield f"I4 {incident} was closed at version {version}, and stands at {stored.version}"


# I6


def _signals(history: History) -> Iterator[str]:
    """What people said was heard: no word is left over, and every answered request has its record."""
    heard: dict[str, set[str]] = defaultdict(set)
    for one in history.of_type("approval"):
        heard[str(one["body"].get("approval"))].add(str(one["body"].get("verdict")))
    told = {str(one.get("fields", {}).get("approval")) for one in history.messages or ()}
    for incident in history.dump.incidents.values():
        for token, word in incident.signals.items():
            yield f"I6 {incident.id} has not heard {token[:12]}: {word[:60]}"
    for id, text in history.dump.requests.items():
        request = json.loads(text)
        state, granted = request["state"], len(request["granted"])
        answered = (granted >= request["required"] and state != "superseded") or state in {"approved", "executed"}
        if answered and "approved" not in heard[id]:
            yield f"I6 {id} was approved, and no record says that it was heard"
        if state == "rejected" and "rejected" not in heard[id]:
            yield f"I6 {id} was rejected, and no record says that it was heard"
        if "requested" not in heard[id] and state != "superseded":
            yield f"I6 {id} was asked, and no record says so"
        if "requested" in heard[id] and history.messages is not None and id not in told:
            yield f"I6 {id} was asked, and nobody was told"


# I7


def _at_rest(history: History, waiting: frozenset[str]) -> list[str]:
    """Nothing is left lying about."""
    dump = history.dump
    faults = [f"I7 the audit log is not whole: {fault}" for fault in history.verified]
    for key, stream in dump.streams.items():
        left = {name: count for name, count in stream.pending.items() if count}
        faults += [f"I7 {count} entries of {key} are pending in {name}" for name, count in left.items()]
        if last_part(key) in {"events", "activations"} and stream.entries:
            faults.append(f"I7 {len(stream.entries)} entries are left in {key}")
    faults += _left_of_models(dump, waiting)
    reserved = {incident: unsealed(text).get("state") for incident, text in dump.hashes("ledger").items()}
    faults += [f"I7 the reservation of {one} is still running" for one, state in reserved.items() if state == "running"]
    done = {
        one.partition("#")[0] for one, state in reserved.items() if state == "done"
    }  # `<incident>#<n>`: an earlier effect
    for stored in dump.incidents.values():
        if (stored.doc.get("result") or {}).get("changed") and stored.id not in done:
            faults.append(f"I7 the effect of {stored.id} counts against no cap: {reserved.get(stored.id)}")
    counted: Counter[str] = Counter()
    for key, value in dump.other.items():  # of every shard
        if last_part(key) == "counts" and isinstance(value, dict):
            counted.update({state: int(count) for state, count in value.items()})
    standing = Counter(one.state for one in dump.incidents.values())
    if +counted != standing:
        faults.append(f"I7 counted {dict(+counted)}, there are {dict(standing)}")
    states = {id: json.loads(text)["state"] for id, text in dump.requests.items()}
    asked = {one.doc.get("approval") for one in dump.incidents.values() if not one.ended}
    open_ = {id: state for id, state in states.items() if state in {"pending", "approved"} and id not in asked}
    return faults + [f"I7 {id} is still {state}, and nobody asks" for id, state in open_.items()]


def _left_of_models(dump: Dump, waiting: frozenset[str]) -> Iterator[str]:
    states = {one.id: one.state for one in dump.incidents.values() if not one.ended}
    for member, due in dump.timers.items():
        if due <= dump.at_ms or states.get(member.partition("|")[0]) not in waiting:
            yield f"I7 the timer {member} is left"
    for model, queue in dump.queued.items():
        yield from (f"I7 {incident} is left in the queue of {model}" for incident in queue)
    for model, fields in dump.models.items():
        for name, incident in fields.items():
            if incident and incident not in states:
                yield f"I7 {name} of {model} is {incident}, which is over"
