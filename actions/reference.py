"""`refresh_reference`: take the event's window as the monitors' reference.

The record `{uri, path, start, end, key, incident, correlation_id, at, keys}` replaces the earlier one by compare-and-set;
`keys` carries the keys of the effects before it along, so that a repeated call is recognised after later ones too.
"""

from decimal import Decimal
from typing import Any

from driftwarden.actions.parts import Parts
from driftwarden.actions.windows import origin, window_of
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult, Estimate
from driftwarden.errors import Refused, Retry

JsonObject = dict[str, Any]
_KEYS_MAX = 200


class RefreshReference:
    """Undone by putting the earlier reference back."""

    name = ActionName.REFRESH_REFERENCE

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """A record costs nothing."""
        return Estimate(cost_usd=Decimal(0))

    def precheck(self, request: ActionRequest) -> None:
        """Refused where the event names no window."""
        window_of(request)

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result that the reference's own record tells of."""
        record = self._parts.state.reference(request.model.name)
        if record is None or request.idempotency_key not in record["keys"]:
            return None
        return self._result(request, record, replayed=True)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Set the reference once; raises Retry where another change came in between."""
        if found := self.lookup(request):
            return found
        before = self._parts.state.reference(request.model.name)
        keys = [] if before is None else before["keys"]
        earlier = None if before is None else {name: value for name, value in before.items() if name != "earlier"}
        record = {
            **window_of(request),
            **origin(request),
            "keys": [request.idempotency_key, *keys][:_KEYS_MAX],
            "earlier": earlier,
        }
        self._parts.lease.check()
        if not self._parts.state.set_reference(request.model.name, record, expected=before):
            if found := self.lookup(request):  # the server had done it, and the client library asked twice
                return found
            raise Retry(f"the reference of `{request.model.name}` was changed in between")
        self._parts.on_step("set")
        return self._result(request, record, replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Put the earlier reference back, if the present one is still the one that this left."""
        if not result.changed:
            raise Refused("`refresh_reference` changed nothing: there is nothing to undo")
        present = self._parts.state.reference(request.model.name)
        earlier = result.undo.get("earlier")
        undo_key = f"{request.idempotency_key}.undo"
        already = earlier is None if present is None else undo_key in present["keys"]
        if already:
            return self._undone(request, replayed=True)
        if present is None or present["key"] != request.idempotency_key:
            raise Refused(f"the reference of `{request.model.name}` is no longer the one that this action set")
        restored = None if earlier is None else {**earlier, "keys": [undo_key, *present["keys"]][:_KEYS_MAX]}
        self._parts.lease.check()
        if not self._parts.state.set_reference(request.model.name, restored, expected=present):
            raise Retry(f"the reference of `{request.model.name}` was changed in between")
        self._parts.on_step("unset")
        return self._undone(request, replayed=False)

    def _result(self, request: ActionRequest, record: JsonObject, *, replayed: bool) -> EffectResult:
        own = record["key"] == request.idempotency_key
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=True,
            detail=f"the reference is now {record['uri'] or record['start']}" if own else "set, and replaced since",
            undo={"earlier": record.get("earlier")} if own else {},
            data={name: record[name] for name in ("uri", "start", "end")} if own else {},
            replayed=replayed,
        )

    def _undone(self, request: ActionRequest, *, replayed: bool) -> EffectResult:
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=True,
            detail="the earlier reference is back",
            replayed=replayed,
        )
