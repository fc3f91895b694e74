"""What the actions are given: the registry, the trainer, the stores, the settings, and the lease that lets them act."""

from collections.abc import Callable
from dataclasses import dataclass

from driftwarden.actions.registry import Lease, MlflowRegistry
from driftwarden.contracts.ports import Comparer, Notifier, Sandbox, StateStore, Trainer
from driftwarden.settings import Settings


def no_step(name: str) -> None:
    """Nothing happens between two steps of an action, except in tests that stop it there."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The real parts, injected once.

    `lease.check` raises Fenced once another worker has taken over, and is asked right before each change; `on_step` is
    called with the name of each step that an action has completed.
    """

    registry: MlflowRegistry
    trainer: Trainer
    comparer: Comparer
    sandbox: Sandbox
    state: StateStore
    notifier: Notifier
    lease: Lease
    settings: Settings
    on_step: Callable[[str], None] = no_step
