"""The heap of a process that runs for months: what its start made stays, and need not be looked through again.

Python's collector of reference cycles walks every container that it knows, and libraries leave hundreds of thousands: no
thread runs meanwhile, and it happens each time the newer ones have come to a quarter of them.
"""

import gc
import importlib

# New containers beyond those that went, at which the collector looks for cycles among them (Python's own: 700).
YOUNG_MAX = 10_000
# What MLflow loads at its first call where the registry is a database.
_OF_A_DATABASE = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")


def preload(tracking_uri: str) -> None:
    """Load what the first incident would have to wait for. Asks nothing of the registry itself."""
    if not tracking_uri.startswith(("http:", "https:", "databricks")):
        for module in _OF_A_DATABASE:
            importlib.import_module(module)


def settle() -> None:
    """Set what there is aside, for the collector, and let it look through the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
