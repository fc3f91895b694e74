"""The agents: a coordinator leads an investigator (why?) and a strategist (what would help?), who read and never act."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["AdkAdvisor"]

if TYPE_CHECKING:
    from driftwarden.agents.advisor import AdkAdvisor


def __getattr__(name: str) -> Any:
    """Load the advisor, and with it the agents' framework, on first use."""
    if name == "AdkAdvisor":
        return import_module("driftwarden.agents.advisor").AdkAdvisor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
