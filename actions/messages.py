"""`notify` tells people and changes nothing; `none` does nothing; what this version cannot do says so."""

from decimal import Decimal

from driftwarden.actions.notify import KeyedNotifier
from driftwarden.actions.parts import Parts
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult, Estimate
from driftwarden.errors import Refused

MODELS_SHOWN_MAX = 100


class Notify:
    """One message per idempotency key; there is nothing to undo."""

    name = ActionName.NOTIFY

    def __init__(self, parts: Parts) -> None:
        """Over the real parts."""
        self._parts = parts

    def estimate(self, request: ActionRequest) -> Estimate:
        """A message costs nothing and touches no model."""
        return Estimate(cost_usd=Decimal(0), models_affected=0)

    def precheck(self, request: ActionRequest) -> None:
        """Always possible."""

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """The result, where the notifier can tell that the message is out."""
        notifier = self._parts.notifier
        if isinstance(notifier, KeyedNotifier) and notifier.sent(request.idempotency_key):
            return _unchanged(self.name, request, "people were told", replayed=True)
        return None

    def execute(self, request: ActionRequest) -> EffectResult:
        """Send the message; the notifier drops a repeated key."""
        if found := self.lookup(request):
            return found
        candidate = request.candidate
        self._parts.lease.check()
        self._parts.notifier.notify(
            f"{request.model.name}: {str(candidate.params.get('subject', 'drift'))[:200]}",
            _message(request),
            key=request.idempotency_key,
            fields={
                "model": request.model.name,
                **({"models": list(request.models)} if request.models else {}),
                "incident": request.incident,
                "correlation_id": request.correlation_id,
                "at": request.now,
            },
        )
        self._parts.on_step("sent")
        return _unchanged(self.name, request, "people were told", replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Refused: a message cannot be unsent."""
        raise Refused("`notify` changed nothing: there is nothing to undo")


def _message(request: ActionRequest) -> str:
    """What is told; over several models, which."""
    told = str(request.candidate.params.get("message") or request.candidate.rationale)[:4000]
    if not request.models:
        return told
    shown = ", ".join(request.models[:MODELS_SHOWN_MAX])
    more = f" and {len(request.models) - MODELS_SHOWN_MAX} more" if len(request.models) > MODELS_SHOWN_MAX else ""
    return f"{told}\none upstream cause over {len(request.models)} models: {shown}{more}"


class Nothing:
    """`none`."""

    name = ActionName.NONE

    def estimate(self, request: ActionRequest) -> Estimate:
        """Costs nothing."""
        return Estimate(cost_usd=Decimal(0), models_affected=0)

    def precheck(self, request: ActionRequest) -> None:
        """Always possible."""

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """There is no effect to look for."""
        return None

    def execute(self, request: ActionRequest) -> EffectResult:
        """Do nothing."""
        return _unchanged(self.name, request, "nothing was done", replayed=False)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Refused: there was no effect."""
        raise Refused("`none` changed nothing: there is nothing to undo")


class Unavailable:
    """An action of the contract that this version cannot carry out: every attempt is refused with the reason."""

    def __init__(self, name: ActionName, instead: str) -> None:
        """`instead`: what can be done in its place."""
        self.name, self._reason = name, f"`{name.value}` is not available in this version; {instead}"

    def estimate(self, request: ActionRequest) -> Estimate:
        """Refused."""
        raise Refused(self._reason)

    def precheck(self, request: ActionRequest) -> None:
        """Refused."""
        raise Refused(self._reason)

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """It has never been done."""
        return None

    def execute(self, request: ActionRequest) -> EffectResult:
        """Refused."""
        raise Refused(self._reason)

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Refused."""
        raise Refused(self._reason)


def _unchanged(name: ActionName, request: ActionRequest, detail: str, *, replayed: bool) -> EffectResult:
    return EffectResult(
        action=name, idempotency_key=request.idempotency_key, changed=False, detail=detail, replayed=replayed
    )
