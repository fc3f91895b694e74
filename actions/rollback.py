"""`rollback`: point the champion alias at an earlier version, by default the one that the champion replaced."""

import re
from decimal import Decimal

from driftwarden.actions.parts import Parts
from driftwarden.actions.promotion import effect_result, move_champion, recorded, settled, undo_move
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult, Estimate
from driftwarden.errors import Refused


class Rollback:
    """Undone by pointing the champion back."""

    name = ActionName.ROLLBACK

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """Moving an alias costs nothing."""
        return Estimate(cost_usd=Decimal(0))

    def precheck(self, request: ActionRequest) -> None:
        """Refused where there is no earlier version, or the champion is not the one that the decision was made for."""
        if self._parts.registry.effect(request.model, request.idempotency_key) is None:
            self._versions(request)

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result that the registry records under this key."""
        record = recorded(self._parts, request, request.idempotency_key)
        return None if record is None else effect_result(self.name, request.idempotency_key, record, replayed=True)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Move the alias once."""
        key = request.idempotency_key
        if found := settled(self._parts, request, key):
            return effect_result(self.name, key, found, replayed=True)
        record = self._parts.registry.effect(request.model, key)
        before, after = self._versions(request) if record is None else (int(record["before"]), int(record["after"]))
        detail = f"champion pointed back from version {before} to {after}"
        record = move_champion(
            self._parts,
            request,
            key=key,
            target=after,
            expected=before,
            record={"action": self.name.value, "detail": detail},
            forward=False,
        )
        return effect_result(self.name, key, record, replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Point the champion to where it was, if it is still where this left it."""
        return undo_move(self._parts, self.name, request, result)

    def _versions(self, request: ActionRequest) -> tuple[int, int]:
        registry, model = self._parts.registry, request.model
        champion = registry.champion(model)
        if champion is None or champion != request.champion_version:
            raise Refused(
                f"champion of `{model.registered_model}` is version {champion},"
                f" the decision was made for {request.champion_version}"
            )
        target = _wanted(request)
        if target is None:
            target = registry.previous(model)
        if target is None:
            raise Refused(f"rollback: no champion before version {champion} of `{model.registered_model}` is known")
        if target >= champion or not registry.has_version(model, target):
            raise Refused(f"rollback: version {target} of `{model.registered_model}` is not an earlier, ready version")
        return champion, target


def _wanted(request: ActionRequest) -> int | None:
    version = request.candidate.params.get("to_version")
    if version is None:
        return None
    if isinstance(version, bool) or not re.fullmatch(r"[1-9][0-9]{0,8}", str(version)):
        raise Refused(f"rollback: to_version `{version}` is not a version number")
    return int(str(version))
