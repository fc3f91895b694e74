"""I2, and the chain of I3: each effect happened at most once, by the sink's own record, and was intended and told of."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from crash.dump import Stored
from crash.records import History, Record
from crash.sink import STEPS, Effect

# Actions whose effect is a move of the alias `champion`.
MOVING = frozenset({"retrain", "rollback", "fallback_model", "recalibrate"})


def effects(history: History) -> Iterator[str]:
    """Each effect happened at most once, where the incident says so exactly once; intended before, told of afterwards."""
    intents = {str(one["@hash"]): one for one in history.of_type("intent")}
    by_key: dict[str, list[Record]] = defaultdict(list)
    for one in intents.values():
        by_key[str(one["body"].get("idempotency_key"))].append(one)
    yield from _causes(history, intents)
    yield from _results(history, intents)
    yield from _versions_of_registry(history, by_key)
    yield from _moves(history)
    for effect in history.sink.effects:
        yield from _effect(history, effect, intents)
    for stored in history.dump.incidents.values():
        yield from _as_told(history, stored)
    yield from _state_effects(history)
    sent = Counter(str(one.get("key")) for one in history.messages or ())
    yield from (f"I2 message {key} was sent {count} times" for key, count in sent.items() if count > 1)


def _causes(history: History, intents: Mapping[str, Record]) -> Iterator[str]:
    by_hash = {str(one["@hash"]): one for one in history.records}
    for intent in intents.values():
        cause = by_hash.get(str(intent["causation"]))
        name = _intent_name(intent)
        if cause is None:
            yield f"I2 {name} has no cause in the log"
            continue
        if cause["type"] == "decision":
            allowed = cause["body"]["decision"]["outcome"] == "execute"
        else:
            verdict = cause["body"].get("verdict")
            allowed = cause["type"] == "approval" and verdict in {"approved", "registration_requested"}
        if not allowed or cause["incident"] != intent["incident"]:
            yield f"I2 {name} was allowed by no decision and no approval of its incident"
        if cause["ts"] > intent["ts"]:
            yield f"I2 {name} stands before what allowed it"


def _intent_name(intent: Record) -> str:
    undo = " (undo)" if intent["body"].get("undo") else ""
    return f"intent {str(intent['body'].get('idempotency_key'))[:12]}{undo} of {intent['incident']}"


def _results(history: History, intents: Mapping[str, Record]) -> Iterator[str]:
    """One result for an intent; one that is no cancellation for a key and direction; none without its intent before it."""
    results = history.of_type("result")
    for hash, count in Counter(str(one["causation"]) for one in results).items():
        if count > 1:
            yield f"I2 {_intent_name(intents[hash]) if hash in intents else hash[:12]} has {count} results"
    done: Counter[tuple[str, bool, str]] = Counter()
    for one in results:
        intent, body = intents.get(str(one["causation"])), one["body"]
        if intent is None:
            yield f"I2 result {str(one['@hash'])[:12]} of {one['incident']} has no intent"
        elif intent["incident"] != one["incident"] or intent["ts"] > one["ts"]:
            yield f"I2 result {str(one['@hash'])[:12]} of {one['incident']} does not follow its intent"
        if not body.get("cancelled") and not body.get("failed"):
            # Taken back in parts, each is told for its own models.
            batches = (body.get("data") or {}).get("batches") if body.get("undo") else None
            for model in batches or [""]:
                done[str(body.get("idempotency_key")), bool(body.get("undo")), model] += 1
    for (key, undo, model), count in done.items():
        if count > 1:
            yield f"I2 effect {key[:12]}{' (undo)' if undo else ''}{model and f' on {model}'} was told of {count} times"


def _versions_of_registry(history: History, by_key: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    trained = Counter((name, key) for name, _, key in history.sink.versions if key is not None)
    for (name, key), count in trained.items():
        if count > 1:
            yield f"I2 {count} versions of {name} were trained under key {key[:12]}"
        if not by_key.get(key.partition(":")[0]):
            yield f"I2 a version of {name} was trained under key {key[:12]}, which no intent names"


def _moves(history: History) -> Iterator[str]:
    """As many moves of the alias as effects that say they made them, and none that no effect tells of."""
    moves = history.sink.moves
    if moves is None:
        return
    made: Counter[tuple[Any, ...]] = Counter(
        (one.model, one.before, one.after) for one in moves if one.before is not None
    )
    happened = [effect for effect in history.sink.effects if effect.happened]
    said: Counter[tuple[Any, ...]] = Counter(
        (effect.model, effect.record.get("before"), effect.record.get("after")) for effect in happened
    )
    for move in made.keys() | said.keys():
        if made[move] != said[move]:
            yield f"I2 champion of {move[0]} moved from {move[1]} to {move[2]} {made[move]} times, its effects say {said[move]}"


def _effect(history: History, effect: Effect, intents: Mapping[str, Record]) -> Iterator[str]:
    """One record of the registry: intended before, told of afterwards, and known to its incident."""
    record, key = effect.record, effect.key.removesuffix(".undo")
    undo, incident, name = effect.key.endswith(".undo"), str(record.get("incident")), f"effect {effect.key[:12]}"
    stored = history.dump.incidents.get(incident)
    unfinished = stored is not None and stored.state == "failed"  # it ended before the effect did, and says so
    over = record.get("state") in {"done", "refused"}
    called_off = record.get("state") in STEPS[:-1] and any(  # decided anew before anything moved
        one["incident"] == incident and one["body"].get("cancelled") for one in history.of_type("result")
    )
    if not over and not unfinished and not called_off:
        yield f"I2 {name} of {incident} was left as {record.get('state')}"
    meant = [
        one
        for one in intents.values()
        if one["incident"] == incident
        and (bool(one["body"].get("undo")) if undo else one["body"].get("idempotency_key") == key)
    ]
    told = [
        one
        for one in history.of_type("result")
        if one["body"].get("idempotency_key") == key
        and bool(one["body"].get("undo")) == undo
        and not one["body"].get("cancelled")
    ]
    if not meant:
        yield f"I2 {name} of {incident} was never intended"
        return
    if not effect.happened:
        return
    if not told and not unfinished:
        yield f"I2 {name} of {incident} happened, and no result says so"
    made = [
        move  # several effects may have made equal moves: one of these is its own
        for move in history.sink.moves or ()
        if (move.model, move.before, move.after) == (effect.model, record.get("before"), record.get("after"))
    ]
    late = [move for move in made if any(_ms(one["ts"]) <= _ms(move.at) for one in meant)]
    if made and not late:
        yield f"I2 champion of {effect.model} moved to {record.get('after')} before {incident} intended it"
    if late and told and not any(_ms(one["ts"]) >= _ms(move.at) for move in late for one in told):
        yield f"I2 champion of {effect.model} moved to {record.get('after')} after the result was told"


def _ms(ts: str) -> float:
    """Milliseconds: the registry's clock has no finer ones, and rounds."""
    return datetime.fromisoformat(ts).timestamp() * 1000 // 1


