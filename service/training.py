"""The port `Trainer` with warm starts: the shipped pipeline runs Kedro in a sandboxed process whose imports are paid already."""

from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.contracts.ports import RegistryReader, Sandbox, Trainer
from driftwarden.settings import Settings


class WarmTrainer:
    """Shipped pipeline: Kedro in a process of its own, forked warm. A user's own project: `cold`, with its interpreter."""

    def __init__(self, sandbox: Sandbox, registry: RegistryReader, cold: Trainer, settings: Settings) -> None:
        """`cold` also answers for versions that an earlier run left under the same key."""
        self._sandbox, self._registry, self._cold, self._settings = sandbox, registry, cold, settings

    def train(self, request: TrainingRequest) -> TrainingResult:
        """Train and register a version, or find the one this key left; raises as `KedroTrainer.train`."""
        found = self._registry.find_by_key(request.model, request.idempotency_key)
        if found is not None or request.model.training.kedro_project is not None:
            return self._cold.train(request)
        answer = self._sandbox.call(
            "driftwarden.pipelines.tasks:train",
            request.model_dump(mode="json"),
            timeout_s=request.timeout_s,
            memory_bytes=self._settings.rehearsal.memory_mib * 1024 * 1024,
        )
        return TrainingResult.model_validate(answer)
