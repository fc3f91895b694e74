"""The catalogue: every action of the contract, over the real parts."""

from collections.abc import Callable

from driftwarden.actions.messages import Nothing, Notify, Unavailable
from driftwarden.actions.parts import LeaseOf, Parts, no_step
from driftwarden.actions.quarantine import QuarantineData
from driftwarden.actions.reference import RefreshReference
from driftwarden.actions.registry import MlflowRegistry
from driftwarden.actions.retrain import Retrain
from driftwarden.actions.rollback import Rollback
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.ports import Action, Comparer, Notifier, StateStore, Trainer
from driftwarden.settings import ActionSettings


def build_actions(
    *,
    registry: MlflowRegistry,
    trainer: Trainer,
    comparer: Comparer,
    state: StateStore,
    notifier: Notifier,
    lease: LeaseOf,
    settings: ActionSettings | None = None,
    on_step: Callable[[str], None] = no_step,
) -> dict[ActionName, Action]:
    """Every action by name; `lease` finds the lease of a request, which is checked right before each change."""
    parts = Parts(registry, trainer, comparer, state, notifier, lease, settings or ActionSettings(), on_step)
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
