"""`quarantine_data`: keep the event's batch out of training and scoring until it is released."""

from decimal import Decimal
from typing import Any

from driftwarden.actions.parts import Parts
from driftwarden.actions.windows import batch_name, origin, window_of
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult, Estimate
from driftwarden.errors import BadInput, Refused

JsonObject = dict[str, Any]


class QuarantineData:
    """Undone by releasing the batch; the record is `{uri, path, start, end, key, incident, ...}`."""

    name = ActionName.QUARANTINE_DATA

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """A record costs nothing."""
        return Estimate(cost_usd=Decimal(0))

    def precheck(self, request: ActionRequest) -> None:
        """Refused where the event names no window, or one that takes in more of the history than a batch can be."""
        self._check_size(request, window_of(request))

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result that the batch's own record tells of."""
        batch = batch_name(request)
        record = self._parts.state.quarantined(request.model.name).get(batch)
        if record is None or record.get("key") != request.idempotency_key:
            return None
        return self._result(request, batch, record, changed=True, replayed=True)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Quarantine the batch once; one that another incident has quarantined already stays as it is."""
        if found := self.lookup(request):
            return found
        batch, window = batch_name(request), window_of(request)
        self._check_size(request, window)
        record = {**window, **origin(request)}
        self._parts.lease.check()
        changed = self._parts.state.quarantine(request.model.name, batch, record)
        self._parts.on_step("quarantined")
        if not changed:
            present = self._parts.state.quarantined(request.model.name).get(batch, record)
            changed, record = present.get("key") == request.idempotency_key, present
        return self._result(request, batch, record, changed=changed, replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Release the batch, if it is still this action's; one that is out already stays out."""
        if not result.changed:
            raise Refused("`quarantine_data` changed nothing: there is nothing to undo")
        batch = str(result.undo["batch"])
        present = self._parts.state.quarantined(request.model.name).get(batch)
        if present is not None and present.get("key") != request.idempotency_key:
            raise Refused(f"`{batch}` was quarantined again by incident {present.get('incident')}")
        self._parts.lease.check()
        released = self._parts.state.release(request.model.name, batch)
        self._parts.on_step("released")
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=True,
            detail=f"`{batch}` is released",
            data={"batch": batch},
            replayed=not released,
        )

    def _check_size(self, request: ActionRequest, window: JsonObject) -> None:
        """A window is a producer's word, and keeps out whatever of the history it names: so that is counted first."""
        timed = window["start"] is not None and window["end"] is not None and request.model.time_column is not None
        if not timed and window["path"] is None:
            raise Refused("quarantine_data: a time range needs the model's time column")
        rows, limits = request.training_rows, self._parts.settings
        if request.model.data.history is None:
            return
        if rows is None:
            raise Refused("quarantine_data: what the window would keep out of the history cannot be counted")
        # As it will be kept out (`ModelRows`): by time, and by file unless that is the one file all rows are appended to.
        batches: list[JsonObject] = [{"start": window["start"], "end": window["end"]}] if timed else []
        if window["path"] is not None and not (timed and len(rows.paths) == 1):
            batches.append({"path": window["path"]})
        try:
            counted = self._parts.sandbox.call(
                "driftwarden.actions.tasks:count_kept_out",
                {"rows": rows.model_dump(mode="json"), "batches": batches},
                timeout_s=limits.rehearsal.timeout_s,
                memory_bytes=limits.rehearsal.memory_mib * 1024 * 1024,
            )
        except BadInput as error:
            raise Refused(f"quarantine_data: {error.diagnostics()}") from error
        out, every, share = counted["kept_out"], counted["rows"], limits.actions.quarantine_share_max
        if out > share * every:
            raise Refused(
                f"quarantine_data: {out} of the {every} rows known would be kept out, at most {share:.0%} may be"
            )

    def _result(
        self, request: ActionRequest, batch: str, record: JsonObject, *, changed: bool, replayed: bool
    ) -> EffectResult:
        by = "" if changed else f" by incident {record.get('incident')} already"
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=changed,
            detail=f"`{batch}` ({record.get('uri') or record.get('start')}) is quarantined{by}",
            undo={"batch": batch} if changed else {},
            data={"batch": batch, "start": record.get("start"), "end": record.get("end")},
            replayed=replayed,
        )
