"""Moving the alias `champion` exactly once for one idempotency key, whatever dies in between.

The registry itself keeps the record: `begun` with both versions before the alias moves, `done` after it was read back. A
retry finds either the alias where it was (and moves it), or where it should be (and only writes `done`), or somewhere
else: then nobody can tell whether it had moved, and a person must look.
"""

import logging
from decimal import Decimal
from typing import Any

from driftwarden.actions.parts import Parts
from driftwarden.actions.registry import CORRELATION_TAG, INCIDENT_TAG, PREVIOUS_TAG
from driftwarden.actions.windows import origin
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult
from driftwarden.errors import AskHuman, GiveUp, Refused, Retry

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]


def recorded(parts: Parts, request: ActionRequest, key: str) -> JsonObject | None:
    """The effect's record where it is over, or where its alias has moved and only the record is late; None otherwise."""
    record = parts.registry.effect(request.model, key)
    if record is None or record["state"] == "done":
        return record
    if record["state"] == "begun" and parts.registry.champion(request.model) == record["after"]:
        return {**record, "state": "done"}
    return None


def settled(parts: Parts, request: ActionRequest, key: str) -> JsonObject | None:
    """As `recorded`, and writes the record that is late."""
    record = recorded(parts, request, key)
    if record is not None and parts.registry.effect(request.model, key) != record:
        return finish(parts, request, key, record)
    return record


def move_champion(
    parts: Parts, request: ActionRequest, *, key: str, target: int, expected: int, record: JsonObject, forward: bool
) -> JsonObject:
    """Move the champion from `expected` to `target` under `key` and return the record that is left.

    A record that has begun decides its own versions. `forward`: `target` remembers the champion it replaces. Raises
    Refused (the champion is another one: nothing done), AskHuman (it moved away in between), Fenced.
    """
    registry, model, lease = parts.registry, request.model, parts.lease
    found = registry.effect(model, key)
    if found is not None and found["state"] == "done":
        return found
    champion = registry.champion(model)
    fresh = found is None or found["state"] != "begun"
    if found is None or fresh:
        if champion != expected:
            raise Refused(f"champion of `{model.registered_model}` is version {champion}, expected {expected}")
        found = {**record, **origin(request), "state": "begun", "before": expected, "after": target, "changed": True}
        registry.put_effect(model, key, found, lock=lease)
        parts.on_step("begun")
    elif champion not in {found["before"], found["after"]}:
        raise AskHuman(
            f"champion of `{model.registered_model}` was to move from version {found['before']} to {found['after']}"
            f" and is {champion}: somebody else moved it"
        )
    before, after = int(found["before"]), int(found["after"])
    tags = {INCIDENT_TAG: request.incident, CORRELATION_TAG: request.correlation_id}
    registry.tag_version(model, after, tags | ({PREVIOUS_TAG: str(before)} if forward else {}))
    parts.on_step("tagged")
    try:
        registry.set_champion(model, after, expected=before, lock=lease)
    except Refused:
        if (
            fresh
        ):  # begun by this very call: the alias was surely not moved, and the record must not say that it may have been
            registry.put_effect(model, key, {**found, "state": "refused", "changed": False}, lock=lease)
        raise
    parts.on_step("moved")
    return finish(parts, request, key, found)


def finish(parts: Parts, request: ActionRequest, key: str, record: JsonObject) -> JsonObject:
    """Write the record as `done`."""
    done = {**record, **origin(request), "state": "done"}
    parts.registry.put_effect(request.model, key, done, lock=parts.lease)
    parts.on_step("done")
    if done.get("changed"):
        _tidy(parts, request, int(done["after"]))
    return done


def _tidy(parts: Parts, request: ActionRequest, version: int) -> None:
    """The champion is no challenger any more; an alias that stays changes nothing, so what cannot be tidied is only said."""
    try:
        parts.registry.drop_challenger(request.model, version, lock=parts.lease)
    except (Retry, GiveUp) as error:
        log.warning("alias `challenger` stays on version %d: %s", version, error.diagnostics())


def effect_result(action: ActionName, key: str, record: JsonObject, *, replayed: bool) -> EffectResult:
    """The result that a record tells of; `undo` holds both versions."""
    changed = bool(record["changed"])
    return EffectResult(
        action=action,
        idempotency_key=key,
        changed=changed,
        before=record.get("before"),
        after=record.get("after"),
        cost_usd=Decimal(record.get("cost_usd", "0")),
        detail=record.get("detail", ""),
        undo={"before": record["before"], "after": record["after"]} if changed else {},
        data=record.get("data", {}),
        replayed=replayed,
    )


def undo_move(parts: Parts, action: ActionName, request: ActionRequest, result: EffectResult) -> EffectResult:
    """Point the champion back; raises Refused where nothing was changed or the champion is no longer the one left."""
    if not result.changed or result.before is None or result.after is None:
        raise Refused(f"`{action.value}` changed nothing: there is nothing to undo")
    key = f"{request.idempotency_key}.undo"
    found = parts.registry.effect(request.model, key)
    detail = f"champion pointed back from version {result.after} to {result.before}"
    record = move_champion(
        parts,
        request,
        key=key,
        target=result.before,
        expected=result.after,
        record={"action": action.value, "detail": detail},
        forward=False,
    )
    replayed = found is not None and found["state"] == "done"
    return effect_result(action, request.idempotency_key, record, replayed=replayed)
