"""`quarantine_data`: keep the event's batch out of training and scoring until it is released.

Where one upstream cause moved several models, each one's own window is kept out of it: once per model and batch, under a key
of its own. A process that dies in between leaves some of them kept out; `lookup` says so (`data.missing`), and `execute`
under the same key does the rest.
"""

from decimal import Decimal
from typing import Any

from driftwarden.actions.parts import Parts
from driftwarden.actions.windows import batch_name, origin, window_of
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult, Estimate
from driftwarden.errors import BadInput, Refused

JsonObject = dict[str, Any]


class QuarantineData:
    """Undone by releasing the batches; a record is `{uri, path, start, end, key, incident, ...}`."""

    name = ActionName.QUARANTINE_DATA

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """A record costs nothing; it concerns every model of the incident."""
        return Estimate(cost_usd=Decimal(0), models_affected=max(1, len(request.models)))

    def precheck(self, request: ActionRequest) -> None:
        """Refused where an event names no window, or one that takes in more of the history than a batch can be."""
        self._check_sizes([request, *request.members])

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result that the batches' own records tell of; `data.missing` are models that have not had it yet."""
        found = {one.model.name: self._own_record(one) for one in (request, *request.members)}
        kept_out = {model: record for model, record in found.items() if record is not None}
        if not kept_out:
            return None
        missing = [model for model, record in found.items() if record is None and self._is_free(request, model)]
        return self._result(request, dict.fromkeys(kept_out, True), missing=missing, replayed=True)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Quarantine each batch once; one that another incident has quarantined already stays as it is."""
        found = self.lookup(request)
        if found and not found.data.get("missing"):
            return found
        every = [request, *request.members]
        self._check_sizes([one for one in every if self._own_record(one) is None])
        changed = {one.model.name: self._keep_out(one) for one in every}
        return self._result(request, changed, missing=[], replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Release the batches, where they are still this action's; what is out already stays out."""
        if not result.changed:
            raise Refused("`quarantine_data` changed nothing: there is nothing to undo")
        ours = {one.model.name: one for one in (request, *request.members)}
        batches = result.undo.get("batches") or {request.model.name: result.undo["batch"]}
        for model, batch in batches.items():
            present = self._parts.state.quarantined(model).get(batch)
            if present is not None and present.get("key") != ours[model].idempotency_key:
                raise Refused(f"`{batch}` was quarantined again by incident {present.get('incident')}")
        released = False
        for model, batch in batches.items():
            self._parts.lease.check()
            released = self._parts.state.release(model, batch) or released
            self._parts.on_step("released")
        names = ", ".join(f"`{batch}`" for batch in sorted(set(batches.values())))
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=True,
            detail=f"{names} is released" + (f" for {len(batches)} models" if request.members else ""),
            data={"batch": batches.get(request.model.name), **({"batches": batches} if request.members else {})},
            replayed=not released,
        )

    def _own_record(self, request: ActionRequest) -> JsonObject | None:
        """The record of the request's batch, where it is this request's."""
        record = self._parts.state.quarantined(request.model.name).get(batch_name(request))
        return record if record is not None and record.get("key") == request.idempotency_key else None

    def _is_free(self, request: ActionRequest, model: str) -> bool:
        one = next(one for one in (request, *request.members) if one.model.name == model)
        return batch_name(one) not in self._parts.state.quarantined(model)

    def _keep_out(self, request: ActionRequest) -> bool:
        """Quarantine one model's batch; True where it is this request's doing, now or before."""
        batch = batch_name(request)
        record = {**window_of(request), **origin(request)}
        self._parts.lease.check()
        changed = self._parts.state.quarantine(request.model.name, batch, record)
        self._parts.on_step("quarantined")
        return changed or self._own_record(request) is not None

    def _check_sizes(self, requests: list[ActionRequest]) -> None:
        """A window is a producer's word, and keeps out whatever of the history it names: so that is counted first."""
        counted = [(one, self._batches(one)) for one in requests]
        counted = [(one, batches) for one, batches in counted if one.model.data.history is not None]
        if not counted:
            return
        limits = self._parts.settings
        payload = [
            {"rows": one.training_rows.model_dump(mode="json"), "batches": batches}
            for one, batches in counted
            if one.training_rows is not None
        ]
        if len(payload) < len(counted):
            raise Refused("quarantine_data: what the window would keep out of the history cannot be counted")
        try:
            answer = self._parts.sandbox.call(
                "driftwarden.actions.tasks:count_kept_out",
                payload[0] if len(payload) == 1 else {"each": payload},
                timeout_s=limits.rehearsal.timeout_s,
                memory_bytes=limits.rehearsal.memory_mib * 1024 * 1024,
            )
        except BadInput as error:
            raise Refused(f"quarantine_data: {error.diagnostics()}") from error
        share = limits.actions.quarantine_share_max
        for (one, _), found in zip(counted, answer.get("each", [answer]), strict=True):
            out, every = found["kept_out"], found["rows"]
            if out > share * every:
                whose = f" of {one.model.name}" if len(requests) > 1 else ""
                raise Refused(
                    f"quarantine_data: {out} of the {every} rows known{whose} would be kept out, at most {share:.0%} may be"
                )

    @staticmethod
    def _batches(request: ActionRequest) -> list[JsonObject]:
        """As it will be kept out (`ModelRows`): by time, and by file unless that is the one file all rows are appended to."""
        window, rows = window_of(request), request.training_rows
        timed = window["start"] is not None and window["end"] is not None and request.model.time_column is not None
        if not timed and window["path"] is None:
            raise Refused("quarantine_data: a time range needs the model's time column")
        batches: list[JsonObject] = [{"start": window["start"], "end": window["end"]}] if timed else []
        if window["path"] is not None and not (timed and rows is not None and len(rows.paths) == 1):
            batches.append({"path": window["path"]})
        return batches

    def _result(
        self, request: ActionRequest, changed: dict[str, bool], *, missing: list[str], replayed: bool
    ) -> EffectResult:
        """`changed`: by model whether its batch is kept out by this request; the lead's record is what is told."""
        every = {one.model.name: one for one in (request, *request.members)}
        batches = {model: batch_name(every[model]) for model, done in changed.items() if done}
        batch = batch_name(request)
        record = self._parts.state.quarantined(request.model.name).get(batch) or window_of(request)
        by = "" if request.model.name in batches or missing else f" by incident {record.get('incident')} already"
        detail = f"`{batch}` ({record.get('uri') or record.get('start')}) is quarantined{by}"
        if request.members:
            detail = f"kept out of {len(batches)} of {len(every)} models: {detail}"
        undo: JsonObject = {"batch": batch} if request.model.name in batches else {}
        data: JsonObject = {"batch": batch, "start": record.get("start"), "end": record.get("end")}
        if request.members:
            undo, data = {"batches": batches}, data | {"batches": batches}
        if missing:
            data["missing"] = missing
        return EffectResult(
            action=self.name,
            idempotency_key=request.idempotency_key,
            changed=bool(batches),
            detail=detail,
            undo=undo,
            data=data,
            replayed=replayed,
        )
