"""driftwarden: unattended, provable remediation of drift in machine-learning models.

Importing this package is cheap: nothing of Redis, pandas or Kedro is loaded until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DriftEvent", "Publisher", "__version__", "parse_event"]

if TYPE_CHECKING:
    from driftwarden.contracts.event import DriftEvent, parse_event
    from driftwarden.stream.publisher import Publisher

_LAZY = {
    "DriftEvent": "driftwarden.contracts.event",
    "parse_event": "driftwarden.contracts.event",
    "Publisher": "driftwarden.stream.publisher",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
