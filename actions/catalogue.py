"""The catalogue: every action of the contract, over the real parts."""

from collections.abc import Callable

from driftwarden.actions.messages import Nothing, Notify, Unavailable
from driftwarden.actions.parts import Parts, no_step
from driftwarden.actions.quarantine import QuarantineData
from driftwarden.actions.reference import RefreshReference
from driftwarden.actions.registry import Lease, MlflowRegistry
from driftwarden.actions.retrain import Retrain
from driftwarden.actions.rollback import Rollback
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.ports import Action, Comparer, Notifier, Sandbox, StateStore, Trainer
from driftwarden.settings import Settings


def build_actions(
    *,
    registry: MlflowRegistry,
    trainer: Trainer,
    comparer: Comparer,
    sandbox: Sandbox,
    state: StateStore,
    notifier: Notifier,
    lease: Lease,
    settings: Settings,
    on_step: Callable[[str], None] = no_step,
) -> dict[ActionName, Action]:
    """Every action by name; `lease` is the one that the calling worker holds, asked right before each change."""
    parts = Parts(registry, trainer, comparer, sandbox, state, notifier, lease, settings, on_step)
    actions: tuple[Action, ...] = (
        Retrain(parts),
        Rollback(parts),
        RefreshReference(parts),
        QuarantineData(parts),
        Notify(parts),
        Nothing(),
        Unavailable(ActionName.RECALIBRATE, "`retrain` corrects a model's probabilities too"),
        Unavailable(ActionName.FALLBACK_MODEL, "`rollback` with `to_version` goes back to a version of one's choice"),
    )
    return {action.name: action for action in actions}
