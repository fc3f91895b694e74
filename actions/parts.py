"""What the actions are given: the registry, the trainer, the stores, the settings, and the lease that lets them act."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from driftwarden.actions.registry import Lease, MlflowRegistry
from driftwarden.contracts.effects import ActionRequest
from driftwarden.contracts.ports import Comparer, Notifier, StateStore, Trainer
from driftwarden.settings import ActionSettings


class LeaseOf(Protocol):
    """Finds the lease under which a request is carried out."""

    def __call__(self, request: ActionRequest) -> Lease:
        """The lease of the request's incident; its `check` raises Fenced once another worker has taken over."""
        ...


def no_step(name: str) -> None:
    """Nothing happens between two steps of an action, except in tests that stop it there."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The real parts, injected once; `on_step` is called with the name of each step that an action has completed."""

    registry: MlflowRegistry
    trainer: Trainer
    comparer: Comparer
    state: StateStore
    notifier: Notifier
    lease: LeaseOf
    settings: ActionSettings
    on_step: Callable[[str], None] = no_step
