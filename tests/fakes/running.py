"""A service process of a world, in threads of the test's own process."""

from typing import Any

from fakes.workflow_world import PREFIX, World

from driftwarden.service.workflow.health import Health
from driftwarden.service.workflow.process import ServiceProcess
from driftwarden.stream.intake import Intake

PATIENCE_S = 120.0  # with a slow machine, for what comes in no time on another


def start(world: World, *, name: str = "p", **about: Any) -> ServiceProcess:
    """A process of this world with one worker, running."""
    intake = Intake(world.client, f"{name}-intake", prefix=PREFIX, reclaim_after_ms=0)
    health = Health(world.client, PREFIX, f"{name}-health")
    process = ServiceProcess(world.parts, world.store, intake, name=name, workers=1, health=health, **about)
    process.start()
    return process