def _as_told(history: History, one: Stored) -> Iterator[str]:
    """What an incident says was done, and what it does not say."""
    doc, effects = one.doc, {effect.key: effect for effect in history.sink.effects}
    result, undone = doc.get("result") or {}, doc.get("undone")
    key = str(result.get("idempotency_key"))
    told = {
        (str(record["body"].get("idempotency_key")), bool(record["body"].get("undo")))
        for record in history.of_type("result")
        if record["incident"] == one.id and not record["body"].get("cancelled")
    }
    if result and (key, False) not in told:
        yield f"I2 {one.id} says that {key[:12]} was done, the log does not"
    if undone and (key, True) not in told:
        yield f"I2 {one.id} says that {key[:12]} was taken back, the log does not"
    if result.get("action") not in MOVING:
        return
    for name, changed in ((key, bool(result.get("changed"))), (f"{key}.undo", bool(undone))):
        happened = name in effects and effects[name].happened
        if changed != happened and one.state != "failed":
            was = "was" if changed else "was not"
            yield f"I2 {one.id} says that effect {name[:12]}{name[64:]} {was} done, the registry says the contrary"


def _state_effects(history: History) -> Iterator[str]:
    """Quarantines and references: what the log says was set, and not taken back, stands under its key, once."""
    intents = {str(one["@hash"]): one for one in history.of_type("intent")}
    results = [
        (intents[str(one["causation"])], one) for one in history.of_type("result") if one["causation"] in intents
    ]
    happened = [(intent, one) for intent, one in results if not one["body"].get("cancelled")]
    meant = {str(one["body"].get("idempotency_key")) for one in intents.values()}
    yield from _quarantines(history, meant, happened)
    standing: dict[str, list[str]] = {}
    for key, value in history.dump.other.items():
        kind, _, model = key.rpartition(":")
        if kind.rpartition(":")[2] == "reference" and isinstance(value, str):
            standing[model] = [str(one) for one in unsealed(value).get("keys", [])]
    undone = {str(one["body"].get("idempotency_key")) for _, one in happened if one["body"].get("undo")}
    for intent, one in happened:
        body, key = one["body"], str(one["body"].get("idempotency_key"))
        if body.get("action") != "refresh_reference" or body.get("undo") or key in undone:
            continue
        count, wanted = standing.get(str(intent["body"].get("model")), []).count(key), int(bool(body.get("changed")))
        if count != wanted:
            yield f"I2 refresh_reference {key[:12]} of {one['incident']} stands {count} times, expected {wanted}"
    for model, keys in standing.items():
        for key in keys:
            if key.removesuffix(".undo") not in meant:
                yield f"I2 refresh_reference {key[:12]} on {model} was never intended"


