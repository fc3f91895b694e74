"""The port `Comparer` over the sandbox: two registered versions on the same labelled rows."""

from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import Comparison
from driftwarden.contracts.ports import Sandbox
from driftwarden.contracts.watch import WatchedModel
from driftwarden.settings import Settings


class SandboxComparer:
    """Loads and scores both versions in a process of its own."""

    def __init__(self, sandbox: Sandbox, settings: Settings) -> None:
        """Use this sandbox and the settings' bounds."""
        self._sandbox, self._settings = sandbox, settings

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: RowSelection) -> Comparison:
        """Paired block bootstrap of the model's metric over `rows`."""
        bounds = self._settings.rehearsal
        answer = self._sandbox.call(
            "driftwarden.pipelines.tasks:compare",
            {
                "model": model.model_dump(mode="json"),
                "tracking_uri": self._settings.tracking_uri,
                "champion": champion,
                "challenger": challenger,
                "rows": rows.model_dump(mode="json"),
                "replicates": bounds.replicates,
                "seed": 7,
            },
            timeout_s=bounds.timeout_s,
            memory_bytes=bounds.memory_mib * 1024 * 1024,
        )
        return Comparison.model_validate(answer)