def _quarantines(history: History, meant: Collection[str], happened: Sequence[tuple[Record, Record]]) -> Iterator[str]:
    """Batches are kept out for the models that the last result about each says, and no other ones.

    Over several models only the lead's batch is under the key of the intent; the others' name their incident.
    """
    standing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, value in history.dump.other.items():
        kind, _, model = key.rpartition(":")
        if kind.rpartition(":")[2] == "quarantine" and isinstance(value, dict):
            for record in map(unsealed, value.values()):
                standing[str(record.get("incident")), model].append(str(record.get("key")))
    for (incident, model), count in _kept_out(happened).items():
        if (found := len(standing[incident, model])) != count:
            yield f"I2 quarantine_data of {incident} on {model} stands {found} times, expected {count}"
    others = {
        (str(intent["incident"]), str(model))
        for intent in history.of_type("intent")
        for model in intent["body"].get("members") or ()
    }
    for of, keys in standing.items():
        for key in keys:
            if of not in others and key not in meant:
                yield f"I2 quarantine_data {key[:12]} on {of[1]} was never intended"


def _kept_out(happened: Sequence[tuple[Record, Record]]) -> dict[tuple[str, str], int]:
    """By incident and model how many batches are to be kept out, after the last result that changed it."""
    found: dict[tuple[str, str], int] = {}
    for intent, one in happened:
        body = one["body"]
        if body.get("action") != "quarantine_data" or not body.get("changed"):
            continue
        batches = (body.get("data") or {}).get("batches")
        for model in batches if isinstance(batches, dict) else [str(intent["body"].get("model"))]:
            found[str(one["incident"]), model] = int(not body.get("undo"))
    return found


def unsealed(text: str) -> dict[str, Any]:
    """The content of a sealed value: 64 hex digits, a space, JSON."""
    try:
        found = json.loads(text[65:])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def chains(history: History) -> Iterator[str]:
    """The moves of each champion form one chain that ends where it stands."""
    sink = history.sink
    chains: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    if sink.moves is not None:
        for move in sink.moves:
            chains[move.model].append((move.before, move.after))
    else:
        at = {
            (str(one["body"].get("idempotency_key")), bool(one["body"].get("undo"))): str(one["ts"])
            for one in history.of_type("result")
        }
        happened = [effect for effect in sink.effects if effect.happened]
        for effect in sorted(
            happened, key=lambda e: at.get((e.key.removesuffix(".undo"), e.key.endswith(".undo")), "")
        ):
            chains[effect.model].append((effect.record.get("before"), effect.record.get("after")))
    for model, chain in chains.items():
        for (before, after), (then, _) in itertools.pairwise(chain):
            if after != then:
                yield f"I3 champion of {model} moved from {before} to {after}, and then from {then}"
        if chain[-1][1] != sink.champions.get(model):
            yield f"I3 champion of {model} is {sink.champions.get(model)}, its last move was to {chain[-1][1]}"
